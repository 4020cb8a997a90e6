"""What `launch selftest` has made, for every test that wants an output of a real step: each step is run once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.selftest.materials import MATERIALS

from .support import PATIENCE, Done, Run, Tree


@dataclass(frozen=True)
class Tried:
    """A selftest of one library that has ended well."""

    tree: Tree
    done: Done

    @property
    def told(self) -> dict[str, Any]:
        return dict(json.loads(self.done.out))

    @property
    def steps(self) -> dict[str, Any]:
        """How each step went."""
        return {step["step"]: step["tested"] for step in self.told["steps"]}

    def run(self, step: str) -> Run:
        return Run(self.tree.runs / self.steps[step]["run"])

    def output(self, step: str) -> Path:
        return self.run(step).path / "output"

    def made(self, step: str) -> Path:
        """What the record calls the step's result."""
        return Path(self.run(step).outcome["checkpoint"])

    def material(self, name: str) -> Path:
        """One of the inputs, by its name in step.yaml."""
        (folder,) = self.tree.runs.glob(".selftest-*/edition-*")
        return folder / MATERIALS[name][1]

    @property
    def mounts(self) -> list[str]:
        """For `images run`: all that is above."""
        return ["--mount", str(self.tree.runs)]


def selftest(tree: Tree, library: str) -> Tried:
    """Runs it, on the cpu flavour, where each step has to end well."""
    words = ("selftest", "--profile", "docker", "--flavour", "cpu", "--library", library, "--json")
    done = tree.start("launch", *words).finish(7 * PATIENCE)  # seven launches at most
    assert done.code == 0, (done.out[-4000:], done.err[-4000:])
    return Tried(tree, done)
