"""What a launch needs in a cache of converted models: planned and made first, by one run, however many need it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from launcher import engines
from launcher.catalog import cache_location, definitions
from launcher.catalog.cache_location import Converted
from launcher.core.plan import Plan
from launcher.engines import slurmjobs
from launcher.planning import preparation
from launcher.planning.preparation import Options
from launcher.planning.run_files import Prepared
from launcher.records import store
from launcher.records.leases import Taken
from launcher.records.run_directory import Run
from launcher.runs import lifecycle
from slipway.console import say
from slipway.project import Root

POLL = 0.5  # seconds between two looks at a run of another launcher


def folder(plan: Plan, need: Converted) -> Path:
    """Where it is on the host."""
    cache = next(m.source for m in plan.mounts if m.target == cache_location.TARGET)
    return Path(cache) / need.folder


def missing(plan: Plan) -> list[Converted]:
    """What the plan needs and is not there whole."""
    return [need for need in plan.needs if not store.marker(folder(plan, need))]


def prepare(root: Root, plan: Plan, need: Converted) -> Prepared:
    """The launch that makes it, on as many GPUs as share the model in training."""
    parts = need.parts if plan.shape.gpus else {}
    shared = parts.get("pipeline_parallel", 1) * max(parts.get("tensor_parallel", 1), parts.get("expert_parallel", 1))
    nodes = math.ceil(shared / plan.shape.gpus) if parts else 1
    words = [f"model={need.model}", f"output={folder(plan, need)}", *(f"{n}={size}" for n, size in parts.items())]
    ours = plan.gpus.ids[:shared] if plan.gpus else []
    asked = Options(
        step=need.by, words=tuple(words), profile=plan.profile.name, flavour=plan.flavour, nodes=nodes,
        gpus=shared // nodes if plan.shape.gpus else None, procs=shared // nodes, allow_drift=plan.allow_drift,
        gpu_ids=",".join(ours),
        release=plan.release if definitions.find_step(root, need.by).library == plan.library else None, makes=need,
    )  # fmt: skip
    return preparation.prepare(root, asked)


def ensure(root: Root, prepared: Prepared, start: Callable[[Prepared], Run | None]) -> list[str]:
    """Returns when all that the launch needs is there, or with the jobs that have to end before it may start.

    `start` submits a conversion, and returns it where it waits in a queue; else it stays with it to its end, and does
    not return where that fails. Raises SlipwayError 75 where another host makes it, or a run that cannot be seen.
    """
    jobs: list[str] = []
    for need in missing(prepared.plan):
        place = folder(prepared.plan, need)
        while not store.marker(place):
            run = _maker(place) or _started(root, prepared.plan, need, start)
            if run and not prepared.engine.ATTACHED and (job := slurmjobs.recorded_job(run.path)):
                jobs.append(job)
                break
            if run:
                _await(run, place)
    return jobs


def make(place: Path, start: Callable[[], Run | None]) -> None:
    """Returns when a folder is whole: `start` makes it, or a run that does so already. Raises as `ensure`."""
    while not store.marker(place):
        if run := _maker(place) or _unless_taken(start):
            _await(run, place)


def _unless_taken(start: Callable[[], Run | None]) -> Run | None:
    try:
        return start()
    except Taken:
        return None


def _started(root: Root, plan: Plan, need: Converted, start: Callable[[Prepared], Run | None]) -> Run | None:
    say(f"{need.input}: first {need.by}, into {folder(plan, need)}")
    return _unless_taken(lambda: start(prepare(root, plan, need)))


def _maker(place: Path) -> Run | None:
    """The living run that makes a folder; the lease of a dead one is given back."""
    found = store.holder(place)
    if found is None:
        return None
    run = Run(Path(found.directory))
    if lifecycle.lives(found, store.UNSEEN):
        return run
    say(f"run {run.id}, which was to make {place}, has ended without it")
    store.release(place, run.id)
    return None


def _await(run: Run, place: Path) -> None:
    """Returns when the run has ended, or is about to be known by its engine."""
    record = run.record()
    if record is None or not run.had_event("started"):
        time.sleep(POLL)
        return
    say(f"waiting for run {run.id}, which makes {place}")
    with engines.of_record(record) as engine:
        engine.wait(run)
    lifecycle.refresh(run)
