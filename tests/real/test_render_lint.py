"""BuildKit's own check of the Dockerfiles, where buildx has it; of those that need no registry to be checked."""

from __future__ import annotations

import subprocess

import pytest

from images.building import render
from images.locking import lock as locks
from slipway.project import Root

from .support import PROJECT

pytestmark = pytest.mark.real


def buildx(*words: str, stdin: str = "") -> str:
    done = subprocess.run(["docker", "buildx", *words], input=stdin, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def test_buildkit_finds_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    if "--check" not in buildx("build", "--help"):
        pytest.skip(f"this buildx has no `build --check`: {buildx('version').strip()}")
    root = Root(PROJECT)
    lock = locks.load_lock(root)
    for entry in (e for e in lock.entries.values() if e.base.bootstrap):
        buildx("build", "--check", "-", stdin=render.dockerfile(root, lock, entry))
