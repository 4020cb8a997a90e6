"""images/building/rootfs.py: the files that enroot reads, as text, on disk and run by a shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from images.building import rootfs
from slipway.errors import Exit, SlipwayError

URI = "dockerd://sha256:1"


def run(text: str, *words: str) -> str:
    return subprocess.run(["sh", "-c", text, "rc", *words], stdout=subprocess.PIPE, text=True, check=True).stdout


def test_environment_is_raw_lines_and_reads_back() -> None:
    text = rootfs.environment({"Env": ["PATH=/opt/venv/bin:/bin", "A=one two", "B=x=y", "EMPTY="]})
    assert text == "PATH=/opt/venv/bin:/bin\nA=one two\nB=x=y\nEMPTY=\n"
    assert rootfs.variables(text) == {"PATH": "/opt/venv/bin:/bin", "A": "one two", "B": "x=y", "EMPTY": ""}


def test_an_image_without_anything_has_files_all_the_same() -> None:
    config = {"Env": None, "Volumes": None, "Labels": None, "Entrypoint": None, "Cmd": None, "WorkingDir": ""}
    assert (rootfs.environment(config), rootfs.fstab(config)) == ("", "")
    assert rootfs.rc(config, URI).startswith(f"# enroot-provenance: {URI}\n")
    assert rootfs.rc(config, URI).endswith("exec /bin/sh\n")


def test_volumes_are_folders_of_the_containers_own() -> None:
    line = "${{ENROOT_ROOTFS}}{0} {0} none x-create=dir,bind,rw,nosuid,nodev\n"
    assert rootfs.fstab({"Volumes": {"/b": {}, "/a": {}}}) == line.format("/a") + line.format("/b")


def test_labels_are_comments_of_one_line() -> None:
    lines = rootfs.rc({"Labels": {"b": "two\nexec evil", "a": "one"}}, URI).splitlines()
    assert lines[1:4] == ["# a one", "# b two exec evil", ""]


def test_what_enroot_has_written_is_read_and_amended(tmp_path: Path) -> None:
    """As enroot 4.1.2's import leaves it; a link in the image leads nowhere outside."""
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "mine").write_text("PATH=/bin\nA=x=y\n")
    (tmp_path / "root" / "etc" / "environment").symlink_to(tmp_path / "mine")
    start = '# enroot-provenance: docker://a\n# boat yes\n\nmkdir -p "/opt/a b" 2> /dev/null\n'
    start += "cd \"/opt/a b\" && unset OLDPWD || exit 1\nexec '/bin/sh'\n"
    (tmp_path / "root" / "etc" / "rc").write_text(start)
    config = rootfs.read(tmp_path / "root")
    assert config == {"Env": ["PATH=/bin", "A=x=y"], "WorkingDir": "/opt/a b"}
    rootfs.amend(tmp_path / "root", {**config, "Env": ["B=1"], "Labels": {"c": "d"}})
    assert (tmp_path / "root" / "etc" / "environment").read_text() == "B=1\n"
    assert (tmp_path / "mine").read_text() == "PATH=/bin\nA=x=y\n"
    lines = start.splitlines()
    assert (tmp_path / "root" / "etc" / "rc").read_text().splitlines() == [lines[0], "# c d", *lines[1:]]


def test_the_callers_words_go_to_the_entrypoint(tmp_path: Path) -> None:
    folder = tmp_path / "it's here"
    config = {
        "WorkingDir": str(folder),
        "Entrypoint": ["sh", "-c", 'pwd; printf "%s|" "$@"', "$x y"],
        "Cmd": ["a b", "c"],
    }
    assert run(rootfs.rc(config, URI), "d", "e f") == f"{folder}\nd|e f|"
    assert run(rootfs.rc(config, URI)) == f"{folder}\na b|c|"


def test_without_an_entrypoint_the_callers_words_are_the_command() -> None:
    text = rootfs.rc({"Cmd": ["echo", "default"]}, URI)
    assert run(text, "echo", "mine") == "mine\n"
    assert run(text) == "default\n"


def test_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "environment").write_text("OLD=1\n")
    rootfs.configure(tmp_path, {"Env": ["A=1"], "WorkingDir": "/data/here"}, URI)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "etc").iterdir()}
    assert modes == dict.fromkeys(("environment", "fstab", "rc", "rc.local"), 0o644)
    assert (tmp_path / "etc" / "environment").read_text() == "A=1\n"
    assert (tmp_path / "data" / "here").is_dir()


def test_links_of_the_image_lead_nowhere(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    outside.mkdir()
    (outside / "file").write_text("mine")
    (root / "etc" / "rc").symlink_to(outside / "file")
    (root / "data").symlink_to(outside)
    rootfs.configure(root, {"WorkingDir": "/data/here"}, URI)
    assert [p.name for p in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "mine"
    assert not (root / "etc" / "rc").is_symlink()


def test_etc_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "etc").symlink_to(tmp_path / "outside")
    with pytest.raises(SlipwayError, match="/etc is not a directory") as e:
        rootfs.configure(tmp_path / "root", {}, URI)
    assert e.value.code == Exit.DATA
    assert not list((tmp_path / "outside").iterdir())


def test_the_owner_can_read_everything_and_remove_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "closed").mkdir(parents=True)
    (root / "closed" / "file").write_text("x")
    (root / "closed" / "file").chmod(0)
    (root / "closed").chmod(0o500)
    rootfs.configure(root, {}, URI)
    assert (root / "closed").stat().st_mode & 0o777 == 0o700
    assert (root / "closed" / "file").stat().st_mode & 0o777 == 0o400
    (root / "closed").chmod(0o500)
    rootfs.remove(root)
    assert not root.exists()
