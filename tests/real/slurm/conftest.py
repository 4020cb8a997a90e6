"""Fixtures of the tests with a Slurm of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..support import Done, Run, Tree, until
from .cluster import Cluster
from .cluster import accounted as accounted
from .cluster import slurm as slurm
from .image import tiny as tiny

PROFILE = """\
schema: 1
kind: slurm
extends: slurm-pyxis
flavour: cpu
exclusive: false
time: "30"
mount_wait: 20
"""


@dataclass
class Lab:
    """A project whose profile `lab` is the tests' Slurm."""

    slurm: Cluster
    tree: Tree

    def profile(self, name: str, *lines: str) -> None:
        """Another profile, over `lab`."""
        text = "\n".join(["schema: 1", "kind: slurm", "extends: lab", *lines, ""])
        (self.tree.path / "launcher" / "profiles" / f"{name}.yaml").write_text(text)

    def launch(self, *words: str, **env: str) -> Done:
        return self.tree.launch(*words, **env)

    def submit(self, *words: str, **env: str) -> Run:
        """A launch that submits and returns."""
        done = self.launch("--profile", "lab", *words, **env)
        assert done.code == 0, done
        return Run(self.tree.runs / done.out.strip())

    def job(self, run: Run) -> str:
        return (run.path / "job").read_text().strip()

    def await_file(self, path: Path) -> None:
        until(f"{path}", path.exists)

    def await_end(self, run: Run, *states: str) -> None:
        """The job's end; what `launch` sees of it is another matter."""
        self.slurm.wait_for_state(self.job(run), *(states or ("COMPLETED", "FAILED", "CANCELLED")))

    def near_limit(self, run: Run) -> None:
        """What Slurm does ahead of a job's time limit, by the script's own --signal."""
        assert self.slurm.call("scancel", "--batch", "--signal=USR1", self.job(run)).code == 0

    def stop(self, run: Run, way: str) -> None:
        """`cancel`, or the time limit."""
        if way == "cancel":
            assert self.launch("cancel", run.id).code == 0
        else:
            self.near_limit(run)

    def collected(self, run: Run) -> Run:
        """Looked at by a command, as whoever comes next does."""
        shown = self.launch("show", run.id)
        assert shown.code == 0, shown
        return run


@pytest.fixture(scope="session")
def _profiled(project: Tree, squashed: Path, ground: Path) -> Tree:
    """The project with the profile `lab` and the .sqsh that its jobs start."""
    assert squashed.is_file()
    shared = f"shared: [{ground}]\nhf_home: {ground}/huggingface\n"
    (project.path / "launcher" / "profiles" / "lab.yaml").write_text(PROFILE + shared)
    return project


def lab_of(slurm: Cluster, tree: Tree) -> Lab:
    return Lab(slurm, dataclasses.replace(tree, env=tree.env | slurm.env))


@pytest.fixture(scope="session")
def _lab(slurm: Cluster, _profiled: Tree) -> Lab:
    return lab_of(slurm, _profiled)


@pytest.fixture
def lab(_lab: Lab) -> Iterator[Lab]:
    """For one test: its jobs end with it."""
    yield from until_its_end(_lab)


@pytest.fixture
def accounted_lab(accounted: Cluster, _profiled: Tree) -> Iterator[Lab]:
    """The same where the site keeps accounts."""
    yield from until_its_end(lab_of(accounted, _profiled))


def until_its_end(lab: Lab) -> Iterator[Lab]:
    yield lab
    lab.slurm.call("scancel", "--user=root")
    lab.tree.end_all()
