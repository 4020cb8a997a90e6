"""What a step that has ended well has come to, by its result.json: whether that is a success, and where it lies."""

from __future__ import annotations

import json
import os
import posixpath

from supervisor import gates
from supervisor.ends import NOT_MET, Cause, Ended, refusal, say
from supervisor.settings import Settings

LIMIT = 2**20  # bytes of result.json
OUTPUT = "/output"
OF_RUNS, MADE = ".slipway-run", "made"  # in the output: a link to what the step has made, for whoever waits for it


def looked_at(settings: Settings) -> Ended | None:
    """The end of a step that has not come to what was expected of it; None where it has.

    Only node 0 looks: its rank 0 writes the result.
    """
    result = _result(f"{settings.state}/result.json")
    try:
        conditions = [gates.parse(line) for line in settings.expect]
    except ValueError as e:
        return refusal(f"SLIPWAY_EXPECT: {e}")
    if wrong := gates.judge(result, conditions):
        for line in wrong:
            say(f"not a success: {line}")
        return Ended(NOT_MET, Cause.GATE, "; ".join(wrong))
    _name_made(result, settings.output)
    return None


def _result(path: str) -> dict[str, object]:
    """Empty where the step has left none that can be read."""
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(LIMIT))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _name_made(result: dict[str, object], output: str) -> None:
    """Leaves a link in the output that leads to what was made, so that a job planned before it was there finds it."""
    made = result.get("checkpoint") or result.get("path")
    inside = posixpath.normpath(made) if isinstance(made, str) else ""
    if inside != OUTPUT and not inside.startswith(f"{OUTPUT}/"):
        return
    folder, part = f"{output}/{OF_RUNS}", f"{output}/{OF_RUNS}/.{MADE}.{os.getpid()}"
    try:
        os.makedirs(folder, exist_ok=True)
        os.symlink(posixpath.join("..", posixpath.relpath(inside, OUTPUT)), part)
        os.replace(part, f"{folder}/{MADE}")
    except OSError as e:
        say(f"{folder}/{MADE}: cannot be written: {e.strerror}")
