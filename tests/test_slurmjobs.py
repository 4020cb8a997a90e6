"""launcher/engines/slurmjobs.py: what Slurm's commands are told of a run's job, and what is made of their answers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import Project, SpecOf, left_by, rows_of, seen_of
from slurm_job import COMMANDS, PROFILE, RUN_ID, Commands
from test_slurmwords import END, START, shown

from launcher.engines import Status, slurmjobs
from launcher.planning.planner import make_plan
from launcher.records import run_directory
from launcher.records.outcome import IN_QUEUE, End, Ended
from launcher.records.run_directory import Run
from slipway.errors import Exit, SlipwayError, visible

NAME = f"slipway-{RUN_ID}"
FORGOTTEN = 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'
AWAY = 'echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1'
HANGS = 'echo $$ >"${0%/*}/pid"; exec sleep 600'
SHORT = 3.0  # seconds: what does not hang has to answer in them, on a busy machine too


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Slurm's commands, which the launcher finds; a controller that has forgotten every job, and no accounts."""
    commands = Commands(tmp_path / "slurm")
    commands.does("scontrol", FORGOTTEN)
    commands.does("squeue", "[[ $1 != --steps ]] || printf '%s\\n' batch leftovers slipway")
    commands.does("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    monkeypatch.setenv("PATH", str(commands.bin))
    monkeypatch.setattr(slurmjobs, "POLL", 0.01)
    return commands


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run directory with the script of a job."""
    found = run_directory.Run(tmp_path / "runs" / RUN_ID)
    (found.path / "logs").mkdir(parents=True)
    (found.path / "script.sh").write_text("#!/usr/bin/env bash\n")
    return found


@pytest.fixture
def job(run: Run) -> Run:
    """That run once it was submitted, as job 7."""
    (run.path / "job").write_text("7\n")
    return run


def jobs() -> slurmjobs.SlurmJobs:
    with slurmjobs.connect("slurm") as found:
        return found


def knows(slurm: Commands, state: str = "RUNNING", **facts: str) -> None:
    """The controller remembers the job."""
    slurm.does("scontrol", f"cat <<'END'\n{shown(state, **facts)}\nEND")


def attempts(run: Run, *lines: dict[str, Any], cut: str = "") -> None:
    usual = {"job": "7", "time": START}
    text = "".join(json.dumps(usual | line) + "\n" for line in lines)
    (run.path / "attempts.jsonl").write_text(text + cut)


STARTED: dict[str, Any] = {"event": "start", "attempt": 0}


def ended(code: int, requeued: str = "false") -> dict[str, Any]:
    return {"event": "end", "attempt": 0, "exit": str(code), "srun": "143", "requeued": requeued, "time": END}


# Submit


def test_a_job_is_submitted_from_inside_its_directory_under_the_runs_name(slurm: Commands, run: Run) -> None:
    slurm.does("sbatch", "echo '7;east'")
    assert jobs().submit({}, run) == "7"
    (call,) = slurm.calls("sbatch")
    assert call.words == ["--parsable", f"--job-name={NAME}", "script.sh"]
    assert (call.cwd, jobs().job(run)) == (str(run.path), "7")


def test_a_job_that_waits_for_others(slurm: Commands, run: Run) -> None:
    slurm.does("sbatch", "echo 9")
    jobs().submit({}, run, after=["7", "8"])
    assert "--dependency=afterany:7:8" in slurm.calls("sbatch")[0].words


def test_the_callers_shell_does_not_change_the_job(slurm: Commands, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = {
        "PYXIS_CONTAINER_IMAGE": "/other.sqsh", "SBATCH_PARTITION": "other", "SBATCH_EXPORT": "ALL", "SLURM_EXPORT_ENV":
        "ALL", "SLURM_JOB_ID": "1", "SLURM_NNODES": "9", "SQUEUE_FORMAT": "x", "SCANCEL_INTERACTIVE": "1",
    }  # fmt: skip
    for name, value in (foreign | {"SLURM_CONF": "/site/slurm.conf", "HOME": "/home/me"}).items():
        monkeypatch.setenv(name, value)
    slurm.does("sbatch", "echo 7")
    jobs().submit({}, run)
    env = slurm.calls("sbatch")[0].env
    assert not foreign.keys() & env.keys()
    assert (env["SLURM_CONF"], env["HOME"], env["PATH"]) == ("/site/slurm.conf", "/home/me", str(slurm.bin))


def test_a_refusal_is_told_in_slurms_words_with_the_key(slurm: Commands, run: Run) -> None:
    said = "sbatch: error: Batch job submission failed: Invalid partition name specified"
    slurm.does("sbatch", f"echo {said!r} >&2; exit 1")
    with pytest.raises(SlipwayError) as e:
        jobs().submit({}, run)
    assert (e.value.code, e.value.where) == (Exit.UNAVAILABLE, "partition")
    assert e.value.what == "sbatch: Batch job submission failed: Invalid partition name specified"
    assert not (run.path / "job").exists()


def test_a_machine_without_slurm(slurm: Commands, run: Run) -> None:
    (slurm.bin / "sbatch").unlink()
    with pytest.raises(SlipwayError, match="there is no sbatch here") as e:
        jobs().submit({}, run)
    assert (e.value.code, e.value.remedy) == (Exit.UNAVAILABLE, "run this where Slurm's commands are")


@pytest.mark.parametrize("command", ["sbatch", "scontrol", "scancel"])
def test_a_command_that_hangs_is_ended_and_named(
    slurm: Commands, job: Run, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurmjobs, "TIMEOUT", SHORT)
    knows(slurm)
    slurm.does(command, HANGS)
    verbs: dict[str, Callable[[], object]] = {
        "sbatch": lambda: jobs().submit({}, job),
        "scontrol": lambda: jobs().status(job),
        "scancel": lambda: jobs().signal(job, "TERM"),
    }
    with pytest.raises(SlipwayError, match=f"{command} did not answer within {SHORT} s") as e:
        verbs[command]()
    assert e.value.code == Exit.UNAVAILABLE
    with pytest.raises(ProcessLookupError):
        os.kill(int((slurm.folder / "pid").read_text()), 0)


# The job's id


def test_a_run_that_was_never_submitted_has_no_job(slurm: Commands, run: Run) -> None:
    assert jobs().job(run) is None
    assert jobs().status(run) == Status("missing")
    assert slurm.calls("squeue")[0].words == ["--noheader", "--format=%A", f"--name={NAME}", "--states=all"]


def test_a_job_whose_launcher_died_is_found_by_its_name(slurm: Commands, run: Run) -> None:
    slurm.does("squeue", "echo 12")
    knows(slurm)
    assert (jobs().job(run), jobs().status(run).state) == ("12", "running")
    assert slurm.calls("scontrol")[-1].words == ["--oneliner", "show", "job", "12"]


def test_a_job_that_nobody_remembers_has_written_its_id(slurm: Commands, run: Run) -> None:
    attempts(run, STARTED | {"job": "13"})
    assert jobs().job(run) == "13" and not slurm.calls("squeue")


@pytest.mark.parametrize("text", ["--help", "1 2", "7;id", "7\n8", "\u0667", "-1", "" + "7" * 40])
def test_what_is_no_job_id_is_no_word_for_slurm(project: Project, spec_of: SpecOf, text: str) -> None:
    run = left_by(project, make_plan(spec_of(profile=PROFILE), seen_of(), {}))
    for name in COMMANDS:
        project.program(name, f'echo "$0 $@" >>{project.path}/called')
    (run.path / "job").write_text(text)
    listed = project.launch("runs")
    row = rows_of(listed)[run.id]
    assert (listed.code, row) == (0, f"damaged job: is no job id: {visible(repr(text[:40]))}")
    for verb in ("show", "cancel", "logs"):
        done = project.launch(verb, run.id)
        assert (done.code, done.stdout) == (65, "") and f"{run.path}/job: is no job id" in done.stderr
    assert not (project.path / "called").exists()


@pytest.mark.parametrize(
    "junk",
    ["[]", "{}", '"event"', "[" * 200_000, '{"event": "end"}', '{"event": "end", "job": "--help", "time": "x"}',
     '{"event": "end", "job": "7", "time": "x", "exit": "--"}', '{"event": "end", "job": 7, "time": "x"}'],
)  # fmt: skip
@pytest.mark.usefixtures("slurm")
def test_a_line_that_is_no_attempt_does_not_count(job: Run, junk: str) -> None:
    attempts(job, STARTED, ended(5), cut=f"{junk}\n")
    assert jobs().status(job) == Status("exited", exit_code=5, started=START, finished=END)
    (job.path / "job").unlink()
    assert jobs().job(job) == "7"


# Status


def test_the_controller_is_asked_first(slurm: Commands, job: Run) -> None:
    knows(slurm, "PENDING", reason="PartitionConfig")
    assert jobs().status(job).detail == "PartitionConfig: asks for more than the partition has: it will never start"
    assert not slurm.calls("sacct")


def test_what_the_controller_forgot_is_in_the_accounts(slurm: Commands, job: Run) -> None:
    slurm.does("sacct", f"echo 'FAILED|3:0|{START}|{END}|None'")
    assert jobs().status(job) == Status("exited", exit_code=3, started=START, finished=END)
    words = slurm.calls("sacct")[0].words
    assert "--jobs=7" in words and "--parsable2" in words and "--format=State,ExitCode,Start,End,Reason" in words


@pytest.mark.parametrize("accounts", ["exit 1", "exit 0", HANGS])
def test_without_accounts_the_jobs_own_lines_count(
    slurm: Commands, job: Run, accounts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if accounts == HANGS:
        monkeypatch.setattr(slurmjobs, "TIMEOUT", SHORT)
    slurm.does("sacct", accounts)
    status = jobs().status(job)
    assert status.state == "exited" and status.end and status.end.end is End.LOST
    assert status.end.detail.startswith("Slurm has forgotten job 7, whose script never began: ")
    attempts(job, STARTED, ended(5))
    assert jobs().status(job) == Status("exited", exit_code=5, started=START, finished=END)


@pytest.mark.parametrize("lines", [[STARTED], [STARTED, ended(143, "true"), STARTED | {"attempt": 1}]])
@pytest.mark.usefixtures("slurm")
def test_a_forgotten_job_that_did_not_reach_its_end(job: Run, lines: list[dict[str, Any]]) -> None:
    attempts(job, *lines, cut='{"event": "end", "exi')
    status = jobs().status(job)
    assert (status.state, status.started) == ("exited", START) and status.end and status.end.end is End.LOST
    assert "Slurm has forgotten the job, whose script did not reach its end" in status.end.detail


def test_the_exit_code_is_the_one_that_the_script_knows(slurm: Commands, job: Run) -> None:
    """Slurm has srun's, which with --kill-on-bad-exit is that of a node that was ended."""
    knows(slurm, "FAILED", code="143:0")
    attempts(job, STARTED, ended(5))
    assert jobs().status(job).exit_code == 5


@pytest.mark.parametrize(
    ("lines", "end", "said"),
    [
        ([], End.NOT_STARTED, "its script was never started"),
        ([STARTED], End.LOST, "its script did not reach its end"),
        ([STARTED, ended(143, "true")], End.LOST, "its script did not reach its end"),
        ([STARTED, ended(0), STARTED | {"attempt": 1}], End.LOST, "its script did not reach its end"),
    ],
)
def test_success_is_what_the_script_has_said_last(
    slurm: Commands, job: Run, lines: list[dict[str, Any]], end: End, said: str
) -> None:
    """Seen on a real Slurm: a job whose script a node cannot start is COMPLETED, with 0:0."""
    knows(slurm, "COMPLETED")
    attempts(job, *lines)
    status = jobs().status(job)
    assert status.state == "exited" and status.end and status.end.end is end and said in status.end.detail
    attempts(job, *lines, STARTED, ended(0))
    assert (jobs().status(job).exit_code, jobs().status(job).end) == (0, None)


def test_what_was_put_back_has_no_end_yet(slurm: Commands, job: Run) -> None:
    attempts(job, STARTED, ended(143, "true"))
    knows(slurm, "PENDING", reason="BeginTime")
    assert jobs().status(job).state == "pending"
    knows(slurm, "FAILED", code="1:0")
    assert jobs().status(job).exit_code == 1, "of this attempt, whose script wrote no end"


def test_what_slurm_ended_is_told_as_slurm_tells_it(slurm: Commands, job: Run) -> None:
    knows(slurm, "TIMEOUT")
    attempts(job, STARTED, ended(0))
    status = jobs().status(job)
    assert status.end == Ended(End.TIME_LIMIT)


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ({"why": "time limit"}, Ended(End.TIME_LIMIT)),
        ({"why": "preempted"}, Ended(End.PREEMPTED)),
        ({"why": "TERM"}, Ended(End.STOPPED)),
        ({"why": "", "exit": "7"}, None),
        ({"why": "time limit", "exit": "0"}, None),
        ({"said": "the secret T is not there", "exit": "77"}, Ended(End.REFUSED, "the secret T is not there")),
        ({"said": "srun ended with 0", "exit": "69"}, Ended(End.NOT_STARTED, "srun ended with 0")),
        ({"why": "", "unmade": "n2 n3", "exit": "143"}, Ended(End.NOT_STARTED, "on n2 n3")),
    ],
)
@pytest.mark.parametrize("remembered", [True, False])
def test_the_script_says_why_it_ended(
    slurm: Commands, job: Run, line: dict[str, Any], end: Ended | None, remembered: bool
) -> None:
    if remembered:
        knows(slurm, "FAILED", code="143:0")
    attempts(job, STARTED, ended(143) | line)
    assert jobs().status(job).end == end


def test_nodes_that_a_job_does_without_are_known_of_every_attempt(slurm: Commands, job: Run) -> None:
    knows(slurm, "COMPLETED")
    bad = [ended(75, "true") | {"why": "bad node", "excluded": f"node n{n}: ECC"} for n in (1, 2)]
    attempts(job, STARTED, bad[0], STARTED, bad[1], STARTED, ended(0))
    assert jobs().status(job).excluded == "node n1: ECC; node n2: ECC"
    assert jobs().status(job).end is None


def test_what_was_cancelled_in_the_queue_has_not_begun(slurm: Commands, job: Run) -> None:
    knows(slurm, "CANCELLED")
    assert jobs().status(job).end == Ended(End.CANCELLED, IN_QUEUE)
    attempts(job, STARTED)
    assert jobs().status(job).end == Ended(End.CANCELLED)


def test_a_controller_that_is_away_is_no_missing_job(slurm: Commands, job: Run) -> None:
    slurm.does("scontrol", AWAY)
    attempts(job, STARTED, ended(0))
    with pytest.raises(SlipwayError, match="Unable to contact slurm controller") as e:
        jobs().status(job)
    assert (e.value.code, e.value.where) == (Exit.UNAVAILABLE, "job 7")


# Signals, waiting, logs


@pytest.mark.parametrize(
    ("state", "name", "words"),
    [
        ("RUNNING", "TERM", ["--batch", "--signal=USR2", "7"]),
        ("RUNNING", "INT", ["--batch", "--signal=USR2", "7"]),
        ("RUNNING", "KILL", ["7"]),
        ("PENDING", "TERM", ["7"]),
        ("PENDING", "KILL", ["7"]),
    ],
)
def test_the_step_is_told_and_a_job_without_one_is_cancelled(
    slurm: Commands, job: Run, state: str, name: str, words: list[str]
) -> None:
    """By the batch script; never by srun, which would kill the step."""
    knows(slurm, state)
    jobs().signal(job, name)
    assert [c.words for c in slurm.calls("scancel")] == [words]


def test_a_job_that_has_no_step_yet_is_cancelled(slurm: Commands, job: Run) -> None:
    """scancel would say that it has told the step."""
    knows(slurm)
    slurm.does("squeue", "echo batch; echo leftovers")
    jobs().signal(job, "TERM")
    assert [c.words for c in slurm.calls("scancel")] == [["7"]]


@pytest.mark.parametrize("state", ["COMPLETED", "CANCELLED"])
def test_what_has_ended_is_left_alone(slurm: Commands, job: Run, state: str) -> None:
    knows(slurm, state)
    jobs().signal(job, "KILL")
    assert not slurm.calls("scancel")


def test_a_job_that_ended_meanwhile_is_no_error(slurm: Commands, job: Run) -> None:
    knows(slurm, "RUNNING")
    knew = (slurm.folder / "scontrol.sh").read_text()
    knows(slurm, "COMPLETED")
    (slurm.folder / "scontrol.sh").rename(slurm.folder / "later.sh")
    slurm.does("scontrol", knew)
    slurm.does("scancel", f"cat {str(slurm.folder)!r}/later.sh >{str(slurm.folder)!r}/scontrol.sh; exit 1")
    jobs().signal(job, "TERM")
    assert jobs().status(job).state == "exited"


def test_a_signal_that_was_not_sent_is_an_error(slurm: Commands, job: Run) -> None:
    knows(slurm, "RUNNING")
    slurm.does("scancel", "echo 'scancel: error: Access/permission denied' >&2; exit 1")
    with pytest.raises(SlipwayError, match="scancel: scancel: error: Access/permission denied") as e:
        jobs().signal(job, "KILL")
    assert (e.value.code, e.value.where) == (Exit.UNAVAILABLE, "job 7")


def test_waiting_ends_with_the_job_or_with_patience(slurm: Commands, job: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    knows(slurm, "RUNNING")
    assert not jobs().wait(job, 0.05)
    then = f"cat <<'END'\n{shown('COMPLETED')}\nEND"
    running = f"cat <<'END'\n{shown()}\nEND"
    slurm.does("scontrol", f'n=$(cat n 2>/dev/null); echo "x$n" >n; [[ $n == xx* ]] && {{\n{then}\nexit\n}}\n{running}')
    monkeypatch.chdir(job.path)
    assert jobs().wait(job)
    assert len(slurm.calls("scontrol")) >= 4


def test_a_log_is_followed_to_the_jobs_end(slurm: Commands, job: Run, capfd: pytest.CaptureFixture[str]) -> None:
    log = job.path / "logs" / "node-0.log"
    knows(slurm, "PENDING", reason="Resources")
    log.write_text("from before\nha")
    pieces = jobs().logs(job, follow=True)
    assert next(pieces) == b"from before\n"
    assert "pending: Resources: waits for nodes to become free" in capfd.readouterr().err
    log.write_text("from before\nhalf a line\n")
    knows(slurm, "COMPLETED")
    assert b"".join(pieces) == b"half a line\n"
    assert b"".join(jobs().logs(job, follow=False)) == b"from before\nhalf a line\n"


@pytest.mark.usefixtures("slurm")
def test_a_terminal_gets_into_the_container_beside_the_jobs_step(job: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An srun that takes nothing of its own; pyxis's containers have the node's pids."""
    monkeypatch.setenv("TERM", "vt220")
    options = ["--jobid=7", "--overlap", "--nodes=1", "--ntasks=1", "--job-name=slipway-shell"]
    piped = ["srun", *options, "enroot", "exec", "4242", "python", "x.py"]
    assert jobs().entering(job, 4242, ["python", "x.py"], terminal=False) == piped
    shown = ["srun", *options, "--pty", "enroot", "exec", "--env", "TERM=vt220", "4242", "python", "x.py"]
    assert jobs().entering(job, 4242, ["python", "x.py"], terminal=True) == shown
