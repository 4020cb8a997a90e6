"""Stands for the packing of Megatron-Bridge 0.4 and 0.5: a row for each conversation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import standin
from pyarrow import parquet


def prepare_packed_sequence_data(
    input_path: Path, output_path: Path, output_metadata_path: Path, packed_sequence_size: int, tokenizer: Any,
    max_seq_length: int, seed: int, packing_algorithm: str, pad_seq_to_mult: int, num_tokenizer_workers: int,
    dataset_kwargs: dict[str, Any],
) -> None:  # fmt: skip
    given = dict(locals()) | {"tokenizer": dataclasses.asdict(tokenizer), "rows": standin.lines(input_path)}
    parquet.write(output_path, given["rows"])
    known = json.loads(output_metadata_path.read_text()) if output_metadata_path.exists() else []
    output_metadata_path.write_text(json.dumps([*known, {"pack_size": packed_sequence_size}]))
    standin.seen(output_path.parent, given, f"seen-{input_path.stem}")
