"""shm and ulimits: the profile's, as far as the engine can give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import facts, toy
from .support import Tree

pytestmark = pytest.mark.real
PROFILE = """\
schema: 1
kind: docker
shm_size: 64m
ulimits: {memlock: -1, stack: 16777216}
"""


def can_lift_memlock(docker: Any, image: str) -> bool:
    """Whether this engine starts a container with unlimited locked memory; by asking it to."""
    from docker.errors import APIError
    from docker.types import Ulimit

    limits = [Ulimit(name="memlock", soft=-1, hard=-1)]
    container = docker.containers.create(image, entrypoint=["true"], network_mode="none", ulimits=limits)
    try:
        container.start()
    except APIError:
        return False
    finally:
        container.remove(force=True)
    return True


def test_the_container_has_the_profiles(tree: Tree, place: Path, docker: Any) -> None:
    (place / "slipway" / "profiles").mkdir(parents=True)
    (place / "slipway" / "profiles" / "small.yaml").write_text(PROFILE)
    done = tree.launch(*toy(place / "output"), "--profile", "small", XDG_CONFIG_HOME=str(place))
    assert done.code == 0, done
    seen, plan = facts(done.out), tree.run_of(done).record["plan"]
    assert seen["shm"] == 64 * 1024**2
    assert seen["limits"]["stack"] == [16777216, 16777216]

    most = plan["limits"]["memlock"]
    assert seen["limits"]["memlock"] == [most, most]
    if can_lift_memlock(docker, plan["image"]):
        assert most == -1 and "ulimit" not in done.err
    else:
        assert most > 0
        assert f"warning: ulimit memlock: unlimited asked for, this engine can give {most}: lowered\n" in done.err


def test_the_usual_profile(tree: Tree, place: Path) -> None:
    done = tree.launch(*toy(place / "output"))
    seen = facts(done.out)
    assert seen["shm"] == 8 * 1024**3
    assert seen["limits"]["stack"] == [67108864, 67108864]
