"""An output on a disk that is too small is refused before anything is made."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Work
from .support import Tree

pytestmark = [pytest.mark.real, pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")]


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """A filesystem of 1 MiB."""
    disk = place / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_no_space_for_a_checkpoint(tree: Tree, work: Work, small_disk: Path) -> None:
    before = tree.all_runs(), tree.docker.containers.list(all=True)
    output = small_disk / "deep" / "output"
    done = tree.launch(*work.words(output))
    assert done.code == 73
    assert f"output={output}: one checkpoint needs about " in done.err
    assert ", 1 MiB are free there\n" in done.err
    assert list(small_disk.iterdir()) == []
    assert (tree.all_runs(), tree.docker.containers.list(all=True)) == before
