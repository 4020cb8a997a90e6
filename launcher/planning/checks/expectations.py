"""What is expected of a run (`--expect`): conditions that can be read, on numbers that the step reports. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.core.plan import LaunchSpec
from slipway import gates
from slipway.errors import Exit, nearest
from slipway.findings import Finding, error


def check(spec: LaunchSpec) -> Iterator[Finding]:
    """Words that are no condition, or of a number that the step does not report."""
    reports = spec.step.reports
    for text in spec.expect:
        where = f"--expect {text}"
        try:
            condition = gates.parse(text)
        except ValueError as e:
            yield error(Exit.WORDS, where, str(e), "such as --expect 'loss<2.0'")
            continue
        if condition.name == gates.LEARNS and not spec.step.metrics:
            yield error(Exit.WORDS, where, f"{spec.step.id} trains nothing", _known(reports))
        for key in condition.needs:
            if not any(key == name or (name.endswith(".*") and key.startswith(name[:-1])) for name in reports):
                derived = [name for name, needs in gates.DERIVED.items() if set(needs) <= set(reports)]
                what = f"{spec.step.id} reports no {condition.name!r}"
                yield error(Exit.WORDS, where, what, nearest(condition.name, [*derived, *reports]))
                break


def _known(reports: list[str]) -> str:
    return f"it reports: {', '.join(reports)}" if reports else "it reports no numbers"
