"""What a launcher leaves in an output folder: which run writes there now, and of what the checkpoints there are made.

Both are in `.slipway-run/`, which is no part of what the folder holds: an output that has nothing else is empty, and an
input's fingerprint leaves it out.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from launcher.artifacts.detection import OF_RUNS, Artifact, files_of_others
from launcher.core.asked import Former
from launcher.core.plan import RUN_DIR, Origin, OriginInput, Plan
from launcher.records import leases, older
from launcher.records.leases import Holder, Taken
from launcher.records.run_directory import RECORD_LIMIT, Run, now
from slipway import canonical, inbox
from slipway.errors import Exit, SlipwayError
from slipway.files import cannot_write, write_atomic

ORIGIN, LEASE = "origin.json", "lease"
TRIES, TRY_EVERY = 50, 0.1  # times and seconds, for a lease that is being given back
DEPTH, LOOKED_AT = 3, 2000  # how far below a folder, and at how many, a checkpoint is looked for


def lease(folder: Path) -> Path:
    """Where the lease of an output is: whoever has it writes there."""
    return folder / OF_RUNS / LEASE


def is_empty(folder: Path) -> bool:
    """Whether a folder has nothing but what launchers leave. Raises OSError."""
    return not any(files_of_others(folder))


def of_plan(plan: Plan, run: Run, resumes: Former | None = None) -> Origin:
    """Of what a run's output is made; of an input that was made for the run, what that is made of."""
    made = {r.place: OriginInput(path=r.source, fingerprint=r.fingerprint) for r in plan.needs}
    return Origin(
        schema=1,
        run=run.id,
        directory=str(run.path),
        step=plan.step,
        library=plan.library,
        release=plan.release,
        flavour=plan.flavour,
        entry=plan.entry,
        inputs={n: made.get(a.path) or _input(a, plan.from_run.get(n)) for n, a in plan.inputs.items()},
        config=canonical.sha256(plan.config),
        started=now(),
        image=plan.image,
        type=plan.output_type,
        resumes=resumes,
    )


def _input(found: Artifact, run: Former | None) -> OriginInput:
    known = "" if run and found.expected else found.fingerprint  # it was not there yet
    return OriginInput(path=found.path, fingerprint=known, type=found.type, hub=found.hub, run=run)


def sign(folder: Path, origin: Origin) -> None:
    """Leaves a run's origin in its output, for whoever goes on from it, or asks. Raises SlipwayError 73.

    Who has the folder's lease does so; what a launcher that was killed here has left goes.
    """
    with cannot_write(folder):
        for left in (folder / OF_RUNS).glob(f".{ORIGIN}.*"):
            left.unlink()
    write_atomic(folder / OF_RUNS / ORIGIN, canonical.pretty(origin))


def _unsign(folder: Path, before: Origin | None) -> None:
    """Puts back what was there `before`, where a run was not started after all. Raises SlipwayError 73."""
    if before:
        sign(folder, before)
        return
    with cannot_write(folder):
        (folder / OF_RUNS / ORIGIN).unlink(missing_ok=True)


def origin(folder: Path) -> Origin | None:
    """Of what the things in a folder are made, by the run that made them; None where nothing tells.

    An output in a run directory has that run's plan beside it. Raises SlipwayError 65 or 77 where it cannot be read.
    """
    data = inbox.read(folder, f"{OF_RUNS}/{ORIGIN}", shared=True)
    if data is not None:
        return inbox.decode(data, Origin, folder / OF_RUNS / ORIGIN)
    plan = _plan(folder.parent) if folder.name == "output" else None
    return of_plan(plan, Run(folder.parent)) if plan and plan.output == f"{RUN_DIR}/output" else None


class Claim:
    """An output folder, for a run that is being submitted: one at a time writes there, and leaves its name."""

    def __init__(self, folder: Path, run: Run, resumes: Former | None = None) -> None:
        self._folder, self._run, self._resumes = folder, run, resumes
        self._before: Origin | None = None
        self._held = self._signed = False

    def take(self, plan: Plan, address: str, lives: Callable[[Holder, str], bool]) -> None:
        """The folder's lease, and a place in it for this run's name. `lives`: asks for the run of a lease.

        Raises SlipwayError 75 where another run writes there, 73 where one has since this was planned.
        """
        self._lease(plan.profile.kind, address, lives)
        self._held = True
        if not plan.resume and not is_empty(self._folder):
            what = "is not empty any more: another run has written there since this was planned"
            raise SlipwayError(Exit.CANNOT_WRITE, what, where=f"output={self._folder}")
        with contextlib.suppress(SlipwayError):  # one that nobody can read says nothing to anybody
            self._before = origin(self._folder)
        sign(self._folder, of_plan(plan, self._run, self._resumes))
        self._signed = True

    def _lease(self, kind: str, address: str, lives: Callable[[Holder, str], bool]) -> None:
        place = lease(self._folder)
        by_hand = f"rm -r {shlex.quote(str(place))}"
        for _ in range(TRIES):
            try:
                return leases.take(place, self._run, kind, address)
            except Taken:
                held = leases.holder(place)
            if held is None:  # it is being given back
                time.sleep(TRY_EVERY)
            elif lives(held, f"if it has ended: {by_hand}"):
                remedy = f"wait for it: launch logs -f {shlex.quote(held.directory)}; or name another output"
                what = f"run {held.run} writes there"
                raise SlipwayError(Exit.TRY_AGAIN, what, where=f"output={self._folder}", remedy=remedy)
            else:
                leases.release(place, held.run)
        raise SlipwayError(Exit.TRY_AGAIN, "is a lease that names no run", where=str(place), remedy=by_hand)

    def give_back(self) -> None:
        """All as it was: the run was not started after all."""
        if self._signed:
            _unsign(self._folder, self._before)
        if self._held:
            release(self._folder, self._run.id)


def release(folder: Path, run_id: str, goes_on: bool = True) -> None:
    """Gives a run's lease back; one that it has not, or not any more, is left alone. Raises OSError.

    The name of a run that has made nothing goes, too, unless another may go on from there (`goes_on`).
    """
    leases.release(lease(folder), run_id)
    if not goes_on and folder.is_dir() and is_empty(folder):
        with contextlib.suppress(SlipwayError):
            found = origin(folder)
            if found and found.run == run_id:
                (folder / OF_RUNS / ORIGIN).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (folder / OF_RUNS).rmdir()  # if nothing else is in it


def _plan(folder: Path) -> Plan | None:
    """The plan in a run directory; None where it is none."""
    with contextlib.suppress(SlipwayError):
        if data := inbox.read(folder, "plan.json", RECORD_LIMIT):
            return older.decode(data, Plan, folder)
    return None


def has(folder: Path, where: str) -> bool:
    """Whether a folder has what a step goes on from (`resume.where`: a name or a pattern).

    A name may be a link, which leads to where it stands in the container.
    """
    try:
        return os.path.lexists(folder / where) or any(folder.glob(where))
    except OSError:
        return False


def near(folder: Path, where: str) -> list[str]:
    """Folders that have it, which may be meant in place of `folder`: nearest first, at most three."""
    return list(islice(dict.fromkeys(str(p) for p in _near(folder, where)), 3))


def _near(folder: Path, where: str) -> Iterator[Path]:
    if (plan := _plan(folder)) and has(told := Path(plan.output.replace(RUN_DIR, str(folder))), where):
        yield told  # it is a run directory
    yield from (p for p in list(folder.parents)[:DEPTH] if has(p, where))  # it is in a checkpoint
    yield from (p for p in islice(_below(folder, DEPTH), LOOKED_AT) if has(p, where))
    beside = {p.name: p for p in islice(_folders(folder.parent), LOOKED_AT) if has(p, where)}
    yield from (beside[name] for name in get_close_matches(folder.name, beside, n=3))


def _folders(folder: Path) -> Iterator[Path]:
    """The folders in a folder, by name; none where it cannot be looked into."""
    with contextlib.suppress(OSError):
        yield from sorted(Path(e.path) for e in os.scandir(folder) if e.is_dir(follow_symlinks=False))


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """Level by level."""
    level = [folder]
    for _ in range(depth):
        level = [p for above in level for p in _folders(above)]
        yield from level
