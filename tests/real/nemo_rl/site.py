"""What the tests with NeMo RL itself share: a project with its cpu image built from a tree, and a tiny model with data.

NEMO_RL_SOURCE=DIR: a git repository of NeMo RL (bare or not) with the tag v0.7.0, or a checkout of it. Nothing of it is
kept here.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from images.building import identity
from images.locking import lock as locks
from slipway.project import Root

from ..support import PROJECT, Done, Run, Tree

HERE = Path(__file__).parent
SOURCE = os.environ.get("NEMO_RL_SOURCE", "")
RELEASE = "v0.7.0"
LONG = 900  # seconds that a launch may take where a machine is busy: Ray, NeMo RL and vLLM take a minute to start


@dataclasses.dataclass(frozen=True)
class Mill:
    """A project that has NeMo RL's image (`image`: its id on the engine), and what its steps are fed with."""

    tree: Tree
    image: str
    math: Path

    @property
    def model(self) -> Path:
        return self.math / "model"

    def rows(self, kind: str) -> tuple[str, ...]:
        """The words for training and validation data: chats, preferences or prompts."""
        return tuple(f"{name}={self.math / f'{kind}_{name}.jsonl'}" for name in ("train", "validation"))

    def launch(self, *words: str) -> Done:
        running = self.tree.start("launch", *words)
        running.process.wait(LONG)
        return running.finish()

    def run(self, *words: str) -> Run:
        """A launch that has to end well."""
        done = self.launch(*words)
        run = self.tree.run_of(done)
        assert (done.code, run.ended) == (0, (0, "step")), (done, run.log[-5000:])
        return run


def milled(project: Tree, ground: Path, address: str) -> Mill:
    """Builds the image, which takes minutes the first time and nothing while its inputs stay, and makes the data.

    Skips where there is nothing to build it from.
    """
    if not SOURCE:
        pytest.skip(f"NEMO_RL_SOURCE names no tree of NeMo RL {RELEASE}")
    from ..conftest import link_tar

    command = [str(Path(sys.executable).parent / "images"), "build", "nemo-rl", "--flavour", "cpu"]
    command += ["--source", f"nemo-rl={checkout(ground / 'nemo-rl')}"]
    env = {**os.environ, "DOCKER_HOST": address}
    digest = subprocess.run(command, cwd=PROJECT, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    known = identity.records(Root(PROJECT), locks.select(locks.load_lock(Root(PROJECT)), "nemo-rl", "cpu"))
    record = next(r for r in known if r.ids[0] == digest)
    assert record.sources["nemo-rl"].clean, f"NEMO_RL_SOURCE={SOURCE}: its tree is not that of {RELEASE}"
    tree, math = dataclasses.replace(project, path=ground / "mill"), ground / "math"
    if not tree.path.exists():
        shutil.copytree(project.path, tree.path, copy_function=link_tar)
        identity.save(Root(tree.path), record)
        math.mkdir()
        words = ("run", "nemo-rl", "--flavour", "cpu", "--mount", str(math), "--mount", str(HERE), "--")
        made = tree.images(*words, "python", str(HERE / "make_math.py"), str(math))
        assert made.code == 0, made
    return Mill(tree, record.ids[-1], math)


def checkout(folder: Path) -> Path:
    """The tree of the release: a clone of NEMO_RL_SOURCE at its tag, or what it is itself where it has none."""
    tags = subprocess.run(["git", "-C", SOURCE, "tag"], capture_output=True, text=True, check=True).stdout.split()
    if RELEASE not in tags:
        return Path(SOURCE)
    if not folder.exists():
        clone = ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", "--shared", "--branch", RELEASE]
        subprocess.run([*clone, SOURCE, str(folder)], check=True)
    return folder


def numbers(log: str, name: str) -> list[float]:
    """What NeMo RL has printed as `• Name: number`, in order."""
    return [float(n) for n in re.findall(rf"• {name}: (-?[\d.]+)", log)]
