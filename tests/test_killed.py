"""A launcher that is killed before any of its writes, or of its words to the engine: the next look tells the truth.

The engine is a stand-in that makes containers (standins/engine.py), so that each of some 150 moments takes a second;
tests/real/test_killed_launcher.py meets a real one at those that matter most.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import IMAGE, Engine, Inputs, Project, ask_engine

ENDS = {"done", "never started", "never submitted"}
PARTS = 4  # so that several processes share the moments
OURS = {".slipway-run", ".secrets"}  # hidden folders that stay


@pytest.fixture
def running(built: Engine) -> Engine:
    built.holds(images={IMAGE: IMAGE}, runs=0)
    return built


def hidden(folder: Path) -> list[str]:
    """What writers have left: their files begin with a dot until they are whole."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob(".*") if p.name not in OURS)


def shown(project: Project, run: str) -> str:
    """The state that `launch show` tells, which may have to collect the run first."""
    done = project.launch("show", run)
    assert done.code == 0, done
    return str(re.findall(r"^state +(.+)$", done.stdout, re.M)[0])


def others_agree(project: Project, run: str, state: str) -> None:
    """What every other command says of the run."""
    rows = [line for line in project.launch("runs").stdout.splitlines() if line.startswith(run)]
    assert len(rows) == 1 and (f" {state} " in rows[0] or rows[0].split()[1:] == state.split()), (rows, state)
    logs, cancelled = project.launch("logs", run), project.launch("cancel", run)
    if state == "never submitted":
        assert logs.code == cancelled.code == 66 and "never submitted" in logs.stderr + cancelled.stderr
    else:
        assert (logs.code, cancelled.code) == (0, 0) and f"run        {run}: {state}\n" in cancelled.stderr
        assert logs.stdout == ("line 1\n" if state == "done" else "")


@pytest.mark.parametrize(
    ("every", "part"),
    [*((False, part) for part in range(PARTS)),
     *(pytest.param(True, part, marks=pytest.mark.long) for part in range(PARTS))],
)  # fmt: skip
def test_at_every_moment(
    project: Project, running: Engine, inputs: Inputs, tmp_path: Path, every: bool, part: int
) -> None:
    """And the same launch, into the same output, goes to its end after it; nothing of the killed one is left then.

    Unless `every`, the copies of files into one folder, which follow each other, are one moment, and other commands
    than `launch show` look once at each end.
    """
    project.env["MY_TOKEN"] = "s3cr3t"
    runs, states = project.path / "runs", set()
    for stage in range(part + 1, 1000, PARTS):
        output = tmp_path / f"out-{stage}"
        words = ("sft/automodel", "--flavour", "cpu", *inputs.words, f"output={output}", "--secret", "MY_TOKEN")
        before = {path.name for path in runs.glob("[!.]*")}
        done = project.launch_dies(stage, tmp_path, every, *words)
        assert done.code in (-9, 0), done
        if done.code == 0:
            break
        new = {path.name for path in runs.glob("[!.]*")} - before
        assert len(new) < 2
        for run in new:
            state = shown(project, run)
            if every or state not in states:
                others_agree(project, run, state)
            states.add(state)
            assert state in ENDS
            if state != "never submitted":
                assert hidden(runs / run) == [], f"at stage {stage}"
                assert not (runs / ".secrets" / run).exists()
        assert ask_engine(running, "/made") == [], f"at stage {stage}"
        again = project.launch(*words)
        assert again.code == 0, (stage, again)
        assert sorted(p.name for p in (output / ".slipway-run").iterdir()) in (
            ["lease", "origin.json"],
            ["origin.json"],
        )
        assert not [*(output / ".slipway-run").glob("lease/*")] and hidden(output) == [], f"at stage {stage}"
        assert not [*runs.glob(".secrets/*/*")], f"at stage {stage}"
    else:
        pytest.fail("the launch never came to its end")
    assert states == ENDS
