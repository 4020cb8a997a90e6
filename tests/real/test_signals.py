"""Ctrl-C and TERM: they reach the process in the container, which saves; the run can be continued."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from .conftest import Work, toy
from .support import ENDLESS, Proxy, Tree, until

pytestmark = pytest.mark.real


def saved_steps(output: Path) -> list[int]:
    """How many steps each checkpoint has behind it."""
    return sorted(int(p.name.rpartition("_")[2]) + 1 for p in output.glob("epoch_*_step_*"))


def test_ctrl_c_saves_and_resume_continues(tree: Tree, work: Work, place: Path) -> None:
    output = place / "output"
    endless = work.words(output, f"max_steps={ENDLESS}", f"checkpoint_every={ENDLESS}")
    launched = tree.start("launch", *endless)
    launched.await_line(rf"step 3/{ENDLESS} .*loss")
    launched.signal(signal.SIGINT)
    done = launched.finish()
    run = tree.run_of(done)
    assert done.code == 130
    assert run.ended == (130, "signal")
    assert run.outcome["result"]["stopped"] is True
    (saved,) = saved_steps(output)
    assert run.outcome["checkpoint"] == f"{output}/epoch_0_step_{saved - 1}/model/consolidated"
    assert saved == run.outcome["result"]["steps"] >= 3
    assert tree.container(run) is None

    refused = tree.launch(*endless)
    assert refused.code == 73 and "--resume" in refused.err

    total = saved + 2
    resumed = tree.launch(*work.words(output, f"max_steps={total}", f"checkpoint_every={ENDLESS}", "--resume"))
    assert resumed.code == 0, resumed
    assert [int(n) for n in re.findall(rf"step (\d+)/{total} ", resumed.out)] == [saved + 1, saved + 2]
    assert f"Loading checkpoint from /output/epoch_0_step_{saved - 1}" in resumed.out
    assert saved_steps(output) == [saved, total]
    assert tree.run_of(resumed).outcome["result"]["steps_of_this_run"] == 2

    over = tree.launch(*work.words(output, f"max_steps={total}", f"checkpoint_every={ENDLESS}", "--resume"))
    assert over.code == 0 and saved_steps(output) == [saved, total], over


def test_term_saves(tree: Tree, work: Work, place: Path) -> None:
    output = place / "output"
    launched = tree.start("launch", *work.words(output, f"max_steps={ENDLESS}", f"checkpoint_every={ENDLESS}"))
    launched.await_line(rf"step 1/{ENDLESS} .*loss")
    launched.signal(signal.SIGTERM)
    done = launched.finish()
    run = tree.run_of(done)
    assert done.code == 143
    assert run.ended == (143, "signal")
    assert len(saved_steps(output)) == 1
    assert tree.container(run) is None


def test_the_third_signal_kills(tree: Tree, place: Path) -> None:
    """A step that does not listen cannot keep anybody waiting."""
    launched = tree.start("launch", *toy(place / "output", "wait=true", "deaf=true"))
    launched.await_line("waiting")
    launched.signal(signal.SIGINT)
    launched.await_line("slipway: INT: TERM to 1 rank")
    launched.signal(signal.SIGINT)
    launched.await_line("slipway: ending what is left of the step")
    launched.signal(signal.SIGINT)
    done = launched.finish()
    run = tree.run_of(done)
    assert done.code == 137
    assert run.ended == (137, "signal")
    assert tree.container(run) is None


@pytest.mark.parametrize("merged", [False, True], ids=["stdout", "stderr too"])
def test_whoever_reads_may_leave(tree: Tree, place: Path, merged: bool) -> None:
    """`launch … | head -1`: the run goes on, its log is kept, it can still be stopped, and tells its end."""
    launched = tree.start("launch", *toy(place / "output", "wait=true"), glance=True, merged=merged)
    if not merged:
        until("the launcher's notice", lambda: "stdout is closed; the run goes on" in launched.err)
    until("the step", (place / "output" / "waiting").exists)
    (run,) = (run for run in tree.all_runs() if str(place) in (run.path / "plan.json").read_text())
    until("its words", lambda: "waiting\n" in run.log)
    launched.signal(signal.SIGTERM)
    assert launched.finish().code == 143
    assert run.ended == (143, "signal")
    assert tree.container(run) is None


@pytest.mark.parametrize(("name", "code"), [("INT", 130), ("TERM", 143)])
def test_a_signal_that_comes_before_the_container(tree: Tree, place: Path, name: str, code: int, proxy: Proxy) -> None:
    """It is not lost: the container gets it as soon as it is there."""
    with proxy.hold("POST", "/containers/create") as hold:
        launched = tree.start("launch", *toy(place / "output", "wait=true"), DOCKER_HOST=proxy.url)
        hold.wait()
        launched.signal(signal.Signals[f"SIG{name}"])
    done = launched.finish()
    assert done.code == code
    assert tree.run_of(done).ended == (code, "signal")
    assert tree.container(tree.run_of(done)) is None
