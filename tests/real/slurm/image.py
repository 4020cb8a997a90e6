"""A tiny .sqsh with a busybox, as `images squash` would make it of an image with these settings."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from images.bootstrap import debian
from images.building import rootfs
from slipway.project import Root

from ..support import PROJECT

CONFIG: dict[str, Any] = {
    "Env": ["PATH=/opt/image/bin:/bin", "WHO=image", 'ODD=two words "$HOME" `id`'],
    "Entrypoint": ["/bin/env", "ENTERED=yes"],
    "WorkingDir": "/data",
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file, for all tests of this session."""
    return make(tmp_path_factory.mktemp("tiny"))


def make(folder: Path) -> Path:
    """Makes FOLDER/tiny.sqsh, and its root file system as FOLDER/rootfs."""
    debian.need(Root(PROJECT), print, "busybox", "mksquashfs")
    root, file = folder / "rootfs", folder / "tiny.sqsh"
    for name in ("bin", "dev", "etc", "opt/image/bin", "proc", "run", "sys", "tmp", "var"):
        (root / name).mkdir(parents=True)
    (root / "var" / "run").symlink_to("/run")  # as on Debian
    (root / "var" / "lock").symlink_to("/run/lock")
    (root / "tmp" / "hidden").touch()
    shutil.copy(str(debian.which("busybox")), root / "bin" / "busybox")
    programs = subprocess.run([root / "bin" / "busybox", "--list"], capture_output=True, text=True, check=True)
    for name in set(programs.stdout.split()) - {"busybox"}:
        (root / "bin" / name).symlink_to("busybox")
    rootfs.configure(root, CONFIG, "docker://registry.example/tiny")
    pack = ["mksquashfs", str(root), str(file), "-all-root", "-no-xattrs", "-no-progress", "-quiet"]
    subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)
    return file
