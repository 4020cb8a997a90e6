"""What the Model Optimizer programs share: models and tokenizers of transformers, and what to run a model on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import slipway_step
from slipway_inputs import chat_template, dtype_of, jsonl_files, lines, path_of, refuse_filled
from slipway_step import ConfigError

__all__ = ["dtype_of", "path_of", "refuse_filled"]
INDEX = "model.safetensors.index.json"


class Calibration(NamedTuple):
    """Token ids of shape 1 x length each, and what they are."""

    batches: list[Any]
    source: str


def quiet() -> None:
    """A progress bar is noise in a file; transformers and Model Optimizer draw theirs with tqdm."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def hugging_face(config: dict[str, Any], dotted: str) -> Path:
    """The model folder at `dotted`. Raises ConfigError where it is none."""
    folder = path_of(config, dotted)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{dotted}: {folder} is no Hugging Face model: it has no config.json")
    return folder


def number(config: dict[str, Any], dotted: str, least: int = 1) -> int:
    """The whole number at `dotted`. Raises ConfigError for anything else, or less."""
    section, key = dotted.split(".")
    value = config[section].get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{dotted}: {value!r} is no whole number of {least} or more")
    return value


def load(folder: Path, dtype: str | None) -> tuple[Any, Any]:
    """Model and tokenizer; on every CUDA device that there is, or in host memory. `dtype` None: the model's own."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"device_map": "auto"} if torch.cuda.is_available() else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype) if dtype else "auto", **where)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def matrices(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of every two-dimensional weight, read from the headers alone."""
    found = sorted(folder.glob("*.safetensors"))
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        found = [folder / name for name in sorted(set(index["weight_map"].values()))]
    for path in found:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name.endswith(".weight") and len(tensor["shape"]) == 2:
                yield name.removesuffix(".weight"), tensor["shape"]


def conversations(source: Path, key: str) -> Iterator[list[dict[str, Any]]]:
    """The `messages` of every line. Raises ConfigError naming `key` for a line without."""
    for count, line in enumerate(lines(jsonl_files(source)), 1):
        if not line.strip():
            continue
        try:
            yield messages_of(line)
        except ValueError as e:
            raise ConfigError(f"{key}: {source}: line {count} {e}") from None


def messages_of(line: bytes) -> list[dict[str, Any]]:
    """Raises ValueError for a line without `messages`."""
    try:
        messages: list[dict[str, Any]] = json.loads(line)["messages"]
    except (ValueError, KeyError, TypeError):
        raise ValueError("is no JSON object with `messages`") from None
    return messages


def tokens(tokenizer: Any, messages: list[dict[str, Any]]) -> list[int]:
    """A conversation as its chat template writes it."""
    return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"])


def refuse_without_template(tokenizer_folder: Path, key: str) -> None:
    if not chat_template(tokenizer_folder):
        raise ConfigError(f"{key}: {tokenizer_folder} has no chat template, which conversations need")


def calibration(config: dict[str, Any], folder: Path, model: Any, tokenizer: Any) -> Calibration:
    """What the configuration's section `calibration` says; random tokens where it names no conversations."""
    import torch

    samples, length = number(config, "calibration.samples"), number(config, "calibration.seq_length", 2)
    if config["calibration"].get("path"):
        rows = chat_rows(config, folder, tokenizer, samples, length)
        made = Calibration([torch.tensor([row], device=model.device) for row in rows], "chat_jsonl")
    else:
        made = random_tokens(model, samples, length, config["calibration"].get("seed") or 0)
    print(f"calibration: {len(made.batches)} samples of {made.source}, {length} tokens at most", flush=True)
    if made.source == "random tokens":
        print("calibration: random tokens say little about the model; give calibration=", flush=True)
    return made


def random_tokens(model: Any, samples: int, length: int, seed: int) -> Calibration:
    import torch

    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(model.config.get_text_config().vocab_size, (samples, 1, length), generator=generator)
    return Calibration(list(ids.to(model.device)), "random tokens")


def chat_rows(config: dict[str, Any], folder: Path, tokenizer: Any, samples: int, length: int) -> Iterator[list[int]]:
    """Token ids of the first conversations, none longer than `length`. Raises ConfigError where there are none."""
    source = path_of(config, "calibration.path")
    refuse_without_template(folder, "model.path")
    taken = 0
    for messages in conversations(source, "calibration.path"):
        if taken == samples:
            return
        taken += 1
        yield tokens(tokenizer, messages)[:length]
    if not taken:
        raise ConfigError(f"calibration.path: {source} holds no conversations")


def mean_loss(model: Any, batches: list[Any]) -> float:
    """The model's loss per token, averaged over the batches."""
    import torch

    with torch.no_grad():
        losses = [float(model(input_ids=ids, labels=ids).loss) for ids in batches]
    return sum(losses) / len(losses)


def keep_config(config: dict[str, Any]) -> None:
    """Writes the merged configuration into the run directory."""
    with slipway_step.config_file(config):
        pass
