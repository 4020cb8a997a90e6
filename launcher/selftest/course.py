"""Which steps a selftest runs, in which order, with which words, and why it leaves some out. Pure."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from images.locking.model import Entry
from launcher.catalog import commands
from launcher.catalog.definitions import Step
from launcher.catalog.trials import Selftest
from launcher.core.plan import EngineInfo, ImageInfo
from launcher.selftest.materials import MATERIALS
from slipway import yamldoc
from slipway.errors import Exit, SlipwayError, nearest

TINY = "tiny"


@dataclass(frozen=True)
class Place:
    """Where the steps of a library run: its entry, what the engine has, its image there. `gpus`: that a run can have,
    None where nobody knows."""

    entry: Entry
    engine: EngineInfo
    image: ImageInfo
    gpus: int | None


@dataclass(frozen=True)
class Lesson:
    """A step in the entry that it is tested in. `inputs`: input -> material or step; `gpus`: None on the cpu flavour,
    where `procs` count; `why`: it is left out; `fits`: its library runs it in that entry at all."""

    step: str
    entry: Entry
    inputs: Mapping[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    gpus: int | None = None
    procs: int | None = None
    why: str = ""
    fits: bool = True

    @property
    def options(self) -> list[str]:
        """As somebody would type them."""
        shape = {"--gpus": self.gpus, "--procs": self.procs}
        counted = [word for name, number in shape.items() if number is not None for word in (name, str(number))]
        return ["--flavour", self.entry.flavour, "--release", self.entry.release, *counted, "-c", TINY]


def course(steps: Sequence[Step], places: Mapping[str, Place]) -> list[Lesson]:
    """The steps, each behind those whose outputs it takes. `places`: by library.

    Raises SlipwayError 78 for a `selftest:` that names what is not there.
    """
    known = {step.id: step for step in steps}
    for step in steps:
        _check(step, known)
    lessons = {step.id: _lesson(step, places[step.library]) for step in steps}
    needs = {name: sorted(lessons.keys() & set(lesson.inputs.values())) for name, lesson in sorted(lessons.items())}
    try:
        order = list(graphlib.TopologicalSorter(needs).static_order())
    except graphlib.CycleError as e:
        raise SlipwayError(Exit.CONFIG, f"selftest: in a circle: {' -> '.join(e.args[1])}") from e
    return sorted((lessons[name] for name in order), key=lambda lesson: lesson.entry.library)  # and the order stays


def _lesson(step: Step, place: Place) -> Lesson:
    entry = place.entry
    lesson = Lesson(step.id, entry)
    try:
        commands.choose_command(step, entry)
        commands.base_config(step, entry)
    except SlipwayError as e:
        return replace(lesson, why=e.what, fits=False)
    asked = step.selftest
    if asked is None:
        return replace(lesson, why="its step.yaml has no `selftest:`", fits=False)
    lesson = replace(lesson, inputs=asked.inputs, words=tuple(asked.words))
    if entry.flavour == "cpu":
        lesson = replace(lesson, procs=asked.procs if step.launcher == "torchrun" else None)
    else:
        lesson = replace(lesson, gpus=min(asked.gpus, step.shape.gpus))
    return replace(lesson, why=_no_image(step, place) or _no_gpus(lesson.gpus or 0, place))


def _no_image(step: Step, place: Place) -> str:
    """Why there is no image to run it in; what a launch would refuse."""
    image, engine = place.image, place.engine
    if engine.error:
        return engine.error
    if image.missing or not image.id:
        return f"no image: {image.missing or 'it has not been built'}; {image.remedy or place.entry.build_command}"
    if left_out := sorted(set(image.left_out) & set(step.repositories)):
        return f"its image was built without {', '.join(left_out)}"
    return "".join(f"its image has {other} in place of {pinned}" for pinned, other in list(image.drift.items())[:1])


def _no_gpus(wanted: int, place: Place) -> str:
    there = place.gpus
    if there is None or wanted <= there:
        return ""
    return f"takes {wanted} GPU{'s' if wanted > 1 else ''}, and a run can have {there or 'none'}"


def _check(step: Step, known: Mapping[str, Step]) -> None:
    """Raises SlipwayError 78."""
    asked = step.selftest or Selftest()
    for name, value in asked.inputs.items():
        if name not in step.inputs:
            raise _wrong(step, name, f"{step.id} has no input {name!r}", nearest(name, step.inputs))
        other = known.get(value)
        if other is None and value not in MATERIALS:
            raise _wrong(step, name, f"unknown input {value!r}", nearest(value, [*MATERIALS, *known]))
        if other and other.library != step.library:
            what = f"{value} runs in {other.library}'s image, which may not be there"
            raise _wrong(step, name, what, f"name a step of {step.library}, or one of: {', '.join(MATERIALS)}")
        gives = other.output.type if other else MATERIALS[value][0]
        if gives not in step.inputs[name].types:
            what = f"{value} is {gives}, expected {' or '.join(step.inputs[name].types)}"
            raise _wrong(step, name, what, "")


def _wrong(step: Step, name: str, what: str, remedy: str) -> SlipwayError:
    file = Path(step.folder) / "step.yaml"
    at = yamldoc.line_of(file, "selftest", "inputs", name)
    return SlipwayError(Exit.CONFIG, f"selftest.inputs.{name}: {what}", where=f"{file}:{at}", remedy=remedy)
