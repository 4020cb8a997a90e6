"""The in-container part of Slipway on this machine's own GPU, without a container engine: `make test-gpu`.

python -m gpu.check --work DIR --python LIBRARY=INTERPRETER... [--device cpu --tiny] [--json FILE] [--docs FILE]

Fine-tunes, is told to stop, goes on; trains an adapter; quantizes and reads the scales back; and measures what the
launcher's estimate of memory says. With `--device cpu --tiny` the same on CPUs with tiny sizes, but for measuring.
Exit codes: 0 all holds; 1 something does not; what is missing is said, and fails where there is a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu import machine, report, start
from gpu.report import Memory, Part, Report, Shape
from gpu.start import Failed, Run

from slipway import fabric
from slipway.errors import SlipwayError
from slipway.files import write_atomic
from slipway.project import Root

HERE = Path(__file__).parent
QUICKSTART = machine.REPO / "examples" / "quickstart"
NO_CUDA = "no CUDA device"  # how a substitute says that it is active (entrypoints/cpu/slipway_cpu.py)
STEPS, STOP_AFTER = 60, 2  # of fine-tuning: all of them, and after which it is told to stop
MEASURED = 3  # steps
SAMPLES = 16  # of calibration
# LlamaConfig's sizes. The first two are those of Llama 3.2 1B and 3B.
MODELS = {
    "1b": {"num_hidden_layers": 16, "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32}
    | {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "tie_word_embeddings": True},
    "3b": {"num_hidden_layers": 28, "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 24}
    | {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "tie_word_embeddings": True},
    "small": {"num_hidden_layers": 12, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    | {"num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 8192, "tie_word_embeddings": False},
    "tiny": {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4}
    | {"num_key_value_heads": 2, "vocab_size": 2048, "max_position_embeddings": 512, "tie_word_embeddings": False},
}


@dataclass(frozen=True)
class Sizes:
    """`trained`: the model that is fine-tuned; `quantized`: the other; `rows`: tokens and sequences of those."""

    trained: str
    quantized: str
    rows: tuple[str, ...]
    shapes: tuple[Shape, ...]

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys([self.trained, self.quantized, *(s.model for s in self.shapes)]))


def shape(model: str, how: str, sequence: int, micro: int, **more: Any) -> Shape:
    return Shape(model, how == "LoRA", sequence, micro, **{"recompute": False} | more)


WHOLE = Sizes(
    "small", "1b", ("seq_length=1024", "global_batch_size=8", "local_batch_size=8"),
    (
        shape("1b", "full", 2048, 1), shape("1b", "full", 4096, 1, passes=2), shape("1b", "full", 2048, 4),
        shape("1b", "full", 2048, 4, recompute=True), shape("1b", "LoRA", 2048, 4),
        shape("1b", "LoRA", 4096, 1, recompute=True), shape("3b", "full", 2048, 1),
        shape("3b", "full", 4096, 1, recompute=True), shape("3b", "LoRA", 2048, 1),
    ),
)  # fmt: skip
TINY = Sizes(
    "tiny", "tiny", ("seq_length=64", "global_batch_size=4", "local_batch_size=4"),
    (shape("tiny", "LoRA", 128, 2, recompute=True),),
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """What every part needs. `there`: library -> its environment."""

    root: Root
    work: Path
    device: str
    sizes: Sizes
    there: dict[str, machine.Interpreter]

    def model(self, name: str) -> str:
        return f"model={self.work / 'models' / name}"

    @property
    def overlays(self) -> tuple[str, ...]:
        return (str(HERE / "cuda.yaml"),) if self.device == "cuda" else ()

    def run(
        self, name: str, step: str, words: tuple[str, ...], react: start.React | None = None, **options: object
    ) -> Run:
        """A run of AutoModel, whose substitutes for CUDA have to be active exactly where there is none."""
        run = start.start(self.root, name, step, words, react, gpus=1, **options)
        if (NO_CUDA in run.text) == (self.device == "cuda"):
            active = "active" if self.device == "cuda" else "not active"
            raise Failed(f"{name}: the substitutes for CUDA are {active} on {self.device}; {tail(run)}")
        return run


def tail(run: Run) -> str:
    """Where the log is, and how it ends."""
    return f"{run.folder / 'logs' / 'step.log'} ends: {' / '.join(line.strip() for line in run.log[-4:])}"


def expect(holds: bool, what: str, run: Run) -> None:
    if not holds:
        raise Failed(f"{what}; {tail(run)}")


def main() -> int:
    asked = arguments()
    begun, date = time.monotonic(), datetime.now(UTC).strftime("%Y-%m-%d")
    work = asked.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    os.chdir(work)
    os.environ["HF_HOME"] = str(work / "hf")
    found = {name: machine.ask(Path(python).absolute()) for name, python in asked.python}
    gpu = found["automodel"].gpu if asked.device == "cuda" else ""
    if asked.device == "cuda" and not gpu:
        sys.exit(f"{found['automodel'].python}: torch {found['automodel'].torch} finds no CUDA device")
    memory = found["automodel"].memory or 80 * 2**30
    root = machine.make_project(work / "project", found, gpu or "H100", memory)
    check = Check(root, work, asked.device, TINY if asked.tiny else WHOLE, found)
    versions = {name: machine.versions(there) for name, there in found.items()}
    made = Report(date, gpu, machine.driver() if gpu else "", versions)
    for part in parts(check, made):
        made.parts.append(part)
        print(f"{part.name}: {part.state} ({part.seconds:.0f} s): {part.says}", flush=True)
    made.seconds = time.monotonic() - begun
    return publish(made, asked.json, asked.docs)


def arguments() -> argparse.Namespace:
    top = argparse.ArgumentParser(prog="gpu.check", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    top.add_argument("--work", type=Path, required=True, help="a folder that is made anew; 40 GB have to be free")
    top.add_argument("--python", action="append", required=True, type=lambda word: tuple(word.split("=", 1)))
    top.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    top.add_argument("--tiny", action="store_true", help="tiny models, short sequences")
    top.add_argument("--json", type=Path, help="where the results are written")
    top.add_argument("--docs", type=Path, help="a page whose table becomes these results, where there is a GPU")
    return top.parse_args()


def publish(made: Report, to: Path | None, docs: Path | None) -> int:
    """Writes JSON and table, prints what does not hold; the exit code."""
    if to:
        write_atomic(to, json.dumps(report.as_json(made), indent=2) + "\n")
    if docs and made.gpu:
        write_atomic(docs, report.insert(docs.read_text(), report.table(made)))
    print(report.table(made))
    wrong = made.wrong()
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    return 1 if wrong else 0


def parts(check: Check, made: Report) -> Iterator[Part]:
    """Every part, as soon as it has ended; one that fails stops no other but what needs it."""
    yield (first := timed("models and data", lambda: make_inputs(check)))
    if first.state != "done":
        return
    yield timed("substitutes", lambda: hooks(check))
    yield timed("all-reduce", lambda: all_reduce(check))
    yield timed("fine-tuning, TERM, resume", lambda: fine_tuning(check))
    yield timed("LoRA", lambda: adapter(check))
    if "modelopt" in check.there:
        yield timed("fp8", lambda: quantization(check))
    else:
        yield Part("fp8", "missing", 0, "there is no environment for modelopt (--python modelopt=INTERPRETER)")
    for one in check.sizes.shapes:
        yield timed(f"memory: {one.name}", lambda one=one: shape_of_memory(check, made, one))  # type: ignore[misc]


def timed(name: str, part: Callable[[], str]) -> Part:
    begun = time.monotonic()
    try:
        state, says = "done", part()
    except (Failed, SlipwayError, OSError, ValueError, LookupError, subprocess.CalledProcessError) as e:
        state, says = "failed", f"{type(e).__name__}: {e}"
    return Part(name, state, time.monotonic() - begun, " ".join(says.split()).replace("|", "/"))


def make_inputs(check: Check) -> str:
    """The quickstart's conversations, the same as few long ones, and models with random weights."""
    python, data = str(check.there["automodel"].python), check.work / "data"
    subprocess.run([python, str(QUICKSTART / "make_data.py"), str(data)], check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line)["messages"][1]["content"] for line in (data / "train.jsonl").open()]
    with (data / "long.jsonl").open("w") as f:
        for n in range(64):
            text = " ".join(rows[n:] + rows[:n])[:40_000]
            question = {"role": "user", "content": "What does Python's standard library do?"}
            f.write(json.dumps({"messages": [question, {"role": "assistant", "content": text}]}) + "\n")

    def model(name: str) -> str:
        words = [f"{key}={json.dumps(value)}" for key, value in MODELS[name].items()]
        command = [python, str(HERE / "random_model.py"), str(data), str(check.work / "models" / name), check.device]
        done = subprocess.run([*command, *words], stdout=subprocess.PIPE, text=True, check=True)
        return f"{name} {done.stdout.split(': ')[-1].strip()}"

    with ThreadPoolExecutor() as pool:
        return "; ".join(pool.map(model, check.sizes.models))


def hooks(check: Check) -> str:
    """That the substitutes for CUDA are there, so that their silence on a GPU means that they are inactive."""
    found = check.there["automodel"].hooks
    if "slipway_cpu_automodel" not in found:
        raise Failed(f"{check.there['automodel'].python}: does not import slipway_cpu_automodel when it starts")
    return f"{', '.join(found)}: imported by every interpreter, expected to be {'in' * (check.device == 'cuda')}active"


def all_reduce(check: Check) -> str:
    """What nodes do before a step: one process over NCCL; and what NCCL says of its network is understood."""
    said = check.work / "nccl"
    said.mkdir()
    env = os.environ | {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": str(said / fabric.FILE)}
    program = [str(check.there["automodel"].python), str(machine.REPO / "entrypoints" / "allreduce.py")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = ["--head=127.0.0.1", f"--port={free.getsockname()[1]}"]
    command = [*program, "--nodes=1", "--rank=0", "--procs=1", *place]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.startswith("all-reduce of 64 MiB over 1 ranks on 1 nodes: "):
        raise Failed(f"allreduce.py ended with {done.returncode}: {done.stdout} {done.stderr}")
    if check.device != "cuda":
        return "over Gloo"
    used = set().union(*(fabric.transports(path.read_text().splitlines()) for path in said.iterdir()))
    if not used:
        raise Failed(f"NCCL's network is not understood: {said}")
    return f"over NCCL, whose network is {', '.join(fabric.NAMES.get(name, name) for name in sorted(used))}"


def fine_tuning(check: Check) -> str:
    """Told to stop after some steps it ends with 143 and a checkpoint; resumed, it goes on from there to the end."""
    words = (f"train={check.work / 'data' / 'train.jsonl'}", check.model(check.sizes.trained), *check.sizes.rows)
    words += (f"max_steps={STEPS}", "learning_rate=0.001", f"output={check.work / 'out' / 'sft'}")
    step, overlays = "sft/automodel", check.overlays
    first = check.run("sft", step, words, start.at_step(STOP_AFTER, start.tell), overlays=overlays)
    expect(first.code == 143, f"expected 143 after TERM, found {first.code}", first)
    result = first.json("result.json")
    if check.device == "cuda":
        seen, there = first.json("0/versions.json").get("gpus"), machine.gpu_ids()
        expect(seen == there, f"gpus.py: expected {there}, found {seen}", first)
    expect(result["stopped"] and Path(first.json("0/status.json")["signal"]).name == "TERM", "it did not stop", first)
    again = check.run("sft-resumed", step, words, overlays=overlays, resume=True)
    expect(again.code == 0, f"expected 0 of the resumed run, found {again.code}", again)
    ended, went_on = again.json("result.json"), again.steps()[0][0]
    expect(went_on == result["steps"] + 1, f"stopped after {result['steps']} steps, went on with {went_on}", again)
    expect(ended["steps"] == STEPS, f"expected {STEPS} steps in all, found {ended['steps']}", again)
    expect(all(map(math.isfinite, (result["first_loss"], ended["last_loss"]))), "a loss is not finite", again)
    expect(ended["last_loss"] < result["first_loss"], "it learned nothing", again)
    types = {kind for _, kind, _ in start.tensors(on_host(again, ended["checkpoint"]))}
    wanted = {"BF16" if check.device == "cuda" else "F32"}
    expect(types == wanted, f"expected weights of {wanted}, found {types}", again)
    shutil.rmtree(again.output)
    where = f"143 after {result['steps']} steps, on from {went_on} to {ended['steps']}"
    return f"{where}; loss {result['first_loss']:.3f} -> {ended['last_loss']:.3f}; {', '.join(types)}"


def on_host(run: Run, path: str) -> Path:
    """What the step calls /output/…"""
    return run.output / Path(path).relative_to("/output")


def adapter(check: Check) -> str:
    """LoRA trains, and leaves an adapter with two matrices for every linear layer."""
    words = (f"train={check.work / 'data' / 'train.jsonl'}", check.model(check.sizes.trained), *check.sizes.rows)
    words += ("max_steps=8", "lora_rank=16", "learning_rate=0.01", f"output={check.work / 'out' / 'lora'}")
    run = check.run("lora", "peft/automodel", words, overlays=check.overlays)
    expect(run.code == 0, f"expected 0, found {run.code}", run)
    result = run.json("result.json")
    names = [name for name, _, _ in start.tensors(on_host(run, result["checkpoint"]))]
    linear = 7 * MODELS[check.sizes.trained]["num_hidden_layers"]
    expect(len(names) == 2 * linear, f"expected two matrices for each of {linear} layers, found {len(names)}", run)
    expect(math.isfinite(result["last_loss"]), "the loss is not finite", run)
    expect(result["last_loss"] < result["first_loss"], "it learned nothing", run)
    losses = f"loss {result['first_loss']:.3f} -> {result['last_loss']:.3f}"
    return f"{losses} in {result['steps']} steps, {len(names)} matrices"


def quantization(check: Check) -> str:
    """fp8: as many packed matrices as linear layers, each with scales that are numbers and larger than zero."""
    words = (check.model(check.sizes.quantized), f"calibration={check.work / 'data' / 'train.jsonl'}", "format=fp8")
    words += (f"calibration_samples={SAMPLES}", f"output={check.work / 'out' / 'fp8'}")
    run = start.start(check.root, "fp8", "optimize/modelopt/quantize", words, gpus=1)
    expect(run.code == 0, f"expected 0, found {run.code}", run)
    algorithm = json.loads((run.output / "hf_quant_config.json").read_text())["quantization"]["quant_algo"]
    expect(algorithm == "FP8", f"hf_quant_config.json: expected FP8, found {algorithm}", run)
    stored = {name: (kind, data) for name, kind, data in start.tensors(run.output)}
    packed = [name for name, (kind, _) in stored.items() if kind == "F8_E4M3"]
    linear = 7 * MODELS[check.sizes.quantized]["num_hidden_layers"]
    expect(len(packed) == linear, f"expected {linear} packed matrices, found {len(packed)}", run)
    for name in packed:
        for scale in (f"{name}_scale", f"{name.removesuffix('weight')}input_scale"):
            kind, data = stored.get(scale, ("missing", b""))
            expect(kind == "F32" and len(data) == 4, f"{scale}: expected one F32, found {kind}", run)
            value = struct.unpack("<f", data)[0]
            expect(math.isfinite(value) and value > 0, f"{scale}: {value}", run)
    shutil.rmtree(run.output)
    return f"FP8, {linear} matrices, each with a weight_scale and an input_scale, all finite and positive"


def asked_of(one: Shape) -> tuple[str, tuple[str, ...]]:
    """The step that trains so, and the words for it."""
    batch = f"local_batch_size={one.micro}", f"global_batch_size={one.micro * one.passes}"
    words = (f"seq_length={one.sequence}", *batch)
    recompute = f"distributed.activation_checkpointing={str(one.recompute).lower()}"
    return "peft/automodel" if one.lora else "sft/automodel", (*words, recompute)


def shape_of_memory(check: Check, made: Report, one: Shape) -> str:
    """Some steps of one shape; what the launcher says of it, and what torch has measured."""
    step, more = asked_of(one)
    name = one.name.replace(",", "").replace(" ", "-")
    words = (f"train={check.work / 'data' / 'long.jsonl'}", check.model(one.model), *more)
    words += (f"output={check.work / 'out' / name}",)
    overlays = (*check.overlays, str(HERE / "long.yaml"))
    run = check.run(name, step, words, start.at_step(MEASURED, start.kill_step), overlays=overlays)
    expect(len(run.steps()) == MEASURED, f"expected {MEASURED} steps, found {len(run.steps())}", run)
    shutil.rmtree(run.output)
    estimate, terms = report.estimated(run.told)
    found = Memory(one, estimate, terms, report.measured([line for _, line in run.steps()]))
    made.memory.append(found)
    return f"estimated {found.estimate:.1f} GiB, measured {found.measured:.1f}"


if __name__ == "__main__":
    sys.exit(main())
