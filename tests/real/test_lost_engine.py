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
mounts: [{source: /tmp, target: /}]
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


def test_it_refuses_the_container(tree: Tree, place: Path) -> None:
    """What was made for the run is gone again."""
    (place / "slipway" / "profiles").mkdir(parents=True)
    profile = place / "slipway" / "profiles" / "odd.yaml"
    profile.write_text(PROFILE)
    runs = tree.all_runs()
    output = place / "deep" / "output"
    done = tree.launch(*toy(output), "--profile", "odd", XDG_CONFIG_HOME=str(place))
    assert done.code == 69 and "the engine refused the container: " in done.err, done
    assert tree.all_runs() == runs
    assert not (place / "deep").exists()
