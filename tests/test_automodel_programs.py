"""entrypoints/steps/automodel_pretrain.py: how documents, model and splits become the library's configuration."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT / "entrypoints" / "steps"))

import automodel_pretrain  # noqa: E402
import slipway_documents  # noqa: E402
import slipway_step  # noqa: E402

STEPS = PROJECT / "launcher" / "steps"
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
        self.model.mkdir()

    def prepare(self, **words: Any) -> dict[str, Any]:
        base, *layers = (yaml.safe_load(path.read_text()) for path in LAYERS)
        given = {"model.pretrained_model_name_or_path": self.model} | self.words
        given |= {k.replace("__", "."): v for k, v in words.items()}
        config: dict[str, Any] = {"base": {"values": base}, "layers": [{"values": v} for v in layers], "remove": []}
        return automodel_pretrain.prepare(slipway_step.merge_config({**config, "set": list(given.items())}))


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


def test_the_model_has_new_weights_unless_its_own_are_asked_for(given: Given) -> None:
    new = given.prepare()["model"]
    assert new["_target_"].endswith(".from_config") and new["force_hf"] is True
    assert new["config"]["pretrained_model_name_or_path"] == str(given.model)
    assert "pretrained_model_name_or_path" not in new
    own = given.prepare(pretrain__start="weights", model__config="gpt2")["model"]
    assert own["_target_"].endswith(".from_pretrained") and "config" not in own
    assert own["pretrained_model_name_or_path"] == str(given.model) and own["force_hf"] is True


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
