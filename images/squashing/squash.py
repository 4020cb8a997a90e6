"""`images squash`: a recorded image as FILE.sqsh beside FILE.sqsh.json, once for everybody who shares the folder.

The file stands under its name only when it is whole, and never without its sidecar. One process imports an image (a
lock beside the file, held by it and by the programs that it has started); others wait and find its file.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from images.bootstrap import debian
from images.building import configurations, identity, workspace
from images.locking.model import Entry, Lock
from images.machine import dockerhost, mirrors
from images.squashing import apply, importer, pulled, sidecar
from images.squashing.importer import Source
from images.squashing.sidecar import Sidecar
from slipway import canonical
from slipway.errors import Exit, SlipwayError
from slipway.files import cannot_write, make_folders, sha256_file, write_atomic
from slipway.project import Root

Say = Callable[[str], None]
_IN_REGISTRY = re.compile(r"docker://[^/@]+/[^@]+@(sha256:[0-9a-f]{64})")


def squash(root: Root, lock: Lock, image: str, folder: Path | None, say: Say, brought: tuple[str, ...] = ()) -> Path:
    """The .sqsh of `image` in `folder` (by default `squash/` in the project's state), imported where it is missing.

    `image`: LIBRARY/RELEASE-FLAVOUR, a tag or id on the engine, or docker://REGISTRY/IMAGE@sha256:DIGEST; recorded.
    Where no engine answers, the first is made of the official container in its registry, and recorded; `brought`: words
    NAME=DIR for its repositories. Raises SlipwayError 64 (an image of a registry by its tag, or `brought` for one that
    is built), 65 (no record of it, an index of images, or not what the lock says), 66 (not there), 69 (the engine, a
    registry or a program fails), 73 (no space), 77 (the registry wants a login) or 78 (unresolved).
    """
    started = time.monotonic()
    workspace.sweep(root)
    with _source(root, lock, image, brought, say) as source:
        target = (folder or sidecar.folder(root)).absolute() / sidecar.file_name(source.record)
        told = configurations.NOTHING
        if not _whole(target, say):
            with _importer(target, say) as held:
                if not _whole(target, say):
                    told = _import(root, source, target, held, say)
        _record(root, lock.entries[source.record.name], source, told, round(time.monotonic() - started, 1), say)
    return target


def space_needed(record: identity.ImageRecord, packed: int, enroot: bool) -> tuple[int, int]:
    """Bytes for the file (at most what the layers take) and for unpacking: by the record, else what is usual."""
    unpacked = sum(layer.bytes for layer in record.layers) or 4 * packed
    return packed, unpacked if enroot else max(3 * packed, packed + unpacked)


def check_space(folder: Path, temporary: Path, for_file: int, for_unpacking: int) -> None:
    """Raises SlipwayError 73 where one of them has too little, or both together on one file system."""
    file = (folder, for_file, "--dir DIR names another folder")
    unpacking = (temporary, for_unpacking, "TMPDIR (or ENROOT_TEMP_PATH) names another folder for unpacking")
    both = (temporary, for_file + for_unpacking, f"{unpacking[2]}, {file[2]} for the file")
    with cannot_write(temporary):
        shared = temporary.stat().st_dev == folder.stat().st_dev
    for place, need, remedy in (both,) if shared else (file, unpacking):
        have = shutil.disk_usage(place).free
        if have < need:
            what = f"not enough space: {need / 1e9:.2f} GB needed, {have / 1e9:.2f} GB free"
            raise SlipwayError(Exit.CANNOT_WRITE, what, where=str(place), remedy=remedy)


@contextlib.contextmanager
def _source(root: Root, lock: Lock, image: str, brought: tuple[str, ...], say: Say) -> Iterator[Source]:
    if image.startswith("docker://"):
        yield _in_registry(root, lock, image)
        return
    address, entry = dockerhost.find(root), lock.entries.get(image)
    if entry and entry.base.image and not dockerhost.answers(address.url):
        say(f"no Docker engine answers at {address.url}: {image} is made here, of the container in its registry")
        yield pulled.source(root, lock, entry, brought, say)
        return
    if brought:
        what = "the image is built: what it was given of a repository is in it"
        raise SlipwayError(Exit.WORDS, what, where=f"--source {brought[0]}", remedy="it belongs to: images build")
    with dockerhost.engine_client(address) as client:
        record, digest = identity.find(root, lock, image, client)
        yield Source(record, f"dockerd://{digest}", digest, client, address.url)


def _in_registry(root: Root, lock: Lock, image: str) -> Source:
    named = _IN_REGISTRY.fullmatch(image)
    if not named:
        remedy = "docker://REGISTRY/IMAGE@sha256:…, as `images build --push` prints it"
        raise SlipwayError(Exit.WORDS, "not an image of a registry by its digest", where=image, remedy=remedy)
    for entry in lock.entries.values():
        for record in identity.records(root, entry):
            if named[1] in record.ids:
                return Source(record, f"docker://{mirrors.load(root).of(image.removeprefix('docker://'))}", named[1])
    remedy = "build and push it: images build LIBRARY --push REF; or take a lock that records it"
    raise SlipwayError(Exit.DATA, "no image record names this digest", where=image, remedy=remedy)


def _record(root: Root, entry: Entry, source: Source, told: configurations.Told, seconds: float, say: Say) -> None:
    """Of an image that nobody has recorded yet; and what it knows of configurations, where a record lacks that."""
    if source.client is not None:
        configurations.remember(root, entry, source.record, configurations.in_engine(source.engine, source.digest), say)
        return
    if not source.addition:
        return
    known = configurations.of_ids(root, entry, {source.record.ids[0]})
    if known is None:
        identity.save(root, told.into(source.record, seconds=seconds))
    elif told != configurations.NOTHING and configurations.wanted(entry, known):
        identity.save(root, told.into(known))


def _whole(target: Path, say: Say) -> bool:
    """Whether the file is there, as long as its sidecar says; `images verify` compares the bytes."""
    if not target.exists():
        return False
    with contextlib.suppress(SlipwayError):
        if sidecar.read(target).size == target.stat().st_size:
            return True
    say(f"{target}: not what its sidecar says; importing it again")
    return False


@contextlib.contextmanager
def _importer(target: Path, say: Say) -> Iterator[int]:
    """The right to make `target`: waits for whoever has it, then removes what one that was killed has left."""
    path = target.with_name(f".{target.name}.lock")
    with cannot_write(path):
        make_folders(path.parent)
        lock = path.open("a")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that imports {target.name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in target.parent.glob(f".{target.name}.*"):
            if stale != path:
                stale.unlink()
        yield lock.fileno()


def _import(root: Root, source: Source, target: Path, held: int, say: Say) -> configurations.Told:
    enroot = importer.enroot_takes(source)
    debian.need(root, say, *(("mksquashfs",) if enroot else importer.TOOLS))
    base = workspace.unpacking()
    if source.addition:
        with cannot_write(base):
            apply.check_possible(source.record.name, base)
    check_space(target.parent, base, *space_needed(source.record, importer.packed_bytes(source), enroot))
    say(f"{target.name}: importing {source.uri}")
    part = target.with_name(f".{target.name}.part")
    with workspace.make(base, "squash") as (work, fd):
        job = importer.Job(source, work, part, (held, fd))
        try:
            if enroot and source.addition:
                imported = importer.through_enroot_with_addition(job, source.addition)
            else:
                imported = importer.through_enroot(job) if enroot else importer.through_umoci(job)
            importer.check(job, imported)
            made = _describe(source, imported, part)
            _publish(part, target, made)
        finally:
            part.unlink(missing_ok=True)
    say(f"{target.name}: {made.size / 1e6:.1f} MB, by {made.tool}")
    return imported.told


def _describe(source: Source, imported: importer.Imported, part: Path) -> Sidecar:
    return Sidecar(
        name=source.record.name,
        entry=source.record.entry,
        ids=source.record.ids,
        source=source.uri,
        platform=imported.platform,
        sha256=sha256_file(part),
        size=part.stat().st_size,
        tool=imported.tool,
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _publish(part: Path, target: Path, made: Sidecar) -> None:
    """Gives the file its name, last of all."""
    with cannot_write(target):
        part.chmod(0o644)  # others at a site that shares the folder start from it
        _sync(part)
        target.unlink(missing_ok=True)  # one that is not whole
        write_atomic(sidecar.path_of(target), canonical.pretty(made))
        _sync(target.parent)
        part.replace(target)
        _sync(target.parent)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
