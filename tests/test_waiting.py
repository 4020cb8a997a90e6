"""launcher/runs/waiting.py: `launch wait`, on a stand-in of an engine whose containers go on until they are told."""

from __future__ import annotations

import pytest
from helpers import IMAGE, Engine, Inputs, Project


@pytest.fixture
def endless(built: Engine) -> Engine:
    built.holds(images={IMAGE: IMAGE}, runs=None)
    return built


@pytest.mark.usefixtures("endless")
def test_a_wait_gives_up_and_leaves_the_run_alone(project: Project, inputs: Inputs) -> None:
    """With 75; and once the run has ended, its exit code is the wait's, however little time that has."""
    run = project.launch("sft/automodel", "--flavour", "cpu", *inputs.words, "--detach").stdout.strip()
    done = project.launch("wait", run, "--timeout", "0.1")
    assert (done.code, done.stdout) == (75, "")
    assert done.stderr == f"error: --timeout: run {run} goes on: running\n"
    assert "state      running\n" in project.launch("show", run).stdout
    assert project.launch("cancel", run).code == 0
    done = project.launch("wait", run, "--timeout", "0")
    assert (done.code, done.stdout) == (143, f"{run} cancelled\n")
