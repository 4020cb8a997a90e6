"""How far a run has come, by the numbers of its last steps."""

from __future__ import annotations

from dataclasses import dataclass

from launcher import engines
from launcher.records import metrics
from launcher.records.metrics import Measured
from launcher.records.run_directory import Record, Run
from slipway.errors import SlipwayError

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class Progress:
    """`last`: the numbers of the last step; `seconds_left`: for those that are still to come."""

    last: Measured | None = None
    seconds_left: float | None = None

    @property
    def line(self) -> str:
        """`step 93 of 120, loss 5.864, 1,234 tokens/s, 12 min left`, as far as it is known; else empty."""
        if self.last is None:
            return ""
        parts = [f"step {self.last.step}{f' of {self.last.steps}' if self.last.steps else ''}"]
        parts += [f"loss {loss}"] if (loss := self.last.number("loss")) else []
        parts += [f"{self.last.tokens_per_s:,.0f} tokens/s"] if self.last.tokens_per_s is not None else []
        parts += [f"{span(self.seconds_left)} left"] if self.seconds_left is not None else []
        return ", ".join(parts)


def of(run: Run, record: Record) -> Progress:
    """Of a run that goes on, after what it has printed meanwhile was read; or of one that has ended."""
    if record.outcome is None:
        _bring(run, record)
    recent = metrics.last(run, metrics.RECENT)
    if not recent:
        return Progress()
    return Progress(recent[-1], metrics.seconds_left(recent) if record.outcome is None else None)


def _bring(run: Run, record: Record) -> None:
    """What has come to the log since somebody looked; a launcher that stays with a run does so by itself."""
    if not record.plan.metrics.lines or not run.ours:
        return
    if not engines.of(record.engine.kind).KEEPS_LOG:
        metrics.update(run, record.plan)
        return
    try:
        with run.lock() as unattended:
            pass
        if unattended:
            with engines.of_record(record) as engine:
                metrics.update(run, record.plan, engine.logs(run, follow=False))
    except SlipwayError:  # how it stands is told without
        return


def span(seconds: float) -> str:
    """A time for people, of its largest unit: `40 s`, `12 min`, `3 h`, `2 d`."""
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= 2 * size), _UNITS[-1])
    return f"{seconds / size:.0f} {unit}"
