"""launcher/engines/slurmwords.py: what Slurm, pyxis and enroot said on a real cluster, and what we make of it."""

from __future__ import annotations

import pytest

from launcher.engines import slurmwords
from launcher.engines.slurmwords import Refusal

# `scontrol --oneliner show job` of Slurm 22.05, with what a test changes in braces.
SHOWN = (
    "JobId=7 JobName=slipway-20260101T000000Z-sft.automodel-abcdef UserId=root(0) GroupId=root(0) MCS_label=N/A "
    "Priority=4294901759 Nice=0 Account=(null) QOS=(null) JobState={state} Reason={reason} Dependency=(null) Requeue=1 "
    "Restarts=0 BatchFlag=1 Reboot=0 ExitCode={code} RunTime=00:00:09 TimeLimit=01:00:00 TimeMin=N/A "
    "SubmitTime=2026-01-01T00:00:00 EligibleTime=2026-01-01T00:00:00 AccrueTime=2026-01-01T00:00:00 StartTime={start} "
    "EndTime=2026-01-01T00:00:10 Deadline=N/A SuspendTime=None SecsPreSuspend=0 Partition=batch NodeList=n[1-3] "
    "Command={path}/script.sh WorkDir={path} Comment={comment} StdErr={path}/logs/job.log StdIn=/dev/null Power= "
)
START, END = "2026-01-01T00:00:01", "2026-01-01T00:00:10"


def shown(state: str = "RUNNING", **changes: str) -> str:
    usual = {"reason": "None", "code": "0:0", "start": START, "path": "/runs/a", "comment": "(null)"}
    return SHOWN.format(state=state, **(usual | changes))


@pytest.mark.parametrize(
    ("state", "code", "ours", "exit_code", "reason"),
    [
        ("PENDING", "0:0", "pending", 0, ""),
        ("REQUEUED", "0:0", "pending", 0, ""),
        ("CONFIGURING", "0:0", "running", 0, ""),
        ("RUNNING", "0:0", "running", 0, ""),
        ("COMPLETING", "0:0", "running", 0, ""),
        ("SUSPENDED", "0:0", "running", 0, ""),
        ("COMPLETED", "0:0", "exited", 0, ""),
        ("FAILED", "5:0", "exited", 5, ""),
        ("FAILED", "0:9", "exited", 1, ""),
        ("FAILED", "0:125", "exited", 137, "killed: out of memory: Slurm, at the job's limit"),
        ("CANCELLED", "0:15", "exited", 143, "cancelled"),
        ("CANCELLED", "3:0", "exited", 143, "cancelled"),
        ("TIMEOUT", "0:0", "exited", 143, "the time limit ended it"),
        ("DEADLINE", "0:0", "exited", 143, "the time limit ended it: the job's --deadline"),
        ("PREEMPTED", "0:0", "exited", 143, "a job of higher priority took its place"),
        ("NODE_FAIL", "0:0", "exited", 75, "a node failed"),
        ("BOOT_FAIL", "0:0", "exited", 75, "a node failed: it did not boot"),
        ("OUT_OF_MEMORY", "0:125", "exited", 137, "killed: out of memory: Slurm, at the job's limit"),
        ("A_STATE_OF_TOMORROW", "0:0", "exited", 70, "nobody knows how it ended: Slurm calls it A_STATE_OF_TOMORROW"),
    ],
)
def test_a_jobs_state(state: str, code: str, ours: str, exit_code: int, reason: str) -> None:
    """No job that Slurm ended is a success, though its own exit code says 0:0."""
    accounted = state + {"CANCELLED": " by 1000", "PREEMPTED": "+"}.get(state, "")
    told = slurmwords.from_sacct(f"{accounted}|{code}|{START}|{END}|None")
    for status in (slurmwords.from_scontrol(shown(state, code=code)), told):
        assert (status.state, status.end.reason if status.end else "") == (ours, reason)
        assert (status.end.exit_code(status.exit_code) if status.end else status.exit_code) == exit_code
        assert status.started == ("" if ours == "pending" else START)
        assert status.finished == (END if ours == "exited" else "")


@pytest.mark.parametrize("time", ["Unknown", "N/A", "None", ""])
def test_a_time_that_is_none(time: str) -> None:
    assert slurmwords.from_scontrol(shown(start=time)).started == ""
    assert slurmwords.from_sacct(f"RUNNING|0:0|{time}|Unknown|None").started == ""


@pytest.mark.parametrize(
    "odd", ["a JobState=FAILED ExitCode=9:0 StartTime=never", "x=y z", "=", "a  b", "JobState=", "é=ü", "'\"$HOME"]
)
def test_what_a_person_wrote_changes_nothing(odd: str) -> None:
    """A comment, and paths, stand behind all that we read."""
    for changed in ({"comment": odd}, {"path": f"/runs/{odd}"}):
        status = slurmwords.from_scontrol(shown("COMPLETED", code="3:0", **changed))
        assert (status.state, status.exit_code, status.started) == ("exited", 3, START)


def test_of_several_jobs_the_first_counts() -> None:
    """Arrays and heterogeneous jobs are nothing that we submit."""
    status = slurmwords.from_scontrol(f"{shown('RUNNING')}\n{shown('FAILED', code='4:0')}\n")
    assert status.state == "running"


@pytest.mark.parametrize(
    ("reason", "says", "hopeless"),
    [
        ("Resources", "waits for nodes to become free", False),
        ("Priority", "jobs of higher priority come first", False),
        ("Dependency", "waits for another job to end", False),
        ("DependencyNeverSatisfied", "the job it waits for failed: it will never start", True),
        ("PartitionConfig", "asks for more than the partition has: it will never start", True),
        ("PartitionNodeLimit", "asks for more nodes than the partition allows: it will never start", True),
        ("BeginTime", "its time has not come: a requeued job waits about two minutes", False),
        ("ReqNodeNotAvail,_UnavailableNodes:n[1-2]", "nodes that it needs are down, drained or reserved", False),
        ("ReqNodeNotAvail, May be reserved", "nodes that it needs are down, drained or reserved", False),
        ("(Resources)", "waits for nodes to become free", False),
        ("launch_failed_requeued_held", "a node could not start it, and Slurm holds it: scontrol release", True),
        ("JobHeldUser", "is held by its user: scontrol release", True),
    ],
)
def test_why_a_job_waits(reason: str, says: str, hopeless: bool) -> None:
    status = slurmwords.from_scontrol(shown("PENDING", reason=reason))
    assert status.detail == f"{reason}: {says}"
    assert slurmwords.never_starts(status.detail) is hopeless


@pytest.mark.parametrize("reason", ["None", ""])
def test_a_job_that_nobody_has_looked_at_yet(reason: str) -> None:
    assert slurmwords.waits(reason) == "" and not slurmwords.never_starts("")


def test_a_reason_of_tomorrow_is_told_as_it_is() -> None:
    assert slurmwords.waits("MoonPhase") == "MoonPhase" and not slurmwords.never_starts("MoonPhase")


FAILED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("said", "where"),
    [
        (f"{FAILED}Invalid account or account/partition combination specified", "account"),
        (f"sbatch: error: invalid partition specified: x\n{FAILED}Invalid partition name specified", "partition"),
        (f"{FAILED}Invalid qos specification", "qos"),
        (f"{FAILED}Requested reservation is invalid", "reservation"),
        (f"{FAILED}Invalid generic resource (gres) specification", "gpus_by, gpu_type"),
        (f"{FAILED}Invalid feature specification", "constraint"),
        (f"sbatch: error: Memory specification can not be satisfied\n{FAILED}Requested node configuration", "mem"),
        (f"{FAILED}Requested node configuration is not available", "--nodes"),
        (f"{FAILED}Node count specification invalid", "--nodes"),
        ("sbatch: unrecognized option '--gpu-bindd=x'\nTry \"sbatch --help\" for more information", "sbatch"),
        (f"{FAILED}Unable to contact slurm controller (connect failure)", "slurmctld"),
    ],
)  # fmt: skip
def test_why_a_job_was_not_taken(said: str, where: str) -> None:
    refusal = slurmwords.refusal(f"{said}\n")
    assert refusal.where == where and refusal.remedy
    assert not refusal.what.startswith("sbatch:") and refusal.what in said


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("", "it said nothing"),
        ("\n \n", "it said nothing"),
        ("sbatch: error: one\nsbatch: fatal: two\nsbatch: error: three\n", "two; three"),
        ("lua: ask the help desk\n", "lua: ask the help desk"),
    ],
)
def test_a_refusal_of_tomorrow_is_told_as_it_is(said: str, what: str) -> None:
    assert slurmwords.refusal(said) == Refusal("", what, "")


NOISE = """\
slurmstepd: error: pyxis: container start failed with error code: 1
slurmstepd: error: pyxis: printing enroot log file:
slurmstepd: error: pyxis:     [INFO] Extracting squashfs filesystem...
slurmstepd: error: pyxis:     [WARN] something
slurmstepd: error: pyxis:     {}
slurmstepd: error: pyxis: couldn't start container
slurmstepd: error: spank: required plugin spank_pyxis.so: task_init() failed with rc=-1
slurmstepd: error: Failed to invoke spank plugin stack
srun: error: n2: task 1: Exited with exit code 1
"""


@pytest.mark.parametrize(
    "line",
    [
        "[ERROR] No such file or directory: /nope.sqsh",
        "[ERROR] Invalid image format",
        "curl: (6) Could not resolve host: podman",
        "enroot-mount: failed to mount: /x at /run/enroot/d: No such file or directory",
        "mktemp: failed to create directory via template '/raid/enroot.XXXXXXXXXX': No such file or directory",
    ],
)
def test_the_one_line_of_enroots_log(line: str) -> None:
    assert slurmwords.cause(f"what the step printed\n{NOISE.format(line)}") == line


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("slurmstepd: error: pyxis: --container-mounts: source path does not exist: /x\n" + NOISE.format("[INFO] x"),
         "--container-mounts: source path does not exist: /x"),
        ("slurmstepd: error: pyxis: couldn't chdir to /x: No such file or directory\n",
         "couldn't chdir to /x: No such file or directory"),
        ("slurmstepd: error: pyxis: failed to create container filesystem for image: /nope.sqsh\n",
         "failed to create container filesystem for image: /nope.sqsh"),
        ("slurmstepd: error: execve(): bash: No such file or directory\nsrun: error: n1: task 0: Exited with code 2\n",
         "execve(): bash: No such file or directory"),
        ("slurmstepd-n1: error: TaskProlog failed status=3\nsrun: error: n1: task 0: Exited with exit code 3\n",
         "TaskProlog failed status=3"),
        ("slipway: refused: the image was not resolved\n", "refused: the image was not resolved"),
        (NOISE.format("[ERROR] Command failed: mount"), "[ERROR] Command failed: mount"),
        (NOISE.format("[ERROR] Command failed: mount") +
         "slurmstepd: error: pyxis: --container-mounts: source path does not exist: /x\n",
         "--container-mounts: source path does not exist: /x"),
        ("step 1 of 9\nloss 3.2\n", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_the_one_line_of_everything_else(log: str, cause: str) -> None:
    assert slurmwords.cause(log) == cause


def test_what_a_node_says_that_was_ended_is_the_cause_only_where_nothing_else_is() -> None:
    ended = NOISE.format("[ERROR] Invalid argument: .enroot_config_Zd81Hk")
    own = "[ERROR] source path does not exist: /disk"
    assert slurmwords.cause(f"{ended}\n{NOISE.format(own)}") == own
    assert slurmwords.cause(ended) == "[ERROR] Invalid argument: .enroot_config_Zd81Hk"


def test_what_scontrol_says_of_one_thing() -> None:
    """The first of a name counts."""
    assert slurmwords.record("A=1 B=two words C=\n") == {"A": "1", "B": "two words", "C": ""}
    assert slurmwords.record("JobState=RUNNING Comment=JobState=FAILED")["JobState"] == "RUNNING"
    assert slurmwords.record("") == {}
