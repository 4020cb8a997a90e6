"""Packs conversations for fine-tuning with Megatron-Bridge: chat JSONL in, packed Parquet out.

It adds: shards and gzip, the line of a conversation that cannot be learned from, and slipway.json, which records the
tokenizer and the chat template, so that training with others can be refused.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import slipway_inputs
import slipway_megatron
import slipway_step
from slipway_step import ConfigError

SPLITS = {"training": "train", "validation": "validation"}  # names of the library's files -> of our inputs
CHAT = {"chat": True, "use_hf_tokenizer_chat_template": True}


def main() -> None:
    config = slipway_step.merge_config(slipway_step.load_plan()["config"])
    packing, output = config["packing"], Path(config["output"]["path"])
    check_packing(packing)
    slipway_inputs.refuse_filled(output, "output.path")
    tokenizer = slipway_inputs.path_of(config, "tokenizer.path")
    record = tokenizer_of(tokenizer)
    with slipway_step.config_file(config):
        pass
    with tempfile.TemporaryDirectory(dir=slipway_step.STATE) as folder:
        files, chats = gather(config, Path(folder))
        output.mkdir(parents=True, exist_ok=True)
        packed = {split: pack(file, split, tokenizer, packing, output) for split, file in files.items()}
    record_packing(output, record, packing)
    slipway_step.write_result(result(output, packing["size"], chats, packed))


def check_packing(packing: dict[str, Any]) -> None:
    """Raises ConfigError for a size that holds nothing."""
    for key, least in (("size", 2), ("pad_to_multiple_of", 1)):
        if not isinstance(packing[key], int) or packing[key] < least:
            raise ConfigError(f"packing.{key}: {packing[key]!r} is not a whole number from {least} on")


def tokenizer_of(folder: Path) -> dict[str, str]:
    """What slipway.json records of a tokenizer. Raises ConfigError where it cannot render a conversation."""
    record = slipway_inputs.tokenizer_record(folder)
    for what, remedy in (("tokenizer", "a folder with tokenizer.json"), ("template", "a tokenizer for chat")):
        if what not in record:
            raise ConfigError(f"tokenizer.path: {folder} has no {what}; expected {remedy}")
    return record


def gather(config: dict[str, Any], folder: Path) -> tuple[dict[str, Path], dict[str, int]]:
    """The library reads one file, and writes its index beside it: links or copies in a folder of ours; and chats."""
    files, chats = {}, {}
    for split, name in SPLITS.items():
        if config["data"].get(name):
            source = slipway_inputs.path_of(config, f"data.{name}")
            chats[split] = sum(check_chats(file) for file in slipway_inputs.jsonl_files(source))
            files[split] = slipway_inputs.one_jsonl(source, folder / f"{split}.jsonl")
    return files, chats


def check_chats(path: Path) -> int:
    """The number of conversations. Raises ConfigError with the line of one that the library cannot learn from."""
    chats = 0
    for count, line in enumerate(slipway_inputs.lines([path]), 1):
        if not line.strip():
            continue  # at the end of a file; the launcher refuses others
        chats += 1
        try:
            roles = [message["role"] for message in json.loads(line)["messages"]]
        except (ValueError, KeyError, TypeError) as e:
            raise ConfigError(f"{path}:{count}: not a conversation: {type(e).__name__}: {e}") from e
        if "assistant" not in roles:
            raise ConfigError(f"{path}:{count}: no assistant's message to learn from")
    if not chats:
        raise ConfigError(f"{path}: is empty")
    return chats


def tokenizer_at(folder: Path) -> Any:
    """The library's own of a tokenizer's folder."""
    from megatron.bridge.training.tokenizers.config import TokenizerConfig
    from megatron.bridge.training.tokenizers.tokenizer import build_tokenizer

    return build_tokenizer(TokenizerConfig(tokenizer_type="HuggingFaceTokenizer", tokenizer_model=str(folder)))


def pack(source: Path, split: str, tokenizer: Path, packing: dict[str, Any], output: Path) -> Path:
    """Packs one split by the library, with the names that the library gives."""
    size = packing["size"]
    target = output / f"{split}_{size}.idx.parquet"
    chat = dict(CHAT)
    options = {
        "input_path": source,
        "output_path": target,
        "output_metadata_path": output / f"{size}_metadata.jsonl",
        "packed_sequence_size": size,
        "max_seq_length": size,
        "seed": packing["seed"],
        "packing_algorithm": packing["algorithm"],
        "pad_seq_to_mult": packing["pad_to_multiple_of"],
        "num_tokenizer_workers": packing["workers"],
    }
    if packing["writer"] == "packed_sequence":
        slipway_megatron.refuse_unmarked_template(tokenizer, "tokenizer.path")
        pack_before_0_6(source, {**options, "tokenizer": tokenizer_at(tokenizer), "dataset_kwargs": chat})
        return target
    from megatron.bridge.data.builders.gpt_sft import build_gpt_sft_split
    from megatron.bridge.data.packing.offline import prepare_gpt_sft_packed_data

    chat["chat_loss_mode"] = packing["loss"]
    prepare_gpt_sft_packed_data(
        **options, tokenizer=tokenizer_at(tokenizer), dataset_builder=build_gpt_sft_split, dataset_kwargs=chat
    )
    return target


def pack_before_0_6(source: Path, options: dict[str, Any]) -> None:
    """By the function of 0.4 and 0.5. Raises ConfigError for a conversation that is longer than a row."""
    from megatron.bridge.data.datasets.packed_sequence import prepare_packed_sequence_data

    try:
        prepare_packed_sequence_data(**options)
    except IndexError as e:  # of its histogram of lengths; 0.6 leaves such conversations out
        size = options["packed_sequence_size"]
        raise ConfigError(
            f"packing.size: a conversation of {source.name} has more than {size} tokens, which Megatron-Bridge before "
            "0.6 cannot pack; raise it, or leave such conversations out"
        ) from e


def record_packing(output: Path, record: dict[str, str], packing: dict[str, Any]) -> None:
    """Written last: where it is, the packing is whole."""
    known = {"schema": 1, "pack_size": packing["size"], **record, "packing": packing}
    slipway_step.write_atomic(output / slipway_inputs.RECORD, json.dumps(known, indent=2, sort_keys=True) + "\n")


def result(output: Path, size: int, chats: dict[str, int], packed: dict[str, Path]) -> dict[str, Any]:
    """What was made. Raises RuntimeError where a split has no learnable token."""
    import pyarrow.compute as compute
    from pyarrow import parquet

    splits = {}
    for split, path in packed.items():
        ids, mask, starts = parquet.read_table(path, columns=["input_ids", "loss_mask", "seq_start_id"]).columns
        tokens, documents = (compute.sum(compute.list_value_length(column)).as_py() for column in (ids, starts))
        learned = int(compute.sum(compute.list_flatten(mask)).as_py())
        if not learned:
            raise RuntimeError(f"{path}: no token has a loss; every answer lies beyond packing.size={size}")
        counted = {"chats": chats[split], "documents": documents, "rows": len(ids), "tokens": tokens}
        splits[split] = {"path": str(path), **counted, "learned_tokens": learned}
    return {"type": "packed_parquet", "path": str(output), "pack_size": size, "splits": splits}


if __name__ == "__main__":  # tokenizing workers import this file again
    slipway_step.run(main)
