"""`launch explain`, and the two lines of it in `launch show`, on runs that have ended: no engine is needed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import Project, SpecOf, record_of, seen_of

from launcher.planning.planner import make_plan
from launcher.records.outcome import End
from launcher.records.run_directory import Outcome, Run

RUN = "20260101T000000Z-sft.automodel-aaaaaa"
Ended = Callable[..., Run]
OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 86.00 MiB. GPU 0 has a total capacity of 23.64 GiB "
    "of which 264.00 MiB is free. Process 2086283 has 419.48 MiB memory in use."
)
STEP = "01:03:56 | INFO | root | step {}/120 | epoch 0 | loss 6.1472 | grad_norm 0.8286 | lr 1.88e-03\n"
WATCHDOG = "[rank{0}]:[E321 02:07:08.408 ProcessGroupNCCL.cpp:607] [Rank {0}] Watchdog caught collective operation "
WATCHDOG += (
    "timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, NumelIn=4, NumelOut=4, Timeout(ms)=600000) ran for 600060 "
)
WATCHDOG += "milliseconds before timing out.\n"
GIVEN = (
    "[rank{0}]:[E321 02:07:08.465 ProcessGroupNCCL.cpp:1664] [PG 1 Rank {0}] Exception (either an error or timeout) "
)
GIVEN += "detected by watchdog at work: 1580, last enqueued NCCL work: {1}, last completed NCCL work: 1579.\n"
TORCHRUN = """\
E0801 13:23:20.000000 32974 torch/distributed/elastic/multiprocessing/api.py:874] failed (exitcode: 1) local_rank: 0
Traceback (most recent call last):
  File "/opt/venv/bin/torchrun", line 10, in <module>
    sys.exit(main())
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
automodel_finetune.py FAILED
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_13:23:19
  host      : n1
  rank      : {} (local_rank: 1)
  exitcode  : 1 (pid: 11377)
"""


def traceback(exception: str, who: str = "") -> str:
    lines = [
        "Traceback (most recent call last):",
        '  File "/slipway/steps/x.py", line 7, in main',
        "    go()",
        exception,
    ]
    return "".join(f"{who}{line}\n" for line in lines)


@pytest.fixture
def ended(project: Project, spec_of: SpecOf) -> Ended:
    """Makes a run that has ended so, with what its logs (name -> text) hold."""

    def make(end: End, reason: str = "", logs: dict[str, str] | None = None, **changes: Any) -> Run:
        launcher, facts = changes.pop("launcher", "torchrun"), changes.pop("result", {})
        plan = make_plan(spec_of(**changes), seen_of(), {})
        run = Run(project.path / "runs" / RUN)
        for name, text in (logs or {}).items():
            path = run.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        run.path.mkdir(parents=True, exist_ok=True)
        code = {End.DONE: 0}.get(end, end.code if end.code is not None else 1)
        said = f"{end.line}: {reason}" if reason else end.line
        outcome = Outcome(end=end, exit_code=code, cause=end.cause, reason=said, result=facts)
        assert plan.launcher == launcher
        run.write(record_of(run, plan, "unix:///gone", state="ended", outcome=outcome))
        (run.path / "lock").touch()
        run.event("ended")
        return run

    return make


@pytest.fixture
def told(project: Project) -> Callable[[], Any]:
    def ask() -> Any:
        done = project.launch("explain", "--json")
        assert (done.code, done.stderr) == (0, ""), done
        return json.loads(done.stdout)

    return ask


Told = Callable[[], Any]


def test_a_failed_process_says_its_exception(ended: Ended, project: Project, told: Told) -> None:
    log = STEP.format(1) + traceback("KeyError: 'input_ids'", "[rank3]: ") + TORCHRUN.format(3)
    ended(End.FAILED, "exit code 1", {"logs/step.log": log})
    assert told()["exception"] == {
        "text": "KeyError: 'input_ids'", "who": "rank 3", "file": "logs/step.log", "line": 5, "first": ""
    }  # fmt: skip
    assert project.launch("explain").stdout.splitlines()[2:] == [
        "cause      KeyError: 'input_ids' (rank 3)",
        "           logs/step.log:5",
        f"remedy     read the log: launch logs {RUN}",
    ]
    lines = project.launch("show").stdout.splitlines()
    assert "cause      KeyError: 'input_ids' (rank 3)" in lines
    assert f"remedy     read the log: launch logs {RUN}" in lines


def test_of_ranks_the_one_counts_that_failed_first(ended: Ended, told: Told) -> None:
    ranks = [traceback(f"ValueError: of rank {n}", f"[rank{n}]: ") for n in range(4)]
    ended(End.FAILED, "exit code 1", {"logs/step.log": "".join(ranks) + TORCHRUN.format(2)})
    assert told()["exception"]["text"] == "ValueError: of rank 2"


def test_what_follows_of_another_ranks_end_is_not_the_cause(ended: Ended, told: Told) -> None:
    lost = "torch.distributed.DistBackendError: NCCL error in: /pytorch/NCCLUtils.hpp:268, remote process exited or "
    lost += "there was a network error, NCCL version 2.21.5"
    log = traceback(lost, "[rank0]: ") + traceback("ValueError: bad batch", "[rank1]: ")
    ended(End.FAILED, "exit code 1", {"logs/step.log": log})
    found = told()
    assert found["exception"]["text"] == "ValueError: bad batch"
    assert [cause["id"] for cause in found["causes"]] == ["exception", "nccl-peer"]


def test_an_exception_is_told_beside_a_cause_that_it_does_not_say(ended: Ended, project: Project) -> None:
    lost = traceback("ConnectionError: the other side is gone", "[rank1]: ")
    killed = (
        "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed.\n"
    )
    ended(End.OUT_OF_MEMORY, "Slurm, at the job's limit", {"logs/job.log": killed, "logs/node-0.log": lost})
    lines = project.launch("explain").stdout.splitlines()
    assert lines[2:6] == [
        "cause      killed: out of memory: Slurm, at the job's limit",
        f"           logs/job.log:1: {killed.strip()}",
        "exception  ConnectionError: the other side is gone",
        "           rank 1, logs/node-0.log:4",
    ]


def test_what_follows_comes_last_although_it_was_told_first(ended: Ended, told: Told) -> None:
    log = WATCHDOG.format(0) + "OSError: [Errno 28] No space left on device: '/output/a'\n"
    ended(End.FAILED, "exit code 1", {"logs/step.log": log})
    assert [(cause["id"], cause["line"]) for cause in told()["causes"]] == [("disk", 2), ("nccl-timeout", 1)]
    assert told()["causes"][0]["detail"] == "'/output/a'"


def test_lines_of_ranks_that_stand_between_each_other(ended: Ended, told: Told) -> None:
    one, two = traceback("ValueError: one", "[rank0]: "), traceback("OSError: two", "[rank1]: ")
    both = "".join(f"{a}\n{b}\n" for a, b in zip(one.splitlines(), two.splitlines(), strict=True))
    ended(End.FAILED, "exit code 1", {"logs/step.log": both})
    assert (told()["exception"]["text"], told()["exception"]["who"]) == ("ValueError: one", "rank 0")


def test_an_exception_says_of_what_it_came(ended: Ended, told: Told) -> None:
    chain = "\nThe above exception was the direct cause of the following exception:\n\n"
    log = traceback("KeyError: 'a'") + chain + traceback("RuntimeError: no column a")
    ended(End.FAILED, "exit code 1", {"logs/step.log": log})
    assert told()["exception"] | {"line": 0} == {
        "text": "RuntimeError: no column a", "who": "", "file": "logs/step.log", "line": 0, "first": "KeyError: 'a'"
    }  # fmt: skip


def test_an_actor_of_ray_says_its_own_exception(ended: Ended, told: Told) -> None:
    quoted = "ray.exceptions.RayTaskError(TypeError): ray::DTensorPolicyWorker.train() (pid=1136606, ip=10.65.31.216)"
    log = traceback(quoted) + '  File "/nemo-rl/x.py", line 88, in wrapper\n    ret = f()\nTypeError: not a tensor\n'
    ended(End.FAILED, "exit code 1", {"logs/step.log": log})
    assert told()["exception"]["text"] == "TypeError: not a tensor"


def test_what_training_outlived_is_no_cause(ended: Ended, told: Told) -> None:
    log = (
        traceback("ImportError: no flash_attn") + OOM + "\n" + STEP.format(1) + STEP.format(2) + traceback("OSError: x")
    )
    ended(End.FAILED, "exit code 1", {"logs/step.log": log})
    found = told()
    assert found["exception"]["text"] == "OSError: x"
    assert [cause["id"] for cause in found["causes"]] == ["exception"]


def test_out_of_gpu_memory_is_told_with_the_estimate(ended: Ended, project: Project) -> None:
    run = ended(End.FAILED, "exit code 1", {"logs/step.log": traceback(OOM, "[rank1]: ")})
    estimate = "about 61.2 of 80 GiB a GPU: weights 15.0"
    run.event("prepared", memory={"estimate": estimate, "smaller": "--nodes 2 --gpus 8"})
    lines = project.launch("explain", "last").stdout.splitlines()
    assert lines[2] == "cause      out of GPU memory: 86.00 MiB asked for, 264.00 MiB of 23.64 GiB free"
    assert f"estimate   {estimate}" in lines
    assert lines[-1] == "           takes less: --nodes 2 --gpus 8"


def test_which_rank_kept_nccl_waiting(ended: Ended, told: Told) -> None:
    silent = "".join(WATCHDOG.format(rank) for rank in (0, 1, 3))
    ended(End.FAILED, "exit code 134", {"logs/step.log": silent}, procs=4)
    assert told()["causes"][0]["detail"] == (
        "ALLREDUCE, number 1580, waited for 600060 ms; rank 2 did not wait there, 3 of 4 ranks did"
    )


def test_which_rank_had_begun_the_fewest_collectives(ended: Ended, told: Told) -> None:
    log = "".join(WATCHDOG.format(rank) + GIVEN.format(rank, 1580 if rank == 1 else 1582) for rank in range(4))
    ended(End.FAILED, "exit code 134", {"logs/step.log": log}, procs=4)
    assert told()["causes"][0]["detail"].endswith("; rank 1 came last: 1580 collectives begun, others 1582")


def test_a_file_that_one_node_lacks_is_told_with_the_node(ended: Ended, told: Told) -> None:
    missing = traceback("FileNotFoundError: [Errno 2] No such file or directory: '/scratch/index.npy'")
    logs = {f"logs/node-{n}.log": missing if n == 2 else "waiting\n" for n in range(4)}
    ended(End.FAILED, "exit code 1", logs)
    (cause,) = told()["causes"]
    assert (cause["id"], cause["detail"], cause["where"]) == ("missing-file", "'/scratch/index.npy'", "on node 2 of 4")
    assert (cause["file"], cause["line"]) == ("logs/node-2.log", 4)


def test_the_node_that_failed_first_comes_first(ended: Ended, told: Told) -> None:
    logs = {f"logs/node-{n}.log": traceback(f"ValueError: of node {n}") for n in range(3)}
    ended(End.FAILED, "exit code 1", {**logs, "container/failed": "1 1 n1\n"})
    assert told()["exception"]["text"] == "ValueError: of node 1"


@pytest.mark.parametrize(
    ("end", "line"),
    [
        (End.TIME_LIMIT, "slurmstepd: error: *** JOB 7 ON c1 CANCELLED AT 2026-09-30T16:00:24 DUE TO TIME LIMIT ***"),
        (End.PREEMPTED, "slurmstepd: error: *** JOB 7 ON c1 CANCELLED AT 2021-06-18T13:05:36 DUE TO PREEMPTION ***"),
        (End.OUT_OF_MEMORY, "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks …"),
    ],
)
def test_an_end_that_says_all_is_the_cause_and_quotes_the_log(ended: Ended, told: Told, end: End, line: str) -> None:
    ended(end, "", {"logs/job.log": f"{line}\n", "logs/node-0.log": traceback("ValueError: while leaving")})
    first, *others = told()["causes"]
    assert (first["id"], first["cause"], first["quote"], first["line"]) == (end.value, end.line, line, 1)
    assert first["remedy"]
    assert [other["id"] for other in others] == ["exception"]


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("driver: found 535.161.08, expected at least 570.26", "driver"),
        ("node n2 does not see in /output what n1 wrote there, looked for it for 60 s: it is not …", "storage"),
        ("something that no row knows", "refused"),
    ],
)
def test_what_the_outcome_says_is_looked_at_too(ended: Ended, told: Told, reason: str, cause: str) -> None:
    ended(End.REFUSED, reason)
    (found,) = told()["causes"]
    assert found["id"] == cause and found["remedy"]


def test_a_run_that_diverged_is_explained_although_it_is_done(ended: Ended, project: Project, told: Told) -> None:
    log = STEP.format(1) + "".join(STEP.format(n).replace("6.1472", "nan") for n in range(2, 6))
    ended(End.DONE, logs={"logs/step.log": log}, result={"last_loss": None, "not_finite": {"last_loss": "NaN"}})
    (cause,) = told()["causes"]
    assert (cause["id"], cause["detail"], cause["line"]) == ("divergence", "last_loss NaN", 2)
    assert "step 2/120 | epoch 0 | loss nan" in cause["quote"]
    assert "remedy" not in project.launch("show").stdout


@pytest.mark.parametrize("end", [End.DONE, End.CANCELLED, End.STOPPED])
def test_what_went_as_its_user_wanted_has_no_cause(ended: Ended, project: Project, told: Told, end: End) -> None:
    ended(end, "", {"logs/step.log": traceback("KeyboardInterrupt")})
    assert told()["causes"] == []
    assert "remedy" not in project.launch("show").stdout
    assert project.launch("explain").stdout.splitlines()[0] == f"run        {RUN}: {end.value}"


def test_logs_are_not_believed(ended: Ended, project: Project, tmp_path: Path) -> None:
    """Escapes do not reach the terminal, links and pipes are not followed, and of a long log the end is read."""
    (tmp_path / "secret").write_text(traceback("ValueError: secret"))
    filler = "x" * 99 + "\n"
    nasty = traceback("ValueError: \x1b]0;title\x07\x1b[2J bad") + traceback("OSError: \x9b31m{run}{0.__class__}")
    run = ended(End.FAILED, "exit code 1", {"logs/step.log": filler * 20_000 + nasty})
    (run.path / "logs" / "a.log").symlink_to(tmp_path / "secret")
    os.mkfifo(run.path / "logs" / "b.log")
    done = project.launch("explain")
    assert done.code == 0
    assert not {c for c in done.stdout if not c.isprintable()} - {"\n"}
    assert "secret" not in done.stdout
    assert "\ncause      ValueError: \\x1b]0;title\\x07 bad" in done.stdout
    assert json.loads(project.launch("explain", "--json").stdout)["exception"]["line"] == 0


def test_a_log_made_to_take_long_does_not(ended: Ended, told: Told) -> None:
    """Patterns see lines of bounded length: what would be quadratic in a line's is not."""
    ended(End.FAILED, "exit code 1", {"logs/step.log": "a.b" * 300_000 + "\n" + "[PG " * 50_000})
    assert told()["causes"][0]["id"] == "failed"


def test_what_has_not_ended_is_not_explained(project: Project, spec_of: SpecOf, ended: Ended) -> None:
    ended(End.DONE)
    run = Run(project.path / "runs" / "20260102T000000Z-sft.automodel-aaaaaa")
    run.path.mkdir()
    run.write(record_of(run, make_plan(spec_of(), seen_of(), {}), "unix:///gone"))
    done = project.launch("explain", run.id)
    assert (done.code, done.stdout) == (69, "")  # its engine is gone
    assert project.launch("explain", "nothing").code == 66


SITE = "schema: 1\nkind: slurm\nextends: slurm-pyxis\ngpu: {model: H100, memory: 80GiB}\n"
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "torch_dtype": "bfloat16",
}  # fmt: skip


def test_from_a_launch_to_its_explanation(project: Project, words: tuple[str, ...], tmp_path: Path) -> None:
    """What was estimated when it was planned stands beside what ran out."""
    project.write("slipway.d/profiles/site.yaml", SITE)
    (tmp_path / "llama" / "config.json").write_text(json.dumps(LLAMA_8B))
    project.program("sbatch", "echo 7")
    project.program("squeue", "exit 0")
    ended = "JobId=7 JobName=x JobState=FAILED ExitCode=1:0 Restarts=0 Requeue=1 Reason=NonZeroExitCode"
    project.program("scontrol", f"echo '{ended}'")
    launched = project.launch("--profile", "site", *words)
    assert launched.code == 0, launched
    run = Run(project.path / "runs" / launched.stdout.strip())
    (run.path / "logs" / "node-0.log").write_text(traceback(OOM, "(DTensorPolicyWorker pid=7, ip=10.0.0.1) "))
    (run.path / "container" / "0").mkdir(exist_ok=True)
    (run.path / "container" / "0" / "ranks").mkdir()
    status = {"exit_code": 1, "cause": "step", "reason": "exit code 1"}
    (run.path / "container" / "0" / "status.json").write_text(json.dumps(status))
    done = project.launch("explain", run.id)
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        f"run        {run.id}: failed",
        "end        exit 1: the step failed: exit code 1",
        "cause      out of GPU memory: 86.00 MiB asked for, 264.00 MiB of 23.64 GiB free",
    ], done
    assert lines[3] == f"           DTensorPolicyWorker pid=7, ip=10.0.0.1, logs/node-0.log:4: {OOM}"
    estimate = lines[4]
    assert estimate.startswith("estimate   about ")
    assert "of 80 GiB a GPU, most in" in estimate and estimate.removeprefix("estimate   ") in launched.stderr
    assert lines[-1].startswith("           takes less: ")
    assert lines[2] in project.launch("show", run.id).stdout
