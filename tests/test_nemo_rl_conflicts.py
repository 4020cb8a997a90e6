"""The tables of what NeMo RL refuses (launcher/steps/rl/nemo_rl/conflicts): each row by its own example.

NEMO_RL_SOURCE names a git repository of NeMo RL with its tags; then the library's own check is tried on the configuration
of each example, at each release. docs/nemo-rl-conflicts.md is made of the tables:
SLIPWAY_ACCEPT=1 pytest tests/test_nemo_rl_conflicts.py
"""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import pytest
from helpers import REPO, Done, Project, SpecOf
from library_checks import Anything, Settings, find
from rl import RELEASES, ROOT, STEPS, Launch, launch, model, usual
from test_golden import compare
from test_presets import loaded

from images.building.identity import BaseFile
from images.locking import lock as locks
from launcher.artifacts.detection import Artifact
from launcher.catalog import commands, conflicts, definitions
from launcher.catalog.conflicts import Condition, Conflict
from launcher.planning.checks import config_values, nemo_rl
from slipway import resolver
from slipway.resolver import Mark

SOURCE = os.environ.get("NEMO_RL_SOURCE", "")
TABLES = sorted((REPO / "launcher/steps/rl/nemo_rl/conflicts").glob("*.yaml"))


def rows() -> dict[str, Conflict]:
    """Every row, as the step of its example has it."""
    found: dict[str, Conflict] = {}
    for name in STEPS:
        step = definitions.find_step(ROOT, f"rl/nemo_rl/{name}")
        for key, row in conflicts.table(ROOT, step).items():
            if row.example.step == f"rl/{name}" and ", " not in key:
                found[key] = row
    return found


ROWS = rows()


def holds(row: Conflict, release: str) -> bool:
    step = definitions.find_step(ROOT, row.example.step)
    return commands.fits(step, row.when, locks.load_lock(ROOT).entries[f"nemo-rl/{release}-cuda"])


CASES = [(name, release) for name, row in ROWS.items() for release in RELEASES if holds(row, release)]
SAID = {(row.what, release) for name, release in CASES for row in [ROWS[name]]}
OTHERS = [(n, r) for n, row in ROWS.items() for r in RELEASES if (row.what, r) not in SAID]


def example(spec_of: SpecOf, row: Conflict, release: str, passes: bool = False, **changes: Any) -> Launch:
    """The launch of a row's example, or of its neighbour that passes."""
    said, words = row.example, row.example.words
    if passes and said.passes is None:
        said = msgspec.structs.replace(said, without=[], model="", gpus=8)
    elif passes:
        words = said.passes or []
    step = said.step.removeprefix("rl/")
    given = [described(a, said.model) for a in usual(step) if a.name not in said.without]
    env = {} if passes else dict(e.split("=", 1) for e in said.env)
    return launch(spec_of, step, release, given, *words, **({"gpus": said.gpus, "procs": said.gpus, "env": env} | changes))


def described(artifact: Artifact, architecture: str) -> Artifact:
    if artifact.type != "checkpoint_hf" or not architecture:
        return artifact
    experts: dict[str, str | int] = {"experts": 8} if "Moe" in architecture else {}
    return msgspec.structs.replace(artifact, facts=artifact.facts | {"architecture": architecture} | experts)


def of(planned: Launch, row: Conflict) -> list[Any]:
    return [f for f in planned.findings if f"refuses it: {row.what}" in f.what]


@pytest.mark.parametrize(("name", "release"), CASES)
def test_the_example_is_refused_and_its_neighbour_passes(spec_of: SpecOf, name: str, release: str) -> None:
    row = ROWS[name]
    (found,) = of(example(spec_of, row, release), row)
    assert (found.severity, found.remedy) == (row.severity, row.remedy)
    assert found.code == (0 if row.severity == "warning" else found.code) and found.code in (0, 64, 78)
    passed = example(spec_of, row, release, passes=True)
    assert [f for f in passed.findings if f.severity == "error"] == []
    assert of(passed, row) == []


@pytest.mark.parametrize(("name", "release"), OTHERS)
def test_a_release_without_the_check_does_not_refuse(spec_of: SpecOf, name: str, release: str) -> None:
    assert of(example(spec_of, ROWS[name], release), ROWS[name]) == []
