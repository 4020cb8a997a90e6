"""What the check on a GPU has found: estimates beside measurements, a table for docs/gpu.md, JSON. Pure.

A GiB is 2**30 bytes; measured is torch.cuda.max_memory_allocated, which AutoModel writes into every step's line.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

OFF = 0.20  # of what was measured: an estimate that is further off has to be mended
LEAST = 6  # shapes
BEGIN, END = "<!-- results: `make test-gpu` writes them -->", "<!-- end of results -->"
# planning/checks/memory.py, line(): `about 24.8 of 80 GiB a GPU: weights 3.7, gradients 7.5, … (estimated; …)`.
LINE = re.compile(r"about ([0-9.]+) of [0-9]+ GiB a GPU: ([a-z]+ [0-9.]+(?:, [a-z]+ [0-9.]+)*) \(estimated")
TERMS = ("weights", "gradients", "optimizer", "activations", "update")
MEMORY = re.compile(r"\| mem ([0-9.]+) GiB")


@dataclass(frozen=True)
class Part:
    """One part of the check. `state`: done, failed, or missing (what it needs is not here)."""

    name: str
    state: str
    seconds: float
    says: str


@dataclass(frozen=True)
class Shape:
    """What is trained how: `micro` sequences of `sequence` tokens at a time, `passes` times for an optimizer step."""

    model: str
    lora: bool
    sequence: int
    micro: int
    recompute: bool
    passes: int = 1

    @property
    def name(self) -> str:
        how = "LoRA" if self.lora else "full"
        times = f"{self.passes} x " if self.passes > 1 else ""
        return f"{self.model} {how}, {times}{self.micro} x {self.sequence}" + (", recomputed" if self.recompute else "")


@dataclass(frozen=True)
class Memory:
    """GiB: `terms` and `estimate` of what the launcher said, `measured` of the largest step."""

    shape: Shape
    estimate: float
    terms: dict[str, float]
    measured: float

    @property
    def off(self) -> float:
        """By which part of what was measured the estimate is too large; infinite where nothing was measured."""
        return self.estimate / self.measured - 1 if self.measured else float("inf")

    @property
    def fits(self) -> bool:
        return abs(self.off) <= OFF


@dataclass
class Report:
    date: str
    gpu: str
    driver: str
    versions: dict[str, dict[str, str]]
    seconds: float = 0.0
    parts: list[Part] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)

    def wrong(self) -> list[str]:
        """One line for all that does not hold; where there is a GPU also for what is missing, and for estimates."""
        bad = ("failed", "missing") if self.gpu else ("failed",)
        lines = [f"{p.name}: {p.says}" for p in self.parts if p.state in bad]
        if not self.gpu:
            return lines
        if len(self.memory) < LEAST:
            lines.append(f"memory: {len(self.memory)} shapes measured, expected at least {LEAST}")
        far = [m for m in self.memory if not m.fits]
        said = "memory: {}: estimated {:.1f} GiB, measured {:.1f} ({:+.0%}), expected within {:.0%}"
        return lines + [said.format(m.shape.name, m.estimate, m.measured, m.off, OFF) for m in far]


def estimated(told: list[str]) -> tuple[float, dict[str, float]]:
    """GiB and their terms, as a launch says them in a note or a finding. Raises ValueError where it says none."""
    for line in told:
        if match := LINE.search(line):
            terms = (term.split(" ") for term in match[2].split(", "))
            return float(match[1]), {name: float(size) for name, size in terms}
    raise ValueError(f"the launch says no estimate of memory: {'; '.join(told)}")


def measured(lines: list[str]) -> float:
    """GiB of the largest step after the first, which has no optimizer state yet. Raises ValueError without any."""
    found = [float(m[1]) for line in lines if (m := MEMORY.search(line))]
    if len(found) < 2:
        raise ValueError(f"expected the memory of two steps or more, found {len(found)}")
    return max(found[1:])


def as_json(report: Report) -> dict[str, Any]:
    """The report, with what follows from it."""
    facts = [{"name": m.shape.name, "off": m.off if m.measured else None, "fits": m.fits} for m in report.memory]
    memory = [asdict(m) | more for m, more in zip(report.memory, facts, strict=True)]
    return asdict(report) | {"memory": memory, "wrong": report.wrong()}


def table(report: Report) -> str:
    """What docs/gpu.md shows."""
    libraries = "; ".join(
        f"{n}: {', '.join(f'{k} {v}' for k, v in found.items())}" for n, found in report.versions.items()
    )
    lines = [f"{report.date}, {report.gpu}, driver {report.driver}, {report.seconds:.0f} s. {libraries}.", ""]
    lines += ["| part | | s | |", "|---|---|---|---|"]
    lines += [f"| {p.name} | {p.state} | {p.seconds:.0f} | {p.says} |" for p in report.parts]
    lines += ["", f"| shape | {' | '.join(TERMS)} | estimate, GiB | measured, GiB | off |"]
    lines.append("|---" * (len(TERMS) + 4) + "|")
    for m in report.memory:
        terms = " | ".join(f"{m.terms.get(t, 0):.1f}" for t in TERMS)
        off = f"{m.off:+.0%}" if m.measured else "-"
        lines.append(f"| {m.shape.name} | {terms} | {m.estimate:.1f} | {m.measured:.1f} | {off} |")
    return "\n".join(lines)


def insert(text: str, made: str) -> str:
    """`text` with `made` between its markers. Raises ValueError where they are not there once each, in order."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise ValueError(f"expected one {BEGIN!r} and then one {END!r}")
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"
