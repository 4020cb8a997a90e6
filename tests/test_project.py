"""slipway/project.py: where the project is, and where its things are."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from helpers import REPO, Project

from slipway import project as project_module
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


def test_the_variable_wins_over_the_nearest_parent_with_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outer, other = lock_in(tmp_path / "outer"), lock_in(tmp_path / "other")
    inner = lock_in(outer / "a" / "inner")
    (inner / "deep").mkdir()
    assert find_root(inner / "deep") == Root(inner)
    assert find_root(outer / "a") == Root(outer)
    rule = "the nearest parent with versions.lock"
    assert capsys.readouterr().err == f"project {inner}: {rule}\nproject {outer}: {rule}\n"
    monkeypatch.setenv("SLIPWAY_ROOT", str(other))
    assert find_root(inner / "deep") == Root(other)
    assert capsys.readouterr().err == f"project {other}: SLIPWAY_ROOT\n"


def test_where_one_stands_in_the_root_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link").symlink_to(lock_in(tmp_path / "project"))
    assert find_root(tmp_path / "link") == Root(tmp_path / "project")
    assert capsys.readouterr() == ("", "")


def test_elsewhere_the_project_is_the_checkout_of_an_editable_install_else_the_packaged_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_root(tmp_path) == Root(REPO)
    assert capsys.readouterr().err == f"project {REPO}: the checkout of this program\n"
    monkeypatch.setattr(project_module, "_CHECKOUT", tmp_path)
    monkeypatch.setattr(project_module, "_PACKAGED", packaged := lock_in(tmp_path / "data"))
    assert find_root(tmp_path) == Root(packaged, packaged=True)
    assert capsys.readouterr().err == f"project {packaged}: the packaged copy\n"
    (packaged / "versions.lock").unlink()
    with pytest.raises(SlipwayError) as e:
        find_root(tmp_path)
    assert (e.value.code, e.value.remedy) == (Exit.CONFIG, "set SLIPWAY_ROOT to a checkout")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else for a while")
def test_a_parent_into_which_one_may_not_look_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    with tempfile.TemporaryDirectory(prefix="slipway-checkout-") as open_to_all:
        Path(open_to_all).chmod(0o755)
        monkeypatch.setattr(project_module, "_CHECKOUT", checkout := lock_in(Path(open_to_all) / "project"))
        monkeypatch.setenv("SLIPWAY_TRUST", "root")
        os.seteuid(65534)
        try:
            assert find_root(tmp_path) == Root(checkout)
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("name", [".", "versions.lock", ".slipway", ".slipway/engine.json"])
def test_others_may_write_to_no_root_and_no_state(tmp_path: Path, name: str) -> None:
    folder = lock_in(tmp_path / "project")
    (folder / ".slipway").mkdir()
    (folder / ".slipway" / "engine.json").touch()
    assert find_root(folder) == Root(folder)
    (folder / name).chmod(0o757)
    with pytest.raises(SlipwayError) as e:
        find_root(folder)
    assert (e.value.code, e.value.where) == (Exit.NOT_PERMITTED, str(folder / name))


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


def test_the_packaged_copy_is_as_trusted_as_the_program_and_its_state_as_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "slipway").mkdir()
    (tmp_path / "slipway").chmod(0o757)
    root = Root(Path(project_module.__file__).parent / "_data", packaged=True)
    assert root.lock.name == "versions.lock"
    with pytest.raises(SlipwayError) as e:
        root.kept("images")
    assert (e.value.code, e.value.where) == (Exit.NOT_PERMITTED, str(tmp_path / "slipway"))


def test_users_own_steps_and_profiles_come_before_the_projects(tmp_path: Path) -> None:
    assert user_dirs(Root(tmp_path / "project")) == [
        tmp_path / "slipway.d",
        tmp_path / "home" / ".config" / "slipway",
        tmp_path / "project" / "launcher",
    ]


def test_a_command_says_on_stderr_which_project_it_found(tmp_path: Path, project: Project) -> None:
    project.env["SLIPWAY_ROOT"] = str(project.path)
    done = project.launch("steps", "--json", cwd=tmp_path)
    assert (done.code, done.stderr) == (0, f"project {project.path}: SLIPWAY_ROOT\n")
    assert json.loads(done.stdout)
    assert project.launch("--help", cwd=tmp_path).stderr == ""
