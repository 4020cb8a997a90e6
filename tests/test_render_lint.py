"""Every Dockerfile that the lock gives, the committed and those that are rendered on demand, passes hadolint."""

from __future__ import annotations

import subprocess
from pathlib import Path

from helpers import REPO, Done, script

from images.building import render
from images.locking import lock as locks
from slipway.project import Root


def hadolint(*files: Path) -> Done:
    command = [script("hadolint"), "--no-color", "--config", REPO / ".hadolint.yaml", *files]
    done = subprocess.run(command, capture_output=True, text=True)
    return Done(done.returncode, done.stdout, done.stderr)


def test_every_dockerfile_passes(tmp_path: Path) -> None:
    root = Root(REPO)
    lock = locks.load_lock(root)
    files = [tmp_path / entry.name.replace("/", "_") for entry in lock.entries.values()]
    for file, entry in zip(files, lock.entries.values(), strict=True):
        file.write_text(render.dockerfile(root, lock, entry))
    assert hadolint(*files) == Done(0, "", "")


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("FROM debian:latest\nRUN cd /opt\nWORKDIR here\n")
    done = hadolint(file)
    assert done.code == 1
    assert [rule for rule in ("DL3007", "DL3003", "DL3000") if rule in done.stdout] == ["DL3007", "DL3003", "DL3000"]
