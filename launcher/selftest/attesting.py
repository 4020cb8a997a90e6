"""What a selftest writes of each entry whose steps have run: an attestation, of the records of the runs."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from images.locking.attestation import Attestation, Result, StepTested
from launcher.records import container_reports
from launcher.records.run_directory import Record, Run
from launcher.selftest.course import Lesson
from slipway import __version__
from slipway.files import write_atomic


@dataclass(frozen=True)
class Row:
    """How a lesson went. `run`: the run that it was, with its record; none of what was skipped, or refused. `told`: the
    lines that explain why a run failed. `stopped`: by its user, who wants no more of it.
    """

    lesson: Lesson
    result: Result | Literal["stopped"]
    why: str = ""
    exit_code: int = 0
    run: Run | None = None
    record: Record | None = None
    told: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """From the container's start to its end, where both are told."""
        outcome = self.record.outcome if self.record else None
        try:
            times = (outcome.started, outcome.finished) if outcome else ("", "")
            begin, end = map(datetime.datetime.fromisoformat, times)
            return round((end - begin).total_seconds(), 1)
        except (ValueError, TypeError):  # no times, or one with and one without a zone
            return None

    @property
    def tested(self) -> StepTested:
        return StepTested(
            result="failed" if self.result == "stopped" else self.result,
            run=self.run.id if self.run else "",
            seconds=self.seconds,
            exit_code=self.exit_code,
            why=self.why,
        )


def attestations(rows: Sequence[Row], ours: Collection[str], folder: Path) -> Iterator[tuple[Path, Attestation]]:
    """Where each goes, and what it says: one of every entry in which a step has run.

    `ours`: the project's own steps; those of users are no matter of its lock.
    """
    entries = {row.lesson.entry.name: row.lesson.entry for row in rows}
    for name, entry in sorted(entries.items()):
        of = [row for row in rows if row.lesson.entry.name == name and row.lesson.fits and row.lesson.step in ours]
        if not (ran := [(row.run, row.record) for row in of if row.run and row.record and row.record.outcome]):
            continue
        run, last = max(ran, key=lambda pair: pair[1].submitted)
        assert last.outcome is not None
        hardware, driver = container_reports.machine(run.path)
        found = Attestation(
            schema=1, name=name, entry=entry.checksum, image=last.plan.image, hardware=hardware,
            driver=driver, engine=last.engine.kind, date=last.outcome.finished or last.submitted,
            slipway=__version__, commit=last.asked.commit if last.asked else "",
            steps={row.lesson.step: row.tested for row in sorted(of, key=lambda row: row.lesson.step)},
        )  # fmt: skip
        yield folder / f"{name.replace('/', '-')}.json", found


def write(path: Path, found: Attestation) -> None:
    """Whole or not at all. Raises SlipwayError 73."""
    write_atomic(path, found.text)
