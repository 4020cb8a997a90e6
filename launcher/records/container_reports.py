"""What a container told of its run, in the run directory's container/: typed, or said to be damaged.

The entrypoint writes `N/status.json`, `N/versions.json` and `failed`, the step program `config.yaml` and `result.json`,
NCCL `nccl.HOST.PID`.
Nobody has checked any of it: whatever runs in the container can write there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from slipway import fabric, inbox
from slipway.errors import SlipwayError
from slipway.inbox import Damaged

T = TypeVar("T")
ExitCode = Annotated[int, msgspec.Meta(ge=0, le=255)]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what a container writes: what the launcher reads of it is typed, what else is there passes."""


class NodeStatus(Report, frozen=True, kw_only=True):
    """N/status.json: how a node ended. `step_started`: in none that was written by earlier entrypoints."""

    exit_code: ExitCode
    cause: str = ""
    reason: str = ""
    started: str = ""
    step_started: str | None = None
    finished: str = ""
    machine: str = ""


class Versions(Report, frozen=True, kw_only=True):
    """N/versions.json, as far as it is about the machine: what its driver calls the run's GPUs, and its version."""

    gpu_names: list[str] = []
    driver: str = ""


class Result(Report, frozen=True, kw_only=True):
    """result.json. `not_finite`: dotted key -> NaN, Infinity or -Infinity, of numbers that are null therefore."""

    type: str | None = None
    checkpoint: str | None = None
    path: str | None = None
    steps: int | None = None
    total_steps: int | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    not_finite: dict[str, str] = {}

    def loss(self) -> str:
        """How the loss went; empty where no step was trained: stopped early, or resumed when nothing was left to do."""
        first, last = self.number("first_loss"), self.number("last_loss")
        steps = "?" if self.steps is None else self.steps
        return f"{first} -> {last} in {steps} steps" if last else ""

    def number(self, key: str) -> str:
        """A loss for people; empty where it is not known."""
        value = getattr(self, key)
        return self.not_finite.get(key, "") if value is None else f"{value:.3f}"


@dataclass(frozen=True)
class Reports:
    """All that a container told. `status`: of the node that failed first; `damaged`: FILE: what is wrong with it.

    `began`: whether an entrypoint has run on any node: the first thing it does is to make its folder. `network`: what
    NCCL says it uses, of the hosts where it has said it.
    """

    status: NodeStatus | None
    result: dict[str, Any]
    versions: dict[str, Any]
    config: str
    damaged: list[str]
    began: bool = True
    network: dict[str, list[str]] = field(default_factory=dict)


def read(folder: Path) -> Reports:
    """The reports in a run directory; what cannot be read is told, and hides nothing else."""
    damaged: list[str] = []

    def look(get: Callable[[], T | None], otherwise: T) -> T:
        try:
            found = get()
        except SlipwayError as e:
            damaged.append(f"{e.where.removeprefix(f'{folder}/')}: {e.what}")
            return otherwise
        return otherwise if found is None else found

    rank = look(lambda: first_to_fail(folder), 0)
    return Reports(
        status=look(lambda: node_status(folder, rank), None),
        result=look(lambda: _result(folder), {}),
        versions=look(lambda: inbox.read_json(folder, "container/0/versions.json", dict), {}),
        config=look(lambda: inbox.read_text(folder, "container/config.yaml"), ""),
        damaged=damaged,
        began=began(folder),
        network=look(lambda: _network(folder), {}),
    )


def _network(folder: Path) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for path in sorted(folder.glob("container/nccl.*"))[: fabric.MOST]:
        if (name := fabric.host(path.name)) and (file := inbox.opened(folder, f"container/{path.name}")):
            with file:
                lines = file.read(fabric.LIMIT).decode(errors="replace").splitlines()
            found.setdefault(name, set()).update(fabric.transports(lines))
    return {name: sorted(used) for name, used in found.items() if used}


def began(folder: Path) -> bool:
    """Whether an entrypoint has begun on any node, of this attempt."""
    return any(path.is_dir() and not path.is_symlink() for path in folder.glob("container/[0-9]*/ranks"))


def first_to_fail(folder: Path) -> int:
    """The rank of the node that failed first by itself, of `failed` (CODE RANK NAME); 0 where none did."""
    words = (inbox.read_text(folder, "container/failed", 4096) or "0 0").split()
    if len(words) < 2 or not re.fullmatch("[0-9]{1,6}", words[1]):
        raise Damaged("names no rank", folder / "container" / "failed")
    return int(words[1])


def node_status(folder: Path, rank: int) -> NodeStatus | None:
    """How a node ended; None where its entrypoint did not come to its end. Raises Damaged."""
    return inbox.read_json(folder, f"container/{rank}/status.json", NodeStatus)


def machine(folder: Path) -> tuple[str, str]:
    """The first node: its GPUs, as `8 x NVIDIA H200`, or its processor; and its driver, empty without GPUs.

    Raises Damaged.
    """
    told = inbox.read_json(folder, "container/0/versions.json", Versions) or Versions()
    status = node_status(folder, 0) or NodeStatus(exit_code=0)
    kinds = {name: told.gpu_names.count(name) for name in told.gpu_names}
    gpus = ", ".join(f"{count} x {name}" for name, count in kinds.items())
    return gpus or status.machine or "unknown", told.driver if gpus else ""


def _result(folder: Path) -> dict[str, Any] | None:
    found: dict[str, Any] | None = inbox.read_json(folder, "container/result.json", dict)
    if found is not None:
        inbox.convert(found, Result, folder / "container" / "result.json")
    return found
