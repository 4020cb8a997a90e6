"""What rehearsals of Megatron-Bridge read by its own datasets: conversations as they are or packed, and documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import megatron_pack
import megatron_train
import slipway_inputs
import slipway_rehearsal
from slipway_rehearsal import Place, Row


class Conversations(slipway_rehearsal.Data):
    """Rows of JSON, as the library's chat dataset tokenizes and masks them.

    Its batches cut inputs, which are a token shorter than a row, at `size` tokens.
    """

    beyond = "cut"

    def __init__(self, dataset: Any, tokenizer: Any, source: Path, size: int) -> None:
        self.dataset, self.tokenizer, self.limit = dataset, tokenizer, size + 1
        self.files = slipway_inputs.jsonl_files(source)
        self.places = slipway_rehearsal.places(self.files)

    def read(self, number: int) -> Row:
        sample = self.dataset[number]
        ids, learned = ([int(value) for value in sample[name]] for name in ("input_ids", "loss_mask"))
        self.dataset.collate_fn([sample])  # what it refuses here would stop the run
        return Row(ids[: self.limit], [bool(mark) for mark in learned[: self.limit]], len(ids))

    def write(self, rows: list[int], _: int, target: Path) -> Path:
        """Some rows as a file of their own."""
        lines = [line for line in slipway_inputs.lines(self.files) if line.strip()]
        return slipway_rehearsal.write_rows(lines, rows, target.with_suffix(".jsonl"))


class Packed(slipway_rehearsal.Data):
    """Packed rows, each of several conversations, as the library's own dataset reads and collates them.

    A row's `loss_mask` is of the next token, and never of one beyond its conversation.
    """

    beyond = "kept"  # more than the configuration allows are a fault

    def __init__(self, dataset: Any, tokenizer: Any, file: Path, rows: int) -> None:
        self.dataset, self.tokenizer, self.file, self.limit = dataset, tokenizer, file, None
        self.places = [Place(str(file), row + 1) for row in range(rows)]

    def read(self, number: int) -> Row:
        sample = self.dataset[number]
        ids, mask, edges = sample["input_ids"], sample["loss_mask"], sample["seq_boundaries"]
        self.dataset.validate_row(number + 1, ids, mask, edges[:-1])  # which training leaves out
        self.dataset.collate_fn([sample])  # what it refuses here would stop the run
        starts = set(edges)
        learned = [at not in starts and bool(mask[at - 1]) for at in range(len(ids))]
        return Row([int(token) for token in ids], learned, len(ids))

    def write(self, rows: list[int], most: int, target: Path) -> Path:
        """Some rows as a file of their own, cut at `most` tokens."""
        import pyarrow
        from pyarrow import parquet

        table = parquet.read_table(self.file).take(rows)
        cut = []
        for row in table.to_pylist():
            starts = [start for start in row["seq_start_id"] if start < most - 1]
            cut.append(
                {"input_ids": row["input_ids"][:most], "loss_mask": row["loss_mask"][:most], "seq_start_id": starts}
            )
        columns = ["input_ids", "loss_mask", "seq_start_id"]
        schema = pyarrow.schema([table.schema.field(name) for name in columns])
        made = target.with_suffix(".idx.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(cut, schema=schema), made)
        return made


def documents(prefixes: list[str], tokenizer: str) -> slipway_rehearsal.Documents:
    """By Megatron-Core's own reader. Raises what it does."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from transformers import AutoTokenizer

    files = [IndexedDataset(prefix) for prefix in prefixes]
    return slipway_rehearsal.Documents(prefixes, files, AutoTokenizer.from_pretrained(tokenizer))


def count(file: Path) -> int:
    """Rows of a file of conversations."""
    if file.suffix in megatron_train.PARQUET:
        from pyarrow import parquet

        return int(parquet.read_metadata(file).num_rows)
    return len(slipway_rehearsal.places(slipway_inputs.jsonl_files(file)))


def load(file: Path, section: dict[str, Any], tokenizer: Path, plain: Path) -> Conversations | Packed:
    """The dataset that fine-tuning makes of a file, in the file's order. `section`: `dataset` of the configuration.

    `plain`: where conversations become what the library reads. Raises what the library does.
    """
    from megatron.bridge.data.builders import gpt_sft
    from megatron.bridge.utils.instantiate_utils import instantiate
    from transformers import AutoTokenizer

    config = instantiate(section)
    options, decoder = gpt_sft.normalize_gpt_sft_dataset_kwargs(config), AutoTokenizer.from_pretrained(tokenizer)
    packing, is_packed = config.offline_packing_specs, file.suffix in megatron_train.PARQUET
    dataset = gpt_sft.build_gpt_sft_split(
        file if is_packed else slipway_inputs.one_jsonl(file, plain),
        tokenizer=megatron_pack.tokenizer_at(tokenizer), seq_length=config.seq_length, memmap_workers=1,
        seed=config.seed, packed_sequence_size=packing.packed_sequence_size if is_packed else -1, is_test=True,
        pad_seq_to_mult=packing.pad_seq_to_mult if is_packed else None, dataset_kwargs=options,
    )  # fmt: skip
    if dataset is None:
        raise FileNotFoundError(f"Megatron-Bridge finds no rows in {file}")
    if is_packed:
        return Packed(dataset, decoder, file, len(dataset))
    return Conversations(dataset, decoder, file, config.seq_length)
