"""Image records: what was built for a lock entry, and by which ids an engine or a registry knows it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from images.locking import platforms
from images.locking.model import Entry, Lock
from images.locking.sources import Brought
from slipway import canonical
from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import read_text, write_atomic
from slipway.project import Root
from slipway.yamldoc import Noun


class Layer(Noun, frozen=True, kw_only=True):
    """One layer as the engine's history tells it; `bytes` unpacked."""

    bytes: int
    made_by: str


class BaseFile(Noun, frozen=True, kw_only=True):
    """What a configuration file in the image says, with all that it inherits. `values` is None where that is not known,
    and `why` says so. `sha256` (hex) of the file; `inherits`: of each other file that was read for it."""

    sha256: str = ""
    inherits: dict[str, str] = {}
    values: dict[str, Any] | None = None
    why: str = ""


class Taken(Noun, frozen=True, kw_only=True):
    """What a class of a library takes by name. `keys`: each -> those of `Classes.known` that its value may be made of.

    `plain`: keys whose value is a number, a text or a truth. `open`: it takes any other key, too. `mapping`: its
    sections are of the classes that `keys` says, without a `_target_`.
    """

    name: str
    keys: dict[str, list[str]] = {}
    plain: list[str] = []
    open: bool = False
    mapping: bool = False


class Classes(Noun, frozen=True, kw_only=True):
    """Which keys the library in the image knows: `known`, class -> what it takes. `sections`: of a configuration -> its
    class there; `targets`: what was asked for -> its class there; `why` one of either is not known. `read`: keys (KEY,
    or SECTION.KEY) that the library looks up or ships in an example, beside those that its types name."""

    sections: dict[str, str] = {}
    targets: dict[str, str] = {}
    known: dict[str, Taken] = {}
    why: dict[str, str] = {}
    read: list[str] = []


class ImageRecord(Noun, frozen=True, kw_only=True):
    """One build. `ids`: every config and manifest digest under which the image is stored, the config's first.

    `inputs`: checksum of everything the build was given. `substitutions`: FROM reference -> id of what stood in for it.
    `sources`: what the build was given of each git repository. `pushed`: REGISTRY/NAME@sha256:MANIFEST, the last first.
    `platform`: such as linux/amd64; empty where that is not known. `configurations`: the files in the image that steps
    start from, by path; a record that was written before they were read has none. `classes`: likewise.
    """

    schema: int = 1
    name: str
    entry: str
    ids: list[str]
    tag: str
    platform: str = ""
    inputs: str
    reproducible: bool
    substitutions: dict[str, str] = {}
    sources: dict[str, Brought] = {}
    pushed: list[str] = []
    base_tar: str = ""
    debian_packages: dict[str, str] = {}
    layers: list[Layer] = []
    configurations: dict[str, BaseFile] = {}
    classes: Classes | None = None
    seconds: float
    built: str

    @property
    def left_out(self) -> list[str]:
        """The repositories that the image does without (`--source NAME=none`)."""
        return sorted(name for name, brought in self.sources.items() if brought.left_out)

    @property
    def drift(self) -> dict[str, str]:
        """What is in the image in place of what the lock pins: reference or `source NAME` -> what it is."""
        other = {n: b for n, b in self.sources.items() if not (b.clean or b.left_out)}
        return self.substitutions | {f"source {n}": f"the tree {b.tree} (at {b.commit})" for n, b in other.items()}


def folder(root: Root, checksum: str) -> Path:
    """Where the records of an entry are."""
    return root.kept(Path("images", checksum))


def save(root: Root, record: ImageRecord) -> Path:
    """Writes the record; raises SlipwayError 73."""
    path = folder(root, record.entry) / f"{record.ids[0].removeprefix('sha256:')}.json"
    write_atomic(path, canonical.pretty(record))
    return path


def records(root: Root, entry: Entry) -> list[ImageRecord]:
    """The records of an entry, newest first; those that the lock carries come last. Raises SlipwayError 65."""
    found = [_load(root.kept(p)) for p in folder(root, entry.checksum).glob("*.json")]
    found.sort(key=lambda r: r.built, reverse=True)
    for identity in entry.image:
        found.append(
            ImageRecord(
                name=entry.name, entry=entry.checksum, ids=identity.ids, tag="", inputs="", reproducible=False,
                seconds=0, built="",
            )
        )  # fmt: skip
    return found


def present(candidates: Iterable[ImageRecord], client: Any) -> tuple[ImageRecord, str] | None:
    """The first record of which the engine has an image, and that id."""
    import docker.errors

    for record in candidates:
        for digest in record.ids:
            try:
                client.images.get(digest)
            except docker.errors.NotFound:  # podman's words are not those by which the SDK knows ImageNotFound
                continue
            return record, digest
    return None


def find(root: Root, lock: Lock, image: str, client: Any) -> tuple[ImageRecord, str]:
    """The record of `image`, and its id on the engine; `image` is LIBRARY/RELEASE-FLAVOUR, a tag or an id.

    Raises SlipwayError 66 where the engine has no such image, 65 where no record is of it.
    """
    if entry := lock.entries.get(image):
        entry = entry if entry.platform else lock.on(platforms.of_engine(client), entry)
        if found := present(records(root, entry), client):
            return found
        what = f"the engine has no recorded image of {entry.name}"
        raise SlipwayError(Exit.NO_INPUT, what, remedy=f"run: {entry.build_command}")
    digest = tagged(image, client)
    if not digest:
        remedy = f"{nearest(image, lock.entries)}, or the tag or id of an image"
        raise SlipwayError(Exit.NO_INPUT, f"the engine has no image {image!r}", remedy=remedy)
    for entry in lock.entries.values():
        for record in records(root, entry):
            if digest in record.ids:
                return record, digest
    what = f"no image record names {digest}: it was not built here from this lock"
    raise SlipwayError(Exit.DATA, what, where=image, remedy="build it: images build LIBRARY")


def tagged(tag: str, client: Any) -> str:
    """The id of what carries `tag` on the engine; empty where nothing does."""
    import docker.errors

    try:
        return str(client.images.get(tag).id)
    except docker.errors.NotFound:
        return ""


def _load(path: Path) -> ImageRecord:
    try:
        return msgspec.convert(json.loads(read_text(path)), ImageRecord)
    except (ValueError, msgspec.ValidationError) as e:
        raise SlipwayError(
            Exit.DATA, f"not an image record: {e}", where=str(path), remedy="delete it and build the image again"
        ) from e
