"""launcher/selftest/materials.py: the same bytes everywhere, and each is what it is named as, without a fault."""

from __future__ import annotations

import hashlib
import json
import struct
from array import array
from pathlib import Path

import pytest

from launcher.artifacts import detection
from launcher.selftest import materials

# Of all files, by name. A change of the bytes is another EDITION: a folder that was made before is not written anew.
BYTES = {2: "6f4deeb8e4c8ec6c50c7d2e45e75cbd871b7680e8bc0234d5ce215aa46cb5c4c"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("materials")
    materials.write(made)
    return made


@pytest.mark.parametrize("name", materials.MATERIALS)
def test_each_is_of_its_type(folder: Path, name: str) -> None:
    type_, file = materials.MATERIALS[name]
    found = detection.inspect(name, folder / file)
    assert (found.type, found.faults) == (type_, [])


def test_an_edition_has_one_content(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    assert whole.hexdigest() == BYTES[materials.EDITION]


def test_the_vocabulary_is_full_and_every_merge_makes_a_token(folder: Path) -> None:
    model = json.loads((folder / "model" / "tokenizer.json").read_text())["model"]
    assert sorted(model["vocab"].values()) == list(range(materials.VOCABULARY))
    assert all(merge.replace(" ", "") in model["vocab"] for merge in model["merges"])


def test_tokens_are_documents_that_end(folder: Path) -> None:
    """As Megatron-Core reads them: the index says where in the data each document is."""
    data = (folder / "tokens" / "first.idx").read_bytes()
    magic, version, code, sequences, documents = struct.unpack_from("<9sQBQQ", data)
    assert (magic, version, code, documents) == (b"MMIDIDX\0\0", 1, 8, sequences + 1)
    lengths = struct.unpack_from(f"<{sequences}i", data, 34)
    starts = struct.unpack_from(f"<{sequences}q", data, 34 + 4 * sequences)
    tokens = array("H", (folder / "tokens" / "first.bin").read_bytes())
    assert sum(lengths) == len(tokens)
    assert all(tokens[start // 2 + length - 1] == 2 for start, length in zip(starts, lengths, strict=True))
    assert tokens.count(2) == sequences and max(tokens) < materials.VOCABULARY


def test_a_model_has_the_weights_that_its_configuration_says(folder: Path) -> None:
    """Three matrices of the whole, and nine of each layer."""
    found = detection.inspect("model", folder / "model")
    assert found.parameters == 262_720
    with (folder / "model" / "model.safetensors").open("rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        names = json.loads(f.read(length)).keys() - {"__metadata__"}
    assert len(names) == 3 + 9 * materials.LAYERS
