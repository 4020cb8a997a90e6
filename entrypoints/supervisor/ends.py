"""How a run ends: one exit code, one cause, one reason, and the files that say so (docs/ends.md)."""

from __future__ import annotations

import os
import time

REFUSED, TRY_AGAIN, BROKEN, NOT_MET = 78, 75, 70, 76
STOPPED = {"TERM": 143, "INT": 130}
CONTROL = dict.fromkeys((*range(32), 127), " ")  # a reason is one line


class Cause:
    """Whose an exit code is."""

    STEP, SIGNAL, ENTRYPOINT, NODE, MEMORY, STALLED = "step", "signal", "entrypoint", "node", "memory", "stalled"
    GATE = "gate"


class Ended(Exception):
    """Ends the run. `code`: of this program, unless it was told to stop; `reason`: one line."""

    def __init__(self, code: int, cause: str, reason: str) -> None:
        super().__init__(reason)
        self.code, self.cause, self.reason = code, cause, reason


def say(words: str) -> None:
    """One line on stderr, in one write."""
    try:
        os.write(2, f"slipway: {words}\n".encode(errors="surrogateescape"))
    except OSError:  # nobody listens
        pass


def refusal(*reasons: str) -> Ended:
    """To raise where the run must not start. Each reason is one line."""
    for reason in reasons:
        say(f"refused: {reason}")
    return Ended(REFUSED, Cause.ENTRYPOINT, "; ".join(reasons))


def unavailable(reason: str) -> Ended:
    """To raise where the same run may work with other nodes."""
    say(reason)
    return Ended(TRY_AGAIN, Cause.NODE, reason)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write_status(
    folder: str, end: Ended, stopped_by: str, step_code: int | None, started: str, step_started: str
) -> None:
    """status.json of this node; `step_started`: empty where it was not. Raises OSError."""
    import json

    status = {
        "exit_code": end.code,
        "cause": end.cause,
        "reason": end.reason.translate(CONTROL),
        "signal": stopped_by or None,
        "step_exit_code": step_code,
        "started": started,
        "step_started": step_started or None,
        "finished": now(),
        "machine": machine(),
    }
    put(f"{folder}/status.json", f"{json.dumps(status, ensure_ascii=False)}\n")


def machine() -> str:
    """This node's processor and how many of them the kernel counts; what it does not say is left out."""
    names = [
        line.partition(":")[2].strip() for line in text_of("/proc/cpuinfo").splitlines() if line[:10] == "model name"
    ]
    return f"{names[0] if names else os.uname().machine}, {os.cpu_count()} processors"


def write_failed(state: str, code: int, rank: int, name: str) -> None:
    """The first node that fails by itself tells the job's exit code: those it takes along only know their signal."""
    try:
        with open(f"{state}/failed", "x", encoding="utf-8") as f:
            f.write(f"{code} {rank} {name}\n")
    except OSError:  # another node's word, as a rule
        pass


def put(path: str, text: str) -> None:
    """Writes a file whole: others look for it. Raises OSError."""
    part = f"{path}.part"
    with open(part, "w", encoding="utf-8", errors="replace", newline="") as f:
        f.write(text)
    os.replace(part, path)


def text_of(path: str) -> str:
    """What a file says, as a shell's $(<file) has it; empty where it cannot be read."""
    try:
        with open(path, "rb") as f:
            return f.read().decode(errors="replace").rstrip("\n")
    except OSError:
        return ""
