"""Artifacts: what a path really is, whether it is whole, and its fingerprint. Types are detected, never trusted."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from launcher.artifacts import binidx, blobs, checkpoints, datasets, hub_cache, huggingface, marker
from launcher.artifacts.checkpoints import MAX_HEADER
from launcher.artifacts.datasets import USUAL, Rows
from launcher.artifacts.faults import MAX_FAULTS, fault, kept
from launcher.artifacts.nouns import Found
from slipway.findings import Finding

__all__ = ["MAX_FAULTS", "Artifact", "Finding", "Reader", "fingerprint", "inspect", "unreadable"]

SAMPLES, SAMPLE_BYTES = 16, 64 * 1024
SAMPLED = 1024  # blocks in all: more than 64 files get fewer blocks each, more than 1024 smaller ones
_ACL = frozenset({"system.posix_acl_access", "system.nfs4_acl", "system.richacl"})
OF_RUNS = ".slipway-run"  # in an output: what launchers know of the runs that write there, and no part of it
MAX_FILES = 100_000  # of a folder that are listed
KEPT_ASIDE = (".git", ".cache/huggingface")  # below an input: what git and `hf download --local-dir` know of it


class Artifact(Found, frozen=True, kw_only=True):
    """An input as found.

    `files`: what has to stand side by side under `path`'s name (a glob's files, a .bin with its .idx, packed
    Parquet with its metadata); empty where it is the path alone. `bytes`: size of all its files; `fingerprint`: hex, of
    a snapshot of the hub over its commit and blobs, of what a step makes for a launch the key of that. `hub`: its name
    there, at the commit; `blobs`: the cache's shared store, where its files are there; `taken`: the last checkpoint of
    an output, as it was found; `expected`: of what has yet to be made, the model whose sizes it will have; `within`:
    of a link that a run has yet to leave, the folder out of which it must not lead.
    """

    name: str
    path: str
    kind: Literal["missing", "file", "folder", "glob"]
    fingerprint: str = "0" * 64
    bytes: int = 0
    files: list[str] = []
    hub: str = ""
    blobs: str = ""
    taken: str = ""
    expected: str = ""
    within: str = ""

    @property
    def rows(self) -> Rows:
        """How its rows were read."""
        return Rows(self.data.names, self.data.grammar)


class Reader(NamedTuple):
    """Who reads what is mounted: its uid and groups on this machine."""

    uid: int
    groups: frozenset[int]

    def may(self, path: Path) -> bool:
        """Whether it may read a file, or list and enter a folder. Raises OSError."""
        found = path.stat()
        shift = 6 if found.st_uid == self.uid else 3 if found.st_gid in self.groups else 0
        needed = 0o5 if stat.S_ISDIR(found.st_mode) else 0o4
        return found.st_mode >> shift & needed == needed or not _ACL.isdisjoint(os.listxattr(path))


def inspect(name: str, path: Path, rows: Rows = USUAL) -> Artifact:
    """What `path` is; never raises for bad content, nor for what cannot be read: both become faults. Bounded."""
    real = path.expanduser().absolute()
    try:
        return _inspect(name, real, rows)
    except OSError as e:
        return Artifact(name=name, path=str(real), kind="file", faults=[datasets.unreadable(real, e)])


def _inspect(name: str, real: Path, rows: Rows) -> Artifact:
    if not _there(real):
        return _several(name, real, rows)
    real = _real(real)
    if real.is_file():
        files = [real, *datasets.beside(real)]
        found = datasets.look(files, rows)
        return _artifact(name, real, "file", found, files, files if len(files) > 1 else [])
    if not real.is_dir():
        return Artifact(name=name, path=str(real), kind="file", note="neither a file nor a folder")
    taken = checkpoints.last(real)
    inside = (taken or real).resolve()
    files, faults = _below(inside)
    found = _look(inside, rows)
    return _artifact(name, inside, "folder", found, files, [], faults, taken)


def _there(path: Path) -> bool:
    """Whether something is there. Raises OSError where that cannot be told, which Path.exists() does not for a loop."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as e:
        if path.is_symlink() and not isinstance(e, PermissionError):
            return False  # a link to itself
        raise
    return True


def _real(path: Path) -> Path:
    """Without links; a file of a cache's snapshot, which is a link to a blob, keeps its name."""
    named = path.parent.resolve() / path.name
    return named if hub_cache.place(named) and named.is_file() else path.resolve()


def _several(name: str, pattern: Path, rows: Rows) -> Artifact:
    """The files of a pattern, or of a prefix as Megatron names tokens and index."""
    files = [Path(p) for p in sorted(glob.glob(str(pattern), recursive=True))]  # noqa: PTH207 - it is absolute
    files = [_real(p) for p in files if p.is_file()] if glob.has_magic(str(pattern)) else []
    if not files:
        files = [p for p in (Path(f"{pattern}.bin"), Path(f"{pattern}.idx")) if p.is_file()]
    if not files:
        note = "a link that leads nowhere" if pattern.is_symlink() else ""
        return Artifact(name=name, path=str(pattern), kind="missing", note=note)
    seen = [p.name for p in files]
    faults = [fault(p, "has the name of another file of the pattern") for p in files if seen.count(p.name) > 1]
    beside = {p for f in files for p in datasets.beside(f)} - set(files)
    return _artifact(name, pattern, "glob", datasets.look(files, rows), [*files, *sorted(beside)], None, faults)


def _artifact(
    name: str,
    path: Path,
    kind: Literal["file", "folder", "glob"],
    found: Found,
    files: list[Path],
    listed: list[Path] | None,
    faults: Sequence[Finding] = (),
    taken: Path | None = None,
) -> Artifact:
    root = path if kind == "folder" else Path(os.path.commonpath([p.parent for p in files]))
    place, shared = hub_cache.place(path), ""
    if place:
        faults = [*faults, *_leaving(files, _mounted(place))] if kind != "folder" else faults
        store = place.store.resolve()
        shared = str(store) if any(_inside(f, store) for f in files) else ""
        faults = [*faults, *blobs.faults(place, files)]
    unread = [*huggingface.pointers(files)]
    gone = {f.where for f in unread}  # what else is said of such a file is said of the pointer
    said = [f for f in found.faults if f.where.rpartition(":")[0] not in gone and f.where not in gone]
    return Artifact(**msgspec.structs.asdict(found) | {
        "name": name, "path": str(path), "kind": kind, "files": [str(p) for p in (files if listed is None else listed)],
        "faults": kept([*faults, *unread, *said]), "bytes": sum(p.stat().st_size for p in files),
        "hub": str(place.id) if place else "", "blobs": shared, "taken": str(taken or ""),
        "fingerprint": _of_hub(place, files, root) if place else _made(path, kind, files) or fingerprint(files, root),
    })  # fmt: skip


def _of_hub(place: hub_cache.Place, files: list[Path], root: Path) -> str:
    return blobs.fingerprint(place, files, fingerprint([f for f in files if not blobs.linked(f)], root))


def _made(path: Path, kind: str, files: list[Path]) -> str:
    return marker.key(path, files) if kind == "folder" else ""


def _look(folder: Path, rows: Rows) -> Found:
    """A checkpoint, else data files, else what its names look like."""
    found = checkpoints.look(folder)
    if found:
        return found
    if (blend := folder / binidx.BLEND).is_file() and binidx.is_blend(blend):
        return binidx.look([], blend)
    files = datasets.data_files(folder)
    if files:
        return datasets.look(files, rows)
    names = sorted(files_of_others(folder))[:4]
    return Found(note=f"a folder with {', '.join(names)}" if names else "an empty folder")


def _below(root: Path) -> tuple[list[Path], list[Finding]]:
    """Every file of a folder, sorted, and the links that leave it. Raises OSError for a folder that cannot be read."""
    paths: list[Path] = []
    for folder, folders, names in os.walk(root, onerror=_raise):
        aside = {OF_RUNS, *KEPT_ASIDE}
        folders[:] = [n for n in folders if Path(folder, n).relative_to(root).as_posix() not in aside]
        links = [n for n in folders if Path(folder, n).is_symlink()]
        paths += [Path(folder, n) for n in [*names, *links]]
        if len(paths) > MAX_FILES:
            raise OSError(0, f"has more than {MAX_FILES:,} files", str(root))
    paths.sort()
    place = hub_cache.place(root)
    faults = _leaving(paths, _mounted(place) if place else [root])
    gone = {f.where for f in faults}
    return [p for p in paths if str(p) not in gone and p.is_file()], faults


def _mounted(place: hub_cache.Place) -> list[Path]:
    """What a snapshot's links may lead to."""
    return [place.repository.resolve(), place.store.resolve()]


def _leaving(paths: Sequence[Path], roots: Sequence[Path]) -> list[Finding]:
    """The links that lead out of `roots`, which are what is mounted; or nowhere."""
    out = [p for p in paths if p.is_symlink() and not any(_inside(p, r) for r in roots)]
    return [fault(p, _left(p)) for p in out]


def _left(link: Path) -> str:
    if not link.exists():
        return f"a link that leads nowhere ({link.readlink()})"
    what = f"a link that leaves the input, to {link.resolve()}, which is not mounted"
    return f"{what}: copy the input with what its links lead to (cp -rL), or name the folder that it leads to"


def files_of_others(folder: Path) -> Iterator[str]:
    """Names of what is in a folder, less what launchers leave there. Raises OSError."""
    with os.scandir(folder) as found:
        yield from (entry.name for entry in found if entry.name != OF_RUNS)


def files_below(root: Path) -> list[Path]:
    """Every file of a folder, sorted. Raises OSError for a folder that cannot be read."""
    return _below(root)[0]


def unreadable(found: Artifact, reader: Reader) -> Path | None:
    """The first file that `reader` cannot read, or folder that it cannot list and enter; None where there is none.

    By owner, group and mode. Of one with a list of its own (ACL) that does not tell: then it counts that it could be
    read here. What cannot be looked at is a fault of the input already.
    """
    if not reader.uid or found.kind == "missing":
        return None
    place, top = hub_cache.place(found.path), Path(found.path)
    mounted = place.repository if place else top
    try:
        files = [Path(f) for f in found.files] or ([top] if top.is_file() else _below(top)[0])
        seen: set[Path] = set()
        for file in files:
            for path in dict.fromkeys([file, file.resolve()] if file.is_symlink() else [file]):
                above = [p for p in reversed(path.parents) if p.is_relative_to(mounted) and p not in seen]
                seen.update(above)
                if wrong := next((p for p in [*above, path] if not reader.may(p)), None):
                    return wrong
    except OSError:
        return None
    return None


def _raise(error: OSError) -> None:
    raise error


def _inside(path: Path, root: Path) -> bool:
    return path.exists() and path.resolve().is_relative_to(root)  # in this order: a link to itself has no end


def fingerprint(files: Sequence[Path], root: Path) -> str:
    """sha256 over names, sizes, safetensors headers and 16 sampled blocks of 64 KiB of every file.

    So that many files take no longer than 64 large ones, they share 1,024 blocks.
    """
    digest = hashlib.sha256()
    samples = max(1, min(SAMPLES, SAMPLED // max(1, len(files))))
    block = max(4096, min(SAMPLE_BYTES, SAMPLED * SAMPLE_BYTES // (samples * max(1, len(files)))))
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(root)}\0{size}\0".encode(errors="surrogateescape"))
        with path.open("rb") as f:
            if path.suffix == ".safetensors" and size >= 8:
                digest.update(f.read(min(MAX_HEADER, 8 + struct.unpack("<Q", f.read(8))[0])))
            for offset in _offsets(size, samples, block):
                f.seek(offset)
                digest.update(f.read(block))
    return digest.hexdigest()


def _offsets(size: int, samples: int, block: int) -> list[int]:
    """All of a small file; else blocks spread evenly, the first and the last included (the last of one)."""
    if size <= samples * block:
        return list(range(0, size, block))
    return [i * (size - block) // (samples - 1) for i in range(samples)] if samples > 1 else [size - block]
