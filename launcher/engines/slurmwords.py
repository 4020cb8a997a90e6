"""What Slurm, pyxis and enroot say, in words that help: states, reasons for waiting, refusals and failed starts. Pure.

Seen on Slurm 22.05 with pyxis 0.24 and enroot 4.1; words are matched, so that other releases say the same or nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from launcher.engines import Status
from launcher.records.outcome import End, Ended

_WAITS = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
_RUNS = {"CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}
# How Slurm itself ends a job; COMPLETED and FAILED say only what the script's code was.
_ENDS = {
    "TIMEOUT": Ended(End.TIME_LIMIT),
    "DEADLINE": Ended(End.TIME_LIMIT, "the job's --deadline"),
    "NODE_FAIL": Ended(End.NODE_FAILED),
    "BOOT_FAIL": Ended(End.NODE_FAILED, "it did not boot"),
    "PREEMPTED": Ended(End.PREEMPTED),
    "CANCELLED": Ended(End.CANCELLED),
    "OUT_OF_MEMORY": Ended(End.OUT_OF_MEMORY, "Slurm, at the job's limit"),
}
_BY_SCRIPT = {"COMPLETED", "FAILED"}
_OOM_SIGNAL = "125"  # what Slurm says for a signal where memory ran out
# A pending job's reason -> what it means, and whether waiting is of no use.
_REASONS = {
    "Resources": ("waits for nodes to become free", False),
    "Priority": ("jobs of higher priority come first", False),
    "Dependency": ("waits for another job to end", False),
    "DependencyNeverSatisfied": ("the job it waits for failed: it will never start", True),
    "PartitionConfig": ("asks for more than the partition has: it will never start", True),
    "PartitionNodeLimit": ("asks for more nodes than the partition allows: it will never start", True),
    "PartitionTimeLimit": ("asks for more time than the partition allows: it will never start", True),
    "PartitionDown": ("the partition is down", False),
    "PartitionInactive": ("the partition takes no jobs", False),
    "ReqNodeNotAvail": ("nodes that it needs are down, drained or reserved", False),
    "BadConstraints": ("no node has what `constraint` asks for: it will never start", True),
    "JobHeldUser": ("is held by its user: scontrol release", True),
    "JobHeldAdmin": ("is held by an administrator", True),
    "BeginTime": ("its time has not come: a requeued job waits about two minutes", False),
    "Reservation": ("waits for its reservation to begin", False),
    "AssocGrpGRES": ("the account's share of GPUs is used up", False),
    "QOSMaxJobsPerUserLimit": ("as many jobs as the qos lets one user run", False),
    "InvalidAccount": ("the account is not valid: it will never start", True),
    "InvalidQOS": ("the qos is not valid: it will never start", True),
    "launch failed requeued held": ("a node could not start it, and Slurm holds it: scontrol release", True),
}
# Where in pyxis's noise the cause is: one of enroot's own errors, or pyxis's; last what a node says whose container was
# ended half-made, since another's did not start.
# Where one node's container does not start, srun ends the others: what is said of a shell that was ended (enroot's own
# temporary file of mounts) is the cause only where nothing else is.
_CAUSES = (
    re.compile(
        r"pyxis: {5}((?:\[ERROR\] (?!Command failed|Invalid argument: \.enroot_config_)|curl:|enroot-\w+:|mktemp:).*)"
    ),
    re.compile(r"pyxis: (--container-mounts: .*|couldn't chdir.*|failed to .*|error: .*|couldn't (?!start)\w+.*)"),
    re.compile(r"slurmstepd[\w-]*: error: (execve\(\).*|TaskProlog failed.*)"),
    re.compile(r"slipway: (refused: .*)"),
    re.compile(r"pyxis: {5}(\[ERROR\] (?:Command failed|Invalid argument: \.enroot_config_).*)"),
    re.compile(r"pyxis: (couldn't start .*)"),
)
_REFUSALS = (
    (r"[Ii]nvalid account", "account", "name one that is yours: sacctmgr show associations user=$USER"),
    (r"[Ii]nvalid partition", "partition", "the site's are: sinfo --summarize"),
    (r"[Ii]nvalid qos", "qos", "the site's are: sacctmgr show qos"),
    (r"[Rr]eservation", "reservation", "the site's are: scontrol show reservation"),
    (r"[Ii]nvalid generic resource|[Ii]nvalid.*gres", "gpus_by, gpu_type", "the nodes' are: sinfo --format='%N %G'"),
    (r"[Ii]nvalid feature", "constraint", "the nodes' are: sinfo --format='%N %f'"),
    (r"[Mm]emory specification", "mem", "the nodes have: sinfo --format='%N %m'"),
    (r"[Nn]ode count specification|[Rr]equested node configuration", "--nodes", "sinfo says what there is"),
    (r"unrecognized option|[Ii]nvalid option|ambiguous", "sbatch", "this Slurm does not know it: see `sbatch:`"),
    (r"[Uu]nable to contact slurm controller|Connection refused|Unable to establish", "slurmctld", "scontrol ping"),
)  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    where: str
    what: str
    remedy: str


def refusal(stderr: str) -> Refusal:
    """Why sbatch would not take a job, and which key of the profile it speaks of."""
    lines = [re.sub(r"^sbatch: ((error|fatal): )?", "", line).strip() for line in stderr.splitlines()]
    lines = [line for line in lines if line] or ["it said nothing"]
    for pattern, where, remedy in _REFUSALS:
        if found := next((line for line in lines if re.search(pattern, line)), None):
            return Refusal(where, found, remedy)
    return Refusal("", "; ".join(lines[-2:]), "")


def record(text: str) -> dict[str, str]:
    """The `Key=Value` words of what `scontrol --oneliner show` prints of one thing."""
    words = re.findall(r"(\S+?)=(.*?)(?= \S+?=|$)", text.strip())
    return dict(reversed(words))  # the first of a name counts: comments and paths, which may hold anything, come last


def from_scontrol(text: str) -> Status:
    """Of `scontrol --oneliner show job`."""
    facts = record(text)
    times = [_time(facts.get(key, "")) for key in ("StartTime", "EndTime")]
    return _status(facts["JobState"].split()[0], facts.get("ExitCode", "0:0"), facts.get("Reason", ""), times)


def from_sacct(line: str) -> Status:
    """Of `sacct --parsable2 --format=State,ExitCode,Start,End,Reason`."""
    state, code, start, end, reason = line.split("|")
    return _status(state.split()[0].rstrip("+"), code, reason, [_time(start), _time(end)])


def _status(state: str, code: str, reason: str, times: list[str]) -> Status:
    if state in _WAITS:
        return Status("pending", detail=waits(reason))
    if state in _RUNS:
        return Status("running", started=times[0])
    own, _, by_signal = code.partition(":")
    end = _ENDS["OUT_OF_MEMORY"] if by_signal == _OOM_SIGNAL else _ENDS.get(state)
    if not end and state not in _BY_SCRIPT:
        end = Ended(End.LOST, f"Slurm calls it {state}")
    # A script that a signal ended has the code 0, and is no success.
    return Status(
        "exited", int(own) or (0 if state == "COMPLETED" else 1), end=end, started=times[0], finished=times[1]
    )


def _time(text: str) -> str:
    return text if re.match(r"\d{4}-", text) else ""


def waits(reason: str) -> str:
    """A pending job's reason, with what it means; empty where it has none yet."""
    if reason in ("", "None"):
        return ""
    key = reason.strip("()").partition(",")[0].replace("_", " ")
    found = _REASONS.get(key) or next((v for k, v in _REASONS.items() if reason.startswith(k)), None)
    return f"{reason}: {found[0]}" if found else reason


def never_starts(detail: str) -> bool:
    """Whether a pending job, by its `detail`, waits in vain."""
    plain = detail.replace("_", " ")
    return any(hopeless and plain.startswith(key) for key, (_, hopeless) in _REASONS.items())


def cause(log: str) -> str:
    """The one line of a log that says why a container did not start; empty where none does."""
    for pattern in _CAUSES:
        if found := pattern.search(log):
            return found[1].strip()
    return ""
