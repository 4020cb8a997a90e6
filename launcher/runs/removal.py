"""`launch rm` and `launch prune`: run directories of ended runs go, and what others need of them stays."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from launcher.core.plan import RUN_DIR
from launcher.records import outputs, run_secrets
from launcher.records.container_reports import Report
from launcher.records.run_directory import RECORD_LIMIT, Record, Run
from launcher.runs import lifecycle
from slipway import inbox
from slipway.errors import Exit, SlipwayError
from slipway.files import cannot_write, own_folder

ASIDE = ".removing"  # beside the runs: what is being removed, so that a killed command leaves no half of a run


class _Input(Report, frozen=True, kw_only=True):
    path: str


class _Plan(Report, frozen=True, kw_only=True):
    inputs: dict[str, _Input]
    output: str
    resume: bool


class _Uses(Report, frozen=True, kw_only=True):
    """What a record says of the folders that its run needs."""

    plan: _Plan


@dataclass(frozen=True)
class Removal:
    """What of a run is to go. `output`: its own, where that is elsewhere and goes, too; `bytes`: of all."""

    run: Run
    state: str
    record: Record | None
    output: Path | None
    bytes: int


class Users:
    """Which runs need what of others: an input that lies in a run, or in its output; an output that they went on in."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._needed = [(run, path) for run in runs for path in _needed(run)]

    def of(self, run: Run, output: Path, going: Sequence[Run] = ()) -> Run | None:
        """One that needs something of `run`, and does not go itself."""
        place, made = (Path(os.path.realpath(path)) for path in (run.path, output))
        gone = {other.path for other in (run, *going)}
        for other, path in self._needed:
            before = path == made and other.id < run.id  # it went on there, or trained from it, before `run` did
            if other.path not in gone and not before and (path.is_relative_to(place) or path.is_relative_to(made)):
                return other
        return None


def _needed(run: Run) -> Iterator[Path]:
    with contextlib.suppress(SlipwayError, msgspec.DecodeError, RecursionError):
        data = inbox.read(run.path, "record.json", RECORD_LIMIT)
        plan = msgspec.json.decode(data or b"", type=_Uses).plan
        paths = [used.path for used in plan.inputs.values()] + [plan.output] * plan.resume
        yield from (Path(os.path.realpath(path)) for path in paths if path.startswith("/"))


def choose(
    runs: Sequence[Run], all_: Sequence[Run], checkpoints: bool, force: bool
) -> tuple[list[Removal], list[SlipwayError]]:
    """What would be removed of `runs`, and why others of them stay. `all_`: runs that may need some of these."""
    users, kept = Users(all_), list[SlipwayError]()
    while True:  # what stays may need what was to go
        going, stay = list[Removal](), list[SlipwayError]()
        for run in runs:
            try:
                going.append(_planned(run, users, runs, checkpoints, force))
            except SlipwayError as e:
                stay.append(e)
        kept, runs = [*kept, *stay], [removal.run for removal in going]
        if not stay:
            return going, kept


def _planned(run: Run, users: Users, going: Sequence[Run], checkpoints: bool, force: bool) -> Removal:
    """Raises SlipwayError 75 where the run goes on, 77 where it is another user's, 73 where it has to stay: another run
    needs it, or there is an output in it that nobody has said is to go."""
    if not run.ours:
        what = "it is another user's run: only that user can remove it"
        raise SlipwayError(Exit.NOT_PERMITTED, what, where=str(run.path))
    record, state = _ended(run)
    output = Path(record.plan.output.replace(RUN_DIR, str(run.path))) if record else run.path / "output"
    user = users.of(run, output, going)
    if user and not force:
        what = f"run {user.id} has gone on from it, or is made of it"
        raise SlipwayError(Exit.CANNOT_WRITE, what, where=run.id, remedy="--force removes it all the same")
    inside = output.is_relative_to(run.path)
    if inside and not checkpoints and output.is_dir() and not outputs.is_empty(output):
        what = f"its output is in its directory ({_size(output) / 2**20:,.1f} MiB)"
        raise SlipwayError(Exit.CANNOT_WRITE, what, where=run.id, remedy="--checkpoints removes that, too")
    goes = output if checkpoints and record and not inside and _made_by(output, run) else None
    return Removal(run, state, record, goes, _size(run.path) + (_size(goes) if goes else 0))


def _ended(run: Run) -> tuple[Record | None, str]:
    """Of a run that has come to its end, and of one whose launcher came to nothing."""
    record, state = lifecycle.refresh(run)
    over = run.had_event("ended") if record and record.outcome else record is None and state == "never submitted"
    if not over:
        remedy = f"end it first: launch cancel {run.id}"
        raise SlipwayError(Exit.TRY_AGAIN, f"has not ended: {state}", where=run.id, remedy=remedy)
    return record, state


def _made_by(output: Path, run: Run) -> bool:
    """Whether an output is signed as made by this very run alone."""
    with contextlib.suppress(SlipwayError):
        found = outputs.origin(output)
        return found is not None and (found.run, found.directory) == (run.id, str(run.path))
    return False


def _size(folder: Path) -> int:
    """Bytes of all files below, links not followed."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118 - there may be many
    return total


def remove(removal: Removal) -> None:
    """Removes it, under the run's lock. Raises SlipwayError 75 where somebody is at it, 73 where something stays."""
    run = removal.run
    with run.lock() as mine:
        if not mine:
            raise SlipwayError(Exit.TRY_AGAIN, "another command looks after it", where=run.id)
        if removal.record:
            run_secrets.remove(removal.record.plan, run)
        aside = run.path.parent / f"{ASIDE}-{os.geteuid()}"
        own_folder(aside)
        with cannot_write(run.path):
            if removal.output:
                shutil.rmtree(removal.output)
            run.path.rename(aside / run.id)
    clear(run.path.parent)


def clear(runs: Path) -> None:
    """Removes what was set aside, also by a command that was killed."""
    aside = runs / f"{ASIDE}-{os.geteuid()}"
    if aside.is_dir() and not aside.is_symlink():
        with cannot_write(aside):
            shutil.rmtree(aside)
