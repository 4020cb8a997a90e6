"""Whoever launches owns what comes out, and has a home and caches inside, known to the image or not."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.engines import docker

from .conftest import Work, facts, toy
from .support import Planned, Proxy, Tree

pytestmark = pytest.mark.real
ROOT = os.geteuid() == 0
UID, GID = (12345, 23456) if ROOT else (os.getuid(), os.getgid())
# It may read what is root's, as if root's home were open, and has no other right; access(2) does not count this one.
BECOME = ["setpriv", f"--reuid={UID}", f"--regid={GID}", "--clear-groups", "--inh-caps=-all,+dac_read_search"]
BECOME += ["--ambient-caps=+dac_read_search", "--"]


@pytest.fixture
def user(tree: Tree, place: Path, proxy: Proxy) -> Iterator[Tree]:
    """The project as another user sees it, who has the engine's permission."""
    home = place / "home"
    home.mkdir()
    if ROOT:
        os.chown(home, UID, GID)
    env = tree.env | {"HOME": str(home), "SLIPWAY_RUNS": str(home / "runs"), "DOCKER_HOST": proxy.url}
    del env["HF_HOME"]  # so that it is below HOME
    other = dataclasses.replace(tree, runs=home / "runs", env=env, prefix=BECOME if ROOT else [])
    yield other
    other.end_all()


def owners(*folders: Path) -> set[tuple[int, int]]:
    """Who owns anything at all in them."""
    found = [p.lstat() for folder in folders for p in (folder, *folder.rglob("*"))]
    return {(s.st_uid, s.st_gid) for s in found}


def test_the_output_is_the_callers(user: Tree, work: Work, place: Path) -> None:
    output = place / "home" / "output"
    done = user.launch(*work.words(output, "max_steps=1"))
    assert done.code == 0, done
    assert f"uid {UID}:{GID} on " in done.out
    run = user.run_of(done)
    assert Path(run.outcome["checkpoint"]).is_dir()
    assert (place / "home" / ".cache" / "huggingface").is_dir()
    assert owners(place / "home") == {(UID, GID)}
    assert user.container(run) is None


def test_home_and_caches_inside(user: Tree, place: Path) -> None:
    done = user.launch(*toy(place / "home" / "output"))
    assert done.code == 0, done
    seen = facts(done.out)
    assert (seen["uid"], seen["gid"]) == (UID, GID)
    variables = seen["variables"]
    assert all(variables.values()), variables
    assert variables["USER"] == variables["LOGNAME"] and variables["HOME"] != "/"
    assert all(seen["writable"].values()) and len(seen["writable"]) == 6
    if ROOT:
        assert variables["USER"] == f"uid{UID}"
    assert owners(place / "home") == {(UID, GID)}


def test_a_read_only_root_filesystem(user: Tree, work: Work, place: Path) -> None:
    """The planned request, run by hand in a stricter way: nothing but its mounts and /tmp can be written."""
    folder, output = place / "home" / "run", place / "home" / "output"
    assert user.launch(*work.words(output, "max_steps=1"), "-o", str(folder)).code == 0
    done = Planned(folder).run(user.docker, ReadonlyRootfs=True, Tmpfs={"/tmp": "mode=1777"})
    assert done.code == 0, done.out
    assert (output / "epoch_0_step_0" / "model" / "consolidated" / "config.json").is_file()
    assert owners(output, folder / "container") == {(UID, GID)}


def test_an_output_that_the_caller_may_not_write(user: Tree, place: Path) -> None:
    locked = place / "locked"
    locked.mkdir(mode=0o555)
    done = user.launch(*toy(locked / "output"))
    assert done.code == 73 and f"cannot be written by uid {UID} ({locked})" in done.err
    assert user.all_runs() == [] and list(locked.iterdir()) == []


@pytest.mark.skipif(not ROOT, reason="only root can be two users")
def test_a_folder_of_runs_that_users_share(user: Tree, tree: Tree, place: Path) -> None:
    """Everybody sees their own runs; another's is named as such, by whatever word it is asked for."""
    runs = place / "shared"
    runs.mkdir()
    runs.chmod(0o1777)
    for who, output in ((tree, place / "output"), (user, place / "home" / "output")):
        assert who.launch(*toy(output), "--runs-dir", str(runs)).code == 0
    made = [path for path in runs.iterdir() if not path.name.startswith(".")]
    (other,) = (path for path in made if path.stat().st_uid == 0)
    (own,) = (path for path in made if path.stat().st_uid == UID)
    listed = user.launch("runs", "--runs-dir", str(runs))
    assert listed.code == 0 and own.name in listed.out and other.name not in listed.out, listed
    assert f"run        {own.name}\n" in user.launch("show", "last", "--runs-dir", str(runs)).out
    for word in (other.name, str(other)):
        refused = user.launch("show", word, "--runs-dir", str(runs))
        assert refused.code == 77 and f"{other}: is root's, who alone may read it" in refused.err, refused


def test_a_container_that_may_not_read_what_is_its_callers_alone(user: Tree, place: Path) -> None:
    """As on an engine whose users are not those of the machine."""
    folder = place / "home" / "run"
    assert user.launch(*toy(place / "home" / "output"), "-o", str(folder)).code == 0
    request = folder / "request.json"
    request.write_text(request.read_text().replace(f'"User": "{UID}:{GID}"', '"User": "4321:4321"'))
    done = Planned(folder).run(user.docker)
    assert done.code == 126 and docker.explain(done.out).startswith("the container cannot read the run directory"), done
