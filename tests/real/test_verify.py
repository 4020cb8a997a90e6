"""`images verify` on the real cpu image and on its .sqsh: what it passes, what it finds, and as whom it looks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from images.locking.model import Entry

from .conftest import Variant
from .support import PROJECT, Tree, until

pytestmark = pytest.mark.real
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a .sqsh where there is no enroot")
CHROOT = PROJECT / "images" / "inspection" / "chroot.sh"
APART = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private"]
LOOK = """
import json, os, pathlib, torch
def writes(path):
    try:
        pathlib.Path(path, "probe").touch()
    except OSError as e:
        return e.strerror
    return True
facts = {"uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(), "torch": torch.__version__}
facts["writes"] = {path: writes(path) for path in ("/", "/opt/venv", "/tmp", "/tmp/slipway", "/dev")}
print(json.dumps(facts | {"env": dict(os.environ)}))
"""


@pytest.fixture(scope="module")
def squashed(project: Tree, ground: Path, entry: Entry) -> Path:
    """The .sqsh of the cpu image."""
    done = project.images("squash", entry.name, "--dir", str(ground / "squash"))
    assert done.code == 0, done
    return Path(done.out.strip())


@pytest.fixture
def other(squashed: Path, place: Path) -> tuple[Path, dict[str, Any]]:
    """The same file with a sidecar of its own, and what that says."""
    file = place / squashed.name
    os.link(squashed, file)
    shutil.copy(f"{squashed}.json", place)
    return file, json.loads(Path(f"{file}.json").read_text())


def rows(out: str) -> dict[str, str]:
    """First word of each row of the table -> what was found."""
    return {line.split()[0]: line[64:].strip() for line in out.splitlines() if line.startswith("  ")}


def test_the_image_is_as_its_entry_says(tree: Tree, entry: Entry) -> None:
    done = tree.images("verify", entry.name)
    assert done.code == 0, done
    found = rows(done.out)
    assert set(entry.environments["main"].packages) <= set(found)
    assert found["torch"] == found["LANG"] == "as expected" and found["python"].startswith(f"{entry.python}.")
    assert f"{entry.name}: as {entry.name} in the lock says" in done.err


@ROOT
def test_the_file_is_as_its_entry_says(tree: Tree, entry: Entry, squashed: Path) -> None:
    image, file = tree.images("verify", entry.name), tree.images("verify", str(squashed))
    assert file.code == 0, file
    assert file.out == image.out
    until("the loop device's end", lambda: str(squashed) not in subprocess.check_output(["losetup", "-a"], text=True))


@ROOT
def test_as_nobody_in_nothing_of_ours(squashed: Path, place: Path) -> None:
    """The real library is imported from the file, with the image's variables, on a root that nobody can write to."""
    text = subprocess.check_output(["unsquashfs", "-cat", squashed, "etc/environment"], text=True)
    (place / "root").mkdir()
    (place / "brought").mkdir()
    command = [*APART, CHROOT, squashed, place / "root", place / "brought", "/usr/bin/env", "-i", *text.splitlines()]
    out = subprocess.check_output([*command, "python", "-c", LOOK], text=True)
    facts = json.loads(out.splitlines()[-1])
    assert (facts["uid"], facts["gid"], facts["groups"]) == (12345, 12345, [])
    assert facts["writes"].pop("/tmp") is True
    assert set(facts["writes"].values()) <= {"Permission denied", "Read-only file system"}
    assert facts["torch"].endswith("+cpu")
    ours = {"LC_CTYPE"}  # Python's own
    assert {f"{n}={v}" for n, v in facts["env"].items() if n not in ours} == set(text.splitlines())
    assert not list((place / "root").iterdir())  # the mounts were the namespace's


def test_a_truncated_file(tree: Tree, other: tuple[Path, dict[str, Any]]) -> None:
    file, sidecar = other
    file.unlink()
    file.touch()
    os.truncate(file, sidecar["size"] - 4096)
    done = tree.images("verify", str(file))
    assert (done.code, done.out) == (65, ""), done
    assert f"{file}: {sidecar['size'] - 4096} bytes, its sidecar says {sidecar['size']}" in done.err


def test_a_changed_sidecar(tree: Tree, other: tuple[Path, dict[str, Any]]) -> None:
    file, sidecar = other
    Path(f"{file}.json").write_text(json.dumps(sidecar | {"sha256": "0" * 64}))
    done = tree.images("verify", str(file))
    assert (done.code, done.out) == (65, ""), done
    assert f"{file}: its sha256 is {sidecar['sha256']}, its sidecar says {'0' * 64}" in done.err


def test_every_difference_of_an_image(tree: Tree, entry: Entry, variant: Variant) -> None:
    site = "/opt/venv/lib/python3*/site-packages"
    changed = variant(
        entry.tag, f"cd {site} && mv safetensors-*.dist-info safetensors-0.0.1.dist-info && rm -r einops-*.dist-info"
    )
    done = tree.images("verify", changed)
    packages = entry.environments["main"].packages
    assert done.code == 65
    assert done.err.splitlines()[:2] == [
        f"environment main: einops: not installed, expected {packages['einops']}",
        f"environment main: safetensors: found 0.0.1, expected {packages['safetensors']}",
    ]
    assert rows(done.out)["safetensors"] == "0.0.1" and rows(done.out)["einops"] == "-"


def test_another_environment_variable_and_path(tree: Tree, entry: Entry, variant: Variant) -> None:
    changed = variant(entry.tag, "true\nENV LANG=C PATH=/usr/bin:/bin")
    done = tree.images("verify", changed)
    assert done.code == 65
    assert "environment variable LANG: found C, expected C.UTF-8" in done.err
    assert "PATH: the first python is " in done.err


def test_an_image_of_somebody_else(tree: Tree) -> None:
    done = tree.images("verify", "nothing:1")
    assert done.code == 66 and "the engine has no image 'nothing:1'" in done.err


@pytest.fixture
def user(tree: Tree) -> Iterator[Tree]:
    prefix = ["setpriv", "--reuid=12345", "--regid=23456", "--clear-groups", "--inh-caps=-all,+dac_read_search"]
    tree.prefix = [*prefix, "--ambient-caps=+dac_read_search", "--"]
    yield tree
    tree.prefix = []


@ROOT
def test_neither_root_nor_enroot(user: Tree, squashed: Path) -> None:
    done = user.images("verify", str(squashed))
    assert done.code == 69 and "install enroot, or let root do it" in done.err


def with_enroot(place: Path, **programs: str) -> str:
    """A PATH with a stand-in of enroot, and what else is given, in `place`."""
    standin = PROJECT / "tests" / "standins" / "enroot.py"
    programs["enroot"] = f'exec {sys.executable} -IS {standin} {place} "$@"'
    for name, text in programs.items():
        (place / name).write_text(f"#!/bin/sh\n{text}\n")
        (place / name).chmod(0o755)
    place.chmod(0o777)
    return f"{place}:{os.environ['PATH']}"


@ROOT
def test_an_ordinary_user_who_may_not_mount_unpacks(user: Tree, squashed: Path, place: Path) -> None:
    (place / "tmp").mkdir(mode=0o777)
    (place / "tmp").chmod(0o777)
    done = user.images("verify", str(squashed), PATH=with_enroot(place), TMPDIR=str(place / "tmp"))
    assert done.code == 0 and "as automodel/0.7.0-cpu in the lock says" in done.err, done
    assert not list((place / "tmp").iterdir())


@ROOT
def test_a_file_that_cannot_be_unpacked_is_not_called_wrong(user: Tree, squashed: Path, place: Path) -> None:
    path = with_enroot(place, unsquashfs='echo "no room" >&2; exit 1')
    done = user.images("verify", str(squashed), PATH=path)
    assert done.code == 69 and "cannot be unpacked here: " in done.err and "TMPDIR" in done.err, done


@ROOT
@pytest.mark.parametrize(("code", "ends"), [(0, 0), (101, 65), (1, 69)])
def test_through_enroot(tree: Tree, entry: Entry, squashed: Path, place: Path, code: int, ends: int) -> None:
    """A stand-in of enroot: what it is told to start; 1 is its own, when it could not."""
    (place / "code").write_text(str(code))
    done = tree.images("verify", str(squashed), PATH=with_enroot(place, squashfuse="exit 1"))
    assert done.code == ends, done
    call = json.loads((place / "calls").read_text())
    start, rc, script, mount, source, file, python, *words = call["words"]
    assert (start, rc, mount, file) == ("start", "--rc", "--mount", str(squashed))
    assert source.endswith("/brought:/tmp/slipway:none:x-create=dir,bind,ro:0:0") and script.endswith("/rc")
    assert python == entry.environments["main"].python
    assert words[:3] == ["-B", "/tmp/slipway/verify.py", "image"]
    assert call["variables"]["NVIDIA_VISIBLE_DEVICES"] == "void"
