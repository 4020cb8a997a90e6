"""images/building/workspace.py: temporary folders, and which of them the next command removes."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import REPO

from images.building import workspace
from slipway.project import Root

HOLD = """
import sys
from pathlib import Path
from images.building import workspace
with workspace.make(Path(sys.argv[1]), "test") as (work, fd):
    print(work, flush=True)
    sys.stdin.read()
"""


def test_only_folders_whose_owners_are_gone_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One owner lives, one was killed, one was killed while a program of its still has the folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("ENROOT_TEMP_PATH", raising=False)
    root = Root(REPO)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as living, subprocess.Popen(command, **pipes) as killed:
        works = [Path(p.stdout.readline().strip()) for p in (living, killed) if p.stdout]
        (works[1] / "rootfs").mkdir()
        workspace.sweep(root)
        assert all(w.is_dir() for w in works)
        killed.kill()
        killed.wait()
        fd = os.open(works[1], os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        workspace.sweep(root)
        assert works[1].is_dir()
        os.close(fd)
        workspace.sweep(root)
        assert [w.is_dir() for w in works] == [True, False]
    assert not works[0].exists()


@pytest.mark.parametrize(
    ("variables", "build", "unpack"),
    [
        ({}, "{state}/tmp", "/tmp"),
        ({"TMPDIR": "/scratch"}, "/scratch", "/scratch"),
        ({"TMPDIR": "/scratch", "ENROOT_TEMP_PATH": "/big"}, "/scratch", "/big"),
    ],
)
def test_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], build: str, unpack: str
) -> None:
    for name in ("TMPDIR", "ENROOT_TEMP_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    root = Root(tmp_path)
    assert str(workspace.contexts(root)) == build.format(state=root.state)
    assert str(workspace.unpacking()) == unpack
