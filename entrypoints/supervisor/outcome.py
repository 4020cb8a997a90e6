"""What a step that has ended well has come to, by its result.json: whether that is a success, and where it lies."""

from __future__ import annotations

import json
import os
import posixpath
import stat

from supervisor import gates
from supervisor.ends import NOT_MET, Cause, Ended, refusal, say
from supervisor.settings import Settings

LIMIT = 2**20  # bytes of result.json
OUTPUT = "/output"
MADE = "made"  # in the run's container/ folder: a link to what the step has made, for whoever waits for it
OWN = "${RUN_DIR}/"  # how a plan begins what is in the run directory


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
    _name_made(result, settings)
    return None


def _result(path: str) -> dict[str, object]:
    """Empty where the step has left none that can be read: a pipe in its place would never be opened."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            found = json.loads(file.read(LIMIT)) if stat.S_ISREG(os.fstat(handle).st_mode) else None
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _name_made(result: dict[str, object], settings: Settings) -> None:
    """Leaves a link to what was made, so that a job planned before it was there finds it.

    It is not in the output: whoever copies that with what links lead to would never come to an end.
    """
    made = result.get("checkpoint") or result.get("path")
    inside = posixpath.normpath(made) if isinstance(made, str) else ""
    if inside != OUTPUT and not inside.startswith(f"{OUTPUT}/"):
        return
    link, part = f"{settings.state}/{MADE}", f"{settings.state}/.{MADE}.{os.getpid()}"
    try:
        with open(f"{settings.slipway}/plan.json", encoding="utf-8") as file:
            output = str(json.load(file)["output"])
        there = f"../{output[len(OWN) :]}" if output.startswith(OWN) else output
        os.symlink(posixpath.normpath(posixpath.join(there, posixpath.relpath(inside, OUTPUT))), part)
        os.replace(part, link)
    except (OSError, ValueError, KeyError) as e:
        say(f"{link}: cannot be written: {getattr(e, 'strerror', None) or e}")
