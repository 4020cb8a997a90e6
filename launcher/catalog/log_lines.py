"""Lines of a library's log that tell the numbers of a training step: data of step.yaml (`metrics`), checked here."""

from __future__ import annotations

import re

from slipway.yamldoc import Noun

_COUNT, _NUMBER = r"\d{1,12}", r"[-+]?(?:\d[\d.]*(?:[eE][-+]?\d+)?|(?i:nan|inf))"
# What {name} in a line stands for; records/metrics.py says what each becomes.
NAMES = {
    "step": _COUNT, "steps": _COUNT, "sequences": _COUNT, "time": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d",
    "loss": _NUMBER, "grad_norm": _NUMBER, "lr": _NUMBER, "tokens_per_s": _NUMBER, "memory_gib": _NUMBER,
    "memory_gb": _NUMBER, "step_s": _NUMBER, "step_ms": _NUMBER,
}  # fmt: skip
_NAME = re.compile(r"\{([a-z_]+)\}")


class LogLine(Noun, frozen=True, kw_only=True):
    """`line`: a regular expression that is looked for in each line; {step}, the step that has ended, {loss} and the
    other `NAMES` stand in it for numbers. `keep`: it has no step of its own, and what it tells holds for all that
    follow.
    """

    line: str
    keep: bool = False

    def __post_init__(self) -> None:
        names = _NAME.findall(self.line)
        if odd := [name for name in names if name not in NAMES]:
            raise ValueError(f"unknown name {{{odd[0]}}} in {self.line!r}, expected some of {', '.join(sorted(NAMES))}")
        if self.keep == ("step" in names):
            raise ValueError(f"expected {'no' if self.keep else 'a'} {{step}} in {self.line!r}")
        try:
            _ = self.expression
        except re.error as e:
            raise ValueError(f"{self.line!r} is no regular expression: {e}") from e

    @property
    def expression(self) -> re.Pattern[bytes]:
        """What is looked for in a log, with a group of each name."""
        return re.compile(_NAME.sub(lambda name: f"(?P<{name[1]}>{NAMES[name[1]]})", self.line).encode())
