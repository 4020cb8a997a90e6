"""`launch cache`: what steps have made for launches, whether it is whole, what may go, what may come in."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from images.locking import lock as locks
from images.locking.model import Flavour
from launcher.artifacts import detection, marker
from launcher.artifacts.detection import Artifact
from launcher.artifacts.marker import MARKER
from launcher.catalog import cache_location, definitions, profiles
from launcher.core.requirement import Requirement
from launcher.planning import planner, probe
from launcher.prerequisites.requirements import FOLDER
from launcher.records import run_directory, store
from launcher.records.leases import Holder
from launcher.records.store import LEASES, QUARANTINE
from launcher.runs import lifecycle
from slipway.console import say
from slipway.errors import Exit, SlipwayError, nearest, visible
from slipway.files import cannot_write, check_own
from slipway.project import Root
from slipway.yamldoc import Noun

State = Literal["whole", "being made", "unfinished", "quarantined", "unreadable"]


class Item(Noun, frozen=True, kw_only=True):
    """A folder that was made, or is to be. `libraries`: release and versions that a model in the Megatron cache is of,
    `converted` for what `--convert` made; `type`: what it is, `model`: of what; `bytes`: of its files; `run`: who makes
    or has made it; `note`: why its marker or lease cannot be read."""

    libraries: str
    folder: str
    path: str
    state: State
    bytes: int
    type: str = ""
    model: str = ""
    run: str = ""
    finished: str = ""
    note: str = ""


class Places(NamedTuple):
    """`megatron`: where each set of libraries has a folder of models; `converted`: what `--convert` made."""

    megatron: Path
    converted: Path


def places(
    root: Root, profile: profiles.Profile, option: str | None, runs: str | None, environ: Mapping[str, str]
) -> Places:
    """Those of a profile, or of `--megatron-cache` and `--runs-dir`."""
    megatron = cache_location.home(option, profile.megatron_cache, environ, str(probe.hf_home(profile)))[0]
    return Places(megatron, run_directory.runs_dir(root, runs, profile.runs) / FOLDER)


def items(where: Places) -> list[Item]:
    """Everything that is there, by libraries and name: what was made, leases of what is to come, and what went aside.

    In the Megatron cache the libraries' own locks of configurations lie, too. What `--convert` made is one's own.
    """
    found = [i for p in sorted(where.megatron.glob("*")) if p.is_dir() for i in _items(p, "model_*")]
    try:
        check_own(where.converted)
    except SlipwayError as e:
        say(f"note: {e.where}: {e.what}")
        return found
    return [*found, *_items(where.converted, "[!.]*")]


def _items(folder: Path, names: str) -> Iterator[Item]:
    there = {p.name for p in (*folder.glob(names), *(folder / LEASES).glob(names)) if p.is_dir()}
    yield from (_item(folder / name) for name in sorted(there))
    yield from (_item(p, "quarantined") for p in sorted((folder / QUARANTINE).glob("*")))


def _item(path: Path, state: State | None = None) -> Item:
    made, held, note = None, None, ""
    try:
        made = marker.read(path) if state is None else None
        held = store.holder(path) if state is None and not made else None
    except SlipwayError as e:
        state, note = "unreadable", f"{e.where}: {e.what}"
    busy = held is not None and _may_live(held)
    libraries = path.parent.parent if state == "quarantined" else path.parent
    return Item(
        libraries=libraries.name.lstrip("."),
        folder=path.name,
        path=str(path),
        state=state or ("whole" if made else "being made" if busy else "unfinished"),
        bytes=sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        type=made.type if made else "",
        model=made.source or made.model if made else "",
        run=made.run if made else held.run if held else "",
        finished=made.finished if made else "",
        note=note,
    )


def _may_live(held: Holder) -> bool:
    """Also where that cannot be told from here."""
    try:
        return lifecycle.lives(held, store.UNSEEN)
    except SlipwayError as e:
        say(f"note: {e.what}")
        return True


def table(found: Sequence[Item]) -> str:
    """For people: a line each."""
    lines = [f"{i.libraries}  {i.state:<11}  {i.bytes / 2**30:8.2f} GiB  {i.folder}" + _more(i) for i in found]
    return "\n".join(map(visible, lines) if lines else ["nothing has been converted there"]) + "\n"


def _more(item: Item) -> str:
    of = f"  of {item.model}" if item.model else ""
    by = f", run {item.run}" if item.run else ""
    return f"{of}{by}{', ' + item.finished if item.finished else ''}{'  ' + item.note if item.note else ''}"


def choose(found: Sequence[Item], names: Sequence[str]) -> list[Item]:
    """Those with these folder names. Raises SlipwayError 66 for a name that is not there."""
    for name in names:
        if name not in {i.folder for i in found}:
            remedy = nearest(name, [i.folder for i in found])
            raise SlipwayError(Exit.NO_INPUT, f"there is no {name!r} in the cache", remedy=remedy)
    return [i for i in found if i.folder in names]


def verify(found: Sequence[Item]) -> Iterator[str]:
    """Everything that is wrong: against the markers, and against what a checkpoint of its type has to have."""
    for item in found:
        path = Path(item.path)
        if item.state in ("unfinished", "quarantined"):
            yield f"{path}: is not whole: {item.state}"
        elif item.note:
            yield item.note
        elif made := marker.read(path):
            yield from marker.faults(path, made)
            yield from _checkpoint_faults(path, made.type)


def _checkpoint_faults(path: Path, wanted: str) -> Iterator[str]:
    seen = detection.inspect("model", path)
    if seen.type != wanted:
        yield f"{path}: is no {wanted}: found {seen.type or seen.note}"
    yield from (f"{fault.where}: {fault.what}" for fault in seen.faults)


def prune(found: Sequence[Item], names: Sequence[str], force: bool) -> list[Item]:
    """Removes what is named, else all that is not whole and is not being made; returns it.

    Raises SlipwayError 75 where a named one is being made, unless `force`, and 65 for one whose marker or lease cannot
    be read.
    """
    chosen = choose(found, names) if names else [i for i in found if i.state in ("unfinished", "quarantined")]
    if unreadable := next((i for i in chosen if i.note), None):
        what, remedy = f"nobody can tell whether it is in use: {unreadable.note}", "look at it, and remove it by hand"
        raise SlipwayError(Exit.DATA, what, where=unreadable.path, remedy=remedy)
    busy = [i for i in chosen if i.state == "being made"]
    if busy and not force:
        what, held = f"run {busy[0].run} makes it now", store.holder(Path(busy[0].path))
        remedy = f"launch cancel {shlex.quote(held.directory if held else busy[0].run)}"
        raise SlipwayError(Exit.TRY_AGAIN, what, where=busy[0].path, remedy=remedy)
    for item in chosen:
        path = Path(item.path)
        with cannot_write(path):
            (path / MARKER).unlink(missing_ok=True)  # from now on it is not whole, whatever happens
            if path.is_dir():
                shutil.rmtree(path)
        if item.state != "quarantined" and (held := store.holder(path)):
            store.release(path, held.run)
    return chosen


def adopt(
    root: Root, where: Path, source: Path, step_name: str, word: str, flavour: Flavour, release: str | None
) -> Path:
    """A conversion that NeMo RL has made elsewhere becomes the one of the model in `word` (input=PATH) for a step.

    Raises SlipwayError 64 where the step keeps no such model, 65 where it is not whole or not of that model, 73 where
    there is one already.
    """
    step = definitions.find_step(root, step_name)
    entry = locks.select(locks.load_lock(root), step.library, flavour, release)
    name, _, path = word.partition("=")
    inputs = [i for cache in step.caches.values() for i in cache.inputs]
    if name not in inputs or not path:
        raise SlipwayError(
            Exit.WORDS, f"{step.id} keeps no converted {name!r}", remedy=f"one of: {', '.join(inputs) or 'none'}"
        )
    model = detection.inspect(name, Path(path))
    if model.type != "checkpoint_hf":
        raise SlipwayError(Exit.DATA, f"is no checkpoint_hf: found {model.type or model.note or 'nothing'}", where=word)
    faults = [
        *_checkpoint_faults(source, "checkpoint_megatron"),
        *_other_shape(detection.inspect("converted", source), model),
    ]
    if faults:
        raise SlipwayError(Exit.DATA, "\n  ".join(faults), where=str(source))
    folder = where / cache_location.key(entry) / cache_location.folder(planner.container_path(model))
    if folder.exists() or store.holder(folder):
        remedy = f"launch cache list; launch cache prune {folder.name}"
        raise SlipwayError(Exit.CANNOT_WRITE, "is there already", where=str(folder), remedy=remedy)
    adopted = Requirement(
        input=name, type="checkpoint_megatron", source=model.path, fingerprint=model.fingerprint, by="adopted",
        place=str(folder),
    )  # fmt: skip
    store.adopt(source, adopted)
    return folder


def _other_shape(made: Artifact, model: Artifact) -> Iterator[str]:
    """Numbers of the architecture that differ; weights are not compared."""
    for name in made.sizes.__struct_fields__:
        ours, theirs = getattr(made.sizes, name), getattr(model.sizes, name)
        if ours and theirs and ours != theirs:
            yield f"{made.path}: {name} is {ours}, of {model.path} it is {theirs}"
