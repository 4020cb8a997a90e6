"""kill -9 of the launcher, at moments that are met exactly: whoever looks next tells the truth and cleans up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import toy
from .support import Proxy, Run, Running, Tree

pytestmark = pytest.mark.real
LINES = 5000


def new_run(tree: Tree, before: list[Run]) -> Run:
    (run,) = (r for r in tree.all_runs() if r not in before)
    return run


def test_while_the_step_runs(tree: Tree, place: Path) -> None:
    """The run goes on; its log is whole although nobody was there to read it."""
    output = place / "output"
    launched = tree.start("launch", *toy(output, "wait=true", f"lines={LINES}", "code=3"))
    launched.await_line("waiting")
    run = tree.run_of(launched)
    launched.kill()
    assert "state      running\n" in tree.show(run).out
    (output / "go").touch()
    tree.await_exit(run)
    assert "exit 3 (step: " in tree.show(run).out
    assert run.ended == (3, "step")
    lines = run.log.splitlines()
    assert [line for line in lines if line.startswith("line ")] == [f"line {n}" for n in range(1, LINES + 1)]
    assert run.record["versions"]["environments"] and "wait: true" in run.record["config"]
    assert tree.container(run) is None


MOMENTS = {
    "before the engine hears of the container": ("POST", "/containers/create", False, True),
    "when the container is made": ("POST", "/containers/create", True, True),
    "before the container is started": ("POST", "/start$", False, True),
    "when the container is started": ("POST", "/start$", True, False),
    "when the container has ended": ("POST", "/wait", True, False),
    "before it is looked at": ("GET", r"/containers/slipway-[^/]+/json", False, False),
    "before its log is collected": ("GET", r"/logs\?.*follow=0", False, False),
    "when the record is written": ("DELETE", "/containers/", False, False),
    "when the container is removed": ("DELETE", "/containers/", True, False),
}


@pytest.mark.parametrize(("method", "path", "answered", "never"), MOMENTS.values(), ids=MOMENTS)
def test_at_this_moment(
    tree: Tree, place: Path, proxy: Proxy, method: str, path: str, answered: bool, never: bool
) -> None:
    before = tree.all_runs()
    with proxy.hold(method, path, answered) as hold:
        launched = tree.start("launch", *toy(place / "output", "code=3"), DOCKER_HOST=proxy.url)
        hold.wait()
        launched.kill()
        hold.drop()
    run = new_run(tree, before)
    tree_has_settled(tree, run, never)
    shown = tree.show(run)
    assert shown.code == 0
    assert run.ended == ((70, "launcher") if never else (3, "step"))
    assert ("state      never started" if never else "exit 3 (step: ") in shown.out
    assert ("line 3\n" in run.log) if not never else not (place / "output" / "written").exists()
    assert tree.container(run) is None
    assert tree.show(run).out == shown.out, "and it stays so"


def tree_has_settled(tree: Tree, run: Run, never: bool) -> None:
    if not never:
        tree.await_exit(run)


def test_before_anything_was_written(tree: Tree, place: Path) -> None:
    """As soon as there is a run directory, whatever is in it."""
    before = tree.all_runs()
    launched = tree.start("launch", *toy(place / "output", "code=3"))
    run = appeared(tree, before, launched)
    launched.kill()
    if container := tree.container(run):
        tree.await_exit(run)
    shown = tree.show(run)
    assert shown.code == 0
