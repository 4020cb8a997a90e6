"""Stands for pyarrow.parquet: three rows of four tokens, as the one file's footer says that there are three."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

PACKED = Path(__file__).with_name("packed.parquet")
ROWS = 3


def read_metadata(path: Path) -> Any:
    assert path.read_bytes() == PACKED.read_bytes()
    return SimpleNamespace(num_rows=ROWS)


def read_table(path: Path, columns: list[str]) -> Any:
    assert path.read_bytes() == PACKED.read_bytes()
    row = {"input_ids": [1, 2, 3, 4], "loss_mask": [0, 0, 1, 1], "seq_start_id": [0]}
    return SimpleNamespace(columns=[[row[name]] * ROWS for name in columns])
