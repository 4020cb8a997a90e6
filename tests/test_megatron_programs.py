"""entrypoints/steps/megatron_*.py and what they share (slipway_*.py), with Megatron-Bridge as an outline on disk."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from helpers import until

from images.locking import lock as locks
from launcher.artifacts import checkpoints, huggingface
from launcher.artifacts.detection import Artifact
from launcher.catalog import commands, definitions, releases
from slipway.project import Root

ROOT = Path(__file__).parent.parent
STEPS = ROOT / "entrypoints" / "steps"
FOLDERS = ROOT / "launcher" / "steps"
sys.path.insert(0, str(STEPS))

import megatron_convert  # noqa: E402
import megatron_merge  # noqa: E402
import megatron_train  # noqa: E402
import slipway_inputs  # noqa: E402
import slipway_megatron  # noqa: E402
import slipway_step  # noqa: E402

LIBRARY = {
    "megatron/bridge/training/config.py": (
        "import json, types\n"
        "class ConfigContainer:\n"
        "    @staticmethod\n"
        "    def from_dict(values):\n"
        "        if 'unknown' in values['train']: raise TypeError(\"TrainingConfig has no 'unknown'\")\n"
        "        checkpoint = {'pretrained_checkpoint': None, **values['checkpoint']}\n"
        "        values = {'peft': None, **values, 'checkpoint': checkpoint}\n"
        "        return json.loads(json.dumps(values), object_hook=lambda d: types.SimpleNamespace(**d))\n"
    ),
    "megatron/bridge/utils/instantiate_utils.py": "class InstantiationException(Exception): pass\n",
    "megatron/bridge/training/model_load_save.py": (
        "import types\n"
        "def load_model_config(folder):\n"
        "    sizes = {f'{name}_model_parallel_size': 1 for name in ('tensor', 'pipeline', 'expert')}\n"
        "    rest = {'context_parallel_size': 1, 'sequence_parallel': False}\n"
        "    return types.SimpleNamespace(saved=folder, **rest, **sizes), None\n"
    ),
    "megatron/bridge/training/callbacks.py": (
        "class CallbackManager:\n"
        "    def register(self, event, function): assert event == 'on_train_step_end'; self.function = function\n"
    ),
    "megatron/bridge/training/gpt_step.py": "def forward_step(): pass\n",
    "megatron/bridge/training/pretrain.py": '''
import json, os, pathlib, types
def pretrain(config, forward_step, callbacks):
    """Says how it was called, trains as FAKE tells it, and saves as the library does."""
    fake = json.loads(os.environ.get("FAKE", "{}"))
    seen = json.dumps(config, default=vars)
    pathlib.Path(os.environ["SLIPWAY_STATE_DIR"], "seen.json").write_text(seen)
    for step in range(fake.get("steps", 2)):
        callbacks.function(types.SimpleNamespace(loss_dict={"lm loss": 9 - step} if step < 9 else {}))
    if fake.get("saves", True):
        folder = pathlib.Path(config.checkpoint.save, f"iter_{fake.get('steps', 2):07d}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run_config.yaml").touch()
        (folder.parent / "latest_checkpointed_iteration.txt").write_text(str(fake.get("steps", 2)))
    if "exit" in fake:
        raise SystemExit(fake["exit"])
''',
    "megatron/bridge/training/finetune.py": "from megatron.bridge.training.pretrain import pretrain as finetune\n",
    "pyarrow/__init__.py": "",
    "pyarrow/parquet.py": (
        "import json, types\n"
        "def read_metadata(path): return types.SimpleNamespace(num_rows=len(json.loads(path.read_text())))\n"
        "def read_table(path, columns):\n"
        "    rows = json.loads(path.read_text())\n"
        "    return types.SimpleNamespace(columns=[[row[c] for row in rows] for c in columns])\n"
    ),
    "pyarrow/compute.py": (
        "import types\n"
        "def list_value_length(column): return [len(x) for x in column]\n"
        "def list_flatten(column): return [x for row in column for x in row]\n"
        "def sum(values, total=sum): return types.SimpleNamespace(as_py=lambda: total(values))\n"
    ),
    "megatron/bridge/data/builders/gpt_sft.py": "def build_gpt_sft_split(): pass\n",
    "megatron/bridge/training/tokenizers/config.py": "def TokenizerConfig(**named): return named\n",
    "megatron/bridge/training/tokenizers/tokenizer.py": "def build_tokenizer(named): return named\n",
    "megatron/bridge/data/packing/offline.py": (
        "import json\n"
        "def prepare_gpt_sft_packed_data(*, input_path, output_path, output_metadata_path, **options):\n"
        "    chats = [json.loads(line) for line in input_path.open()]\n"
        "    (input_path.parent / 'index.npy').touch()\n"
        "    learned = [0, int(options['packed_sequence_size'] > 4)]\n"
        "    rows = [{'input_ids': [1, 2], 'loss_mask': learned, 'seq_start_id': [0]} for chat in chats]\n"
        "    output_path.write_text(json.dumps(rows))\n"
        "    del options['dataset_builder']\n"
        "    with output_metadata_path.open('a') as f: f.write(json.dumps(options) + '\\n')\n"
    ),
}
CHAT = json.dumps({"messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]}) + "\n"


def tokenizer(folder: Path, vocabulary: str = "{}", template: str = "{{ messages }}") -> Path:
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(vocabulary)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


def checkpoint(root: Path, run: dict[str, Any] | None = None, iteration: int = 3) -> Path:
    folder = root / f"iter_{iteration:07d}"
    folder.mkdir(parents=True)
    (folder / "run_config.yaml").write_text(yaml.safe_dump(run or {}))
    (root / "latest_checkpointed_iteration.txt").write_text(f"{iteration}\n")
    return folder


def documents(path: Path, count: int | None) -> None:
    """The beginning of what the library's IndexedDatasetBuilder writes; None: something else."""
    path.touch()
    head = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, count, count + 1) if count else b"nothing"
    path.with_suffix(".idx").write_bytes(head)


def merged(step: str, *names: str) -> dict[str, Any]:
    """A step's configuration as the program merges it."""
    base = FOLDERS / step / "base.yaml"
    if not base.exists():
        base = FOLDERS / "sft" / "megatron_bridge" / "base.cpu.yaml"
    values = [yaml.safe_load(p.read_text()) for p in (base, *(FOLDERS / step / f"{n}.yaml" for n in names))]
    layers = [{"name": "", "values": v} for v in values[1:]]
    return slipway_step.merge_config({"base": {"values": values[0]}, "layers": layers, "remove": [], "set": []})


class Program:
    """Runs a step program with a plan that is made by hand."""

    def __init__(self, root: Path) -> None:
        self.root, self.output = root, root / "output"
        for name, text in LIBRARY.items():
            (root / "site" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "site" / name).write_text(text)
        for folder in ("slipway", "run/0/ranks"):
            (root / folder).mkdir(parents=True)

    def run(self, program: str, config: dict[str, Any], *changes: tuple[str, Any], **env: str) -> Any:
        assign = [[key, str(value) if isinstance(value, Path) else value] for key, value in changes]
        plan = {"base": {"values": config}, "layers": [], "remove": [], "set": assign}
        (self.root / "slipway" / "plan.json").write_text(json.dumps({"config": plan}))
        ours = {
            "PYTHONPATH": str(self.root / "site"),
            "SLIPWAY_DIR": str(self.root / "slipway"),
            "SLIPWAY_STATE_DIR": str(self.root / "run"),
        }
        command = [sys.executable, str(STEPS / program)]
        everything = {**os.environ, **ours, **env}
        return subprocess.run(command, env=everything, capture_output=True, text=True, check=False)

    def read(self, name: str) -> Any:
        return json.loads((self.root / "run" / name).read_text())


class Training(Program):
    """megatron_train.py on packed rows; `words` are what the launcher sets."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.tokenizer = tokenizer(root / "tokenizer")
        self.pack, self.base = root / "pack", root / "base"
        self.pack.mkdir()
        for split in ("training", "validation"):
            (self.pack / f"{split}_128.idx.parquet").write_text(json.dumps([{}] * 8))
        self.record(pack_size=128)
        checkpoint(self.base)
        self.config = merged("sft/megatron_bridge", "default", "tiny")
        self.words: dict[str, Any] = {
            "checkpoint.save": self.output,
            "checkpoint.pretrained_checkpoint": self.base,
            "data.train": self.pack / "training_128.idx.parquet",
            "tokenizer.tokenizer_model": self.tokenizer,
        }

    def record(self, **changes: Any) -> None:
        known = {"pack_size": 128, **slipway_inputs.tokenizer_record(self.tokenizer), **changes}
        (self.pack / "slipway.json").write_text(json.dumps(known))

    def train(self, fake: dict[str, Any] | None = None, /, rank: str = "0", **env: str) -> Any:
        return self.run(
            "megatron_train.py", self.config, *self.words.items(), FAKE=json.dumps(fake or {}), RANK=rank, **env
        )

    def seen(self) -> Any:
        done = self.train()
        assert done.returncode == 0, done.stderr
        return self.read("seen.json")

    def refused(self) -> str:
        done = self.train()
        assert done.returncode == 78, done.stderr
        assert not (self.root / "run" / "seen.json").exists()
        return str(done.stderr)


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path)


@pytest.fixture
def pretraining(training: Training, monkeypatch: pytest.MonkeyPatch) -> Training:
    monkeypatch.setattr(slipway_step, "STATE", training.root / "run")  # as in its processes
    training.config = merged("pretrain/megatron_bridge", "default", "tiny")
    training.words = {"checkpoint.save": training.output}
    return training


# The containers with Megatron-Bridge 0.4.0, 0.4.2, 0.5.0 and 0.5.1.
BEFORE_0_6 = ("26.04", "26.04.01", "26.06", "26.06.01")
LOADER = "dataloader_type num_workers data_sharding pin_memory drop_last persistent_workers trust_remote_code"
ALL_TAGS = {  # class -> its fields at v0.4.0 and v0.5.0, as their own and Megatron-Core's dataclasses have them
    "megatron.bridge.training.config.FinetuningDatasetConfig": f"{LOADER} dataset_root seq_length seed memmap_workers "
    "max_train_samples packed_sequence_specs dataset_kwargs do_validation do_test",
    "megatron.bridge.data.datasets.packed_sequence.PackedSequenceSpecs": "packed_sequence_size tokenizer_model_name "
    "num_tokenizer_workers packed_train_data_path packed_val_data_path packed_metadata_path pad_cu_seqlens "
    "pad_seq_to_mult",
    "megatron.training.config.ValidationConfig": "eval_iters eval_interval skip_train test_mode full_validation "
    "multiple_validation_sets",
    "megatron.bridge.training.tokenizers.config.TokenizerConfig": "metadata_path vocab_size vocab_file merge_file "
    "vocab_extra_ids tokenizer_type tokenizer_model special_tokens chat_template tiktoken_pattern "
    "tiktoken_num_special_tokens tokenizer_prompt_format image_tag_type force_system_message hf_tokenizer_kwargs "
    "sp_tokenizer_kwargs",
}
FROM_0_5 = {
    "megatron.training.config.ValidationConfig": "start_eval_at_iter eval_global_batch_size eval_micro_batch_size "
    "validation_set_names",
}
CONTAINER_BEFORE_0_6 = """
import json, types
from megatron.bridge.utils.instantiate_utils import InstantiationException
FIELDS = json.loads({fields!r})
GONE = tuple(f"megatron.bridge.data.{{name}}." for name in ("builders.gpt_sft", "sft_processing", "packing"))
def check(node, where):
    target = node.get("_target_", "")
    if target.startswith(GONE): raise InstantiationException("Error locating target " + repr(target))
    unknown = set(node) - set(FIELDS.get(target, node)) - {{"_target_"}}
    if unknown: raise InstantiationException(f"Unexpected config keys for target {{target!r}}: {{sorted(unknown)}}")
    for key, value in node.items():
        if isinstance(value, dict): check(value, where + [key])
class ConfigContainer:
    @staticmethod
    def from_dict(values):
        check(values, [])
        values = {{"peft": None, **values}}
        values["checkpoint"] = {{"pretrained_checkpoint": None, **values["checkpoint"]}}
        return json.loads(json.dumps(values), object_hook=lambda d: types.SimpleNamespace(**d))
"""


def of_release(training: Training, step: str, release: str, *given: str) -> list[str]:
    """The configuration that a container's release starts from, and the library's strictness at its tag; its notes."""
    entry = locks.load_lock(Root(ROOT)).entries[f"megatron-bridge/{release}-cuda"]
    at = releases.at_release(definitions.find_step(Root(ROOT), f"{step}/megatron_bridge"), entry)
    assert commands.choose_command(at, entry).program == "megatron_train.py"
    artifacts = {n: Artifact(name=n, path=n, kind="folder", type=at.inputs[n].types[0]) for n in given}
    wired = releases.wired(at, artifacts)
    layers = [{"name": n, "values": definitions.overlay(at, n)} for n in ("default", "tiny")]
    made = {"base": commands.base_config(at, entry), "layers": layers, "remove": wired.remove}
    training.config = slipway_step.merge_config({**made, "set": [[k, v] for k, v in wired.set.items()]})
    later = {} if entry.components["megatron-bridge"].lstrip("=").startswith("0.4") else FROM_0_5
    fields = json.dumps({name: f"{text} {later.get(name, '')}".split() for name, text in ALL_TAGS.items()})
    container = CONTAINER_BEFORE_0_6.format(fields=fields)
    (training.root / "site/megatron/bridge/training/config.py").write_text(container)
    return wired.notes


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_the_result_names_the_checkpoint(training: Training) -> None:
    done = training.train({"steps": 8})
    assert done.returncode == 0, done.stderr
    assert training.read("result.json") == {
        "checkpoint": str(training.output),
        "type": "checkpoint_megatron",
        "iteration": "iter_0000008",
        "steps": 8,
        "total_steps": 8,
        "stopped": False,
        "steps_of_this_run": 8,
        "first_loss": 9.0,
        "last_loss": 2.0,
    }
    assert yaml.safe_load((training.root / "run" / "config.yaml").read_text())["train"]["train_iters"] == 8


def test_packed_rows_and_the_checkpoints_model_reach_the_library(training: Training) -> None:
    training.words["data.validation"] = training.pack / "validation_128.idx.parquet"
    training.words["model.tensor_model_parallel_size"] = 2
    seen = training.seen()
    specs = seen["dataset"]["offline_packing_specs"]
    assert specs["packed_train_data_path"] == str(training.pack / "training_128.idx.parquet")
    assert specs["packed_val_data_path"] == str(training.pack / "validation_128.idx.parquet")
    assert (specs["packed_sequence_size"], seen["dataset"]["do_validation"]) == (128, True)
    assert seen["dataset"]["dataset_root"] == str(training.root / "run" / "data")  # inputs cannot be written to
    assert seen["model"]["saved"] == str(training.base / "iter_0000003")
    assert (seen["model"]["tensor_model_parallel_size"], seen["model"]["seq_length"]) == (2, 128)
    assert "data" not in seen and "resume" not in seen


def test_without_validation_nothing_is_evaluated(training: Training) -> None:
    seen = training.seen()
    assert seen["dataset"]["do_validation"] is False
    assert (seen["validation"]["eval_iters"], seen["validation"]["eval_interval"]) == (0, None)


def test_of_a_packings_folder_each_split_takes_its_own(training: Training) -> None:
    training.words |= {"data.train": training.pack, "data.validation": training.pack}
    specs = training.seen()["dataset"]["offline_packing_specs"]
    assert specs["packed_train_data_path"].endswith("/training_128.idx.parquet")
    assert specs["packed_val_data_path"].endswith("/validation_128.idx.parquet")


def test_jsonl_gets_the_names_that_the_library_wants(training: Training) -> None:
    source = training.root / "chats.jsonl"
    source.write_text(CHAT * 4)
    training.words |= {"data.train": source, "data.validation": source}
    seen = training.seen()
    folder = Path(seen["dataset"]["dataset_root"])
    assert sorted(p.name for p in folder.iterdir()) == ["training.jsonl", "validation.jsonl"]
    assert (folder / "training.jsonl").resolve() == source
    assert "enable_offline_packing" not in seen["dataset"]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"tokenizer": "0" * 64}, "packed with another tokenizer than that of"),
        ({"template": "0" * 64}, "packed with another chat template than that of"),
        ({"pack_size": 256}, "dataset.seq_length: 128, but"),
    ],
)
def test_another_packing_is_refused(training: Training, record: dict[str, Any], says: str) -> None:
    training.record(**record)
    assert says in training.refused()


def test_rows_that_were_packed_by_other_means_are_taken(training: Training) -> None:
    (training.pack / "slipway.json").unlink()
    assert training.seen()["dataset"]["seq_length"] == 128


@pytest.mark.parametrize(
    ("word", "value", "says"),
    [
        ("train.micro_batch_size", 2, "train.micro_batch_size: packed rows are trained one by one"),
        ("train.global_batch_size", 9, "has 8 rows, less than one batch of 9; lower global_batch_size"),
        ("train.unknown", 1, "Megatron-Bridge refuses the configuration: TrainingConfig has no 'unknown'"),
        ("model.no_such", 1, "model.no_such: SimpleNamespace has no such field"),
        ("data.train", "/no/such.parquet", "data.train: /no/such.parquet is not there"),
        ("data.train", None, "data.train: is not set"),
        ("checkpoint.pretrained_checkpoint", "/tmp", "/tmp is no Megatron-Bridge checkpoint"),
        ("tokenizer.tokenizer_model", None, "tokenizer.tokenizer_model: is not set"),
    ],
)
def test_what_cannot_be_trained_is_refused(training: Training, word: str, value: Any, says: str) -> None:
    training.words[word] = value
    assert says in training.refused()


def test_a_validation_of_less_than_a_batch_is_refused(training: Training) -> None:
    training.words |= {"data.validation": training.pack, "validation.eval_global_batch_size": 16}
    assert "validation_128.idx.parquet has 8 rows, less than one batch of 16; lower eval_global" in training.refused()


@pytest.mark.parametrize("named", ["shards", "shards/*.jsonl*", "shards/b.jsonl.gz"])
def test_conversations_in_several_files_or_packed_become_one(training: Training, named: str) -> None:
    folder = training.root / "shards"
    folder.mkdir()
    (folder / "a.jsonl").write_text(CHAT * 3 + "\n")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(CHAT.encode() * 5))
    (folder / "info.json").write_text("{}")
    training.words |= {"data.train": training.root / named, "data.validation": training.root / named}
    root = Path(training.seen()["dataset"]["dataset_root"])
    rows = 5 if named.endswith(".gz") else 8
    assert (root / "training.jsonl").read_text() == (root / "validation.jsonl").read_text() == CHAT * rows


def test_the_other_ranks_wait_for_the_one_file(training: Training) -> None:
    folder = training.root / "shards"
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_text(CHAT * 4)
    training.words["data.train"] = folder
    with ThreadPoolExecutor() as pool:
        other = pool.submit(training.train, rank="1", MASTER_PORT="1")  # as torchrun says it
        until((training.root / "run" / "data").is_dir)  # it has looked at the output, and waits
        assert training.train().returncode == 0 and other.result().returncode == 0, other.result().stderr
    assert (training.root / "run" / "data" / "training.jsonl").read_text() == CHAT * 8


def test_several_packings_of_one_split_are_refused_by_name(training: Training) -> None:
    shutil.copy(training.pack / "training_128.idx.parquet", training.pack / "training_64.idx.parquet")
    training.words["data.train"] = training.pack
    said = "expected one Parquet file of training, found training_128.idx.parquet, training_64.idx.parquet"
    assert said in training.refused()


def test_an_output_with_a_checkpoint_is_resumed_or_refused(training: Training) -> None:
    checkpoint(training.output)
    assert "already holds a checkpoint; go on from it with --resume" in training.refused()
    training.words["resume"] = True
    assert training.seen()["checkpoint"]["load"] == str(training.output)


def test_resuming_an_empty_output_starts_anew(training: Training) -> None:
    training.words["resume"] = True
    assert training.seen()["checkpoint"].get("load") is None


def test_an_adapter_is_called_one(training: Training) -> None:
    training.config = merged("peft/megatron_bridge", "default", "tiny")
    assert training.seen()["peft"]["dim"] == 4
    assert training.read("result.json")["type"] == "checkpoint_lora"


def test_a_run_that_was_told_to_stop_has_a_result_too(training: Training) -> None:
    assert training.train({"steps": 4, "exit": 0}).returncode == 0
    assert (training.read("result.json")["steps"], training.read("result.json")["stopped"]) == (4, True)


def test_a_library_that_leaves_with_a_fault_is_a_fault(training: Training) -> None:
    assert training.train({"exit": 3}).returncode == 3
    assert not (training.root / "run" / "result.json").exists()


def test_a_missing_checkpoint_is_an_error(training: Training) -> None:
    done = training.train({"saves": False})
    assert done.returncode == 1
    assert "no checkpoint was saved" in (training.root / "run" / "0" / "reason").read_text()


def test_the_last_pipeline_stage_alone_has_losses() -> None:
    assert megatron_train.step_loss(None) == megatron_train.step_loss({}) == []


def test_other_ranks_write_no_result(training: Training) -> None:
    assert training.train(rank="1", MASTER_PORT="29999").returncode == 0
    assert not (training.root / "run" / "result.json").exists()
    assert not (training.root / "run" / "config.yaml").exists()


def test_pretraining_takes_mock_data_and_a_model_of_its_own(pretraining: Training) -> None:
    seen = pretraining.seen()
    assert seen["dataset"]["_target_"].endswith(".MockGPTDatasetConfig")
    assert seen["tokenizer"]["tokenizer_type"] == "NullTokenizer"
    assert (seen["model"]["num_layers"], seen["model"]["seq_length"]) == (2, 128)
    assert "preprocessing" not in seen["dataset"]  # nothing of fine-tuning is left


def test_pretraining_takes_documents(pretraining: Training) -> None:
    for name in "ab":
        documents(pretraining.root / f"{name}.bin", 10)
    pretraining.words |= {"data.train": pretraining.root / "b.bin"}
    assert "tokenizer.tokenizer_model: is not set" in pretraining.refused()
    pretraining.words |= {"tokenizer.tokenizer_model": pretraining.tokenizer}
    seen = pretraining.seen()
    assert seen["dataset"]["_target_"].endswith(".config.GPTDatasetConfig")
    assert seen["dataset"]["data_path"] == [str(pretraining.root / "b")]
    assert seen["dataset"]["path_to_cache"] == str(pretraining.root / "run" / "data")  # beside them nobody may write
    assert (seen["tokenizer"]["tokenizer_type"], seen["tokenizer"]["vocab_size"]) == ("HuggingFaceTokenizer", None)
    pretraining.words["data.train"] = pretraining.root
    paths = megatron_train.prepare(_assigned(pretraining))["dataset"]["data_path"]
    assert paths == [str(pretraining.root / n) for n in "ab"]
    pretraining.words["data.train"] = pretraining.root / "b"  # as the launcher names a pair of files
    assert megatron_train.prepare(_assigned(pretraining))["dataset"]["data_path"] == [str(pretraining.root / "b")]


def test_pretraining_takes_a_blend(pretraining: Training) -> None:
    """Each split has documents of its own: the library's `split` is null, and weights stand by several pairs alone."""
    root = pretraining.root / "texts"
    root.mkdir()
    for name in ("train-0", "train-1", "valid-0"):
        documents(root / f"{name}.bin", 10)
    pretraining.words |= {"data.train": root, "tokenizer.tokenizer_model": pretraining.tokenizer}
    for names, says in ((["gone"], "names gone, expected "), ([], "names nothing for train")):
        (root / "blend.json").write_text(json.dumps({"train": names}))
        assert says in pretraining.refused()
    blend = {"train": ["30", "train-0", "10", "train-1"], "valid": ["5", "valid-0"]}
    (root / "blend.json").write_text(json.dumps(blend))
    seen = pretraining.seen()["dataset"]
    trained, validated = [[str(root / "train-0"), str(root / "train-1")], [30.0, 10.0]], [[str(root / "valid-0")], None]
    assert seen["blend_per_split"] == [trained, validated, None] and seen["split"] is None
    assert "data_path" not in seen and seen["path_to_cache"].endswith("/data")
    (root / "blend.json").write_text(json.dumps({"train": blend["train"]}))
    sections = megatron_train.prepare(_assigned(pretraining))
    assert sections["validation"]["eval_iters"] == 0 and sections["dataset"]["blend_per_split"][1:] == [None, None]


def test_documents_of_another_tokenizer_are_refused(pretraining: Training) -> None:
    documents(pretraining.root / "a.bin", 20)
    record = {"data": "binidx", "tokenizer": "a" * 64}
    (pretraining.root / "slipway.json").write_text(json.dumps(record))
    pretraining.words |= {"data.train": pretraining.root / "a", "tokenizer.tokenizer_model": pretraining.tokenizer}
    assert "was made with another tokenizer than that of" in pretraining.refused()
    record = slipway_inputs.tokenizer_record(pretraining.tokenizer)
    (pretraining.root / "slipway.json").write_text(json.dumps(record))
    assert pretraining.seen()["dataset"]["data_path"] == [str(pretraining.root / "a")]


@pytest.mark.parametrize(
    ("count", "says"),
    [(3, "leaves none for test; give it a larger share, or 0"), (None, "a.idx is no index of tokenized documents")],
)
def test_a_split_without_documents_is_refused(pretraining: Training, count: int | None, says: str) -> None:
    documents(pretraining.root / "a.bin", count)
    pretraining.words |= {"data.train": pretraining.root / "a.bin", "tokenizer.tokenizer_model": pretraining.tokenizer}
    pretraining.words["dataset.split"] = "8,2,1"
    assert says in pretraining.refused()
    if count:
        pretraining.words["dataset.split"] = "2,1,0"
        assert pretraining.seen()["dataset"]["split"] == "2,1,0"


def test_documents_without_their_index_are_refused(pretraining: Training) -> None:
    (pretraining.root / "a.bin").touch()
    pretraining.words |= {"data.train": pretraining.root / "a.bin", "tokenizer.tokenizer_model": pretraining.tokenizer}
    assert "expected .bin files, each with its .idx" in pretraining.refused()


@pytest.mark.parametrize("release", BEFORE_0_6)
@pytest.mark.parametrize("step", ["sft", "peft"])
def test_packed_rows_reach_releases_before_0_6(training: Training, step: str, release: str) -> None:
    of_release(training, step, release, "train", "model", "tokenizer", "validation")
    training.words["data.validation"] = training.pack
    seen = training.seen()
    dataset, specs = seen["dataset"], seen["dataset"]["packed_sequence_specs"]
    assert dataset["_target_"] == "megatron.bridge.training.config.FinetuningDatasetConfig"
    assert specs["packed_train_data_path"] == str(training.pack / "training_128.idx.parquet")
    assert specs["packed_val_data_path"] == str(training.pack / "validation_128.idx.parquet")
    assert (specs["packed_sequence_size"], dataset["do_validation"]) == (128, True)
    assert dataset["dataset_root"] == str(training.root / "run" / "data")
    assert training.read("result.json")["type"] == ("checkpoint_lora" if step == "peft" else "checkpoint_megatron")


@pytest.mark.parametrize("release", BEFORE_0_6)
def test_conversations_as_they_are_need_a_marked_template_before_0_6(training: Training, release: str) -> None:
    of_release(training, "sft", release, "train", "model", "tokenizer")
    source = training.root / "chats.jsonl"
    source.write_text(CHAT * 4)
    training.words["data.train"] = source
    assert "tokenizer.tokenizer_model: the chat template of" in training.refused()
    training.words["tokenizer.tokenizer_model"] = tokenizer(training.root / "marked", template=MARKED)
    dataset = training.seen()["dataset"]
    assert dataset["dataset_kwargs"] == {"chat": True, "use_hf_tokenizer_chat_template": True}
    assert "packed_sequence_specs" not in dataset


@pytest.mark.parametrize(("release", "batch"), [("26.04", None), ("26.04.01", None), ("26.06", 2), ("26.06.01", 2)])
def test_validation_has_batches_of_its_own_from_0_5_on(training: Training, release: str, batch: int | None) -> None:
    assert of_release(training, "sft", release, "train", "model", "tokenizer") == []
    notes = of_release(training, "sft", release, "train", "model", "tokenizer", "validation")
    training.words["data.validation"] = training.pack
    assert training.seen()["validation"].get("eval_global_batch_size") == batch
    assert ["batches of train.global_batch_size" in note for note in notes] == ([] if batch else [True])


def test_what_a_release_does_not_have_is_refused_in_the_librarys_words(training: Training) -> None:
    of_release(training, "sft", "26.04", "train", "model", "tokenizer")
    training.words["validation.eval_global_batch_size"] = 4
    assert "Unexpected config keys for target 'megatron.training.config.ValidationConfig'" in training.refused()


@pytest.mark.parametrize("release", BEFORE_0_6)
def test_pretraining_before_0_6(pretraining: Training, release: str) -> None:
    of_release(pretraining, "pretrain", release)
    assert pretraining.seen()["dataset"]["_target_"].endswith(".MockGPTDatasetConfig")
    documents(pretraining.root / "a.bin", 10)
    of_release(pretraining, "pretrain", release, "data", "tokenizer")
    pretraining.words |= {"data.train": pretraining.root / "a.bin", "tokenizer.tokenizer_model": pretraining.tokenizer}
    pretraining.words["resume"] = True
    seen = pretraining.seen()
    assert seen["dataset"]["data_path"] == [str(pretraining.root / "a")]
    assert seen["tokenizer"]["vocab_size"] is None


def test_the_tokenizers_size_is_asked_for_from_0_6_on() -> None:
    step = definitions.find_step(Root(ROOT), "pretrain/megatron_bridge")
    entries = [e for e in locks.load_lock(Root(ROOT)).entries.values() if e.library == "megatron-bridge"]
    given = {"tokenizer": Artifact(name="tokenizer", path="t", kind="folder", type="tokenizer_hf")}
    asked = {e.release: releases.wired(releases.at_release(step, e), given).set for e in entries}
    wanted = {"tokenizer.use_tokenizer_vocab_size": True}
    assert {release for release, keys in asked.items() if keys == wanted} == {"0.6.2", "26.08.01"}
    assert all(releases.wired(releases.at_release(step, e), {}).set == {} for e in entries)


def _assigned(training: Training) -> dict[str, Any]:
    (training.output / slipway_megatron.LATEST).unlink(missing_ok=True)
    words = [[key, str(value)] for key, value in training.words.items()]
    return slipway_step.merge_config({"base": {"values": training.config}, "layers": [], "remove": [], "set": words})


def test_a_process_alone_gets_a_port_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "set, so that it is put back")
        monkeypatch.delenv(name)
    slipway_megatron.lead_process_group()
    assert os.environ["MASTER_ADDR"] == "127.0.0.1" and 1024 < int(os.environ["MASTER_PORT"]) != 29500
    monkeypatch.setenv("MASTER_PORT", "1")
    slipway_megatron.lead_process_group()
    assert os.environ["MASTER_PORT"] == "1"


def pack(program: Program, train: Path, *changes: tuple[str, Any]) -> Any:
    words = {"output.path": program.output, "data.train": train, "tokenizer.path": program.root / "tokenizer"}
    return program.run("megatron_pack.py", merged("data_prep/sft_packing", "default", "tiny"), *words.items(), *changes)


def test_packing_writes_what_training_reads(program: Program) -> None:
    folder, chats = tokenizer(program.root / "tokenizer"), program.root / "chats.jsonl"
    chats.write_text(CHAT * 3)
    done = pack(program, chats, ("data.validation", chats))
    assert done.returncode == 0, done.stderr
    names = ["128_metadata.jsonl", "slipway.json", "training_128.idx.parquet", "validation_128.idx.parquet"]
    assert sorted(p.name for p in program.output.iterdir()) == names
    record = json.loads((program.output / "slipway.json").read_text())
    known = checkpoints.tokenizer(folder)
    assert (record["tokenizer"], record["template"]) == (known.vocabulary, known.template)
    assert record["pack_size"] == 128
    made = program.read("result.json")
    counted = {"chats": 3, "documents": 3, "rows": 3, "tokens": 6, "learned_tokens": 3}
    assert made["splits"]["training"] == {"path": str(program.output / "training_128.idx.parquet"), **counted}
    assert (made["type"], made["path"]) == ("packed_parquet", str(program.output))
    assert sorted(p.name for p in (program.root / "run").iterdir()) == ["0", "config.yaml", "result.json"]
    assert not list(program.root.glob("*.npy"))  # the library's index lies beside a link, not beside the input


def test_shards_and_gzip_are_packed_as_one(program: Program) -> None:
    tokenizer(program.root / "tokenizer")
    shards = program.root / "shards"
    shards.mkdir()
    (shards / "a.jsonl").write_text(CHAT.rstrip("\n"))
    (shards / "b.jsonl.gz").write_bytes(gzip.compress(CHAT.encode() * 2))
    (shards / "notes.txt").write_text("no data")
    for source in (shards, shards / "*.jsonl*"):
        assert pack(program, source).returncode == 0
        assert program.read("result.json")["splits"]["training"]["rows"] == 3
        for made in program.output.iterdir():
            made.unlink()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", ":2: not a conversation: JSONDecodeError"),
        ('{"text": "x"}', ":2: not a conversation: KeyError: 'messages'"),
        ('{"messages": [{"role": "user", "content": "x"}]}', ":2: no assistant's message to learn from"),
    ],
)
def test_a_line_that_cannot_be_learned_from_is_named(program: Program, line: str, says: str) -> None:
    tokenizer(program.root / "tokenizer")
    (program.root / "chats.jsonl").write_text(CHAT + line + "\n")
    done = pack(program, program.root / "chats.jsonl")
    assert done.returncode == 78
    assert f"chats.jsonl{says}" in done.stderr
    assert not program.output.exists() or not list(program.output.iterdir())


@pytest.mark.parametrize(
    ("content", "change", "says"),
    [
        (b"", ("packing.seed", 1), "is empty"),
        (b"\x28\xb5\x2f\xfd", ("packing.seed", 1), "zstd cannot be read in this image"),
        (CHAT.encode(), ("packing.size", 1), "packing.size: 1 is not a whole number from 2 on"),
        (CHAT.encode(), ("data.train", "/no/such"), "data.train: /no/such is not there"),
    ],
)
def test_packing_refuses(program: Program, content: bytes, change: tuple[str, Any], says: str) -> None:
    tokenizer(program.root / "tokenizer")
    (program.root / "chats.jsonl").write_bytes(content)
    done = pack(program, program.root / "chats.jsonl", change)
    assert (done.returncode, says in done.stderr) == (78, True), done.stderr


def test_a_tokenizer_without_a_template_is_refused(program: Program) -> None:
    tokenizer(program.root / "tokenizer", template="")
    (program.root / "chats.jsonl").write_text(CHAT)
    assert "has no template; expected a tokenizer for chat" in pack(program, program.root / "chats.jsonl").stderr


def test_an_output_that_is_not_empty_is_refused(program: Program) -> None:
    tokenizer(program.root / "tokenizer")
    (program.root / "chats.jsonl").write_text(CHAT)
    program.output.mkdir()
    (program.output / "128_metadata.jsonl").touch()
    done = pack(program, program.root / "chats.jsonl")
    assert (done.returncode, "already holds 128_metadata.jsonl" in done.stderr) == (78, True)


def test_rows_without_anything_to_learn_are_an_error(program: Program) -> None:
    tokenizer(program.root / "tokenizer")
    (program.root / "chats.jsonl").write_text(CHAT)
    done = pack(program, program.root / "chats.jsonl", ("packing.size", 4))
    assert (done.returncode, "no token has a loss" in done.stderr) == (1, True)
    assert not (program.root / "run" / "result.json").exists()


def of_0_5(program: Program) -> None:
    """prepare_packed_sequence_data as at v0.4.0 and v0.5.0, which have no other packing."""
    for name in ("data/packing/offline.py", "data/builders/gpt_sft.py"):
        (program.root / "site/megatron/bridge" / name).unlink()
    older = program.root / "site/megatron/bridge/data/datasets/packed_sequence.py"
    older.parent.mkdir(parents=True, exist_ok=True)
    older.write_text(
        "import json\n"
        "def prepare_packed_sequence_data(input_path, output_path, output_metadata_path, packed_sequence_size,\n"
        "    tokenizer, max_seq_length, seed=0, packing_algorithm='first_fit_shuffle', dataset_kwargs=None,\n"
        "    pad_seq_to_mult=1, num_tokenizer_workers=-1):\n"
        "    [0][packed_sequence_size < 8]\n"
        "    row = {'input_ids': [1, 2], 'loss_mask': [0, 1], 'seq_start_id': [0]}\n"
        "    output_path.write_text(json.dumps([row for _ in input_path.open()]))\n"
        "    told = {'size': packed_sequence_size, 'longest': max_seq_length, 'kwargs': dataset_kwargs}\n"
        "    output_metadata_path.write_text(json.dumps(told))\n"
    )


OLDER = ("packing.writer", "packed_sequence")
MARKED = "{% generation %}{{ messages }}{% endgeneration %}"


def test_packing_before_0_6_takes_that_releases_function(program: Program) -> None:
    of_0_5(program)
    tokenizer(program.root / "tokenizer", template=MARKED)
    (program.root / "chats.jsonl").write_text(CHAT * 3)
    done = pack(program, program.root / "chats.jsonl", OLDER)
    assert done.returncode == 0, done.stderr
    assert program.read("result.json")["splits"]["training"]["rows"] == 3
    told = json.loads((program.output / "128_metadata.jsonl").read_text())
    assert told == {"size": 128, "longest": 128, "kwargs": {"chat": True, "use_hf_tokenizer_chat_template": True}}


@pytest.mark.parametrize(
    ("template", "change", "says"),
    [
        ("{{ messages }}", ("packing.seed", 1), "marks no {% generation %}, by which Megatron-Bridge before 0.6"),
        (MARKED, ("packing.size", 4), "packing.size: a conversation of training.jsonl has more than 4 tokens"),
    ],
)
def test_packing_before_0_6_refuses_what_it_would_do_otherwise(
    program: Program, template: str, change: tuple[str, Any], says: str
) -> None:
    of_0_5(program)
    tokenizer(program.root / "tokenizer", template=template)
    (program.root / "chats.jsonl").write_text(CHAT)
    done = pack(program, program.root / "chats.jsonl", OLDER, change)
    assert (done.returncode, says in done.stderr) == (78, True), done.stderr
    assert not (program.output / "slipway.json").exists()


@pytest.mark.parametrize("template", ["{{ messages }}", [{"name": "tool"}, {"name": "default", "template": "x"}], None])
@pytest.mark.parametrize("own", [True, False])
def test_hashes_are_those_of_the_launcher(tmp_path: Path, template: Any, own: bool) -> None:
    folder = tokenizer(tmp_path / "tokenizer", template=template)
    (folder / "merges.txt").write_text("a b")
    (folder / "qwen.tiktoken").write_text("a 1")
    for name in huggingface.VOCABULARY[6:]:
        (folder / name).write_text(name)
    if own:
        (folder / "chat_template.jinja").write_text("own")
    known = checkpoints.tokenizer(folder)
    template = {"template": known.template} if known.template else {}
    assert slipway_inputs.tokenizer_record(folder) == {"tokenizer": known.vocabulary, **template}
    assert slipway_inputs.VOCABULARY == huggingface.VOCABULARY


T, P, E = megatron_convert.SIZES


@pytest.mark.parametrize(
    ("asked", "world", "sizes"),
    [
        ({}, 1, (1, 1, 1)),
        ({}, 8, (8, 1, 1)),
        ({P: 2, E: 4}, 8, (4, 2, 4)),
        ({T: 2}, 8, (2, 1, 1)),
    ],
)
def test_processes_that_nobody_asked_for_share_layers(asked: dict[str, int], world: int, sizes: Any) -> None:
    assert tuple(megatron_convert.parallel_sizes(asked, world).values()) == sizes


@pytest.mark.parametrize(("asked", "world"), [({T: 3}, 8), ({P: 3}, 8), ({E: 3}, 8), ({T: 2}, 1)])
def test_sizes_that_do_not_fit_are_refused(asked: dict[str, int], world: int) -> None:
    with pytest.raises(slipway_step.ConfigError, match=rf"does not divide the {world} processes"):
        megatron_convert.parallel_sizes(asked, world)


@pytest.mark.parametrize(
    ("step", "changes", "says"),
    [
        ("hf_to_megatron", {"convert.dtype": "fp8"}, "convert.dtype: 'fp8' is none of bfloat16, float16, float32"),
        ("hf_to_megatron", {}, "model.path: {root}/base is no Hugging Face model: it has no config.json"),
        ("hf_to_megatron", {"model.path": "/no"}, "model.path: /no is not there"),
        ("megatron_to_hf", {"model.path": "{root}/hf"}, "is no Megatron-Bridge checkpoint: it has no run_config.yaml"),
        ("megatron_to_hf", {}, "architecture.path: is not set"),
        (
            "megatron_to_hf",
            {"architecture.path": "{root}/hf", "output.path": "{root}/base"},
            "base already holds iter_",
        ),
        ("hf_to_megatron", {"convert.direction": "up"}, "convert.direction: 'up' is none of to_megatron"),
    ],
)
def test_what_cannot_be_converted_is_refused(program: Program, step: str, changes: dict[str, str], says: str) -> None:
    checkpoint(program.root / "base")
    (program.root / "hf").mkdir()
    (program.root / "hf" / "config.json").write_text("{}")
    words = {"output.path": str(program.output), "model.path": "{root}/base", **changes}
    given = {key: value.replace("{root}", str(program.root)) for key, value in words.items()}
    done = program.run("megatron_convert.py", merged(f"convert/{step}", "default"), *given.items())
    assert (done.returncode, says.replace("{root}", str(program.root)) in done.stderr) == (78, True), done.stderr


LORA = {"_target_": "megatron.bridge.peft.lora.LoRA", "dim": 4, "alpha": 8, "lora_dtype": None}


def test_an_adapter_is_merged_with_its_own_options(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, {"peft": LORA})
    run = megatron_merge.run_config(folder)
    assert megatron_merge.lora_options(run, folder) == {"dim": 4, "alpha": 8}


@pytest.mark.parametrize(
    ("trained", "base", "refused"),
    [
        ("/inputs/model-0123abcd", "/inputs/base-0123abcd/iter_0000000", False),
        ("/inputs/model-0123abcd", "/inputs/base-ffffffff/iter_0000000", True),
        ("/elsewhere/model", "/inputs/base-ffffffff", False),
        (None, "/inputs/base-ffffffff", False),
    ],
)
def test_an_adapter_of_another_base_is_refused(trained: str | None, base: str, refused: bool) -> None:
    run = {"checkpoint": {"pretrained_checkpoint": trained}}
    if not refused:
        megatron_merge.refuse_other_base(run, Path(base))
        return
    with pytest.raises(slipway_step.ConfigError, match="is not what the adapter was trained on: its record names"):
        megatron_merge.refuse_other_base(run, Path(base))


@pytest.mark.parametrize(
    ("peft", "changes", "says"),
    [
        (None, {}, "was not trained with LoRA: its run_config.yaml has no peft"),
        ({"_target_": "x.CanonicalLoRA"}, {"base.path": "{root}/hf"}, "holds x.CanonicalLoRA; only LoRA can be merged"),
        (LORA, {}, "base.path is a Megatron checkpoint: architecture.path has to name"),
        (LORA, {"architecture.path": "{root}/adapter"}, "is no Hugging Face model: it has no config.json"),
        (LORA, {"adapter.path": "{root}/hf"}, "is no Megatron-Bridge checkpoint"),
        (LORA, {"base.path": "{root}/hf", "merge.dtype": "int8"}, "merge.dtype: 'int8' is none of bfloat16"),
        (LORA, {"base.path": "{root}/hf", "output.path": "{root}/hf"}, "hf already holds config.json"),
    ],
)
def test_what_cannot_be_merged_is_refused(program: Program, peft: Any, changes: dict[str, str], says: str) -> None:
    checkpoint(program.root / "adapter", {"peft": peft})
    checkpoint(program.root / "base")
    (program.root / "hf").mkdir()
    (program.root / "hf" / "config.json").write_text("{}")
    words = {
        "adapter.path": "{root}/adapter",
        "base.path": "{root}/base",
        "output.path": str(program.output),
        **changes,
    }
    given = {key: value.replace("{root}", str(program.root)) for key, value in words.items()}
    done = program.run("megatron_merge.py", merged("convert/merge_lora", "default"), *given.items())
    assert (done.returncode, says in done.stderr) == (78, True), done.stderr


@pytest.mark.parametrize(("flavour", "gpus", "refused"), [("cuda", False, True), ("cuda", True, False),
                                                         ("cpu", False, False)])  # fmt: skip
def test_merging_needs_a_gpu_where_nothing_stands_in_for_its_generator(
    monkeypatch: pytest.MonkeyPatch, flavour: str, gpus: bool, refused: bool
) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: gpus)))
    expected = pytest.raises(slipway_step.ConfigError, match="--gpus 1") if refused else contextlib.nullcontext()
    with expected:
        megatron_merge.refuse_without_gpu(flavour)


def test_an_unfinished_newest_iteration_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    (tmp_path / slipway_megatron.LATEST).write_text("9")
    with pytest.raises(slipway_step.ConfigError, match="iter_0000009 is no Megatron-Bridge checkpoint"):
        slipway_megatron.iteration_folder(tmp_path, "model.path")


OURS = ["data_prep/sft_packing", "convert/hf_to_megatron", "convert/megatron_to_hf", "convert/merge_lora",
        "pretrain/megatron_bridge", "sft/megatron_bridge", "peft/megatron_bridge"]  # fmt: skip


@pytest.mark.parametrize("step", OURS)
def test_what_a_step_names_is_in_its_configuration(step: str) -> None:
    names = [n for n in ("default", "tiny") if (FOLDERS / step / f"{n}.yaml").exists()]
    config, described = merged(step, *names), definitions.find_step(Root(ROOT), step)
    assert set(config) <= set(described.config_roots)
    for name, parameter in described.parameters.items():
        for key in parameter.keys:
            node = config
            for part in key.split("."):
                assert part in node, f"{name}: {key}"
                node = node[part]


def test_both_flavours_start_from_the_same_sections() -> None:
    folder = FOLDERS / "sft" / "megatron_bridge"
    cpu, cuda = (yaml.safe_load((folder / name).read_text()) for name in ("base.cpu.yaml", "base.yaml"))
    assert list(cpu) == list(cuda)
    for section, values in cuda.items():
        if isinstance(values, dict) and isinstance(cpu[section], dict):
            assert values.get("_target_") == cpu[section].get("_target_"), section


def test_the_type_of_merged_weights_is_chosen_where_the_release_can() -> None:
    def now(model: Any, path: str, weight_dtype: Any = None) -> None: ...
    def before(model: Any, path: str) -> None: ...

    assert megatron_merge.save_options(now, "bfloat16") == {"weight_dtype": "bfloat16"}
    assert megatron_merge.save_options(now, None) == megatron_merge.save_options(before, None) == {}
    with pytest.raises(slipway_step.ConfigError, match="writes the model's own type, not float32"):
        megatron_merge.save_options(before, "float32")
