"""An engine that is reached by ssh: a run to its end, with its log, its signals and its record."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .conftest import facts, toy
from .support import Tree

pytestmark = pytest.mark.real
SSH = """#!/bin/sh
# It is on the machine that ssh leads to: what ssh is told to run there runs here, beside the engine.
while [ "$1" != -- ]; do shift; done
shift 2
DOCKER_HOST={} exec "$@"
"""


@pytest.fixture
def ssh(place: Path, address: str) -> dict[str, str]:
    """The environment of a shell that talks to the engine by ssh."""
    (place / "bin").mkdir()
    (place / "bin" / "ssh").write_text(SSH.format(address))
    (place / "bin" / "ssh").chmod(0o755)
    (place / "slipway" / "profiles").mkdir(parents=True)
    (place / "slipway" / "profiles" / "far.yaml").write_text("schema: 1\nkind: docker\n")  # nobody sees its limits
    env = {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "DOCKER_HOST": "ssh://me@localhost"}
    return env | {"XDG_CONFIG_HOME": str(place), "SLIPWAY_PROFILE": "far"}


def test_a_run_to_its_end(tree: Tree, place: Path, ssh: dict[str, str]) -> None:
    done = tree.launch(*toy(place / "output", "lines=2000", "code=4"), **ssh)
    assert done.code == 4, done
    run = tree.run_of(done)
    assert "line 2000\n" in done.out and done.out == run.log and facts(done.out)["uid"] == os.getuid()
    assert run.record["engine"]["address"] == "ssh://me@localhost"
    assert tree.container(run) is None


def test_it_is_told_to_stop_and_looked_at_later(tree: Tree, place: Path, ssh: dict[str, str]) -> None:
    launched = tree.start("launch", *toy(place / "one", "wait=true"), **ssh)
    launched.await_line("waiting")
    launched.signal(signal.SIGINT)
    assert launched.finish().code == 130 and (place / "one" / "saved").exists()

    detached = tree.launch(*toy(place / "two", "wait=true"), "--detach", **ssh)
    assert detached.code == 0, detached
    assert tree.launch("cancel", detached.out.strip(), **ssh).code == 0
    assert "cancelled" in tree.launch("show", detached.out.strip(), **ssh).out
