"""A launch that tries another one out: on this machine, in the cpu image of the same library, on a small model. Pure.

It is planned as every launch is (preparation.py), of a step that has other programs and nothing to go on from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from launcher.catalog.definitions import Step
from launcher.core.plan import LaunchSpec, Plan
from launcher.core.requirement import Requirement
from slipway import resolver, yamldoc
from slipway.errors import Exit, SlipwayError
from slipway.resolver import Mark, Node

UNKNOWN, UNSET = "not known", "not set"


class Difference(NamedTuple):
    """What is not in the rehearsal as it is in the run that is rehearsed."""

    what: str
    run: str
    rehearsal: str


def rehearsed(step: Step) -> Step:
    """The step as it is rehearsed. Raises SlipwayError 64 where it says of no way to."""
    if step.rehearse is None:
        remedy = "launch check says what the launcher's own rules find"
        raise SlipwayError(Exit.WORDS, f"{step.id} cannot be rehearsed: its step.yaml has no rehearse:", remedy=remedy)
    more = step.rehearse.takes
    inputs = {n: msgspec.structs.replace(i, types=[*i.types, *more.get(n, [])]) for n, i in step.inputs.items()}
    launcher = step.rehearse.launcher or step.launcher
    changed = {"commands": step.rehearse.commands, "launcher": launcher, "inputs": inputs}
    return msgspec.structs.replace(step, why="", resume=None, **changed)


def imposed(step: Step, flavour: str) -> dict[str, Any]:
    """Configuration keys that a rehearsal sets, whoever else sets them. `flavour`: of the run."""
    assert step.rehearse is not None  # rehearsed() has looked
    told = {step.rehearse.flavour: flavour} if step.rehearse.flavour else {}
    return {**step.rehearse.set, **told}


def unconverted(step: Step, words: Sequence[str], needs: Iterable[Requirement], made: Collection[str]) -> list[str]:
    """The words of a rehearsal, where the run gets what other steps make of its inputs (`--convert`).

    What the rehearsal takes as it is stays; of what was made before it takes that (`made`: places). Raises SlipwayError
    66 for what it can do nothing with.
    """
    assert step.rehearse is not None  # rehearsed() has looked
    taken = list(words)
    for need in needs:
        if need.input in step.rehearse.takes:
            continue
        if need.place not in made:
            what = f"{need.by} makes it first, which a rehearsal does not do"
            remedy = f"launch {need.by} {' '.join(need.words)}, and name what it has made; then rehearse"
            raise SlipwayError(Exit.NO_INPUT, what, where=f"--convert {need.input}", remedy=remedy)
        taken = [f"{need.input}={need.place}" if w.startswith(f"{need.input}=") else w for w in taken]
    return taken


def weights(run: Plan, models: Mapping[str, str]) -> list[Difference]:
    """The small models of a rehearsal (input -> what it is) beside what the run starts from."""
    made = {need.input: f"what {need.by} makes of {need.source}" for need in run.needs}
    given = {name: artifact.path for name, artifact in run.inputs.items()} | made
    what = {name: f"weights of {name}" if len(models) > 1 else "weights" for name in models}
    return [Difference(what[name], given.get(name, "as configured"), model) for name, model in models.items()]


def differences(run: LaunchSpec, here: LaunchSpec) -> list[Difference]:
    """What a rehearsal cannot show, since it is another way there. `here`: the rehearsal's own.

    What it leaves out, and nobody is known to set, is none.
    """
    return [d for d in _compared(run, here) if d.run != d.rehearsal and (d.run, d.rehearsal) != (UNKNOWN, UNSET)]


def _compared(run: LaunchSpec, here: LaunchSpec) -> Iterator[Difference]:
    yield Difference("image", run.entry.name, here.entry.name)
    yield Difference("base configuration", _base(run), _base(here))
    yield Difference("nodes", str(run.nodes), str(here.nodes))
    yield Difference("processes of a node", str(run.procs), str(here.procs))
    yield Difference("code", ", ".join(sorted(run.code)) or "the image's", "the image's")
    for key in here.step.rehearse.set if here.step.rehearse else ():
        yield Difference(key, _said(run.config.at(key)), _said(here.config.at(key)))


def _base(spec: LaunchSpec) -> str:
    return str(spec.base.get("path", "step.yaml's"))


def _said(node: Node) -> str:
    value = resolver.plain(node)
    if isinstance(value, Mark):
        return UNKNOWN if value is resolver.UNKNOWN else UNSET
    return UNSET if value is None else yamldoc.flow(value)
