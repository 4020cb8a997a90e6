"""artifacts/parquet.py: columns and rows by a Parquet file's footer. data/packed.parquet is Megatron-Bridge's own."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from helpers import HERE

from launcher.artifacts import parquet

PACKED = (HERE / "data" / "packed.parquet").read_bytes()


def read(folder: Path, data: bytes) -> parquet.Footer:
    (folder / "a.parquet").write_bytes(data)
    return parquet.read_footer(folder / "a.parquet")


def test_the_footer_of_what_megatron_bridge_packed(tmp_path: Path) -> None:
    assert read(tmp_path, PACKED) == parquet.Footer(["input_ids", "loss_mask", "seq_start_id"], 3)


def footer(data: bytes) -> bytes:
    return b"PAR1" + data + struct.pack("<I", len(data)) + b"PAR1"


def test_a_schema_of_more_than_fifteen_columns_and_no_children(tmp_path: Path) -> None:
    """Lists of 15 and more have a length of their own, and a root without columns has no children."""
    columns = b"".join(b"\x15\x02\x25\x00\x18\x01" + bytes([c, 0]) for c in range(65, 85))  # type, repetition, name
    root = b"\x48\x04root\x15\x28\x00"
    wide = b"\x15\x04\x19\xfc\x15" + root + columns + b"\x16\x08\x00"
    assert read(tmp_path, footer(wide)) == parquet.Footer([chr(c) for c in range(65, 85)], 4)
    assert read(tmp_path, footer(b"\x15\x04\x19\x1c\x48\x04root\x00\x16\x00\x00")) == parquet.Footer([], 0)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "not a Parquet file"),
        (b"PAR1PAR1", "not a Parquet file"),
        (b"text and more text", "not a Parquet file"),
        (PACKED[:-1], "not a whole Parquet file: its footer is cut off"),
        (PACKED[:1000], "not a whole Parquet file: its footer is cut off"),
        (b"PAR1" + PACKED[-8:], "not a whole Parquet file: its footer is cut off"),
        (footer(b""), "not a whole Parquet file: its footer is no schema"),
        (footer(b"\xff" * 50), "not a whole Parquet file: its footer is no schema"),
        (footer(b"\x1c" * 5000), "not a whole Parquet file: its footer is no schema"),
        (footer(b"\x19\xfc\xff\xff\xff\xff\x0f"), "not a whole Parquet file: its footer is no schema"),
    ],
)
def test_what_is_no_whole_parquet_file(tmp_path: Path, data: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=f"^{what}$"):
        read(tmp_path, data)
