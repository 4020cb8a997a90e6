"""`launch profiles doctor NAME`: whether a machine or site is what its profile says; one line a check, with a remedy.

Each check is a small function of a Site, in the table of its engine's module; what it runs is bounded in time. Nothing
is changed, but for small files of our own in shared folders while a probe job runs.
"""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from launcher.catalog.profiles import Profile
from launcher.records import run_directory
from slipway import tables
from slipway.errors import Exit
from slipway.project import Root
from slipway.yamldoc import Noun

PATIENCE = 10.0  # seconds for one command


class Result(Noun, frozen=True, kw_only=True):
    """What one check saw. `unknown`: it could not be looked at. `code`: the exit code of what failed."""

    check: str = ""
    state: Literal["ok", "warning", "failed", "unknown"]
    seen: str
    remedy: str = ""
    code: int = 0


def ok(seen: str) -> Result:
    return Result(state="ok", seen=seen)


def unknown(seen: str) -> Result:
    return Result(state="unknown", seen=seen)


def warning(seen: str, remedy: str = "") -> Result:
    return Result(state="warning", seen=seen, remedy=remedy)


def failed(seen: str, remedy: str = "", code: Exit = Exit.UNAVAILABLE) -> Result:
    return Result(state="failed", seen=seen, remedy=remedy, code=int(code))


@dataclass(frozen=True)
class Answer:
    """What a command said; 127 where there is no such program, 124 where it took too long."""

    code: int
    out: str
    err: str

    @property
    def why(self) -> str:
        """Its last words on stderr."""
        return (self.err.strip() or self.out.strip() or f"exit {self.code}").splitlines()[-1]


@dataclass
class Site:
    """What is examined; each command is asked once. `down`: why the engine cannot be asked anything more.

    `nodes`: of the probe job; 0 = none.
    """

    root: Root
    profile: Any
    nodes: int = 0
    down: str = ""
    _asked: dict[tuple[str, ...], Answer] = field(default_factory=dict)

    @property
    def runs(self) -> Path:
        return run_directory.runs_dir(self.root, None, self.profile.runs)

    @property
    def probe(self) -> str:
        """The text of probe.sh."""
        return self.root.file("entrypoints/probe.sh").read_text(encoding="utf-8")

    def ask(self, *words: str, seconds: float = PATIENCE) -> Answer:
        if self.down:
            return Answer(1, "", self.down)
        if words not in self._asked:
            self._asked[words] = run(words, seconds)
        return self._asked[words]


def run(words: tuple[str, ...], seconds: float = PATIENCE) -> Answer:
    """A command's answer; one that takes longer is asked to end, and then killed."""
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError:
        return Answer(127, "", f"there is no {words[0]} here")
    with process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.terminate()  # srun then gives back what it asked for
            try:
                process.communicate(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
            return Answer(124, "", f"{words[0]} did not answer within {seconds:g} s")
    return Answer(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


Check = Callable[[Site], Iterator[Result]]


def examine(root: Root, profile: Profile, nodes: int = 0) -> list[Result]:
    """Every check of the profile's kind, in the order of its table; with a probe job where `nodes` is not 0."""
    site = Site(root, profile, nodes)
    checks: Mapping[str, Check] = importlib.import_module(f"launcher.doctor.{profile.kind}").CHECKS
    return [msgspec.structs.replace(result, check=name) for name, check in checks.items() for result in check(site)]


def exit_code(results: list[Result]) -> int:
    """0, or that of the first that failed."""
    return next((r.code for r in results if r.state == "failed"), 0)


def table(results: list[Result]) -> str:
    """One line a result, with its remedy."""
    rows = [(r.state, r.check, f"{r.seen}; {r.remedy}" if r.remedy else r.seen) for r in results]
    return tables.columns(rows)
