"""What data_prep/pretrain_prep makes of text in a second, beside ModelOpt's and Megatron-LM's own tools.

    pip download --no-deps --dest PEERS nvidia-modelopt==0.47.0 datasets==5.2.0; unzip their wheels into PEERS/site
    git clone --branch core_v0.19.0 https://github.com/NVIDIA/Megatron-LM PEERS/megatron-lm
    python benchmarks/pretrain_prep.py --peers PEERS --texts texts.jsonl --tokenizer MODEL --size 40 --workers 2

All three run in Megatron-Bridge's cpu image, in turns, on the same file: rows of `text`, repeated up to `--size` MB,
with a number before each, so that no two are the same. Tokens are counted by the .bin files. Seconds, of the clock and
of the processors, are those of the whole program with its start; the best of the rounds counts. All append the end of a
text; ModelOpt's tool also puts what the tokenizer puts before a text.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
STEPS = REPO / "entrypoints" / "steps"
NAMES = ("ours", "ModelOpt", "Megatron-LM")


def texts(source: Path, target: Path, size: int) -> None:
    """Writes `size` MB of rows."""
    rows, number, written = [json.loads(line) for line in source.read_text().splitlines()], 0, 0
    with target.open("w") as f:
        while written < size * 10**6:
            text = "\n\n".join(rows[(number * 20 + n) % len(rows)]["text"] for n in range(20))  # some 800 tokens
            written += f.write(json.dumps({"text": f"{number}\n{text}"}) + "\n")
            number += 1


def command(name: str, given: argparse.Namespace, data: Path, out: Path) -> tuple[list[str], dict[str, str]]:
    """The program that runs in the image, and its variables."""
    workers, tokenizer = str(given.workers), str(given.tokenizer)
    if name == "ours":
        plan(out, data, given)
        env = {"SLIPWAY_DIR": str(out), "SLIPWAY_STATE_DIR": str(out / "state")}
        return ["python", str(STEPS / "pretrain_prep.py")], env
    if name == "ModelOpt":
        module = "modelopt.torch.utils.plugins.megatron_preprocess_data"
        words = ["--jsonl_paths", str(data), "--json_keys", "text", "--output_dir", str(out), "--tokenizer", tokenizer]
        return ["python", "-m", module, *words, "--workers", workers, "--append_eod"], {
            "PYTHONPATH": str(given.peers / "site")
        }
    words = ["--input", str(data), "--output-prefix", str(out / "made"), "--tokenizer-type", "HuggingFaceTokenizer"]
    words += ["--tokenizer-model", tokenizer, "--workers", workers, "--append-eod", "--log-interval", "100000"]
    program = given.peers / "megatron-lm" / "tools" / "preprocess_data.py"
    return ["python", str(program), *words], {}


def plan(out: Path, data: Path, given: argparse.Namespace) -> None:
    """What a launch leaves for the step program."""
    import yaml

    folder = REPO / "launcher" / "steps" / "data_prep" / "pretrain_prep"
    base, layer = (yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("base", "default"))
    set_ = {"data.train": str(data), "tokenizer.path": str(given.tokenizer), "output.path": str(out / "made")}
    set_ |= {"run.workers": given.workers}
    config = {"base": {"values": base}, "layers": [{"name": "default", "values": layer}], "remove": []}
    config |= {"set": [[k, v] for k, v in set_.items()]}
    (out / "plan.json").write_text(json.dumps({"config": config, "inputs": {"train": {"type": "text_jsonl"}}}))
    (out / "state" / "0" / "ranks").mkdir(parents=True)


def measure(name: str, given: argparse.Namespace, data: Path) -> tuple[float, float, int]:
    """Seconds of the clock and of the processors, and tokens. Raises SystemExit where the program fails."""
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        out = Path(folder)
        words, env = command(name, given, data, out)
        begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(words, env=os.environ | env, capture_output=True, text=True, check=False)
        seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if done.returncode:
            raise SystemExit(f"{name}: exit {done.returncode}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
        indexes = [i.read_bytes()[17] for i in out.rglob("*.idx")]
        size = sum(b.stat().st_size for b in out.rglob("*.bin"))
        assert indexes and len(set(indexes)) == 1
        return seconds, used, size // {8: 2, 4: 4}[indexes[0]]


def inside(given: argparse.Namespace) -> None:
    found: dict[str, list[Any]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "texts.jsonl")
        texts(given.texts, data, given.size)
        for _ in range(given.rounds):
            for name in NAMES:
                found[name].append(measure(name, given, data))
                print(name, *found[name][-1], f"load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    print(
        "| tool | tokens | seconds | CPU s | tokens/s | ours is times as fast | by CPU |\n|---|---|---|---|---|---|---|"
    )
    first = rates(found["ours"])
    for name in NAMES:
        rate, by_cpu = rates(found[name])
        seconds, used, tokens = (min(run[n] for run in found[name]) for n in range(3))
        ratios = f"{first[0] / rate:.2f} | {first[1] / by_cpu:.2f}"
        print(f"| {name} | {tokens:,} | {seconds:.1f} | {used:.1f} | {rate:,.0f} | {ratios} |")


def rates(runs: list[Any]) -> tuple[float, float]:
    """Tokens a second, of the clock and of the processors; the best."""
    return max(tokens / seconds for seconds, _, tokens in runs), max(tokens / used for _, used, tokens in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="a folder with site/ and megatron-lm/")
    parser.add_argument("--texts", type=Path, required=True, help="JSON Lines with `text`")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--size", type=int, default=40, help="MB")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    for name in ("peers", "texts", "tokenizer"):
        setattr(given, name, getattr(given, name).resolve())
    if given.inside:
        inside(given)
        return
    images = str(Path(sysconfig.get_path("scripts"), "images"))
    mounts = [word for p in (REPO, given.peers, given.texts.parent, given.tokenizer) for word in ("--mount", str(p))]
    words = [f"--{n}={getattr(given, n)}" for n in ("peers", "texts", "tokenizer", "size", "workers", "rounds")]
    program = ["python", str(Path(__file__).resolve()), "--inside", *words]
    raise SystemExit(
        subprocess.run([images, "run", "megatron-bridge", "--flavour", "cpu", *mounts, "--", *program]).returncode
    )


if __name__ == "__main__":
    main()
