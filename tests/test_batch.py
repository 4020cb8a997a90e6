"""entrypoints/batch.sh: a rendered script run as Slurm runs it; Slurm's commands are programs (standins/slurm.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import REPO
from slurm_job import PATIENCE, REQUEUES, STEP, Job

# Says that it runs, and ends with 143 when scancel has told it.
WAITS = "mkdir -p container/0/ranks; touch running; until [[ -e told ]]; do read -rt 0.01 <> <(:); done; exit 143"
TELLS = "touch told"


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of two users, and mounts")


def with_secret(job: Job) -> Path:
    """Writes the job with the secret TOKEN; returns its file."""
    job.write(job.plan(profile={"secrets": {"TOKEN": "env"}}))
    folder = job.root / "runs" / ".secrets" / job.path.name
    folder.mkdir(parents=True)
    (folder / "TOKEN").write_text("hush")
    return folder / "TOKEN"


def start_waiting(job: Job, **env: str) -> subprocess.Popen[bytes]:
    """The job with a step that waits to be told."""
    job.step(WAITS)
    job.does("scancel", TELLS)
    if not job.path.exists():
        job.write()
    process = job.start(**env)
    wait_for(lambda: (job.path / "running").exists() or process.poll() is not None)
    assert process.poll() is None, job.err
    return process


def test_shellcheck_has_nothing_to_say() -> None:
    program = str(Path(sys.executable).with_name("shellcheck"))
    done = subprocess.run(
        [program, "-x", REPO / "entrypoints" / "batch.sh"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_a_step_that_ends_well(job: Job) -> None:
    job.write()
    assert job.run() == 0, job.err
    start, end = job.attempts
    assert (start["event"], start["attempt"], start["job"], start["nodes"]) == ("start", 0, "7", "n[1-2]")
    assert (end["event"], end["exit"], end["srun"], end["why"], end["requeued"]) == ("end", "0", "0", "", "false")
    env = job.srun.env
    assert (env["SLIPWAY_HEAD"], env["SLIPWAY_NODE_NAMES"], env["SLIPWAY_ATTEMPT"]) == ("10.0.0.1", "n1 n2", "0")
    assert env["SLIPWAY_NONCE"].startswith("7.0.") and len(env["SLIPWAY_NONCE"]) == len("7.0.") + 16
    assert env["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert (job.root / "out").is_dir() and (job.root / "hf").is_dir()
    assert not job.calls("scancel")


def test_the_step_is_told_when_the_job_will_be_ended(job: Job) -> None:
    job.job_is("StartTime=2026-01-01T00:00:00 EndTime=2026-01-01T00:20:00 Deadline=N/A")
    job.write()
    assert job.run(TZ="UTC") == 0, job.err
    assert job.srun.env["SLIPWAY_DEADLINE"] == "1767226800"


def test_a_job_without_a_limit_has_no_deadline(job: Job) -> None:
    job.job_is("StartTime=2026-01-01T00:00:00 EndTime=Unknown Deadline=N/A")
    job.write()
    assert job.run() == 0, job.err
    assert "SLIPWAY_DEADLINE" not in job.srun.env


def test_with_gpus_the_devices_are_slurms(job: Job) -> None:
    job.write(job.plan(gpus=2))
    assert job.run() == 0, job.err
    assert "NVIDIA_VISIBLE_DEVICES" not in job.srun.env


@pytest.mark.parametrize(
    ("failed", "srun", "code"), [("5 1 n2", 143, 5), ("", 143, 143), ("", 9, 9), ("nonsense", 137, 137)]
)
def test_the_code_is_of_the_node_that_failed_first_else_sruns(job: Job, failed: str, srun: int, code: int) -> None:
    job.step(f"{STEP}\n[[ -z {failed!r} ]] || echo {failed!r} >container/failed\nexit {srun}")
    job.write()
    assert job.run() == code
    assert (job.attempts[-1]["exit"], job.attempts[-1]["srun"]) == (str(code), str(srun))


def test_what_an_earlier_attempt_left_tells_nothing_of_this_one(job: Job) -> None:
    job.write()
    (job.path / "container" / "1").mkdir(parents=True)
    (job.path / "container" / "1" / "status.json").write_text("{}")
    (job.path / "container" / "failed").write_text("5 1 n2\n")
    job.step("mkdir container/0; echo {} >container/0/status.json")
    assert job.run(SLURM_RESTART_COUNT="1") == 69
    job.step(f"{STEP}; exit 3")
    assert job.run(SLURM_RESTART_COUNT="2") == 3


def test_each_attempt_first_removes_what_others_left_in_steps_that_take_their_numbers(job: Job) -> None:
    job.write()
    assert job.run(SLURM_RESTART_COUNT="2", ENROOT_DATA_PATH="/other") == 0, job.err
    *before, step = job.calls("srun")
    assert step.option("job-name") == "slipway"
    assert [c.option("job-name") for c in before] == ["leftovers"] * 2
    assert all("enroot remove -f" in c.words[-1] and "ENROOT_DATA_PATH" not in c.env for c in before)
    assert {c.option("nodes") for c in before} == {"2"}


# What containers leave of which one has found its node bad; srun ends the others.
UNFIT = """mkdir -p container/0/ranks container/1/ranks; echo '75 1 n2' >container/failed
echo 'n2 GPU 2 (GPU-2): 3 uncorrected ECC errors' >container/bad; exit 143"""
NONE = "echo 'allocation failure: Requested node configuration is not available' >&2; exit 1"
WHY = "node n2: GPU 2 (GPU-2): 3 uncorrected ECC errors"


def test_the_next_attempt_does_without_a_bad_node(job: Job) -> None:
    job.step(UNFIT)
    job.job_is("Restarts=0 ExcNodeList=(null) NodeList=n[1-2]", REQUEUES)
    job.write()
    job.run()
    last = job.attempts[-1]
    assert (last["exit"], last["why"], last["excluded"], last["requeued"]) == ("75", "bad node", WHY, "true")
    assert f"slipway: {WHY}: back into the queue" in job.err


def asked(job: Job) -> list[list[str]]:
    """What scontrol was told to do, not asked."""
    return [c.words for c in job.calls("scontrol") if c.words[0] in ("requeue", "update")]


def test_slurm_is_told_when_the_job_waits_whatever_ends_this_script(job: Job) -> None:
    """A job that runs takes no such change; what puts it back sends TERM to all that belongs to it."""
    job.step(UNFIT)
    ends = 'case "$1" in requeue) kill -TERM $PPID $$ ;; update) kill -TERM $$; touch updated ;; esac'
    job.job_is("Restarts=0 ExcNodeList=n9 NodeList=n[1-2]", ends)
    job.write()
    assert job.run() == 0, job.err
    assert asked(job) == [["requeue", "7"], ["update", "JobId=7", "ExcNodeList=n9,n2"]]
    assert (job.path / "updated").exists() and not job.attempts[-1].get("said")


@pytest.mark.parametrize(
    ("attempt", "profile", "sbatch", "said"),
    [
        ("2", {}, "", ""),
        ("0", {"attempts": 1}, "", ""),
        ("0", {}, NONE, "there are not enough other nodes on which this job could run"),
    ],
)
def test_where_no_other_node_may_do_the_job_ends(
    job: Job, attempt: str, profile: dict[str, Any], sbatch: str, said: str
) -> None:
    job.step(UNFIT)
    job.does("sbatch", sbatch)
    job.write(job.plan(profile=profile))
    assert job.run(SLURM_RESTART_COUNT=attempt) == 75
    assert not asked(job)
    last = job.attempts[-1]
    assert (last["requeued"], said in last["said"], bool(last["said"])) == ("false", True, bool(said))


@pytest.mark.parametrize("bad", ["n9 a node of others", "n2x also", "", "/etc/passwd x"])
def test_a_container_can_name_no_node_of_others(job: Job, bad: str) -> None:
    job.step(UNFIT.replace("n2 GPU 2 (GPU-2): 3 uncorrected ECC errors", bad))
    job.write()
    assert job.run() == 75 and not asked(job)


def test_a_step_that_fails_by_itself_has_no_bad_node(job: Job) -> None:
    job.step(UNFIT.replace("75 1 n2", "5 1 n2"))
    job.write()
    assert job.run() == 5 and not asked(job)


def test_a_link_in_place_of_what_names_bad_nodes_is_not_read(job: Job) -> None:
    (job.root / "others").write_text("n2 of another place\n")
    job.step(
        f"{UNFIT.partition('echo')[0]} echo '75 1 n2' >container/failed; ln -s {job.root}/others container/bad; exit 1"
    )
    job.write()
    assert job.run() == 75 and not asked(job)


def test_a_node_that_made_no_container_while_the_other_did_is_bad(job: Job) -> None:
    job.step("mkdir -p container/0/ranks; exit 1")
    job.job_is("Restarts=0", REQUEUES)
    job.write()
    job.run()
    assert job.attempts[-1]["excluded"] == "node n2: its container did not start"


def test_where_no_container_was_made_no_node_is_bad(job: Job) -> None:
    job.step("exit 1")
    job.write()
    assert job.run() == 1 and not asked(job)
    assert job.attempts[-1]["unmade"] == "n1 n2"


def test_a_node_on_which_nothing_ran_is_no_success(job: Job) -> None:
    job.step("mkdir container/0; echo {} >container/0/status.json")
    job.write()
    assert job.run() == 69
    assert "srun ended with 0, but on node 1 of 2 (n1 n2) nothing has run to its end" in job.err
    assert (job.attempts[-1]["exit"], job.attempts[-1]["said"]) == ("69", job.err.splitlines()[-1][len("slipway: ") :])


def test_nodes_whose_containers_did_not_start_are_named(job: Job) -> None:
    """srun ends the others, which had begun."""
    job.step("mkdir -p container/0/ranks; exit 143")
    job.write(job.plan(profile={"attempts": 1}))
    assert job.run() == 143
    assert job.attempts[-1]["unmade"] == "n2"
    job.step("mkdir -p container/0/ranks; echo 3 0 n1 >container/failed; exit 143")
    assert job.run() == 3
    assert job.attempts[-1]["unmade"] == "", "it did not wait for that one"


def test_a_secret_is_there_for_the_step_and_gone_afterwards(job: Job) -> None:
    secret = with_secret(job)
    job.step(f"{STEP}; cat {str(secret)!r} >found")
    assert job.run() == 0, job.err
    assert (job.path / "found").read_text() == "hush"
    assert not secret.parent.exists() and secret.parent.parent.exists()


def test_a_missing_secret_is_refused(job: Job) -> None:
    with_secret(job).unlink()
    assert job.run() == 77
    folder = f"../.secrets/{job.path.name}"
    assert f"the secret TOKEN is not in {folder}; submit this directory with: launch submit '{job.path}'" in job.err
    assert not job.calls("srun")
    assert job.attempts[-1]["exit"] == "77"


@pytest.mark.parametrize("whose", ["link", "link to all", pytest.param("another's", marks=AS_ROOT)])
def test_secrets_that_are_not_the_callers_own_are_refused_and_left_alone(job: Job, whose: str) -> None:
    secret = with_secret(job)
    if whose == "another's":
        os.chown(secret.parent, 65534, 65534)
    else:
        link = secret.parent if whose == "link" else secret.parent.parent
        link.rename(job.root / "elsewhere")
        link.symlink_to(job.root / "elsewhere")
    assert job.run() == 77
    assert f"../.secrets/{job.path.name} is not your own folder" in job.err
    assert not job.calls("srun") and secret.read_text() == "hush"


@AS_ROOT
def test_secrets_that_cannot_be_removed_are_said(job: Job) -> None:
    secret = with_secret(job)
    subprocess.run(["mount", "--bind", secret.parent, secret.parent], check=True)
    try:
        assert job.run() == 0
    finally:
        subprocess.run(["umount", secret.parent], check=True)
    assert f"cannot remove the secrets in {job.path}/../.secrets/{job.path.name}: remove them" in job.err


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o077])
def test_what_a_job_writes_is_for_its_owner_alone_but_for_what_its_step_writes(job: Job, mask: int) -> None:
    job.write()
    job.step(f"{STEP}; umask >mask")
    before = os.umask(mask)
    try:
        assert job.run() == 0, job.err
    finally:
        os.umask(before)
    assert int((job.path / "mask").read_text(), 8) == mask
    ours = [job.path / "attempts.jsonl", *(job.path / "logs").glob("node-*.log")]
    assert {path.stat().st_mode & 0o777 for path in ours} == {0o600}
    assert (job.path / "container").stat().st_mode & 0o777 == 0o700


def test_a_line_of_setup_may_say_what_others_may_do(job: Job) -> None:
    job.write(job.plan(profile={"setup": ["umask 007"]}))
    job.step(f"{STEP}; umask >mask")
    assert job.run() == 0, job.err
    assert int((job.path / "mask").read_text(), 8) == 0o007
    assert (job.path / "attempts.jsonl").stat().st_mode & 0o777 == 0o600


def test_ahead_of_the_time_limit_the_step_is_told_and_the_job_requeued(job: Job) -> None:
    secret = with_secret(job)
    job.job_is("Restarts=0 ", REQUEUES)
    process = start_waiting(job)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(PATIENCE) == -signal.SIGKILL, job.err
    assert [c.words for c in job.calls("scancel")] == [["--signal=URG", "7.3"]]
    assert ["requeue", "7"] in [c.words for c in job.calls("scontrol")]
    end = job.attempts[-1]
    assert (end["exit"], end["why"], end["requeued"]) == ("143", "time limit", "true")
    assert "back into the queue, to go on from the last checkpoint (attempt 2 of 3)" in job.err
    assert secret.exists()


def test_a_step_that_does_not_exist_yet_is_told_once_it_does(job: Job) -> None:
    """The signal comes while the setup lines run; scancel would send nothing then, and succeed."""
    setup = ["touch setting; until [[ -e go ]]; do read -rt 0.01 <> <(:); done; true"]
    job.write(job.plan(profile={"setup": setup}))
    job.step(WAITS)
    job.does("scancel", "[[ ! -e running ]] || touch told")
    job.job_is("Restarts=0 ", REQUEUES)
    process = job.start()
    wait_for((job.path / "setting").exists)
    process.send_signal(signal.SIGUSR1)
    wait_for(lambda: not pending(process.pid, signal.SIGUSR1))
    (job.path / "go").touch()
    assert process.wait(PATIENCE) == -signal.SIGKILL, job.err
    assert job.attempts[-1]["why"] == "time limit"


def test_nobody_goes_on_asking_for_a_step_that_will_not_come(job: Job) -> None:
    setup = ["touch setting; until [[ -e go ]]; do read -rt 0.01 <> <(:); done; false"]
    job.write(job.plan(profile={"setup": setup}))
    process = job.start()
    wait_for((job.path / "setting").exists)
    process.send_signal(signal.SIGUSR1)
    wait_for(lambda: not pending(process.pid, signal.SIGUSR1))
    (job.path / "go").touch()
    assert process.wait(PATIENCE) == 78
    wait_for(lambda: not group(process.pid))


def group(leader: int) -> bool:
    """Whether a group has processes."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("reason", "again"), [("None", False), ("TimeLimit", True)], ids=["cancelled", "over the limit"]
)
def test_what_is_cancelled_near_the_limit_is_not_requeued(job: Job, reason: str, again: bool) -> None:
    """Seen on a real Slurm: `scontrol requeue` puts a job back that was cancelled."""
    job.job_is(f"Restarts=0 Reason={reason} ", REQUEUES)
    process = start_waiting(job)
    job.does("scancel", "touch near")  # the step takes its time
    process.send_signal(signal.SIGUSR1)
    wait_for((job.path / "near").exists)
    process.terminate()
    wait_for(lambda: not pending(process.pid, signal.SIGTERM))
    (job.path / "told").touch()
    assert process.wait(PATIENCE) == (-signal.SIGKILL if again else 143), job.err
    assert job.attempts[-1]["requeued"] == ("true" if again else "false")


def pending(pid: int, number: int) -> bool:
    """Whether a signal has not reached its process yet."""
    (mask,) = (line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line[:6] == "ShdPnd")
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_step_that_ends_well_after_it_was_told_is_done(job: Job) -> None:
    job.job_is("Restarts=0 ", REQUEUES)
    job.step(f"{WAITS.replace('exit 143', STEP)}; exit 0")
    job.does("scancel", TELLS)
    job.write()
    process = job.start()
    wait_for((job.path / "running").exists)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(PATIENCE) == 0, job.err
    assert job.attempts[-1]["requeued"] == "false"


@pytest.mark.parametrize(
    ("profile", "restarts"), [({"attempts": 1}, "0"), ({"attempts": 2}, "1")], ids=["only one", "the last"]
)
def test_the_attempts_are_bounded(job: Job, profile: dict[str, Any], restarts: str) -> None:
    job.job_is(f"Restarts={restarts} ", REQUEUES)
    job.write(job.plan(profile=profile))
    process = start_waiting(job, SLURM_RESTART_COUNT=restarts)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(PATIENCE) == 143, job.err
    assert job.attempts[-1]["requeued"] == "false"


def test_one_start_too_many_is_refused(job: Job) -> None:
    job.write()
    assert job.run(SLURM_RESTART_COUNT="3") == 78
    assert "started 4 times, the profile allows 3 (attempts)" in job.err
    assert not job.calls("srun")


def test_a_queue_that_does_not_take_it_back(job: Job) -> None:
    secret = with_secret(job)
    job.job_is("Restarts=0 ", 'case "$1 $2" in requeue*) exit 1 ;; esac')
    process = start_waiting(job)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(PATIENCE) == 143
    assert "Slurm did not requeue the job" in job.err
    assert [a.get("requeued") for a in job.attempts[-2:]] == ["true", "false"]
    assert not secret.exists()


def test_what_was_cancelled_is_not_requeued(job: Job) -> None:
    secret = with_secret(job)
    process = start_waiting(job)
    process.terminate()
    (job.path / "told").touch()  # Slurm itself tells the step
    assert process.wait(PATIENCE) == 143, job.err
    assert ["requeue", "7"] not in [c.words for c in job.calls("scontrol")]
    assert (job.attempts[-1]["why"], job.attempts[-1]["requeued"]) == ("TERM", "false")
    assert not job.calls("scancel") and not secret.exists()


def test_what_was_preempted_is_requeued(job: Job) -> None:
    secret = with_secret(job)
    job.job_is("Restarts=0 PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime=2026-01-01T00:00:09 ", REQUEUES)
    process = start_waiting(job)
    process.terminate()
    (job.path / "told").touch()
    assert process.wait(PATIENCE) == -signal.SIGKILL, job.err
    assert (job.attempts[-1]["why"], job.attempts[-1]["requeued"]) == ("preempted", "true")
    assert secret.exists()


def test_what_slurm_itself_puts_back_keeps_its_secrets(job: Job) -> None:
    """Without grace, a preemption ends the step and the script, which has one second more than the step."""
    secret = with_secret(job)
    job.job_is("Restarts=1 ")
    process = start_waiting(job)
    process.terminate()
    (job.path / "told").touch()
    assert process.wait(PATIENCE) == 143, job.err
    assert job.attempts[-1]["requeued"] == "true"
    assert secret.exists()


@pytest.mark.parametrize(
    ("told", "why"), [(signal.SIGUSR1, "time limit"), (signal.SIGUSR2, "TERM"), (signal.SIGTERM, "TERM")]
)
def test_what_is_told_while_its_container_is_made_was_stopped(job: Job, told: signal.Signals, why: str) -> None:
    """What makes the container takes TERM for itself, and srun says 1."""
    job.write(job.plan(profile={"attempts": 1}))
    job.step(WAITS.replace("mkdir -p container/0/ranks; ", "").replace("exit 143", "exit 1"))
    job.does("scancel", TELLS)
    process = job.start()
    wait_for((job.path / "running").exists)
    process.send_signal(told)
    if told == signal.SIGTERM:  # Slurm tells the step itself
        wait_for(lambda: not pending(process.pid, told))
        (job.path / "told").touch()
    assert process.wait(PATIENCE) == 143, job.err
    assert f"told to stop ({why}) before its container was made" in job.err
    assert [c.words for c in job.calls("scancel")] == ([] if told == signal.SIGTERM else [["--signal=TERM", "7.3"]])
    assert (job.attempts[-1]["exit"], job.attempts[-1]["why"]) == ("143", why)


def test_what_nodes_have_to_share_is_marked_before_the_step(job: Job) -> None:
    """All their containers are younger than the mark, however long they take to make."""
    job.write()
    old = job.path / "container" / ".slipway-nonce-7.0.0123456789abcdef"
    old.parent.mkdir()
    old.touch()
    marks = f'echo "$PWD"/container/.slip* {job.root}/out/.slip* {{"$PWD"/hf,{job.root}/hf/datasets}}/.slip* >marks'
    job.step(f"{marks}\n{STEP}")
    assert job.run(SLURM_RESTART_COUNT="1") == 0, job.err
    nonce = job.calls("srun")[-1].env["SLIPWAY_NONCE"]
    places = [job.path / "container", job.root / "out", job.path / "hf", job.root / "hf" / "datasets"]
    assert (job.path / "marks").read_text().split() == [f"{place}/.slipway-nonce-{nonce}" for place in places]
    assert not [path for place in places for path in place.glob(".slip*")]


def test_a_place_that_cannot_be_marked_is_named(job: Job) -> None:
    job.write()
    job.does("scontrol", (job.folder / "scontrol.sh").read_text() + f"\nrm -rf {job.root}/out")
    assert job.run() == 78
    assert f"refused: {job.root}/out: cannot be written on " in job.err and not job.calls("srun")


def test_no_job_no_run(job: Job) -> None:
    """A script that somebody runs by hand must not take away what the job will need."""
    secret = with_secret(job)
    del job.env["SLURM_JOB_ID"]
    assert job.run() == 78
    assert "this is no job of Slurm's" in job.err
    assert secret.exists() and not job.attempts


@pytest.mark.parametrize("other", [False, True], ids=["nowhere", "another run's"])
def test_a_script_outside_its_directory_touches_nothing(job: Job, other: bool, tmp_path: Path) -> None:
    job.write()
    place = tmp_path / "runs" / "other"
    place.mkdir()
    if other:
        (place / "slipway").symlink_to(job.path / "slipway")
        (place / "script.sh").write_text("PLAN=another\n")
    secret = tmp_path / "runs" / ".secrets" / "other" / "TOKEN"
    secret.parent.mkdir(parents=True)
    secret.touch()
    before = sorted(place.iterdir())
    assert job.run(cwd=place) == 78
    assert f"slipway: refused: {place}" in job.err and "submit from inside the run directory" in job.err
    assert sorted(place.iterdir()) == before and secret.exists()
    assert not job.calls("srun")


@pytest.mark.parametrize("command", ["srun", "scontrol"])
def test_inside_a_container_it_names_what_put_it_there(job: Job, command: str) -> None:
    job.write()
    (job.bin / command).unlink()
    assert job.run() == 78
    assert "there is no srun here: PYXIS_* variables of the submitting shell" in job.err


def test_what_pyxis_would_take_from_the_environment_is_gone(job: Job) -> None:
    job.write()
    assert job.run(PYXIS_CONTAINER_IMAGE="/other.sqsh", PYXIS_CONTAINER_MOUNTS="/a:/b") == 0, job.err
    assert not [name for name in job.srun.env if name.startswith("PYXIS_")]


@pytest.mark.parametrize("name", ["a:b", "a,b", "a b", 'a"b', "a$b", "a`b", "a\\b"])
def test_a_path_that_pyxis_cannot_mount_is_refused(job: Job, name: str) -> None:
    job.path = job.path.with_name(name)
    job.write()
    assert job.run() == 78
    assert f'{job.path}: pyxis cannot mount a path with white space or one of , : " $ ` \\' in job.err


def test_an_image_that_is_not_on_the_node_is_named(job: Job) -> None:
    job.write()
    job.image.unlink()
    assert job.run() == 78
    assert f"refused: {job.image}: there is no such file on " in job.err
    assert job.attempts[-1]["exit"] == "78"


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        (["false", "true"], "refused: setup: false: ended with 1"),
        (["true", "(exit 3)"], "refused: setup: (exit 3): ended with 3"),
        (["if true"], "refused: setup: if true: ended with "),
        (["/no/such/program"], "refused: setup: /no/such/program: ended with 127"),
    ],
)
def test_a_setup_line_that_fails(job: Job, setup: list[str], said: str) -> None:
    job.write(job.plan(profile={"setup": setup}))
    assert job.run() == 78
    assert said in job.err
    assert not job.calls("srun")


def test_setup_lines_are_taken_as_a_shell_takes_them(job: Job) -> None:
    lines = [
        "# modules",
        "",
        "[[ -z $UNSET_BY_ALL ]]",
        "export SITE='a b'",
        "if true; then\n  export MORE=yes\nfi",
        "cd /",
    ]
    job.write(job.plan(profile={"setup": lines}))
    assert job.run() == 0, job.err
    assert (job.srun.env["SITE"], job.srun.env["MORE"], job.srun.cwd) == ("a b", "yes", str(job.path))


def test_a_steps_variables_are_the_steps_alone(job: Job) -> None:
    """Names that are the script's own, the shell's, or where srun is found."""
    names = (
        "GPUS",
        "NODES",
        "ATTEMPTS",
        "REQUEUE",
        "RUN_ID",
        "RUN_DIR",
        "SRUN",
        "SECRETS",
        "ENV",
        "IFS",
        "PATH",
        "UID",
    )
    job.write(job.plan(env=dict.fromkeys(names, "the step's")))
    assert job.run() == 0, job.err
    assert {name: job.srun.env[name] for name in names} == dict.fromkeys(names, "the step's")
    assert job.srun.env["SLIPWAY_RUN"] == job.path.name
    assert f"{job.path}/container:/run/slipway:rw" in job.srun.option("container-mounts")


def test_attempts_are_json_whatever_their_values_are(job: Job) -> None:
    job.write()
    nodes = 'a "b" \\ \t\n c=d'
    assert job.run(SLURM_JOB_NODELIST=nodes) == 0, job.err
    assert job.attempts[0]["nodes"] == 'a "b" \\    c=d'


def test_folders_that_cannot_be_made_are_named(job: Job) -> None:
    job.write()
    (job.root / "hf").touch()
    assert job.run() == 78
    assert f"cannot make the folders that are mounted: {job.root}/hf" in job.err
    assert json.dumps(job.attempts)
