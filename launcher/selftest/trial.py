"""One lesson of a selftest, run: an ordinary launch, whose output has to be what its step promises."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from images.locking import lock as locks
from images.locking.model import Flavour
from launcher import engines
from launcher.artifacts import detection
from launcher.catalog import definitions, profiles
from launcher.core import gpus
from launcher.planning import preparation, probe
from launcher.planning.checks import preflight
from launcher.planning.probe import Looks
from launcher.prerequisites import requirements
from launcher.records import labels
from launcher.records.outcome import End
from launcher.records.run_directory import Record, Run
from launcher.runs import explaining, foreground, lifecycle, waiting
from launcher.selftest import course, materials
from launcher.selftest.attesting import Row
from launcher.selftest.course import Lesson, Place
from slipway.errors import Exit, SlipwayError
from slipway.files import cannot_write, own_folder
from slipway.project import Root

TAG = "selftest"  # of its runs
_STOPPED = frozenset({End.STOPPED, End.CANCELLED, End.KILLED})


@dataclasses.dataclass(frozen=True)
class Site:
    """Where a selftest runs. `materials`: the folder of its inputs; it may not be there yet."""

    root: Root
    profile: profiles.Profile
    runs: Path
    looks: Looks
    argv: tuple[str, ...] = ()

    @property
    def materials(self) -> Path:
        return self.runs / f".selftest-{os.geteuid()}" / materials.folder_name()


def lessons(site: Site, library: str | None, flavour: Flavour | None, release: str | None) -> list[Lesson]:
    """The course at this site. Raises SlipwayError 64 for a library or release that is not there."""
    steps = [s for s in definitions.all_steps(site.root) if library in (None, s.library)]
    lock = locks.load_lock(site.root)
    found = probe.engine(site.root, site.profile, site.looks)
    chosen = preparation.flavour_of(flavour, site.profile.flavour, found.gpus)[0]
    places = {}
    for name in sorted({step.library for step in steps} | ({library} if library else set())):
        entry = lock.on(found.platform, locks.select(lock, name, chosen, release))
        image = engines.of(site.profile.kind).find_image(site.root, entry, site.profile, found)
        there = found.gpus if found.gpus is not None else getattr(site.profile, "gpus", None)
        places[name] = Place(entry, found, image, there)
    return course.course(steps, places)


def words(site: Site, lesson: Lesson, made: Mapping[str, str]) -> tuple[str, ...]:
    """Behind the step. `made`: step -> what stands for its output."""
    inputs = {
        name: made[of] if of in made else str(site.materials / materials.MATERIALS[of][1])
        for name, of in lesson.inputs.items()
    }
    return (*(f"{name}={path}" for name, path in inputs.items()), *lesson.words)


def lay_out(site: Site) -> None:
    """Makes the inputs, where nobody has made them before. Raises SlipwayError 73 or 77."""
    folder = site.materials
    if folder.is_dir():
        return
    with cannot_write(folder):
        folder.parents[1].mkdir(parents=True, exist_ok=True)
        own_folder(folder.parent)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
        try:
            materials.write(part)
            part.rename(folder)
        except OSError:
            shutil.rmtree(part)
            if not folder.is_dir():  # else another selftest was faster
                raise


def run(site: Site, lesson: Lesson, given: tuple[str, ...]) -> Row:
    """Runs it to its end. What refuses or fails it is in the row, and ends nothing else."""
    options = preparation.Options(
        step=lesson.step, words=given, profile=site.profile.name, release=lesson.entry.release,
        flavour=lesson.entry.flavour, overlays=(course.TINY,), gpus=lesson.gpus, procs=lesson.procs,
        runs_dir=str(site.runs), argv=site.argv,
    )  # fmt: skip
    try:
        while True:
            site.looks.waited()  # the run before has given its GPUs back
            prepared = preparation.prepare(site.root, options, site.looks)
            if error := preflight.first_error(prepared.findings):
                return Row(lesson, "failed", why=str(error).removeprefix("error: "), exit_code=error.code)
            if needs := requirements.missing(prepared.plan):
                why = (
                    f"{needs[0].input} has to be made first by {needs[0].by}: name a step that makes it, in `selftest:`"
                )
                return Row(lesson, "failed", why=why, exit_code=Exit.CONFIG)
            try:
                return _ended(lesson, *_through(prepared))
            except gpus.Taken:
                continue
    except SlipwayError as e:
        return Row(lesson, "failed", why=str(e), exit_code=e.code)


def _through(prepared: Any) -> tuple[Run, Record]:
    """Submits it, and waits for its end. Its log is the run's alone."""
    labelled = dataclasses.replace(prepared, labels=labels.said("", [TAG]))
    if prepared.engine.ATTACHED:
        return foreground.run(labelled, lambda _: None)
    with lifecycle.submitted(labelled) as (submitted, _):
        pass
    return submitted, waiting.await_end(submitted)


def _ended(lesson: Lesson, ended: Run, record: Record) -> Row:
    """What became of a run; one that has ended well has made what its step promises."""
    outcome = record.outcome
    assert outcome is not None  # it was collected
    if outcome.exit_code:
        told = tuple(explaining.summary(ended, record))
        failed = Row(lesson, "failed", outcome.reason, outcome.exit_code, ended, record, told)
        return dataclasses.replace(failed, result="stopped") if outcome.end in _STOPPED else failed
    found = detection.inspect("output", Path(outcome.checkpoint)) if outcome.checkpoint else None
    promised = record.plan.output_type
    if found is None or found.type != promised or found.faults:
        has = "no output was reported" if found is None else f"its output is {found.type or found.note or 'nothing'}"
        faults = "".join(f"; {fault.where}: {fault.what}" for fault in (found.faults if found else [])[:1])
        why = f"it ended with 0, and {has}, expected {promised}{faults}"
        return Row(lesson, "failed", why, Exit.DATA, ended, record)
    return Row(lesson, "ok", "", 0, ended, record)
