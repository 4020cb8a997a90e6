"""Stands for pyarrow.parquet: files with the footer of packed rows, all alike, whose number stands in front, too."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

MAGIC = b"PAR1"
ROW = {"input_ids": [1, 2, 3, 4], "loss_mask": [0, 0, 1, 1], "seq_start_id": [0]}


def write(path: Path, rows: int) -> None:
    """FileMetaData in Thrift's compact protocol: version 2, a schema of columns that are lists, the number of rows."""
    columns = [(b"schema", len(ROW)), *((name.encode(), 0) for name in ROW)]
    schema = b"".join(b"\x48" + bytes([len(name)]) + name + (b"\x15" + bytes([2 * below]) if below else b"") + b"\0"
                      for name, below in columns)  # fmt: skip
    footer = b"\x15\x04\x19" + bytes([len(columns) << 4 | 12]) + schema + b"\x16" + varint(2 * rows) + b"\0"
    path.write_bytes(MAGIC + b"%d\n" % rows + footer + struct.pack("<I", len(footer)) + MAGIC)


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def read_metadata(path: Path) -> Any:
    return SimpleNamespace(num_rows=int(path.read_bytes().removeprefix(MAGIC).partition(b"\n")[0]))


def read_table(path: Path, columns: list[str]) -> Any:
    rows = read_metadata(path).num_rows
    return SimpleNamespace(columns=[[ROW[name]] * rows for name in columns])
