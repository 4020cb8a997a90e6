"""The marker of a folder that a run has made for others: who made it, of what, and that all of it is there.

The run writes it last (entrypoints/steps/slipway_step.py: `seal`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from slipway import inbox
from slipway.errors import SlipwayError

MARKER = "slipway.json"
LIMIT = 64 * 2**20  # bytes: it names every file of a checkpoint


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What it says. `run`: which made it (empty: it was adopted); `files`: path below the folder -> bytes.

    `source`: what it was made of; `model`, where an earlier version has written the marker. Other keys are let be.
    """

    schema: Literal[1]
    input: str
    fingerprint: str
    by: str
    run: str
    finished: str
    files: dict[str, int]
    type: str = "checkpoint_megatron"
    key: str = ""
    source: str = ""
    model: str = ""


def read(folder: Path) -> Made | None:
    """What the marker says; None where the folder is not whole. Raises SlipwayError 65 or 77 where none can tell."""
    data = inbox.read(folder, MARKER, LIMIT, shared=True) if folder.is_dir() else None
    try:
        return None if data is None else msgspec.json.decode(data, type=Made)
    except (msgspec.DecodeError, RecursionError):
        return None  # it is written in one step, so what is no marker is none of ours


def faults(folder: Path, made: Made) -> Iterator[str]:
    """What is not as the marker says: files that are gone or of another length."""
    for name, size in made.files.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: is gone"
        elif path.stat().st_size != size:
            yield f"{path}: has {path.stat().st_size} bytes, not {size}"


def name_of(key: str) -> str:
    """Of a folder that is named by its key."""
    return key[:16]


def key(folder: Path, files: Sequence[Path]) -> str:
    """The key of a folder that is named by it and has the very files that were made there; else empty.

    It is known before the folder is made, so a run that was planned earlier has the same input as one that is later.
    """
    try:
        made = read(folder)
    except SlipwayError:
        return ""
    if not made or folder.name != name_of(made.key):
        return ""
    there = {str(p.relative_to(folder)): p.stat().st_size for p in files if p != folder / MARKER}
    return made.key if there == made.files else ""
