"""What the tests with Ray share: a project with NeMo RL's image and their step, and the processes of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

from images.building import identity
from images.locking import lock as locks
from slipway.project import Root

from ..support import PROJECT, Run, Tree

HERE = Path(__file__).parent
RAY = "raylet/raylet"


def harboured(project: Tree, ground: Path, address: str) -> Tree:
    """The project with the record of NeMo RL's image, without NeMo RL, and the step test/cluster."""
    from ..conftest import link_tar

    command = [str(Path(sys.executable).parent / "images"), "build", "nemo-rl", "--flavour", "cpu"]
    env = {**os.environ, "DOCKER_HOST": address}
    words = [*command, "--source", "nemo-rl=none"]
    digest = subprocess.run(words, cwd=PROJECT, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    known = identity.records(Root(PROJECT), locks.select(locks.load_lock(Root(PROJECT)), "nemo-rl", "cpu"))
    tree = dataclasses.replace(project, path=ground / "pier")
    shutil.copytree(project.path, tree.path, copy_function=link_tar)
    shutil.copytree(HERE / "cluster", tree.path / "launcher" / "steps" / "test" / "cluster")
    shutil.copy(HERE / "ray_cluster.py", tree.path / "entrypoints" / "steps")
    identity.save(Root(tree.path), next(r for r in known if r.ids[0] == digest))
    return tree


def driven(output: Path) -> tuple[str, ...]:
    """A launch of the tests' driver."""
    return ("test/cluster", "--flavour", "cpu", f"output={output}")


def processes(run: Run, word: str = "", marked: bool = True) -> list[int]:
    """The processes of a run's containers with `word` in their command line; `marked`: those that the step started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environ = (folder / "environ").read_bytes().split(b"\0")
            ours = f"SLIPWAY_RUN={run.id}".encode() in environ and word.encode() in (folder / "cmdline").read_bytes()
            if ours and (not marked or any(v.startswith(b"SLIPWAY_MARK=") for v in environ)):
                found.append(int(folder.name))
    return found
