"""How runs end on Docker, beside the ends that other tests here have: one state, one exit code, one cause line."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import every_command_agrees, toy
from .support import GREEDY, Proxy, Run, Tree, encoded, told

pytestmark = pytest.mark.real


def detached(tree: Tree, *words: str) -> Run:
    done = tree.launch(*words, "--detach")
    assert done.code == 0, done
    return Run(tree.runs / done.out.strip())


def test_every_command_says_the_same_of_an_end(tree: Tree, place: Path) -> None:
    every_command_agrees(tree, place)


def test_out_of_memory(tree: Tree, place: Path) -> None:
    run = detached(tree, *toy(place / "output", "--env", f"TOY_RUN={encoded(GREEDY)}"))
    tree.await_running(run).update(mem_limit="100m", memswap_limit="100m")  # as `docker run --memory` does
    (place / "output" / "go").touch()
    tree.await_exit(run)
    why = "killed: out of memory: the kernel, at the container's limit; ended by signal KILL"
    assert told(tree, run) == ("out of memory", 137, why)
    assert run.outcome["cause"] == "memory" and tree.container(run) is None


PART = """
import os, pathlib, time
output = pathlib.Path("/output")
while not (output / "go").exists():
    time.sleep(0.02)
if not (child := os.fork()):
    bytes(1 << 20) * 1024
os.waitpid(child, 0)
"""


def test_a_step_that_does_without_what_ran_out_of_memory_is_done(tree: Tree, place: Path) -> None:
    run = detached(tree, *toy(place / "output", "--env", f"TOY_RUN={encoded(PART)}"))
    tree.await_running(run).update(mem_limit="100m", memswap_limit="100m")
    (place / "output" / "go").touch()
    tree.await_exit(run)
    assert tree.container(run).attrs["State"]["OOMKilled"] is True
    assert told(tree, run) == ("done", 0, "done")


def test_a_run_that_stands_still(tree: Tree, place: Path) -> None:
    profile = tree.path / "launcher" / "profiles" / "impatient.yaml"
    profile.write_text("schema: 1\nkind: docker\nextends: docker\nstall: 0.05\n")
    launched = tree.start("launch", "--profile", "impatient", *toy(place / "output", "wait=true", "deaf=true"))
    assert launched.finish().code == 75
    run = tree.run_of(launched)
    state, code, reason = told(tree, run)
    assert (state, code) == ("stalled", 75)
    assert reason.startswith("it stood still: nothing has moved for 0.05 min; the last to move was rank 0 on "), reason
    assert "in wait_for" in (run.path / "container" / "0" / "stacks" / "0.txt").read_text()


def test_a_container_whose_entrypoint_does_not_begin(tree: Tree, place: Path, proxy: Proxy) -> None:
    with proxy.hold("POST", "/start$") as hold:
        launched = tree.start("launch", *toy(place / "output"), DOCKER_HOST=proxy.url)
        hold.wait()
        run = next(r for r in tree.all_runs() if str(place) in (r.path / "plan.json").read_text())
        (run.path / "slipway" / "entrypoint.sh").unlink()
    assert launched.finish().code == 69
    why = "its container did not start: it ended with 127 before its entrypoint could say why"
    assert told(tree, run) == ("not started", 69, why)


def test_a_container_that_somebody_removes(tree: Tree, place: Path) -> None:
    run = detached(tree, *toy(place / "output", "wait=true"))
    tree.await_running(run).remove(force=True)
    assert told(tree, run) == ("lost", 70, "nobody knows how it ended: its container was removed by someone else")


def test_a_container_that_somebody_kills(tree: Tree, place: Path) -> None:
    launched = tree.start("launch", *toy(place / "output", "wait=true"))
    launched.await_line("waiting")
    tree.await_running(tree.run_of(launched)).kill()
    assert launched.finish().code == 137
    said = ("killed", 137, "killed before it could save: by whom is not known")
    assert told(tree, tree.run_of(launched)) == said


def test_cancelled_while_it_runs(tree: Tree, place: Path) -> None:
    run = detached(tree, *toy(place / "output", "wait=true"))
    (launched := tree.start("launch", "logs", "-f", run.id)).await_line("waiting")
    assert tree.launch("cancel", run.id).code == 0 and launched.finish().code == 0
    assert told(tree, run) == ("cancelled", 143, "cancelled: told to stop by TERM; exit code 0")
