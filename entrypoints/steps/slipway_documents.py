"""What the step programs share for tokenized documents: .bin files, each with its .idx, in Megatron's format."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import slipway_inputs
from slipway_step import ConfigError

SPLITS = ("training", "validation", "test")
INDEX = struct.Struct("<9sQBQQ")  # magic, version, type of the tokens, sequences, documents + 1
BLEND = "blend.json"  # in a folder of documents: split -> weights and names of pairs of files, in turn
VALIDATION = ("valid", "validation", "val", "dev")  # names of that split in a blend


def prefixes(source: Path) -> list[str]:
    """The documents of an input, a folder or what two files begin with, as the libraries want them: without suffix.

    Raises ConfigError where a file of a pair is missing.
    """
    folder = source.is_dir()
    found = sorted(source.glob("*.idx")) if folder else [source.with_name(f"{source.name}.idx")]
    if not folder and not found[0].is_file():
        found = [source.with_suffix(".idx")]
    if not found or not all(i.is_file() and i.with_suffix(".bin").is_file() for i in found):
        raise ConfigError(f"data.train: {source}: expected .bin files, each with its .idx")
    return [str(i.with_suffix("")) for i in found]


def blend_of(source: Path) -> dict[str, tuple[list[str], list[float] | None]] | None:
    """What blend.json of a folder says: training, validation, test -> pairs of files, and weights if they are several.

    None where there is no blend. Raises ConfigError where it names what is not there, or nothing to train on.
    """
    path = source / BLEND
    if not path.is_file():
        return None
    said = json.loads(path.read_text(encoding="utf-8"))
    names = {"train": "training", "test": "test"} | dict.fromkeys(VALIDATION, "validation")
    found = {names[k]: weighed(path, words) for k, words in said.items() if k in names and words}
    if "training" not in found:
        raise ConfigError(f"data.train: {path}: names nothing for train")
    return found


def weighed(path: Path, words: list[str]) -> tuple[list[str], list[float] | None]:
    """Pairs of files and weights of a flat list, in which these stand in turn or no weights do."""
    weights = None
    if len(words) % 2 == 0 and is_number(words[0]):
        weights, words = [float(w) for w in words[::2]], words[1::2]
    found = [path.parent / word for word in words]
    for pair in found:
        if not all(Path(f"{pair}.{suffix}").is_file() for suffix in ("bin", "idx")):
            raise ConfigError(f"data.train: {path}: names {pair.name}, expected {pair}.bin with its .idx")
    return [str(pair) for pair in found], weights if len(found) > 1 else None


def flat(prefixes: list[str], weights: list[float] | None) -> list[str]:
    """Weights and pairs in turn again, as AutoModel wants them."""
    return [w for pair in zip(map(str, weights), prefixes, strict=True) for w in pair] if weights else prefixes


def is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def refuse_other_tokenizer(source: Path, tokenizer: Path, key: str) -> None:
    """Raises ConfigError naming `key` where slipway.json, in the folder or beside the pair, names another tokenizer."""
    folder = source if source.is_dir() else source.parent
    given = slipway_inputs.tokenizer_record(tokenizer).get("tokenizer")
    for record in [*folder.glob(slipway_inputs.RECORD), *folder.glob(f"*/{slipway_inputs.RECORD}")]:
        made: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        if made.get("tokenizer") and given and made["tokenizer"] != given:
            raise ConfigError(
                f"{key}: {record.parent} was made with another tokenizer than that of {tokenizer} (sha256 "
                f"{made['tokenizer'][:12]} and {given[:12]}); name that one, or make the documents again"
            )


def shares(split: str) -> list[float]:
    """The parts of training, validation and test. Raises ConfigError where there are none."""
    found = [float(share) for share in re.findall(r"\d+\.?\d*", split)]
    if not sum(found):
        raise ConfigError(f"dataset.split: {split!r} is not of the form training,validation,test")
    return found


def refuse_empty_split(prefixes: list[str], split: str) -> None:
    """The libraries look for ever for a sample of a split that has no document. Raises ConfigError for such a split."""
    parts = shares(split)
    for index in (f"{prefix}.idx" for prefix in prefixes):
        documents = documents_of(Path(index))
        edges = [round(sum(parts[:i]) / sum(parts) * documents) for i in range(len(parts) + 1)]
        for name, share, first, last in zip(SPLITS, parts, edges, edges[1:], strict=False):
            if share and first == last:
                what = f"dataset.split: of {index}'s {documents} documents {split} leaves none for {name}"
                raise ConfigError(f"{what}; give it a larger share, or 0")


def documents_of(index: Path) -> int:
    """Raises ConfigError for a file that is no index."""
    with index.open("rb") as f:
        header = f.read(INDEX.size)
    if len(header) < INDEX.size or not header.startswith(b"MMIDIDX"):
        raise ConfigError(f"data.train: {index} is no index of tokenized documents")
    return int(INDEX.unpack(header)[-1]) - 1
