"""launcher/artifacts/datasets.py: JSON Lines by their beginning, packed Parquet, Megatron's tokens and index."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import CHAT, HERE, write_chats

from launcher.artifacts import datasets
from launcher.artifacts.jsonl import MAX_LINE
from launcher.artifacts.nouns import Data, Found, Packing

LINE = json.dumps(CHAT) + "\n"


def faults(found: Found) -> list[tuple[str, str]]:
    return [(Path(f.where).name, f.what) for f in found.faults]


def test_a_short_file_is_checked_whole_and_a_long_one_at_its_beginning(tmp_path: Path) -> None:
    path = write_chats(tmp_path / "a.jsonl", "{}")
    before = datasets.look([path])
    assert (before.checked, before.data) == ("whole", Data(rows=3))
    with path.open("a") as f:
        f.writelines([LINE] * (datasets.HEAD // len(LINE)))
        f.write("{}\n")
    found = datasets.look([path])
    assert (found.checked, found.data) == ("beginning", Data())
    assert faults(found) == [("a.jsonl:3", "`messages` is missing")]


def test_the_line_in_which_the_beginning_ends_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(LINE * (datasets.HEAD // len(LINE) + 2))
    assert datasets.look([path]).faults == []


def test_a_first_line_longer_than_the_beginning_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(LINE.replace("Out to sea.", "x" * 2 * datasets.HEAD) + "{}\n")
    assert datasets.look([path]) == Found(type="chat_jsonl", checked="beginning")


def test_a_line_of_200_mb_is_one_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(LINE.replace("Out to sea.", "x" * 200_000_000))
    assert faults(datasets.look([path])) == [("a.jsonl:1", f"a line of more than {MAX_LINE >> 20} MiB")]


def test_shards_are_checked_one_by_one(tmp_path: Path) -> None:
    files = [write_chats(tmp_path / f"{n}.jsonl", *["{}"] * n) for n in range(3)]
    (tmp_path / "3.jsonl").touch()
    (tmp_path / "4.jsonl.gz").write_bytes(gzip.compress(f"{LINE}[]\n".encode()))
    found = datasets.look([*files, tmp_path / "3.jsonl", tmp_path / "4.jsonl.gz"])
    assert (found.checked, found.data) == ("whole", Data(files=5, rows=11))
    assert [where for where, _ in faults(found)] == ["1.jsonl:3", "2.jsonl:3", "2.jsonl:4", "3.jsonl", "4.jsonl.gz:2"]
    assert datasets.data_files(tmp_path) == [*files, tmp_path / "3.jsonl", tmp_path / "4.jsonl.gz"]


@pytest.mark.parametrize(("pack", "most"), [(bytes, datasets.MAX_HEADS), (gzip.compress, datasets.MAX_PACKED)])
def test_of_very_many_shards_the_first_are_checked(tmp_path: Path, pack: Callable[[bytes], bytes], most: int) -> None:
    good, files = pack(LINE.encode()), [tmp_path / f"{n:03}.jsonl" for n in range(most + 1)]
    for file in files:
        file.write_bytes(good)
    files[-1].write_bytes(pack(b"{}"))
    assert datasets.look(files) == Found(type="chat_jsonl", checked="beginning", data=Data(files=most + 1))
    assert faults(datasets.look(files[1:])) == [(f"{most:03}.jsonl:1", "`messages` is missing")]


def test_packed_data_that_is_broken_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(LINE.encode())[:-9])
    ((where, what),) = faults(datasets.look([tmp_path / "a.gz"]))
    assert where == "a.gz" and what.startswith("cannot be read: the gzip data is broken: ")
    (tmp_path / "b.jsonl").write_text(LINE)
    assert [w for w, _ in faults(datasets.look([tmp_path / "b.jsonl", tmp_path / "a.gz"]))] == ["a.gz"]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """What data_prep/sft_packing leaves: real packed rows and the metadata of their packing."""
    shutil.copy(HERE / "data" / "packed.parquet", tmp_path / "training_128.idx.parquet")
    (tmp_path / "128_metadata.jsonl").write_text('[{"dataset_max_seqlen": 39, "pack_size": 128}]')
    return tmp_path / "training_128.idx.parquet"


def test_packed_parquet_and_how_it_was_packed(packed: Path) -> None:
    assert datasets.look([packed]) == Found(type="packed_parquet", data=Data(rows=3), packing=Packing(size=128))
    (packed.parent / "slipway.json").write_text('{"pack_size": 256, "tokenizer": "t", "template": "c", "more": 1}')
    packing = Packing(size=256, tokenizer="t", template="c")
    assert datasets.look([packed]) == Found(type="packed_parquet", data=Data(rows=3), packing=packing)
    assert datasets.beside(packed) == [packed.parent / "128_metadata.jsonl", packed.parent / "slipway.json"]
    assert datasets.data_files(packed.parent) == [packed]


def test_shards_of_packed_parquet(packed: Path) -> None:
    shutil.copy(packed, packed.parent / "more.parquet")
    found = datasets.look([packed, packed.parent / "more.parquet", packed.parent / "128_metadata.jsonl"])
    assert (found.data, found.packing) == (Data(files=2, rows=6), Packing(size=128))


@pytest.mark.parametrize(
    ("metadata", "size"), [('[{"dataset_max_seqlen": 39}]', 128), ('[{"pack_size": 64}]', 64), ("[]", 128)]
)
def test_the_pack_size_is_in_the_metadata_or_in_the_name(packed: Path, metadata: str, size: int) -> None:
    (packed.parent / "128_metadata.jsonl").write_text(metadata)
    assert datasets.look([packed]).packing.size == size


@pytest.mark.parametrize(
    ("break_it", "where", "what"),
    [
        (lambda p: os.truncate(p, 1000), "training_128.idx.parquet",
         "not a whole Parquet file: its footer is cut off"),
        (lambda p: (p.parent / "128_metadata.jsonl").unlink(), "training_128.idx.parquet",
         "no <size>_metadata.jsonl of its packing lies beside it"),
        (lambda p: (p.parent / "128_metadata.jsonl").write_text("{"), "128_metadata.jsonl",
         "not the metadata of a packing: Expected `array`, got `object`"),
        (lambda p: (p.parent / "slipway.json").write_text('{"pack_size": "x"}'), "slipway.json",
         "not what packing writes: Expected `int`, got `str` - at `$.pack_size`"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_packed_parquet(
    packed: Path, break_it: Callable[[Path], object], where: str, what: str
) -> None:
    break_it(packed)
    found = datasets.look([packed])
    assert (found.type, faults(found)) == ("packed_parquet", [(where, what)])
    assert found.faults[0].severity == ("warning" if "lies beside" in what else "error")


def test_parquet_without_the_columns_is_no_packed_parquet(packed: Path) -> None:
    packed.write_bytes(packed.read_bytes().replace(b"loss_mask", b"lost_mask").replace(b"input_ids", b"inner_ids"))
    assert datasets.look([packed]) == Found(
        note="Parquet without the columns input_ids, loss_mask of packed data (it has inner_ids, lost_mask, "
        "seq_start_id)"
    )


def test_of_several_kinds_in_a_folder_most_files_decide(tmp_path: Path, packed: Path) -> None:
    for n in range(2):
        write_chats(tmp_path / f"{n}.jsonl")
    assert [p.name for p in datasets.data_files(tmp_path)] == ["0.jsonl", "1.jsonl"]
    assert packed.exists()
