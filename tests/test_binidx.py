"""launcher/artifacts/binidx.py: tokens and index, the blend that names pairs of them, and all of an index."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Project

from launcher.artifacts import binidx, datasets, detection
from launcher.artifacts.nouns import Data, Documents, Found


def faults(found: Found | detection.Artifact) -> list[tuple[str, str]]:
    return [(Path(f.where).name, f.what) for f in found.faults]


def write_tokens(
    folder: Path, lengths: tuple[int, ...] = (3, 2), code: int = 4, size: int = 4, name: str = "text"
) -> Path:
    """Tokens and their index as Megatron writes them: int32 tokens, a document for each sequence."""
    offsets = [sum(lengths[:n]) * size for n in range(len(lengths))]
    head = struct.pack("<9sQBQQ", binidx.INDEX_MAGIC, 1, code, len(lengths), len(lengths) + 1)
    arrays = struct.pack(
        f"<{len(lengths)}i{len(lengths)}q{len(lengths) + 1}q", *lengths, *offsets, *range(len(lengths) + 1)
    )
    (folder / f"{name}.idx").write_bytes(head + arrays)
    (folder / f"{name}.bin").write_bytes(bytes(sum(lengths) * size))
    return folder / name


def write_record(folder: Path, tokenizer: str = "a" * 64, vocabulary: int = 2048) -> Path:
    path = folder / binidx.RECORD
    path.write_text(json.dumps({"data": "binidx", "tokenizer": tokenizer, "vocabulary": vocabulary, "schema": 1}))
    return path


def write_blend(folder: Path, **splits: list[str]) -> Path:
    (folder / binidx.BLEND).write_text(json.dumps(splits))
    return folder / binidx.BLEND


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_tokens_and_index_belong_together(tmp_path: Path, suffix: str) -> None:
    file = write_tokens(tmp_path).with_suffix(suffix)
    other = file.with_suffix(".idx" if suffix == ".bin" else ".bin")
    assert datasets.beside(file) == [other]
    assert datasets.look([file]) == datasets.look([file, other]) == Found(type="binidx", data=Data(sequences=2))
    assert datasets.look([write_tokens(tmp_path, (1,), 8, 2).with_suffix(suffix)]).faults == []


@pytest.mark.parametrize(
    ("break_it", "where", "what"),
    [
        (lambda f: (f / "text.bin").unlink(), "text.bin", "is missing: tokens (.bin) and index (.idx) belong together"),
        (lambda f: os.truncate(f / "text.bin", 19), "text.bin", "19 bytes, its index says 20"),
        (lambda f: os.truncate(f / "text.idx", 60), "text.idx", "60 bytes, its head says 82: the file is cut off"),
        (lambda f: os.truncate(f / "text.idx", 20), "text.idx", "not a whole index: it is cut off"),
        (lambda f: (f / "text.idx").write_bytes((f / "text.idx").read_bytes().replace(b"\1", b"\2", 1)),
         "text.idx", "not an index of version 1"),
        (lambda f: write_tokens(f, ()), "text.idx", "holds no sequences"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_tokens(tmp_path: Path, break_it: Callable[[Path], object], where: str, what: str) -> None:
    file = write_tokens(tmp_path).with_suffix(".idx")
    break_it(tmp_path)
    found = datasets.look([file])
    assert (found.type, faults(found)) == ("binidx", [(where, what)])


def test_a_folder_is_what_its_blend_names(tmp_path: Path) -> None:
    for name in ("train-00000", "valid-00000", "older"):
        write_tokens(tmp_path, name=name)
    write_record(tmp_path)
    blend = write_blend(tmp_path, train=["5", "train-00000"], valid=["5", "valid-00000"])
    folder = detection.inspect("data", tmp_path)
    made = Documents(blend=True, tokenizer="a" * 64, vocabulary=2048)
    assert (folder.kind, folder.type, folder.documents, folder.faults) == ("folder", "binidx", made, [])
    assert folder.data == Data(sequences=4)
    named = detection.inspect("data", blend)
    assert (named.kind, named.type, named.documents) == ("file", "binidx", made)
    pairs = [f"{n}.{s}" for n in ("train-00000", "valid-00000") for s in ("bin", "idx")]
    assert [Path(f).name for f in named.files] == ["blend.json", *pairs, "slipway.json"]
    pair = detection.inspect("data", tmp_path / "train-00000")
    assert pair.data.sequences == 2 and pair.documents == Documents(tokenizer="a" * 64, vocabulary=2048)


def test_check_says_by_which_tokenizer_documents_were_made(project: Project, tmp_path: Path) -> None:
    write_tokens(tmp_path, name="train-00000")
    write_record(tmp_path)
    write_blend(tmp_path, train=["train-00000"])
    done = project.launch("check", str(tmp_path))
    said = ["data.sequences: 2", "documents.blend: yes", f"documents.tokenizer: {'a' * 64}"]
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert done.code == 0 and [line for line in lines if line in said] == said, done
    assert "documents.vocabulary: 2048" in lines


def test_a_blend_of_several_preparations(tmp_path: Path) -> None:
    for name in ("web", "code"):
        (tmp_path / name).mkdir()
        write_tokens(tmp_path / name, name="train-00000")
        write_record(tmp_path / name)
    write_blend(tmp_path, train=["7", "web/train-00000", "3", "code/train-00000"])
    found = detection.inspect("data", tmp_path)
    assert (found.data.sequences, found.documents.tokenizer, found.faults) == (4, "a" * 64, [])
    write_record(tmp_path / "code", tokenizer="b" * 64)
    ((where, what),) = faults(detection.inspect("data", tmp_path))
    assert where == "slipway.json" and what.startswith(
        f"made with another tokenizer than {tmp_path / 'web'} (sha256 bb"
    )


@pytest.mark.parametrize(
    ("words", "where", "what"),
    [
        (["train-00000"], "train-00000.idx", "is missing: tokens (.bin) and index (.idx) belong together"),
        (["/data/train-0"], "blend.json",
         "names /data/train-0; a container sees what lies in its folder alone: name pairs by their path from there"),
        (["1", "../other/train"], "blend.json",
         "names ../other/train; a container sees what lies in its folder alone: name pairs by their path from there"),
    ],
)  # fmt: skip
def test_a_blend_that_names_what_a_container_cannot_see(
    tmp_path: Path, words: list[str], where: str, what: str
) -> None:
    write_blend(tmp_path, train=words)
    assert (where, what) in faults(detection.inspect("data", tmp_path))


def numbers(index: Path, place: int, code: str, value: int) -> None:
    """Writes a number into an index, at a place in bytes."""
    with index.open("r+b") as f:
        f.seek(place)
        f.write(struct.pack(f"<{code}", value))


HEAD = 34


@pytest.mark.parametrize(
    ("place", "code", "value", "what"),
    [
        (HEAD + 4, "i", -1, "sequence 1 has a length of -1: no library can read it"),
        (HEAD, "i", 4, "sequence 1 begins at byte 12, the one before ends at 16: make it anew"),
        (HEAD + 12 + 8, "q", 0, "sequence 1 begins at byte 0, the one before ends at 12: make it anew"),
        (HEAD + 36, "q", 1, "its first document begins with sequence 1, expected 0"),
        (HEAD + 36 + 8, "q", 9, "its documents are not in order: make it anew"),
        (HEAD + 36 + 24, "q", 2, "its documents end with sequence 2, expected 3"),
    ],
)
def test_a_full_check_reads_every_number_of_an_index(
    project: Project, tmp_path: Path, place: int, code: str, value: int, what: str
) -> None:
    index = write_tokens(tmp_path, (3, 2, 4)).with_suffix(".idx")
    whole = project.launch("check", "--full", str(index))
    assert whole.code == 0, whole
    numbers(index, place, code, value)
    done = project.launch("check", "--full", str(index))
    assert done.code == 65 and f"error: {index}: {what}\n" in done.stdout, done


def test_an_index_that_is_read_in_several_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binidx, "AT_ONCE", 7)
    index = write_tokens(tmp_path, tuple(range(1, 41))).with_suffix(".idx")
    assert binidx.scan(index) is None
    numbers(index, HEAD + 40 * 4 + 8 * 20, "q", 1)
    found = binidx.scan(index)
    assert found and found.what.startswith("sequence 20 begins at byte 1, the one before ends at ")
