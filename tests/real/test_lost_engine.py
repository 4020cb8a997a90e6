"""The engine goes away, or does not take what it is given: one message, the documented code, nothing half-done."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import toy
from .support import Proxy, Tree

pytestmark = pytest.mark.real
# A target that only the engine itself knows to refuse.
PROFILE = """\
schema: 1
kind: docker
ulimits: {nofile: 2000000000}
"""


def test_it_goes_away_while_the_step_runs(tree: Tree, place: Path, address: str) -> None:
    """The launcher cannot know how the run ends; whoever looks when the engine is back does."""
    proxy = Proxy(place / "a.sock", address)
    launched = tree.start("launch", *toy(place / "output", "wait=true", "code=3"), DOCKER_HOST=proxy.url)
    launched.await_line("waiting")
    run = tree.run_of(launched)
    proxy.close()
    done = launched.finish()
    assert done.code == 69 and "the engine went away" in done.err, done
    lost = tree.show(run)
    assert lost.code == 69 and "no Docker engine answers" in lost.err, lost
    assert f"{run.id} " in tree.launch("runs").out, "one lost engine does not hide the list"

    (place / "output" / "go").touch()
    tree.await_exit(run)
    (place / "a.sock").unlink()
    back = Proxy(place / "a.sock", address)
    assert "exit 3 (step: " in tree.show(run).out
    assert run.ended == (3, "step") and "line 3\n" in run.log
    assert tree.container(run) is None
    back.close()


def test_it_goes_away_while_the_container_is_made(tree: Tree, place: Path, proxy: Proxy) -> None:
    """Nobody knows whether it was made; whoever looks next does, and removes it."""
    before = tree.all_runs()
    with proxy.hold("POST", "/start$") as hold:
        launched = tree.start("launch", *toy(place / "output"), DOCKER_HOST=proxy.url)
        hold.wait()
        hold.drop()
        done = launched.finish()
    assert done.code == 69 and "the engine went away" in done.err, done
    (run,) = (run for run in tree.all_runs() if run not in before)
    assert tree.container(run).status == "created"
    assert "state      never started\n" in tree.show(run).out
    assert run.ended == (70, "launcher")
    assert tree.container(run) is None


def test_it_refuses_to_start_the_container(tree: Tree, place: Path, address: str) -> None:
    """A limit beyond the kernel's own, on an engine that nobody can look into: what was made for the run is gone."""
    (place / "slipway" / "profiles").mkdir(parents=True)
    (place / "slipway" / "profiles" / "vain.yaml").write_text(PROFILE)
    before = tree.all_runs(), tree.docker.containers.list(all=True)
    proxy = Proxy(None, address)
    words = toy(place / "deep" / "output", "--profile", "vain")
    done = tree.launch(*words, DOCKER_HOST=proxy.url, XDG_CONFIG_HOME=str(place))
    assert done.code == 69 and "the engine could not start: " in done.err and "`ulimits:`" in done.err, done
    assert (tree.all_runs(), tree.docker.containers.list(all=True)) == before
    assert not (place / "deep").exists()
    proxy.close()
