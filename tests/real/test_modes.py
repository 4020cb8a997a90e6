"""A run directory is for its owner alone, whatever the umask is and whatever the folder of all runs hands down."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .conftest import facts, toy
from .support import Run, Tree, by_umask, open_runs, open_to_others

pytestmark = pytest.mark.real
NOBODY = 65534


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077])
def test_what_docker_runs(tree: Tree, place: Path, mask: int) -> None:
    runs = open_runs(place)
    done = by_umask(tree, mask).launch("test/toy", "--flavour", "cpu", "--runs-dir", str(runs))
    assert done.code == 0, done
    (run,) = map(Run, runs.glob("[!.]*"))
    assert run.path.stat().st_mode & 0o7777 == 0o2700, "the group goes on, for quotas"
    # What the step itself makes has the modes that it chose, below a folder that nobody else can enter.
    assert open_to_others(run.path) == {"output/written": 0o644}
    assert {"config.yaml", "result.json", "0"} <= {p.name for p in (run.path / "container").iterdir()}
    assert {"versions.json", "status.json", "ranks"} <= {p.name for p in (run.path / "container" / "0").iterdir()}


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_an_output_of_the_callers_own(tree: Tree, place: Path, mask: int) -> None:
    """That folder is the caller's data, which the umask is about."""
    runs = open_runs(place)
    assert by_umask(tree, mask).launch(*toy(place / "deep" / "output"), "--runs-dir", str(runs)).code == 0
    assert [p.stat().st_mode & 0o777 for p in (place / "deep", place / "deep" / "output")] == [0o777 & ~mask] * 2


@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_a_directory_of_o(tree: Tree, place: Path, there: bool) -> None:
    folder = open_runs(place) / "planned"
    if there:
        folder.mkdir()
        folder.chmod(0o2777)
    done = by_umask(tree, 0).launch(*toy(place / "output"), "-o", str(folder))
    assert done.code == 0 and (folder / "slipway" / "steps" / "toy.py").is_file(), done
    assert folder.stat().st_mode & 0o777 == 0o700 and open_to_others(folder) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of two users")
def test_a_folder_of_runs_that_users_share(tree: Tree, place: Path) -> None:
    """Everybody has their own runs in it; and a folder of their own for secrets, where another was the first."""
    runs = open_runs(place)
    assert tree.launch(*toy(place / "output"), "--runs-dir", str(runs)).code == 0
    (run,) = map(Run, runs.glob("[!.]*"))
    profile = place / "slipway" / "profiles" / "secretive.yaml"
    profile.parent.mkdir(parents=True)
    profile.write_text("schema: 1\nkind: docker\nextends: docker\nsecrets: {TOKEN: env}\n")
    words = ("--profile", "secretive", *toy(place / "other"), "--runs-dir", str(runs))
    env = {"XDG_CONFIG_HOME": str(place), "TOKEN": "canary"}
    (runs / ".secrets").mkdir()
    os.chown(runs / ".secrets", NOBODY, NOBODY)
    own = runs / f".secrets-{os.geteuid()}"
    own.symlink_to(place)
    refused = tree.launch(*words, **env)
    assert refused.code == 77 and f"{own}: is no folder" in refused.err, refused
    assert "--runs-dir" in refused.err and list(runs.glob("[!.]*")) == [run.path] and not (place / "other").exists()
    own.unlink()
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    refused = tree.launch(*words, **env)
    assert refused.code == 77 and f"{own}: belongs to nobody" in refused.err, refused
    own.rmdir()
    done = tree.launch(*words, **env)
    assert done.code == 0 and facts(done.out)["secrets"].keys() == {"TOKEN"}, done
    assert own.stat().st_mode & 0o777 == 0o700 and [*own.iterdir(), *(runs / ".secrets").iterdir()] == []
