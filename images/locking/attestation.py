"""Attestations: that somebody has run an entry's steps. `launch selftest` writes one, `images lock --attest` takes it.

It stays in the lock while the entry's checksum is the one that was tested (`lock._carry`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from images.locking.model import Entry, Lock, Tested
from slipway import canonical
from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import read_text
from slipway.yamldoc import Noun

Result = Literal["ok", "failed", "skipped"]
AGAIN = "run: launch selftest --library {}"


class StepTested(Noun, frozen=True, kw_only=True):
    """How one step went. `why`: it failed, or was skipped; `seconds`: its run's; `exit_code`: of a step that failed."""

    result: Result
    run: str = ""
    seconds: float | None = None
    exit_code: int = 0
    why: str = ""


class Attestation(Noun, frozen=True, kw_only=True):
    """The file. `name` and `entry`: of the lock, and its checksum; `steps`: all of the library that run in the entry;
    the others as in `Tested`. `checksum`: of all the rest, so that an edit by hand is noticed. It is no signature."""

    schema: Literal[1]
    name: str
    entry: str
    image: str
    hardware: str
    driver: str
    engine: str
    date: str
    slipway: str
    commit: str
    steps: dict[str, StepTested]
    checksum: str = ""

    @property
    def contents(self) -> str:
        """sha256 (hex) of everything but `checksum`."""
        body = msgspec.to_builtins(self)
        body.pop("checksum")
        return canonical.sha256(body)

    @property
    def text(self) -> str:
        """The file's text, with its checksum."""
        return canonical.pretty(msgspec.structs.replace(self, checksum=self.contents))


def load(path: Path) -> Attestation:
    """Raises SlipwayError 66 (cannot be read) or 65 (not what `launch selftest` writes)."""
    try:
        found = msgspec.convert(json.loads(read_text(path)), Attestation)
    except (ValueError, RecursionError, msgspec.ValidationError) as e:
        what = f"is no attestation: {e}"
        raise SlipwayError(Exit.DATA, what, where=str(path), remedy="launch selftest writes them") from e
    if found.checksum != found.contents:
        what = "its contents are not those that it was written with: it was edited by hand"
        raise SlipwayError(Exit.DATA, what, where=str(path), remedy="launch selftest writes a new one")
    return found


def attested(lock: Lock, found: Attestation, images: Collection[str], where: str) -> Lock:
    """`lock` with the attestation in its entry, in place of one of the same hardware and engine; not sealed.

    `images`: ids of the entry's recorded images that hold what the lock pins. Raises SlipwayError 65 where it is of
    another entry or image, or not all that was run ended well.
    """
    again = AGAIN.format(found.name.partition("/")[0])
    entry = lock.entries.get(found.name)
    if entry is None:
        what = f"the lock has no entry {found.name!r}"
        raise SlipwayError(Exit.DATA, what, where=where, remedy=nearest(found.name, lock.entries))
    if entry.checksum != found.entry:
        what = f"is of {found.name} as entry {found.entry[:12]}; the lock has {entry.checksum[:12]}"
        raise SlipwayError(Exit.DATA, what, where=where, remedy=again)
    if found.image not in images:
        what = f"is of the image {found.image}, which is on no record of {found.name} that holds what the lock pins"
        remedy = f"attest where it was built, or {entry.build_command}, and {again}"
        raise SlipwayError(Exit.DATA, what, where=where, remedy=remedy)
    for name, step in found.steps.items():
        if step.result == "failed":
            raise SlipwayError(Exit.DATA, f"{name} failed: {step.why}", where=where, remedy=again)
    ran = sorted(name for name, step in found.steps.items() if step.result == "ok")
    if not ran:
        raise SlipwayError(Exit.DATA, "no step was run", where=where, remedy=again)
    tested = Tested(
        image=found.image, hardware=found.hardware, driver=found.driver, engine=found.engine, date=found.date,
        slipway=found.slipway, commit=found.commit, steps=ran,
        skipped={name: step.why for name, step in sorted(found.steps.items()) if step.result == "skipped"},
    )  # fmt: skip
    others = [t for t in entry.tested if (t.hardware, t.engine) != (tested.hardware, tested.engine)]
    newest = sorted([*others, tested], key=lambda t: t.date, reverse=True)
    return msgspec.structs.replace(
        lock, entries={**lock.entries, found.name: msgspec.structs.replace(entry, tested=newest)}
    )


def lost(old: Lock | None, new: Lock) -> Iterator[str]:
    """What is said of entries whose attestations are not carried over."""
    for name, before in old.entries.items() if old else ():
        if before.tested and not (name in new.entries and new.entries[name].tested):
            why = "its entry has changed since" if name in new.entries else "the lock has it no more"
            yield f"{name}: not tested any more: {why} (it was on {before.tested[0].date[:10]})"


def of_step(entry: Entry, step: str) -> list[Tested]:
    """The attestations of an entry in which a step has run, the newest first."""
    return [tested for tested in entry.tested if step in tested.steps]
