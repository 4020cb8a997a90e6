"""The verbs of a Slurm job: submit, status, logs, signal, wait, remove. All by Slurm's own commands."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from launcher.engines import Claimed, Status, logfiles, polling, slurmwords
from launcher.records.outcome import IN_QUEUE, End, Ended, refused
from slipway import inbox
from slipway.console import say
from slipway.errors import Exit, SlipwayError
from slipway.files import PRIVATE, write_atomic

TIMEOUT = 60  # seconds that one command of Slurm may take: a controller that fails over lets its clients wait
STEP = "slipway"  # the name of the one that is the run, among a job's steps; batch.sh has it, too
POLL = 1.0  # seconds between two questions to the controller
_OVER = ("exited", "missing")
_TOLD = {"time limit": End.TIME_LIMIT, "preempted": End.PREEMPTED, "TERM": End.STOPPED}  # batch.sh's TOLD
# What would change a job behind its script's back; SLURM_CONF says where the cluster is.
_CLUSTER = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
_JOB = "[0-9]{1,20}"
_FOREIGN = re.compile(r"(PYXIS|SBATCH|SLURM|SQUEUE|SCANCEL)_")


class _Attempt(msgspec.Struct):
    """A line that batch.sh writes when an attempt starts, and when it ends. `exit`: of the step, where it ends.

    `why`: why the step was told to leave; `said`: in the script's words, why it ended by itself; `unmade`: nodes whose
    containers did not start, though nobody had told them to stop; `excluded`: nodes that the next one does without.
    """

    event: Literal["start", "end"]
    job: Annotated[str, msgspec.Meta(pattern=f"^{_JOB}$")]
    time: str
    exit: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,3}$")] = "70"
    requeued: str = "false"
    why: str = ""
    said: str = ""
    unmade: str = ""
    excluded: str = ""


@contextlib.contextmanager
def connect(address: str) -> Iterator[SlurmJobs]:
    """There is nothing to open: every command finds the cluster by itself."""
    yield SlurmJobs()


class SlurmJobs:
    """What a run directory's job is asked and told. Its id is in the file `job`, and its name is the run's."""

    def submit(self, request: dict[str, Any], run: Claimed, after: Sequence[str] = (), ok: Sequence[str] = ()) -> str:
        """sbatch from inside the run directory; returns the job id. Raises SlipwayError 69 with sbatch's own words."""
        words = ["sbatch", "--parsable", f"--job-name={name(run)}"]
        named = [f"{how}:{':'.join(jobs)}" for how, jobs in (("afterany", after), ("afterok", ok)) if jobs]
        words += [f"--dependency={','.join(named)}"] if named else []
        words += ["--kill-on-invalid-dep=yes"] if ok else []  # else it would wait forever for what has failed
        done = _call([*words, "script.sh"], cwd=run.path)
        if done.returncode:
            said = slurmwords.refusal(done.stderr)
            raise SlipwayError(Exit.UNAVAILABLE, f"sbatch: {said.what}", where=said.where, remedy=said.remedy)
        job = done.stdout.strip().partition(";")[0]  # JOB;CLUSTER where there are several
        write_atomic(run.path / "job", f"{job}\n", PRIVATE)
        return job

    def status(self, run: Claimed) -> Status:
        """From scontrol while Slurm's controller remembers the job, else sacct, else what the job itself wrote."""
        job = self.job(run)
        if job is None:
            return Status("missing")
        found = _ask_scontrol(job) or _ask_sacct(job) or _ask_attempts(run.path)
        if found is None:
            why = "it was cancelled while it waited, or no node could start it"
            what = f"Slurm has forgotten job {job}, whose script never began: {why}"
            return Status("exited", end=Ended(End.LOST, what))
        if found.state != "exited":
            return found
        any(run.path.iterdir())  # a network file system then asks its server for what is new
        attempts = _attempts(run.path)
        found = replace(found, excluded=excluded(run.path))
        if found.end:
            waited = found.end == Ended(End.CANCELLED) and not attempts
            return replace(found, end=Ended(End.CANCELLED, IN_QUEUE)) if waited else found
        if _over(attempts):  # the node's own code: Slurm knows srun's
            return replace(found, exit_code=int(attempts[-1].exit), end=_end(attempts[-1]))
        return found if found.exit_code else _no_success(found, job, bool(attempts))

    def job(self, run: Claimed) -> str | None:
        """The job's id: of the launcher that submitted it, of the job itself, or by its name in the queue."""
        if found := recorded_job(run.path):
            return found
        if attempts := _attempts(run.path):
            return attempts[-1].job
        done = _call(["squeue", "--noheader", "--format=%A", f"--name={name(run)}", "--states=all"])
        return done.stdout.split()[0] if done.returncode == 0 and done.stdout.split() else None

    def directory(self, run: Claimed) -> str | None:
        """Nothing else knows it."""
        return None

    def logs(self, run: Claimed, follow: bool) -> Iterator[bytes]:
        """job.log and the nodes' logs, which are in the run directory."""
        yield from logfiles.read(run.path / "logs", self._over(run) if follow else None)

    def _over(self, run: Claimed) -> Callable[[], bool]:
        """Whether the run has ended, asked of the controller now and then; says why a job waits, when that changes."""
        asked, over, told = 0.0, False, ""

        def ask() -> bool:
            nonlocal asked, over, told
            if over or time.monotonic() - asked < POLL:
                return over
            status = self.status(run)
            asked, over = time.monotonic(), status.state in _OVER
            if status.detail and status.detail != told:
                told = status.detail
                say(f"pending: {told}")
            return over

        return ask

    def signal(self, run: Claimed, name: str) -> None:
        """TERM and INT are the batch script's to pass on, as USR2: the step may save. KILL ends the job.

        A job without a step has nothing to save.
        """
        job = self.job(run)
        status = self.status(run)
        if job is None or status.state in _OVER:
            return
        ask = name != "KILL" and status.state == "running" and _has_step(job)
        done = _call(["scancel", *(["--batch", "--signal=USR2"] if ask else []), job])
        if done.returncode and self.status(run).state not in _OVER:
            raise SlipwayError(Exit.UNAVAILABLE, f"scancel: {done.stderr.strip()}", where=f"job {job}")

    def wait(self, run: Claimed, seconds: float | None = None) -> bool:
        """Asks the controller once a second."""
        return polling.wait(lambda: self.status(run).state in _OVER, POLL, seconds)

    def entering(self, run: Claimed, pid: int, words: Sequence[str], terminal: bool) -> list[str]:
        """A step of the job beside the run's own, on its one node, which enters the container that pyxis has made."""
        job = self.job(run)
        assert job is not None  # it runs
        shown = ["--env", f"TERM={os.environ.get('TERM', 'xterm')}"] if terminal else []
        options = [f"--jobid={job}", "--overlap", "--nodes=1", "--ntasks=1", "--job-name=slipway-shell"]
        options += ["--pty"] if terminal else []
        return ["srun", *options, "enroot", "exec", *shown, str(pid), *words]

    def remove(self, run: Claimed) -> None:
        """Slurm holds nothing of an ended job."""


def name(run: Claimed) -> str:
    """The job's name, by which any process can find it again."""
    return f"slipway-{run.id}"


def _has_step(job: str) -> bool:
    """Whether the step that is the run is there, by its name: setup lines and removals have steps of their own."""
    return STEP in _call(["squeue", "--steps", "--noheader", f"--jobs={job}", "--format=%j"]).stdout.split()


def _call(words: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not _FOREIGN.match(k) or k in _CLUSTER}
    try:
        return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except FileNotFoundError as e:
        remedy = "run this where Slurm's commands are"
        raise SlipwayError(Exit.UNAVAILABLE, f"there is no {words[0]} here", remedy=remedy) from e
    except subprocess.TimeoutExpired as e:
        raise SlipwayError(Exit.UNAVAILABLE, f"{words[0]} did not answer within {TIMEOUT} s") from e


def _ask_scontrol(job: str) -> Status | None:
    """None where the controller has forgotten the job (MinJobAge). Raises SlipwayError 69 where it does not answer."""
    done = _call(["scontrol", "--oneliner", "show", "job", job])
    if done.returncode:
        if "Invalid job id" in done.stderr:
            return None
        raise SlipwayError(Exit.UNAVAILABLE, f"scontrol: {done.stderr.strip()}", where=f"job {job}")
    return slurmwords.from_scontrol(done.stdout)


def _ask_sacct(job: str) -> Status | None:
    """None where the site keeps no accounts."""
    with contextlib.suppress(SlipwayError):
        format_ = "State,ExitCode,Start,End,Reason"
        done = _call(["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", f"--format={format_}"])
        if done.returncode == 0 and done.stdout.strip():
            return slurmwords.from_sacct(done.stdout.splitlines()[-1])
    return None


def _no_success(found: Status, job: str, began: bool) -> Status:
    """A job that Slurm calls completed though its script has not said so: seen where a node could not start it."""
    lost = "was never started: its node could not; sinfo --list-reasons, and slurmd's log there, say more"
    what = f"Slurm calls job {job} completed, but its script {'did not reach its end' if began else lost}"
    return replace(found, end=Ended(End.LOST if began else End.NOT_STARTED, what))


def _over(attempts: list[_Attempt]) -> bool:
    """Whether the script has told its end, and is not in the queue again."""
    return bool(attempts) and attempts[-1].event == "end" and attempts[-1].requeued != "true"


def _end(last: _Attempt) -> Ended | None:
    """What an attempt's script knows of its end, beside the code."""
    if last.exit == "0":
        return None
    if last.said:
        return refused(int(last.exit), last.said)
    if last.unmade:
        return Ended(End.NOT_STARTED, f"on {last.unmade}")
    return Ended(_TOLD[last.why]) if last.why in _TOLD else None


def _ask_attempts(path: Path) -> Status | None:
    """Of a job that nobody remembers: the last line that its script wrote."""
    attempts = _attempts(path)
    if not attempts:
        return None
    first, last = attempts[0], attempts[-1]
    if _over(attempts):
        return Status("exited", int(last.exit), end=_end(last), started=first.time, finished=last.time)
    what = "Slurm has forgotten the job, whose script did not reach its end: its node, or Slurm itself, ended it"
    return Status("exited", end=Ended(End.LOST, what), started=first.time)


def recorded_job(path: Path) -> str | None:
    """The id in a run directory's `job`; None while there is none. Raises Damaged."""
    text = inbox.read_text(path, "job", 4096)
    if text is not None and not re.fullmatch(_JOB, text.strip()):
        raise inbox.Damaged(f"is no job id: {text.strip()[:40]!r}", path / "job")
    return text.strip() if text else None


def excluded(path: Path) -> str:
    """Nodes that a job does without since an attempt had them, and why; in the words of its script."""
    return "; ".join(attempt.excluded for attempt in _attempts(path) if attempt.excluded)


def _attempts(path: Path) -> list[_Attempt]:
    """The lines of attempts.jsonl; what is none of the script's, such as one that a kill cut off, does not count."""
    lines = (inbox.read(path, "attempts.jsonl") or b"").splitlines()
    return [attempt for line in lines if (attempt := _attempt(line))]


def _attempt(line: bytes) -> _Attempt | None:
    try:
        return msgspec.json.decode(line, type=_Attempt)
    except (msgspec.DecodeError, RecursionError):
        return None
