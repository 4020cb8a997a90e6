"""Every step of the catalogue, run to its end with GPUs on Docker over stand-ins of the containers, as a user types it.

What the library's entry point was given is compared with the plan, key by key, and with a golden file, in which ids,
hashes and ports have fixed names. A difference that is wanted is accepted with:
SLIPWAY_ACCEPT=1 pytest tests/real/test_every_step.py
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import CHAT, HERE, safetensors
from test_binidx import write_tokens
from test_checkpoints import write_megatron, write_nemo_rl
from test_golden import compare

from images.machine.dockerhost import Address, engine_client
from launcher.artifacts import detection
from launcher.catalog import definitions
from slipway import canonical
from slipway.project import Root

from .conftest import link_tar
from .gpu_engine import UUIDS, GpuEngine
from .official import CONTAINERS, RELEASES, build
from .support import PROJECT, Run, Tree
from .test_official_runs import TEMPLATE

pytestmark = pytest.mark.real
ACCEPT = "SLIPWAY_ACCEPT=1 pytest tests/real/test_every_step.py"
PARQUET = CONTAINERS / "site" / "pyarrow" / "parquet.py"
OURS = ""  # a key that the step's own program uses, and the library never sees
BRIDGE = "tokenizer={model} max_steps=2 global_batch_size=2"
TRAINING = ("max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type", "logging_steps", "eval_steps",
            "seed", "max_grad_norm")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """`words`: what is typed, with inputs by their names here. `moved`: a key of the plan -> where the library has it.
    `made`: a key of the plan -> what the step's program makes of it, which follows from an input.

    Where the library reads a configuration, every other key is where the plan has it. Where it takes `arguments`, the
    step's program has merged the configuration, and left it in the run directory: there every key is compared as well.
    """

    words: str
    moved: dict[str, str] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    arguments: bool = False
    entry: str = "seen"


CASES = {
    "sft/automodel": Case("train={chats} validation={chats} model={model} max_steps=2"),
    "peft/automodel": Case("train={chats} validation={chats} model={model} max_steps=2"),
    "pretrain/automodel": Case(
        "data={tokens} model={model} max_steps=2",
        {"data.train": "dataset.paths.0", "pretrain.start": OURS,
         "model.pretrained_model_name_or_path": "model.config.pretrained_model_name_or_path"},
    ),
    "sft/megatron_bridge": Case(
        f"train={{packed}} validation={{packed}} model={{megatron}} {BRIDGE}",
        {"data.train": "read.packed_train_data_path", "data.validation": "read.packed_val_data_path"},
    ),
    "peft/megatron_bridge": Case(
        f"train={{chats}} validation={{chats}} model={{megatron}} {BRIDGE}",
        {"data.train": "read.training", "data.validation": "read.validation"},
    ),
    "pretrain/megatron_bridge": Case(
        f"data={{tokens}} {BRIDGE}", {"data.train": "dataset.data_path.0"},
        {"tokenizer.tokenizer_type": "HuggingFaceTokenizer", "tokenizer.vocab_size": None,
         "dataset._target_": "megatron.bridge.training.config.GPTDatasetConfig"},
    ),
    "convert/hf_to_megatron": Case("model={model}", {"model.path": "model"}, arguments=True),
    "convert/nemo_rl_megatron": Case("model={model} dtype=bfloat16", {"model.path": "model"}, arguments=True),
    "convert/megatron_to_hf": Case(
        "model={megatron} config={model}", {"model.path": "megatron", "architecture.path": "model"}, arguments=True
    ),
    "convert/merge_lora": Case(
        "adapter={adapter} base={megatron} config={model}",
        {"adapter.path": "adapters.0.path", "base.path": "megatron", "architecture.path": "model"}, arguments=True,
    ),
    "convert/merge_lora_hf": Case("adapter={lora} base={model}", arguments=True),
    "convert/nemo_rl_to_hf": Case(
        "model={rl} config={model}",
        {"input.config": "policy.model_name", "input.path": "policy.tokenizer.name", "output.path": OURS,
         "output.shard_size": OURS, "interpreter": OURS, "scripts.dcp": OURS, "scripts.megatron": OURS},
    ),
    "data_prep/rl_prep": Case("train={prompts}", arguments=True, entry=""),
    "data_prep/pretrain_prep": Case("train={texts} tokenizer={model} validation_share=0.2", arguments=True, entry=""),
    "data_prep/sft_packing": Case(
        "train={chats} validation={chats} tokenizer={model}",
        {"packing.size": "packed_sequence_size", "packing.pad_to_multiple_of": "pad_seq_to_mult",
         "packing.seed": "seed", "packing.algorithm": "packing_algorithm", "packing.workers": "num_tokenizer_workers",
         "tokenizer.path": "tokenizer.tokenizer_model"},
        arguments=True, entry="seen-training",
    ),
    "optimize/modelopt/quantize": Case("model={model} calibration={chats}", {"model.path": "model"}, arguments=True),
    "optimize/modelopt/prune": Case(
        "model={model} calibration={chats} ffn_hidden_size=64 num_layers=4 --gpus 4",
        {"model.path": "hf_model_name_or_path", "output.path": "output_hf_path",
         "prune.ffn_hidden_size": "prune_export_config.ffn_hidden_size", "calibration.samples": "calib_num_samples",
         "calibration.seq_length": "seq_length"},
        arguments=True,
    ),
    "optimize/modelopt/distill": Case(
        "teacher={teacher} student={model} train={chats} validation={chats} max_steps=2",
        {"teacher.path": "teacher", "student.path": "student", "output.path": "training.output_dir",
         "distill.temperature": "temperature", "distill.dtype": "dtype",
         "distill.local_batch_size": "training.per_device_train_batch_size",
         **{f"training.{name}": f"training.{name}" for name in TRAINING}},
        arguments=True,
    ),
    "rl/nemo_rl/grpo": Case("policy={model} train={prompts} validation={prompts} max_steps=2"),
    "rl/nemo_rl/dapo": Case("policy={model} train={prompts} max_steps=2"),
    "rl/nemo_rl/rlhf": Case("policy={model} reward_model={reward} train={prompts} max_steps=2"),
    "rl/nemo_rl/distillation": Case("student={model} teacher={teacher} train={prompts} max_steps=2"),
    "rl/nemo_rl/dpo": Case("policy={model} train={preferences} validation={preferences} max_steps=2"),
    "rl/nemo_rl/rm": Case("model={model} train={preferences} max_steps=2"),
    "rl/nemo_rl/sft": Case("policy={model} train={chats} max_steps=2"),
}  # fmt: skip


def test_every_step_has_a_case() -> None:
    assert sorted(CASES) == sorted(definitions.step_folders(Root(PROJECT)))


@pytest.fixture(scope="module")
def site(locked: Tree, ground: Path) -> Iterator[Tree]:
    """A machine with eight GPUs, whose engine has every library's cuda image, built there by the commands."""
    (ground / "eight").mkdir()
    machine = GpuEngine.prepare(ground / "eight")
    try:
        machine.start("toolkit")
        path, runs = ground / "every-step", ground / "every-run"
        shutil.copytree(locked.path, path, copy_function=link_tar)
        env = locked.env | {"PATH": machine.path, "DOCKER_HOST": machine.places.url, "SLIPWAY_RUNS": str(runs)}
        with engine_client(Address(machine.places.url, "tests")) as client:
            made = Tree(path, runs, env, client)
            for library in RELEASES:
                build(made, library)
            yield made
            made.end_all()
    finally:
        machine.end()


@pytest.fixture(scope="module")
def inputs(ground: Path) -> dict[str, Path]:
    """Small inputs of every type, by the names that CASES have for them."""
    made = ground / "every-input"
    for name in ("model", "teacher", "reward"):
        write_model(made / name)
    write_rows(made / "chats.jsonl", [CHAT] * 256)
    write_rows(made / "prompts.jsonl", [{"input": f"{n} + 2", "output": str(n + 2)} for n in range(256)])
    write_rows(made / "texts.jsonl", [{"text": f"{n} + 2 is {n + 2}."} for n in range(256)])
    better = [{"prompt": f"{n} + 2", "chosen": str(n + 2), "rejected": "4"} for n in range(3, 259)]
    write_rows(made / "preferences.jsonl", better)
    for name in ("tokens", "packed", "lora"):
        (made / name).mkdir()
    write_tokens(made / "tokens", (9,) * 5000)
    for split in ("training", "validation"):
        runpy.run_path(str(PARQUET))["write"](made / "packed" / f"{split}_2048.idx.parquet", 256)
    (made / "packed" / "2048_metadata.jsonl").write_text('[{"pack_size": 2048}]')
    write_bridge(made / "megatron", None)
    write_bridge(made / "adapter", {"_target_": "megatron.bridge.peft.lora.LoRA", "dim": 8, "alpha": 16,
                                    "target_modules": ["linear_qkv", "linear_proj"]})  # fmt: skip
    (made / "lora" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 16}))
    module = "base_model.model.model.layers.0.mlp.down_proj"
    pair = ones({f"{module}.lora_A.weight": [2, 8], f"{module}.lora_B.weight": [4, 2]})
    (made / "lora" / "adapter_model.safetensors").write_bytes(pair)
    write_nemo_rl(made / "rl")
    (made / "rl" / "step_3" / "config.yaml").write_text("policy: {tokenizer: {}}")
    return {path.name.partition(".")[0]: path for path in made.iterdir()}


def write_model(folder: Path) -> None:
    """A Hugging Face checkpoint whose sizes fit every default; of its weights there are two."""
    folder.mkdir(parents=True)
    sizes = {"num_hidden_layers": 8, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 8}
    kind = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_key_value_heads": 8, "vocab_size": 512}
    (folder / "config.json").write_text(json.dumps(kind | sizes))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    weights = safetensors({"model.layers.0.mlp.down_proj.weight": [4, 8], "model.norm.weight": [4]})
    (folder / "model.safetensors").write_bytes(weights)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_bridge(root: Path, peft: dict[str, Any] | None) -> None:
    """A checkpoint of Megatron-Bridge, or an adapter."""
    write_megatron(root)
    run = {"model": {}, "checkpoint": {}, "peft": peft}
    (root / "iter_0000004" / "run_config.yaml").write_text(yaml.safe_dump(run))


def ones(shapes: dict[str, list[int]]) -> bytes:
    """A safetensors file of ones in F32."""
    zeros = safetensors(shapes)
    count = sum(rows * columns for rows, columns in shapes.values())
    return zeros[: -4 * count] + struct.pack(f"<{count}f", *[1.0] * count)


@pytest.mark.parametrize("step", CASES)
def test_a_step_runs_to_its_end_with_what_was_planned(
    site: Tree, inputs: dict[str, Path], place: Path, step: str
) -> None:
    case = CASES[step]
    words = (step, *case.words.format(**inputs).split(), f"output={place}/out")
    listed = site.launch("config", *words, "--json")
    done = site.launch(*words)
    assert done.code == 0, done.out + done.err
    run = site.run_of(done)
    plan, processes = run.record["plan"], processes_of(place / "out")
    assert_promised(plan, run)
    assert_given(plan, run, processes)
    merged = yaml.safe_load((run.path / "container" / "config.yaml").read_text())
    if not (case.moved or case.arguments):  # what the step's program writes is what it was planned with
        assert_foreseen(json.loads(listed.out), merged, plan["config"]["base"])
    received = processes[case.entry][0]["config"] if case.entry else merged
    assert_as_planned(planned(plan["config"]), received, merged, case)
    text = canonical.pretty(told(site, run, processes) or {"config": merged})
    compare(HERE / "golden" / step / "docker-gpus" / "received.json", fixed(text), ACCEPT)


Processes = dict[str, list[dict[str, Any]]]


def processes_of(output: Path) -> Processes:
    """What processes of the library have written down: by kind, each in the order of its ranks."""
    found: Processes = {}
    for path in output.glob("seen*.json"):
        facts = json.loads(path.read_text())
        found.setdefault(path.stem.removesuffix(f"-{facts['rank']}"), []).append(facts)
    return {kind: sorted(found[kind], key=lambda facts: int(facts["rank"])) for kind in sorted(found)}


def assert_promised(plan: dict[str, Any], run: Run) -> None:
    """The output is of the step's type, as the launcher knows types, and the record says where it is."""
    assert run.ended == (0, "step") and run.record["state"] == "ended"
    found = detection.inspect("output", Path(run.outcome["checkpoint"]))
    promised = definitions.find_step(Root(PROJECT), plan["step"]).output.type
    assert (found.type, found.faults) == (promised, []) and run.outcome["result"]["type"] == promised


def assert_given(plan: dict[str, Any], run: Run, processes: Processes) -> None:
    """As many processes as planned, each of which sees the GPUs of the plan, and nothing else."""
    shape = plan["shape"]
    assert (run.record["versions"].get("gpus") or []) == UUIDS[: shape["gpus"]]
    for ranks in processes.values():
        assert [facts["gpus"] for facts in ranks] == [[str(n) for n in range(shape["gpus"])]] * len(ranks)
    if plan["launcher"] == "torchrun":
        (ranks,) = processes.values()
        world = [(n, n, shape["procs"]) for n in range(shape["procs"])]
        assert [(facts["rank"], facts["local_rank"], facts["world_size"]) for facts in ranks] == world


def planned(config: dict[str, Any]) -> dict[str, Any]:
    """Every key that the plan says, dotted, with the value that counts: of the base (unless it is in the image) on."""
    known: dict[str, Any] = {}
    for values in (config["base"].get("values", {}), *(layer["values"] for layer in config["layers"])):
        above = dict(leaves(values))
        for key in [k for k, value in above.items() if k.endswith("_target_") and known.get(k, value) != value]:
            known = without(known, key.removesuffix("._target_"))  # what it was given is another one's
        known |= above
    for key in config["remove"]:
        known = without(known, key)
    for key, value in config["set"]:
        known = without(known, key) | dict(leaves({key: value}))
    return known


def assert_foreseen(listed: list[dict[str, Any]], merged: dict[str, Any], base: dict[str, Any]) -> None:
    """`launch config` lists every key that the step's program has written, with its value: also those of a base in the
    image, which the image's record has."""
    ours = "deadline."  # which the step's program takes for itself
    known = {row["key"]: row["value"] for row in listed if not row["key"].startswith(ours) and row["value"] != {}}
    assert known == dict(leaves(merged))
    if "path" in base:
        assert f"the image's {base['path']}" in {row["by"] for row in listed}


def leaves(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{key}.")
        elif value != {}:
            yield f"{above}{key}", value


def without(known: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: value for k, value in known.items() if k != key and not k.startswith(f"{key}.")}


def assert_as_planned(plan: dict[str, Any], received: Any, merged: Any, case: Case) -> None:
    """`received` by the library, `merged` by the step's program."""
    assert case.moved.keys() | case.made.keys() <= plan.keys()
    for key, value in (plan | case.made).items():
        if case.arguments:
            assert at(merged, key) == value, key
        elif key not in case.moved:
            assert at(received, key) == value, key
        if where := case.moved.get(key):
            found = at(received, where)
            below = isinstance(value, str) and str(found).startswith(f"{value}/")  # a file of the input's folder
            assert found == value or below, f"{key}, {where}: {found!r}"


def at(node: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        node = node[int(part)] if isinstance(node, list) else node[part]
    return node


def told(site: Tree, run: Run, processes: Processes) -> dict[str, Any]:
    """What each kind of process was given, by its first rank; of variables those that the one before did not have."""
    image = site.docker.images.get(run.record["request"]["Image"])
    known, kinds = set(image.attrs["Config"]["Env"]), {}
    for kind, (first, *_) in processes.items():
        environ = {k: v for k, v in first["environ"].items() if f"{k}={v}" not in known and k not in PASSING}
        facts = {key: first[key] for key in ("argv", "executable", "cwd", "config", "gpus", "world_size")}
        kinds[kind] = facts | {"environ": environ}
        known |= {f"{k}={v}" for k, v in environ.items()}
    return kinds


PASSING = ("HOSTNAME", "SLIPWAY_MARK", "PWD", "OLDPWD", "SHLVL", "_")
NAMES = (
    (r"\d{8}T\d{6}Z-[\w.]+-[0-9a-f]{6}", "RUN"),
    (r"(/inputs/\w+-)[0-9a-f]{8}\b", r"\1HASH"),
    (r"(/tmp/slipway-\w+-|/run/slipway/tmp)\w+", r"\1NAME"),
    (r'((?:PORT|ADDRESS)": "[^"]*?)\d+"', r'\1PORT"'),
    (r'(RAY_num_workers_soft_limit": )"\d+"', r'\1"CPUS"'),
)  # fmt: skip


def fixed(text: str) -> str:
    """The text with fixed names for what differs from run to run."""
    for pattern, name in NAMES:
        text = re.sub(pattern, name, text)
    return text


def test_an_adapter_for_megatron_is_not_merged_without_a_gpu(site: Tree, inputs: dict[str, Path], place: Path) -> None:
    words = CASES["convert/merge_lora"].words.format(**inputs).split()
    done = site.launch("convert/merge_lora", *words, f"output={place}/out", "--gpus", "0")
    assert done.code == 78 and "--gpus: no GPU is here" in site.run_of(done).outcome["reason"], done
    assert not any((place / "out").iterdir())
