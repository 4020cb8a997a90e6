"""A shell where a step would run.

    run_shell.py PROGRAM [WORD...]  the step's process: waits until the shell has ended, and ends with its code
    run_shell.py enter              the shell itself, on the terminal that an engine's `exec` gives it

What is entered has the environment and the folder of the process that waits, so of the step: home, caches, secrets,
Ray. The two know each other by files in the run's folder: `shell.json` (who waits) and `shell.ended` (the code).
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import slipway_step

WAITS, ENDED = slipway_step.STATE / "shell.json", slipway_step.STATE / "shell.ended"
SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh")
HEARD = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TERMINAL = ("TERM", "COLORTERM", "COLUMNS", "LINES")  # which only the one who enters knows


def hold(step: list[str]) -> int:
    """Until the shell has ended, or this process is told to leave; the exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    slipway_step.write_private(WAITS, json.dumps({"pid": os.getpid(), "step": by_hand(step)}))
    told = signal.sigwait(HEARD)
    if told != signal.SIGUSR1:
        return 128 + told
    return int(ENDED.read_text())


def by_hand(step: list[str]) -> str:
    """The command line that starts the step; empty where there is none (`launch shell LIBRARY`)."""
    if not step:
        return ""
    number = os.environ.get("SLIPWAY_SHELL_PROCS", "1")
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={number}", "--master-addr=127.0.0.1"]
    return shlex.join([sys.executable, *(torchrun if number != "1" else []), *step])


def enter() -> int:
    """Runs a shell to its end, tells the process that waits, and returns the shell's exit code."""
    waits = json.loads(WAITS.read_text())
    pid = int(waits["pid"])
    told = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    env = dict(os.fsdecode(item).split("=", 1) for item in told if b"=" in item)
    env.update({name: os.environ[name] for name in TERMINAL if name in os.environ})
    shell = next((path for path in SHELLS if os.access(path, os.X_OK)), SHELLS[-1])
    if sys.stdin.isatty():
        print(f"slipway: {env.get('SLIPWAY_STEP', '')}: {hint(waits['step'])}", file=sys.stderr, flush=True)
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):  # the terminal's, which are the shell's
        signal.signal(number, signal.SIG_IGN)
    code = subprocess.Popen([shell], env=env, cwd=f"/proc/{pid}/cwd", preexec_fn=usual_signals).wait()
    code = 128 - code if code < 0 else code
    slipway_step.write_private(ENDED, f"{code}\n")
    os.kill(pid, signal.SIGUSR1)
    return code


def hint(step: str) -> str:
    return f"its step is started by hand with: {step}" if step else "a shell; the run ends with it"


def usual_signals() -> None:
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(enter() if sys.argv[1:] == ["enter"] else hold(sys.argv[1:]))
