"""Rehearses a packing of conversations: every row as Megatron-Bridge's own dataset tokenizes and masks it.

Nothing is packed. result.json says what was found; an exception of the library's is a finding, word for word.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import megatron_pack
import slipway_inputs
import slipway_rehearsal
import slipway_small
import slipway_step
from slipway_rehearsal import Row


class Data(slipway_rehearsal.Data):
    """An input's rows, as the library's dataset has them before they are packed.

    Its inputs are a token shorter than a row, and have to fit into `size`; where it pads them, to a multiple of
    `multiple`, it cuts those that do not, else it leaves them out.
    """

    def __init__(
        self, dataset: Any, tokenizer: Any, places: list[slipway_rehearsal.Place], size: int, multiple: int
    ) -> None:
        self.dataset, self.tokenizer, self.places = dataset, tokenizer, places
        self.limit = size // multiple * multiple + 1
        self.beyond = "cut" if multiple > 1 else "dropped"

    def read(self, number: int) -> Row:
        sample = self.dataset[number]
        ids = [int(token) for token in sample["input_ids"]]
        learned = [bool(mask) for mask in sample["loss_mask"]]
        if len(ids) <= self.limit:
            return Row(ids, learned, len(ids))
        if self.beyond == "cut":
            return Row(ids[: self.limit], learned[: self.limit], len(ids))
        return Row(ids, [False] * len(ids), len(ids))

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids))


def main() -> None:
    config = slipway_step.merge_config(slipway_step.load_plan()["config"])
    megatron_pack.check_packing(config["packing"])
    tokenizer = slipway_inputs.path_of(config, "tokenizer.path")
    told = {}
    with tempfile.TemporaryDirectory(dir=slipway_step.STATE) as folder:
        for name in megatron_pack.SPLITS.values():
            if config["data"].get(name):
                source = slipway_inputs.path_of(config, f"data.{name}")
                told[name] = examined(name, source, tokenizer, config["packing"], Path(folder))
    slipway_rehearsal.leave(told, None)


def examined(name: str, source: Path, tokenizer: Path, packing: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What is told of an input."""
    where = slipway_rehearsal.places(slipway_inputs.jsonl_files(source))
    try:
        data = load(slipway_inputs.one_jsonl(source, folder / f"{name}.jsonl"), tokenizer, packing, where)
    except Exception as e:  # noqa: BLE001 - whatever the library raises is what is wrong
        return slipway_rehearsal.refused(e, len(where))
    return slipway_rehearsal.examine(name, data, slipway_small.vocabulary(tokenizer))[1]


def load(file: Path, tokenizer: Path, packing: dict[str, Any], where: list[slipway_rehearsal.Place]) -> Data:
    """The dataset that packing asks for every row, in the file's order."""
    from megatron.bridge.data.builders.gpt_sft import build_gpt_sft_split
    from transformers import AutoTokenizer

    dataset = build_gpt_sft_split(
        file, tokenizer=megatron_pack.tokenizer_at(tokenizer), seq_length=packing["size"], memmap_workers=1,
        seed=packing["seed"], packed_sequence_size=-1, is_test=True,
        dataset_kwargs={**megatron_pack.CHAT, "chat_loss_mode": packing["loss"]},
    )  # fmt: skip
    decoder = AutoTokenizer.from_pretrained(tokenizer)
    return Data(dataset, decoder, where, packing["size"], packing["pad_to_multiple_of"])


if __name__ == "__main__":
    slipway_step.run(main)
