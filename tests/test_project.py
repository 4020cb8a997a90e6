"""slipway/project.py: where the project is, and where its things are."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import Project

from slipway.errors import Exit, SlipwayError
from slipway.project import Root, find_root, user_dirs


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that names nothing, in a folder without a lock above it."""
    for name in ("SLIPWAY_ROOT", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def lock_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "versions.lock").touch()
    return folder


def test_the_nearest_parent_with_a_lock_wins_over_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outer, other = lock_in(tmp_path / "outer"), lock_in(tmp_path / "other")
    inner = lock_in(outer / "a" / "inner")
    (inner / "deep").mkdir()
    monkeypatch.setenv("SLIPWAY_ROOT", str(other))
    assert find_root(inner / "deep") == Root(inner)
    assert find_root(outer / "a") == Root(outer)
    assert find_root(tmp_path) == Root(other)


def test_a_variable_that_names_no_project_is_a_wrong_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_ROOT", str(tmp_path))
    with pytest.raises(SlipwayError) as e:
        find_root(tmp_path)
    assert (e.value.code, e.value.where) == (Exit.CONFIG, f"SLIPWAY_ROOT={tmp_path}")


def test_a_checkout_keeps_its_state_in_itself(tmp_path: Path) -> None:
    root = Root(tmp_path)
    assert (root.lock, root.matrix) == (tmp_path / "versions.lock", tmp_path / "images" / "matrix.yaml")
    assert (root.state, root.runs) == (tmp_path / ".slipway", tmp_path / "runs")


@pytest.mark.parametrize("blank", [True, False])
def test_the_packaged_copy_keeps_its_state_in_the_users_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank: bool
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", " " if blank else str(tmp_path / "xdg"))
    folder = tmp_path / ("home/.local/state" if blank else "xdg")
    root = Root(tmp_path / "site-packages", packaged=True)
    assert (root.state, root.runs) == (folder / "slipway", folder / "slipway" / "runs")


def test_users_own_steps_and_profiles_come_before_the_projects(tmp_path: Path) -> None:
    assert user_dirs(Root(tmp_path / "project")) == [
        tmp_path / "slipway.d",
        tmp_path / "home" / ".config" / "slipway",
        tmp_path / "project" / "launcher",
    ]


def test_outside_of_a_project_the_remedy_is_named(tmp_path: Path, project: Project) -> None:
    done = project.images("render", "--check", cwd=tmp_path)
    assert (done.code, done.stdout) == (78, "")
    assert done.stderr == (
        "error: no versions.lock in this folder or above it\n  set SLIPWAY_ROOT to a checkout\n"
    )  # fmt: skip
    project.env["SLIPWAY_ROOT"] = str(project.path)
    assert project.images("render", "--check", cwd=tmp_path).code == 0
