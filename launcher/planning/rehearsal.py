"""A launch that tries another one out: on this machine, in the cpu image of the same library, on a small model. Pure.

It is planned as every launch is (preparation.py), of a step that has other programs and nothing to go on from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from launcher.catalog.definitions import Step
from launcher.core.plan import LaunchSpec
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
    return msgspec.structs.replace(step, commands=step.rehearse.commands, why="", resume=None)


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
    for key in here.imposed:
        yield Difference(key, _said(run.config.at(key)), _said(here.config.at(key)))


def _base(spec: LaunchSpec) -> str:
    return str(spec.base.get("path", "step.yaml's"))


def _said(node: Node) -> str:
    value = resolver.plain(node)
    if isinstance(value, Mark):
        return UNKNOWN if value is resolver.UNKNOWN else UNSET
    return UNSET if value is None else yamldoc.flow(value)
