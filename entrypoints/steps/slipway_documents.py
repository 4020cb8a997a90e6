"""What the step programs share for tokenized documents: .bin files, each with its .idx, in Megatron's format."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from slipway_step import ConfigError

SPLITS = ("training", "validation", "test")
INDEX = struct.Struct("<9sQBQQ")  # magic, version, type of the tokens, sequences, documents + 1


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
