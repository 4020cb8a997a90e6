"""entrypoints/steps/automodel_*.py: how documents, model and splits become the library's configuration, by release."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import write_chats, write_checkpoint

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT / "entrypoints" / "steps"))

import automodel_finetune  # noqa: E402
import automodel_indices  # noqa: E402
import automodel_pretrain  # noqa: E402
import slipway_documents  # noqa: E402
import slipway_inputs  # noqa: E402
import slipway_step  # noqa: E402

STEPS = PROJECT / "launcher" / "steps"
SITE = PROJECT / "tests" / "standins" / "containers" / "site"
LAYERS = [STEPS / "sft/automodel/base.yaml", *(STEPS / f"pretrain/automodel/{n}.yaml" for n in ("default", "tiny"))]


def documents(prefix: Path, count: int = 20) -> Path:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{prefix}.bin").write_bytes(b"\0" * 4)
    Path(f"{prefix}.idx").write_bytes(struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 4, count, count + 1))
    return prefix


class Given:
    """The configuration of a launch with -c tiny, and its inputs."""

    def __init__(self, root: Path) -> None:
        self.model, self.words = root / "llama", {"data.train": documents(root / "text")}
        self.release = (0, 7)
        self.model.mkdir()

    def prepare(self, **words: Any) -> dict[str, Any]:
        base, *layers = (yaml.safe_load(path.read_text()) for path in LAYERS)
        given = {"model.pretrained_model_name_or_path": self.model} | self.words
        given |= {k.replace("__", "."): v for k, v in words.items()}
        config: dict[str, Any] = {"base": {"values": base}, "layers": [{"values": v} for v in layers], "remove": []}
        merged = slipway_step.merge_config({**config, "set": list(given.items())})
        return automodel_pretrain.prepare(merged, self.release)


@pytest.fixture
def given(tmp_path: Path) -> Given:
    return Given(tmp_path)


def test_both_splits_are_cut_from_the_same_documents(given: Given) -> None:
    made = given.prepare()
    training, validation = made["dataset"], made["validation_dataset"]
    assert training["paths"] == validation["paths"] == [str(given.words["data.train"])]
    assert (training["splits_to_build"], validation["splits_to_build"]) == ("train", "validation")
    for key in ("_target_", "seq_length", "seed", "split", "index_mapping_dir", "tokenizer"):
        assert training[key] == validation[key]
    assert training["tokenizer"]["pretrained_model_name_or_path"] == str(given.model)
    assert validation["num_val_samples"] == 8 and "num_val_samples" not in training
    assert not {"data", "pretrain"} & made.keys()


def test_a_split_that_leaves_nothing_to_validate_on_is_trained_on_alone(given: Given) -> None:
    for split in ("1,0,0", "1"):
        assert not [key for key in given.prepare(dataset__split=split) if key.startswith("validation")]


def test_a_folder_s_documents_are_taken_together(given: Given, tmp_path: Path) -> None:
    for name in ("b", "a.v2"):
        documents(tmp_path / "texts" / name)
    given.words["data.train"] = tmp_path / "texts"
    assert given.prepare()["dataset"]["paths"] == [str(tmp_path / "texts" / n) for n in ("a.v2", "b")]
    given.words["data.train"] = tmp_path / "texts" / "a.v2"  # what .bin and .idx begin with
    assert given.prepare()["dataset"]["paths"] == [str(tmp_path / "texts" / "a.v2")]


def test_a_blend_names_the_documents_of_each_split(given: Given, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    for name in ("train-0", "train-1", "valid-0"):
        documents(folder / name)
    blend = {"train": ["30", "train-0", "10", "train-1"], "valid": ["5", "valid-0"]}
    (folder / "blend.json").write_text(json.dumps(blend))
    given.words["data.train"] = folder
    made = given.prepare()
    paths = {"train": ["30.0", f"{folder}/train-0", "10.0", f"{folder}/train-1"], "validation": [f"{folder}/valid-0"]}
    assert made["dataset"]["paths"] == made["validation_dataset"]["paths"] == paths
    (folder / "blend.json").write_text(json.dumps({"train": blend["train"]}))
    assert not [key for key in given.prepare() if key.startswith("validation")]


def test_the_model_has_new_weights_unless_its_own_are_asked_for(given: Given) -> None:
    new = given.prepare()["model"]
    assert new["_target_"].endswith(".from_config") and new["force_hf"] is True
    assert new["config"]["pretrained_model_name_or_path"] == str(given.model)
    assert "pretrained_model_name_or_path" not in new
    own = given.prepare(pretrain__start="weights", model__config="gpt2")["model"]
    assert own["_target_"].endswith(".from_pretrained") and "config" not in own
    assert own["pretrained_model_name_or_path"] == str(given.model) and own["force_hf"] is True


def test_before_0_3_weights_are_loaded_by_a_key_of_their_own(given: Given) -> None:
    """There from_config is filled with the weights of the folder that its configuration names."""
    assert "load_base_model" not in given.prepare()["checkpoint"]
    given.release = (0, 2)
    assert given.prepare()["checkpoint"]["load_base_model"] is False
    assert given.prepare(pretrain__start="weights")["checkpoint"]["load_base_model"] is True


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ({"pretrain__start": "zero"}, "pretrain.start: 'zero' is none of random, weights"),
        ({"dataset__split": "999,1,0"}, r"of .*text\.idx's 20 documents 999,1,0 leaves none for validation; give it a"),
        ({"dataset__split": "none"}, "dataset.split: 'none' is not of the form training,validation,test"),
        ({"data__train": "/no/such"}, "data.train: /no/such is not there"),
        ({"model__pretrained_model_name_or_path": "/no/model"}, "/no/model is not there"),
    ],
)
def test_what_cannot_be_trained_is_refused(given: Given, words: dict[str, Any], what: str) -> None:
    with pytest.raises(slipway_step.ConfigError, match=what):
        given.prepare(**words)


def test_documents_without_their_index_are_refused(given: Given) -> None:
    index = Path(f"{given.words['data.train']}.idx")
    index.write_bytes(index.read_bytes()[:20])
    with pytest.raises(slipway_step.ConfigError, match=r"text\.idx is no index of tokenized documents"):
        given.prepare()
    index.unlink()
    with pytest.raises(slipway_step.ConfigError, match=r"expected \.bin files, each with its \.idx"):
        slipway_documents.prefixes(given.words["data.train"])


def configuration(**scheduler: Any) -> dict[str, Any]:
    sizes = {"global_batch_size": 8, "local_batch_size": 1}
    return {"checkpoint": {"checkpoint_dir": "/output"}, "step_scheduler": {**sizes, **scheduler}}


def test_before_0_3_a_checkpoint_is_named_by_its_path() -> None:
    config = configuration(num_epochs=1)
    assert automodel_finetune.as_before(config, (0, 2)) == config
    for named, path in (("LATEST", "/output/LATEST"), ("/other/epoch_0_step_9", "/other/epoch_0_step_9")):
        config["checkpoint"]["restore_from"] = named
        assert automodel_finetune.as_before(config, (0, 2))["checkpoint"]["restore_from"] == path
        assert automodel_finetune.as_before(config, (0, 3))["checkpoint"]["restore_from"] == named
        assert config["checkpoint"]["restore_from"] == named, "the record shows what the plan says"


def test_before_0_3_epochs_are_counted() -> None:
    """None is no number there; a number that is not said is its own 10."""
    made = automodel_finetune.as_before(configuration(num_epochs=None, max_steps=40), (0, 2))["step_scheduler"]
    assert made["num_epochs"] >= 40
    assert "num_epochs" not in automodel_finetune.as_before(configuration(num_epochs=None), (0, 2))["step_scheduler"]
    later = automodel_finetune.as_before(configuration(num_epochs=None, max_steps=40), (0, 3))
    assert later["step_scheduler"]["num_epochs"] is None


def test_conversations_become_the_one_plain_file_that_the_library_reads(tmp_path: Path) -> None:
    """A folder, a pattern, a packed file and another suffix are what it cannot read, at no release."""
    (tmp_path / "made").mkdir()
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "a.jsonl").write_text("1\n2")
    (shards / "b.jsonl.gz").write_bytes(gzip.compress(b"3\n"))
    (tmp_path / "rows.txt").write_text("4\n")

    def read(given: Path, section: str = "dataset") -> tuple[str, str]:
        config = {section: {"path_or_dataset_id": str(given), "seq_length": 8}, "seed": 1}
        made = automodel_finetune.one_file_each(config, tmp_path / "made")
        assert config[section]["path_or_dataset_id"] == str(given) and made["seed"] == 1
        assert made[section]["seq_length"] == 8 and not config.keys() ^ made.keys()
        file = Path(made[section]["path_or_dataset_id"])
        return file.name, file.read_text()

    assert read(shards) == read(shards / "*.jsonl*") == ("dataset.jsonl", "1\n2\n3\n")
    assert read(shards / "b.jsonl.gz", "validation_dataset") == ("validation_dataset.jsonl", "3\n")
    assert read(tmp_path / "rows.txt") == ("dataset.jsonl", "4\n")
    assert read(shards / "a.jsonl") == ("a.jsonl", "1\n2"), "which stays where it is"
    assert automodel_finetune.one_file_each({"validation_dataset": None}, tmp_path) == {"validation_dataset": None}


@pytest.mark.parametrize("break_", ["\u2028", "\u2029", "\u0085", "\u00e9"])
@pytest.mark.parametrize("before", [0, (1 << 22) - 20, (1 << 22) - 19])
def test_a_character_that_the_library_takes_for_the_end_of_a_line_is_escaped(
    tmp_path: Path, break_: str, before: int
) -> None:
    """It reads a file's text by splitlines(); also where a piece of the file ends inside the character."""
    rows = [{"text": "x" * before}, {"text": f"a{break_}b"}, {"text": "c"}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    made = automodel_finetune.one_file_each({"dataset": {"path_or_dataset_id": str(file)}}, tmp_path / "made")
    read = Path(made["dataset"]["path_or_dataset_id"])
    assert [json.loads(line) for line in read.read_text(encoding="utf-8").splitlines()] == rows
    assert (read == file) == (break_ == "\u00e9"), "what needs nothing stays where it is"


@pytest.mark.parametrize(("end", "same"), [("\n", True), ("\r\n", True), ("", True), ("\n\n", False), ("\n \n", False)])
def test_an_empty_line_at_the_end_is_left_out(tmp_path: Path, end: str, same: bool) -> None:
    (tmp_path / "a.jsonl").write_bytes(f'{{"a": 1}}\n{{"a": 2}}{end}'.encode())
    made = slipway_inputs.one_jsonl(tmp_path / "a.jsonl", tmp_path / "made" / "b.jsonl")
    assert [json.loads(line) for line in made.read_text().splitlines()] == [{"a": 1}, {"a": 2}]
    assert made.is_symlink() == same and (same or made.read_text().count("\n") == 2)


class Library:
    """A stand-in of the library at a version, as its container has it; before 0.4 without names for recipes."""

    def __init__(self, root: Path, version: str) -> None:
        self.root, self.output = root, root / "output"
        site = root / "site"
        for name in ("nemo_automodel", "torch"):
            shutil.copytree(SITE / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(SITE / "standin.py", site)
        if version < "0.4":
            for gone in ("cli", "components/launcher"):
                shutil.rmtree(site / "nemo_automodel" / gone)
        info = site / f"nemo_automodel-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: nemo_automodel\nVersion: {version}\n")
        (root / "state" / "0" / "ranks").mkdir(parents=True)

    def run(self, config: dict[str, Any], resume: bool = False) -> dict[str, Any]:
        """What the recipe was given, of a run that has to succeed."""
        model, rows = write_checkpoint(self.root / "model"), write_chats(self.root / "chats.jsonl")
        given = [["model.pretrained_model_name_or_path", str(model)], ["dataset.path_or_dataset_id", str(rows)],
                 ["checkpoint.checkpoint_dir", str(self.output)]]  # fmt: skip
        going_on = {"where": str(self.output / "LATEST"), "set": [["checkpoint.restore_from", "LATEST"]]}
        plan = {"config": {"base": {"values": config}, "layers": [], "remove": [], "set": given, "resume": going_on}}
        plan |= {"resume": resume, "inputs": {"model": {"fingerprint": "0" * 64, "path": str(model)}}}
        (self.root / "plan.json").write_text(json.dumps(plan))
        env = {"PYTHONPATH": str(self.root / "site"), "SLIPWAY_DIR": str(self.root), "PATH": os.environ["PATH"]}
        env["SLIPWAY_STATE_DIR"] = str(self.root / "state")
        command = [sys.executable, "-B", str(PROJECT / "entrypoints" / "steps" / "automodel_finetune.py")]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return dict(json.loads((self.output / "seen.json").read_text())["config"])


@pytest.mark.parametrize("version", ["0.2.0", "0.3.0", "0.4.0", "0.5.0+d02f49c"])
def test_a_recipe_is_found_and_told_where_to_go_on_as_its_release_takes_it(tmp_path: Path, version: str) -> None:
    library = Library(tmp_path, version)
    scheduler = {"global_batch_size": 1, "max_steps": 2, "num_epochs": None, "ckpt_every_steps": 2}
    config: dict[str, Any] = {"step_scheduler": scheduler, "dist_env": {"backend": "gloo"}, "model": {}, "dataset": {}}
    if version >= "0.4":
        config["recipe"] = "TrainFinetuneRecipeForNextTokenPrediction"
    library.output.mkdir()
    (library.output / "LATEST").symlink_to("epoch_0_step_9")
    (library.output / "epoch_0_step_9").mkdir()
    seen = library.run(config, resume=True)
    assert seen["checkpoint"]["restore_from"] == (str(library.output / "LATEST") if version < "0.3" else "LATEST")
    assert seen["step_scheduler"]["num_epochs"] == (2 if version < "0.3" else None)
    result = json.loads((tmp_path / "state" / "result.json").read_text())
    assert (result["steps"], result["type"]) == (2, "checkpoint_hf")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package of a library up to 0.5, whose C++ is not compiled."""
    folder = tmp_path / "nemo_automodel"
    for name in (
        "",
        "components",
        "components/datasets",
        "components/datasets/llm",
        "components/datasets/llm/megatron",
    ):
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
    found = folder / "components" / "datasets" / "llm" / "megatron"
    (found / "helpers.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in [m for m in sys.modules if m.partition(".")[0] == "nemo_automodel"]:
        monkeypatch.delitem(sys.modules, name)
    yield found
    for name in [m for m in sys.modules if m.partition(".")[0] == "nemo_automodel"]:
        del sys.modules[name]


def indices() -> Any:
    """What the library imports to compute them."""
    return importlib.import_module(automodel_indices.COMPILED)


def test_what_nobody_may_compile_is_computed(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only root may write the package in a container, and nobody on a read-only root."""
    monkeypatch.setattr(automodel_indices.os, "access", lambda path, mode: not (path == package and mode == os.W_OK))
    automodel_indices.install()
    assert importlib.util.find_spec(automodel_indices.COMPILED), "which the library asks before it imports"
    assert set(automodel_indices.functions()) <= set(vars(indices()))
    said = f"slipway: {package} cannot be written, where the library would compile: the samples' indices are computed"
    assert said in capsys.readouterr().out


@pytest.mark.usefixtures("package")
def test_without_a_compiler_it_is_computed_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    automodel_indices.install()
    assert callable(indices().build_sample_idx_int64)
    assert "slipway: no C++ compiler here: the samples' indices" in capsys.readouterr().out


def test_what_is_compiled_or_can_be_is_the_librarys_own(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("c++", "make"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    automodel_indices.install()
    assert automodel_indices.COMPILED not in sys.modules
    (package / "helpers_cpp.py").write_text("own = True\n")
    monkeypatch.setenv("PATH", "")
    importlib.invalidate_caches()
    automodel_indices.install()
    assert indices().own and not capsys.readouterr().out
