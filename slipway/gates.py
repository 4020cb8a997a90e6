"""What a run has to have come to, else it is no success: `--expect`, `expect:` of a pipeline. Standard library alone.

A launch brings this file along in its supervisor, which judges the step's result.json as soon as the step has ended
well; a pipeline judges a run of before by its record. So both sides read the same conditions in the same way.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LEARNS = "learns"
DERIVED = {"loss": ("last_loss",), "loss_drop": ("first_loss", "last_loss")}  # name -> what it is made of
FLAT = 1e-4  # of the first loss: a difference below that is none
SAMPLES = ("samples", "consumed_samples", "calibration_samples")
_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq,
              "!=": operator.ne}  # fmt: skip
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_ONE = re.compile(rf"\s*([A-Za-z_][\w.:/@-]*?)\s*(<=|>=|==|!=|<|>)\s*({_NUMBER})\s*")
FORM = "NAME<NUMBER (or <=, >, >=, ==, !=), or learns"


class Condition:
    """One condition. `name`: of a number in the result, dotted, or one of DERIVED; without `sign` it is LEARNS."""

    def __init__(self, name: str, sign: str = "", number: float = 0.0) -> None:
        self.name, self.sign, self.number = name, sign, number

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {self.number:.6g}" if self.sign else self.name

    @property
    def needs(self) -> tuple[str, ...]:
        """The keys of a result that it is made of."""
        return DERIVED.get(self.name, (self.name,)) if self.sign else ()


def parse(text: str) -> Condition:
    """Of `loss<2.0`, or `learns`. Raises ValueError."""
    if text.strip() == LEARNS:
        return Condition(LEARNS)
    found = _ONE.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no condition: expected {FORM}")
    return Condition(found[1], found[2], float(found[3]))


def judge(result: Mapping[str, Any], conditions: Sequence[Condition]) -> list[str]:
    """What is not met, a line each. `result`: of result.json, in which NaN is null and told in `not_finite`."""
    return [wrong for condition in conditions for wrong in _judge(result, condition)]


def _judge(result: Mapping[str, Any], condition: Condition) -> Iterator[str]:
    if not condition.sign:
        yield from _learnt_nothing(result)
        return
    found = []
    for key in condition.needs:
        number = _number(result, key)
        if isinstance(number, str):
            yield f"expected {condition}, found {key} {number}"
            return
        found.append(number)
    value = found[0] if len(found) == 1 else found[0] - found[1]
    if not _OPERATORS[condition.sign](value, condition.number):
        yield f"expected {condition}, found {value:.6g}"


def _number(result: Mapping[str, Any], key: str) -> Any:
    """A finite number; else, as text, what stands in its place."""
    odd = result.get("not_finite")
    if isinstance(odd, dict) and key in odd:
        return str(odd[key])
    value: Any = result
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if good else "not reported by the step"


def _learnt_nothing(result: Mapping[str, Any]) -> Iterator[str]:
    """Why nothing can have been learnt: no step, no sample, a number that is none, a loss that has not moved."""
    for key in ("steps", "steps_of_this_run"):
        if result.get(key) == 0:
            yield "learnt nothing: no step was trained"
            return
    odd = result.get("not_finite")
    for key, what in odd.items() if isinstance(odd, dict) else ():
        yield f"learnt nothing: {key} is {what}"
        return
    for key in (*SAMPLES, *(f"training_info.{name}" for name in SAMPLES)):
        if _number(result, key) == 0:
            yield f"learnt nothing: {key} is 0"
            return
    first, last = (_number(result, key) for key in ("first_loss", "last_loss"))
    steps = result.get("steps_of_this_run", result.get("steps"))
    if isinstance(first, str) or isinstance(last, str) or steps == 1:
        return
    if abs(first - last) <= FLAT * abs(first):
        yield f"learnt nothing: the loss is flat, {first:.6g} at the first step and {last:.6g} at the last of {steps}"
