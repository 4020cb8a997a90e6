"""What a launch needs that a step has to make first: looked for, and made once, however many need it.

There are two kinds, and one way: models in a cache of the library's own, which the plan knows of by itself, and inputs
of another type than the step takes, which `--convert` lets a step make. Each is made by a launch of its own, under its
run's lease, and is whole once it has its marker (records/store.py).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from launcher import engines
from launcher.artifacts import detection, marker
from launcher.artifacts.datasets import USUAL
from launcher.artifacts.detection import Artifact
from launcher.catalog import definitions
from launcher.catalog.definitions import Step
from launcher.core.plan import Plan
from launcher.core.requirement import Requirement
from launcher.engines import slurmjobs
from launcher.planning import preparation
from launcher.planning.checks import parallelism
from launcher.planning.preparation import Options
from launcher.planning.probe import Looks
from launcher.planning.run_files import Prepared
from launcher.records import store
from launcher.records.leases import Taken
from launcher.records.run_directory import Run
from launcher.runs import lifecycle
from slipway import canonical
from slipway.console import say
from slipway.errors import Exit, SlipwayError
from slipway.files import cannot_write, check_own, make_folders, own_folder
from slipway.project import Root

POLL = 0.5  # seconds between two looks at a run of another launcher
FOLDER = ".converted"  # in the folder of all runs; it has to be one's own, since what lies in there is taken for made
# Of a model, what a conversion leaves as it is.
OWN = {"dtype": "", "per_token_loss": False}  # sizes that a conversion does not take over

Start = Callable[[Prepared], Run | None]


def converted(root: Root, options: Options, prepared: Prepared, looks: Looks) -> Options:
    """The launch with what `--convert` lets steps make in place of what was given.

    Raises SlipwayError 64 where a converting step needs what is not given.
    """
    assert prepared.spec is not None  # it was planned here
    asked = prepared.spec.step.inputs
    wrong = [a for name, a in prepared.plan.inputs.items() if a.type and a.type not in asked[name].types]
    steps = definitions.all_steps(root) if wrong else []
    needs = {}
    for artifact in wrong:
        pair = parallelism.converting(steps, artifact, asked[artifact.name].types)
        if pair and parallelism.says_all(pair[0]):
            needs[artifact.name] = _conversion(root, options, prepared, artifact, *pair, looks)
    return dataclasses.replace(options, needs=needs)


def _conversion(
    root: Root, options: Options, prepared: Prepared, of: Artifact, step: Step, first: str, looks: Looks
) -> tuple[Requirement, Artifact]:
    words = _words(step, first, of.name, prepared.plan)
    asked = Options(
        step=step.id, words=words, profile=options.profile, flavour=options.flavour, runs_dir=options.runs_dir,
        release=_release(step, prepared.plan), allow_drift=options.allow_drift,
        gpu_ids=",".join((options.gpu_ids or "").split(",")[: step.shape.gpus]),
        gpus=0 if options.gpus == 0 else None,  # else as many as that step asks for
    )  # fmt: skip
    plan = preparation.prepare(root, asked, looks).plan
    key, folder = _key(plan), prepared.runs / FOLDER
    check_own(folder)
    need = Requirement(
        input=of.name, type=step.output.type, source=of.path, fingerprint=of.fingerprint, by=step.id,
        place=str(folder / marker.name_of(key)), words=list(words), nodes=plan.shape.nodes, gpus=plan.shape.gpus,
        procs=plan.shape.procs, key=key,
    )  # fmt: skip
    return need, _made(need, plan, looks)


def _release(step: Step, plan: Plan) -> str | None:
    return plan.release if step.library == plan.library else None


def _words(step: Step, first: str, name: str, plan: Plan) -> tuple[str, ...]:
    """The converting step's inputs: what is converted, and what else it needs of the launch's own inputs."""
    inputs = plan.inputs
    words = [f"{first}={inputs[name].path}"]
    for other, wanted in step.inputs.items():
        if other == first or wanted.optional:
            continue
        fitting = [a.path for n, a in inputs.items() if n == other and a.type in wanted.types]
        fitting += [a.path for n, a in inputs.items() if n != name and a.type in wanted.types]
        if not fitting:
            what = f"{step.id} would make it, and has to be told {other}= ({wanted.help}), which this launch cannot say"
            remedy = f"run it first: launch {step.id} {first}={inputs[name].path} {other}=PATH output=NEW"
            raise SlipwayError(Exit.WORDS, what, where=f"--convert {name}", remedy=f"{remedy}; then say {name}=NEW")
        words.append(f"{other}={fitting[0]}")
    return tuple(words)


def _key(plan: Plan) -> str:
    """sha256 (hex) of what decides what a conversion makes; on which machine, and how many GPUs, does not."""
    steps = {name: sha for name, sha in plan.files.items() if name.startswith("steps/")}
    with_image = plan.image if plan.allow_drift else ""
    return canonical.sha256([plan.step, plan.entry, with_image, plan.code, plan.command, plan.config, steps])


def _made(need: Requirement, plan: Plan, looks: Looks) -> Artifact:
    """What was made; else what will be: of the sizes, and with the tokenizer, of the model that the step is given."""
    place = Path(need.place)
    if marker.read(place):
        found, _ = looks.once(lambda: (detection.inspect(need.input, place), None), need.place, "", str(USUAL))
        return msgspec.structs.replace(found, name=need.input)
    none = Artifact(name="", path=need.source, kind="missing")
    like = next((a for a in plan.inputs.values() if a.type == "checkpoint_hf"), none)
    packed = bool(like.weights.quantized)  # its files say how many numbers are stored, not how many weights there are
    return Artifact(
        name=need.input, path=need.place, kind="folder", type=need.type, fingerprint=need.key,
        expected=like.path, tokenizer=like.tokenizer, sizes=msgspec.structs.replace(like.sizes, **OWN),
        bytes=0 if packed else like.bytes, parameters=0 if packed else like.parameters,
    )  # fmt: skip


def missing(plan: Plan) -> list[Requirement]:
    """What the plan needs and is not there whole."""
    return [need for need in plan.needs if not marker.read(Path(need.place))]


def outdated(plan: Plan) -> bool:
    """Whether an input that was planned before it was there is there now, and can be looked at."""
    waited = {a.path for a in plan.inputs.values() if a.expected} & {need.place for need in plan.needs}
    return bool(waited - {need.place for need in missing(plan)})


def prepare(root: Root, prepared: Prepared, need: Requirement, looks: Looks | None = None) -> Prepared:
    """The launch that makes it, on GPUs of the launch that needs it where those are enough."""
    plan = prepared.plan
    ours = plan.gpus.ids if plan.gpus else []
    named = [word.partition("=") for word in need.words]
    before = {r.place: (r, plan.inputs[r.input]) for r in plan.needs if r.key}
    asked = Options(
        step=need.by, words=(*need.words, f"output={need.place}"), profile=plan.profile.name, flavour=plan.flavour,
        release=_release(definitions.find_step(root, need.by), plan), nodes=need.nodes, gpus=need.gpus,
        procs=need.procs, gpu_ids=",".join(ours[: need.gpus]) if len(ours) >= need.gpus else None,
        allow_drift=plan.allow_drift, runs_dir=str(prepared.runs), argv=prepared.argv, makes=need,
        needs={name: _as(name, *before[path]) for name, _, path in named if path in before},
        expected=_expected(plan, {name: path for name, _, path in named if path not in before}),
    )  # fmt: skip
    return preparation.prepare(root, asked, looks)


def _expected(plan: Plan, words: Mapping[str, str]) -> dict[str, Artifact]:
    """Inputs of the launch that needs it which another run has yet to make, as those of the one that makes it."""
    waited = {a.path: a for a in plan.inputs.values() if a.expected}
    return {name: msgspec.structs.replace(waited[path], name=name) for name, path in words.items() if path in waited}


def _as(name: str, need: Requirement, artifact: Artifact) -> tuple[Requirement, Artifact]:
    """What two runs need, as the input of the other one."""
    return msgspec.structs.replace(need, input=name), msgspec.structs.replace(artifact, name=name)


def ensure(root: Root, prepared: Prepared, start: Start, looks: Looks | None = None) -> list[str]:
    """Returns when all that the launch needs is there, or with the jobs that have to end before it may start.

    `start` submits what makes it, and returns the run where it waits in a queue; else it stays with it to its end, and
    does not return where that fails. Raises SlipwayError 75 where another host makes it, or a run that cannot be seen.
    """
    jobs: list[str] = []
    for need in missing(prepared.plan):
        place = Path(need.place)
        while not marker.read(place):
            run = _maker(place) or _started(root, prepared, need, start, looks)
            if run and not prepared.engine.ATTACHED and (job := slurmjobs.recorded_job(run.path)):
                jobs.append(job)
                break
            if run:
                _await(run, place)
    return list(dict.fromkeys(jobs))


def _started(root: Root, prepared: Prepared, need: Requirement, start: Start, looks: Looks | None) -> Run | None:
    say(f"{need.input}: first {need.by}, into {need.place}")
    first, place = prepare(root, prepared, need, looks), Path(need.place)
    if place.parent.name == FOLDER:
        with cannot_write(place):
            make_folders(place.parent.parent)
        own_folder(place.parent)
    try:
        return start(first)
    except Taken:
        return None


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
