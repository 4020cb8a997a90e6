"""The verbs of a run with enroot, by the files that its script writes (entrypoints/enroot.sh) and by signals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import msgspec

from images.building import rootfs
from launcher.engines import Claimed, Status, logfiles, polling
from launcher.records import container_reports
from launcher.records.outcome import UNMADE, End, Ended, refused
from slipway import inbox
from slipway.errors import Exit, SlipwayError
from slipway.files import PRIVATE, cannot_write, private

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
POLL = 0.1  # seconds between two looks at files


class _Process(msgspec.Struct):
    """The process of enroot.sh. `own`: the name of a root file system of this run alone; `mark`: of all it starts."""

    pid: Annotated[int, msgspec.Meta(gt=0, le=2**31 - 1)]
    start: str
    boot: str
    host: str
    mark: Annotated[str, msgspec.Meta(min_length=1)]
    own: Annotated[str, msgspec.Meta(pattern="^[^/]*$")]
    started: str


class _Ended(msgspec.Struct):
    """How its script ended. `told`: by which signal, where that came before the entrypoint; `said`: why by itself."""

    exit: container_reports.ExitCode
    finished: str
    told: str = ""
    said: str = ""

    @property
    def end(self) -> Ended | None:
        if self.told:
            return Ended(End.STOPPED, UNMADE)
        return refused(self.exit, self.said) if self.said else None


class _Profile(msgspec.Struct):
    data: str


class _Planned(msgspec.Struct):
    """plan.json, as far as it is needed here: where root file systems are."""

    profile: _Profile


def connect(address: str) -> AbstractContextManager[EnrootRuns]:
    """There is nothing to open: a run is known by its directory."""
    return contextlib.nullcontext(EnrootRuns())


class EnrootRuns:
    """What a run directory's process is asked and told. `process` names it, `ended` has its exit code."""

    def submit(self, request: dict[str, Any], run: Claimed, after: Sequence[str] = (), ok: Sequence[str] = ()) -> str:
        """Starts script.sh in a session of its own; returns its pid once it has the run directory."""
        log_file = run.path / "logs" / "step.log"
        with cannot_write(log_file), open(log_file, "ab", opener=private) as log:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            started = subprocess.Popen(["bash", "script.sh"], cwd=run.path, start_new_session=True, **streams)
        while not _process(run.path):
            if started.poll() is not None and not _process(run.path):
                said = log_file.read_text(errors="replace").strip()
                raise SlipwayError(Exit.UNAVAILABLE, f"script.sh could not begin: {said}", where=str(run.path))
            time.sleep(POLL / 10)
        return str(started.pid)

    def status(self, run: Claimed) -> Status:
        process = _process(run.path)
        if process is None:
            return Status("missing")
        alive = _alive(process)  # before the other file is read: a process writes it last
        if ended := inbox.read_json(run.path, "ended", _Ended):
            return Status("exited", ended.exit, end=ended.end, started=process.started, finished=ended.finished)
        if process.host != os.uname().nodename:
            what = f"it runs on {process.host}"
            raise SlipwayError(Exit.UNAVAILABLE, what, where=str(run.path), remedy="ask there")
        if alive or _members(process):
            return Status("running", started=process.started)
        why = "its script was killed" if process.boot == BOOT else "the machine was restarted while it ran"
        with contextlib.suppress(inbox.Damaged):  # told when the run is collected
            if wrote := container_reports.node_status(run.path, 0):  # its script was killed, the step was not
                return Status("exited", wrote.exit_code, started=process.started, finished=wrote.finished)
        return Status("exited", end=Ended(End.LOST, why), started=process.started)

    def directory(self, run: Claimed) -> str | None:
        """Nothing else knows it."""
        return None

    def logs(self, run: Claimed, follow: bool) -> Iterator[bytes]:
        """logs/step.log, which the script and the container write themselves."""
        yield from logfiles.read(run.path / "logs", (lambda: self._over(run)) if follow else None)

    def _over(self, run: Claimed) -> bool:
        return self.status(run).state != "running"

    def signal(self, run: Claimed, name: str) -> None:
        """TERM and INT to the script, which tells the entrypoint; KILL to everything in the container."""
        if self._over(run):
            return
        process = _process(run.path)
        if process is None:
            return
        if name != "KILL":
            _send([process.pid] if _alive(process) else _members(process), signal.Signals[f"SIG{name}"])
            return
        while pids := _members(process):  # also what they have started meanwhile
            _send(pids, signal.SIGSTOP)  # the entrypoint is not to see its step die, and end in an orderly way
            _send(pids, signal.SIGKILL)
            time.sleep(POLL)

    def wait(self, run: Claimed, seconds: float | None = None) -> bool:
        """Looks at the files ten times a second."""
        return polling.wait(lambda: self._over(run), POLL, seconds)

    def entering(self, run: Claimed, pid: int, words: Sequence[str], terminal: bool) -> list[str]:
        """By `enroot exec` of a process there: a container has no pids of its own (ENROOT_UNSHARE_PID=n)."""
        shown = ["--env", f"TERM={os.environ.get('TERM', 'xterm')}"] if terminal else []
        return ["enroot", "exec", *shown, str(pid), *words]

    def remove(self, run: Claimed) -> None:
        """What a script that was killed has left; one that has not yet begun will find its place taken."""
        with cannot_write(run.path), contextlib.suppress(FileExistsError):
            (run.path / "process").touch(PRIVATE, exist_ok=False)
        process = _process(run.path)
        own = process.own if process else ""
        if own.endswith(f"-{run.id}") and (plan := inbox.read_json(run.path, "plan.json", _Planned)):
            rootfs.remove(Path(plan.profile.data, own))


def _process(path: Path) -> _Process | None:
    """Who has the run directory; None where nobody has, or ever will. Raises SlipwayError 65 for anything else."""
    data = inbox.read(path, "process", 65536)
    return inbox.convert(inbox.plain(data, path / "process"), _Process, path / "process") if data else None


def _alive(process: _Process) -> bool:
    """Whether it is the very process: a pid may be another's by now, but not with this start since this boot."""
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[0] != "Z" and stat[19] == process.start and process.boot == BOOT


def _members(process: _Process) -> list[int]:
    """Every process of the container, and enroot's own before there is one: they inherit the mark."""
    mark = f"SLIPWAY_CONTAINER={process.mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found if process.boot == BOOT else []


def _send(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
