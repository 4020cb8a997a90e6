"""Combinations that the library refuses by itself, once a run has its GPUs: its table (catalog/conflicts.py). Pure.

A row counts where all its conditions are known to hold. What is unknown, since the image's record does not say it and
step.yaml does not either, is never taken for anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec

from launcher.catalog.conflicts import SIZES, Amount, Condition, Conflict, factors
from launcher.core.plan import LaunchSpec, Probed
from launcher.planning.checks import config_values, nemo_rl
from slipway import resolver
from slipway.errors import Exit
from slipway.findings import Finding, error, warning
from slipway.resolver import ABSENT, Leaf, Mark, Node

UNKNOWN = msgspec.UNSET  # a value that nobody here knows; None is one that is known not to be said, or null
COUNTED = {
    "nodes": "--nodes {}", "gpus": "--gpus {}", "world": "{} processes", "training": "{} GPUs that train",
    "generating": "{} GPUs that generate", "data": "{} data parallel processes",
}  # fmt: skip


def check(spec: LaunchSpec, seen: Probed) -> list[Finding]:
    """What the library would refuse, or what a row only warns of."""
    look = _Look(spec, seen)
    return [_finding(spec, row, look) for row in spec.conflicts if look.all_hold(row.if_)]


def _finding(spec: LaunchSpec, row: Conflict, look: _Look) -> Finding:
    """Under `--code` it is not that release which runs: its own checks count, and a row only warns."""
    said = dict(look.said(row.if_))
    theirs = [text for text, by in said.items() if by in _users(spec)]
    where = ", ".join(theirs or [text for text, by in said.items() if by]) or spec.step.id
    if len(theirs) == 1 and (by := said[where]).startswith("-c ") and by.endswith((".yaml", ".yml")):
        where = f"{by.removeprefix('-c ')}: {where.partition('=')[0]}"  # so that it is told with its line
    beside = "; ".join(f"{text} by {by}" if by else text for text, by in said.items() if not by or by not in text)
    told = f"{spec.entry.name} {'refuses' if row.severity == 'error' else 'may refuse'} it"
    if own := sorted(set(spec.code) & set(spec.step.repositories)):
        told += f", without --code {', '.join(own)}"
    what = f"{told}: {row.what}" + (f" ({beside})" if beside else "")
    if own or row.severity == "warning":
        return warning(where, what, row.remedy)
    words = any(by.endswith("=") or by.startswith("--") for by in said.values())
    return error(Exit.WORDS if words else Exit.CONFIG, where, what, row.remedy)


def _users(spec: LaunchSpec) -> set[str]:
    """Who sets values, and is the user: words, files and names of `-c`, the shape, a profile."""
    words = {f"{name}=" for name in (*spec.words.parameters, *spec.words.overrides, *spec.words.inputs)}
    layers = {f"-c {name}" for name, _ in spec.overlays[1:]}
    return words | layers | {f"--{name}" for name in spec.step.shape.keys} | {"--env", str(spec.profile.file)}


class _Look:
    """What is known of a launch, as conditions ask for it."""

    def __init__(self, spec: LaunchSpec, seen: Probed) -> None:
        self.spec, self.seen = spec, seen

    def all_hold(self, conditions: list[Condition]) -> bool:
        return all(self.holds(c) is True for c in conditions)

    def holds(self, c: Condition) -> bool | None:
        """Whether it is so; None where that is not known."""
        if c.any:
            found = [self.holds(one) for one in c.any]
            return True if True in found else None if None in found else False
        name, right = c.comparison
        if name in ("above", "below", "multiple_of", "no_multiple_of", "differs_from"):
            return _compared(name, self.amount(c.key), self.amount(right))
        left = self._left(c)
        if left is UNKNOWN:
            return None
        if name == "given":
            return (left is not None) is right
        if name == "has":
            return isinstance(left, str) and right in left
        return any(_same(left, one) for one in (right if isinstance(right, list) else [right])) is (name == "is")

    def _left(self, c: Condition) -> Any:
        if c.variable:
            return self._variable(c.variable)[0]
        if c.input:
            found = self.seen.artifacts.get(c.input)
            return None if found is None else getattr(found.sizes, c.size) or UNKNOWN if c.size else found.path
        return self.amount(c.key) if isinstance(c.key, list) or c.key in SIZES else self.value(str(c.key))

    def value(self, key: str) -> Any:
        """Of a configuration key; None where it is known that nothing says it."""
        node = config_values.said_of(self.spec.config, key)
        if node is ABSENT:
            return self.spec.step.unsaid.get(key)
        if isinstance(node, Mark) and key in self.spec.wired.remove:
            return None  # whatever the base says there goes, and nobody has set it after that
        return UNKNOWN if isinstance(node, Mark) else resolver.plain(node)

    def amount(self, amount: Amount) -> Any:
        """A number; None where something is none, UNKNOWN where something is not known."""
        values = [self._factor(f) for f in factors(amount)]
        if UNKNOWN in values:
            return UNKNOWN
        return math.prod(values) if all(type(v) in (int, float) for v in values) else None

    def _factor(self, factor: float | str) -> Any:
        if not isinstance(factor, str):
            return factor
        return self._size(factor) if factor in SIZES else self.value(factor)

    def _size(self, name: str) -> Any:
        spec, known = self.spec, config_values.settings(self.spec)
        plain = {"nodes": spec.nodes, "gpus": spec.procs, "world": spec.nodes * spec.procs}
        if name in plain:
            return plain[name]
        training = nemo_rl.training_gpus(spec, known) or UNKNOWN
        if name == "training" or training is UNKNOWN:
            return training
        if name == "data":
            shape = config_values.sizes(spec, known)
            return training // size if shape and training % (size := math.prod(shape.values())) == 0 else UNKNOWN
        if known.get("colocated") is not False:
            return training if known.get("colocated") else UNKNOWN
        apart = known.get("generation_gpus", UNKNOWN)
        return apart if spec.nodes == 1 or apart is UNKNOWN else apart * known.get("generation_nodes", 1)

    def _variable(self, name: str) -> tuple[Any, str, str]:
        """Its value in the container, where that is set, and by whom."""
        spec, file = self.spec, str(self.spec.profile.file)
        step = f"{spec.step.folder}/step.yaml"
        for values, where, by in (
            (spec.env, f"--env {name}={spec.env.get(name)}", "--env"),
            (spec.profile.env, f"{file}: env.{name}", file),
            (spec.step.env, f"{step}: env.{name}", step),
            (spec.entry.env, f"{name}={spec.entry.env.get(name)}", spec.entry.name),
        ):
            if name in values:
                return values[name], where, by
        return None, "", ""

    def said(self, conditions: list[Condition]) -> Iterator[tuple[str, str]]:
        """What makes conditions hold, such as `key=value` or the place of a variable; and who says it, if anybody."""
        for c in conditions:
            if c.any:
                yield from self.said([one for one in c.any if self.holds(one)][:1])
            elif c.variable:
                yield from [self._variable(c.variable)[1:]] if self._variable(c.variable)[1] else []
            elif c.input:
                yield from [(f"{c.input}={self.seen.artifacts[c.input].path}", f"{c.input}=")] if c.size else []
            else:
                name, right = c.comparison
                amounts = [c.key] if name in ("is", "is_not", "given", "has") else [c.key, right]
                yield from (self._said(f) for amount in amounts for f in factors(amount) if isinstance(f, str))

    def _said(self, factor: str) -> tuple[str, str]:
        if factor in SIZES:
            return COUNTED[factor].format(self._size(factor)), f"--{factor}" if factor in ("nodes", "gpus") else ""
        node: Node = config_values.said_of(self.spec.config, factor)
        by = node.by if isinstance(node, Leaf) else ""
        return config_values.setting(self.spec, factor) if by else f"nothing says {factor}", by


def _compared(name: str, left: Any, right: Any) -> bool | None:
    if UNKNOWN in (left, right):
        return None
    if left is None or right is None:
        return False
    if name in ("multiple_of", "no_multiple_of"):
        return bool(right) and (left % right == 0) is (name == "multiple_of")
    return bool({"above": left > right, "below": left < right, "differs_from": left != right}[name])


def _same(left: Any, right: Any) -> bool:
    return left == right and isinstance(left, bool) is isinstance(right, bool)
