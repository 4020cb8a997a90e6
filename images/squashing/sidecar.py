"""FILE.sqsh and FILE.sqsh.json beside it: how they are called, and what the second says of the first."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from images.building import identity
from slipway.errors import Exit, SlipwayError
from slipway.files import read_text
from slipway.project import Root
from slipway.yamldoc import Noun

SUFFIX = ".sqsh"


class Sidecar(Noun, frozen=True, kw_only=True):
    """What a .sqsh is. `ids`: as in the image record; `source`: where the image was taken from; `size` in bytes."""

    schema: int = 1
    name: str
    entry: str
    ids: list[str]
    source: str
    platform: str
    sha256: str
    size: int
    tool: str
    made: str


def file_name(record: identity.ImageRecord) -> str:
    """Library, release, flavour and 12 digits of the configuration's digest."""
    return f"{record.name.replace('/', '-')}-{record.ids[0].removeprefix('sha256:')[:12]}{SUFFIX}"


def path_of(file: Path) -> Path:
    """Where the sidecar of `file` is."""
    return file.with_name(f"{file.name}.json")


def read(file: Path) -> Sidecar:
    """The sidecar of `file`. Raises SlipwayError 65 where that is missing or is none."""
    path = path_of(file)
    try:
        return msgspec.convert(json.loads(read_text(path)), Sidecar)
    except (SlipwayError, ValueError) as e:
        what = e.what if isinstance(e, SlipwayError) else f"not a sidecar: {e}"
        raise SlipwayError(Exit.DATA, what, where=str(path), remedy="make the file again: images squash") from e


def folder(root: Root) -> Path:
    """Where the files are when nobody names a folder."""
    return root.kept("squash")
