"""How jobs end in Slurm, beside the ends that other tests here have: one state, one exit code, one cause line."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from ..conftest import Work, toy
from ..support import GREEDY, REFUSING, Run, cramped, encoded, told, until
from .cluster import stand_in
from .conftest import Lab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons and containers need root here"),
]
SAVED = "told to stop by TERM; exit code 0"


def submit(lab: Lab, name: str, *words: str, lines: tuple[str, ...] = (), **env: str) -> Run:
    """A job of a profile of its own, `lines` over `lab`'s."""
    lab.profile(name, *lines)
    done = lab.launch("--profile", name, *words, **env)
    assert done.code == 0, done
    return Run(lab.tree.runs / done.out.strip())


def once(lab: Lab, place: Path, *words: str) -> Run:
    """A job that runs, and is not put back into the queue."""
    run = submit(lab, "once", *toy(place / "out", *words), lines=("attempts: 1",))
    lab.await_file(place / "out" / "waiting")
    return run


def test_every_command_says_the_same_of_an_end(lab: Lab, place: Path) -> None:
    words = [(), ("code=7",), ("--env", f"TOY_RUN={encoded(REFUSING)}")]
    runs = [lab.submit(*toy(place / f"out{n}", *more)) for n, more in enumerate(words)]
    for run in runs:
        lab.await_end(run)
    done, failed, refused = (told(lab.tree, run) for run in runs)
    assert (done, failed) == (("done", 0, "done"), ("failed", 7, "the step failed: exit code 7"))
    assert refused == ("refused", 78, "refused: this cannot be run")


def test_what_the_jobs_script_refuses(lab: Lab, place: Path) -> None:
    run = submit(lab, "vain", *toy(place / "out"), lines=("setup: ['false']",))
    lab.await_end(run)
    assert told(lab.tree, run) == ("refused", 78, "refused: setup: false: ended with 1")


def test_a_container_that_does_not_start_on_one_of_three_nodes(lab: Lab, work: Work, place: Path) -> None:
    """srun ends the others, whose entrypoints say only that they were told to stop."""
    disk = lab.slurm.local / "disk"
    for node in ("n1", "n2"):
        lab.slurm.write_local(node, "disk/there", "")
    disk.mkdir(exist_ok=True)  # so that it can be planned
    shape = ("max_steps=2", "global_batch_size=12", "--nodes", "3", "--procs", "1")
    lines = ("shared: []", f"mounts: [{{source: {disk}, target: /disk}}]")
    run = submit(lab, "partial", *work.words(place / "out", *shape), lines=lines)
    lab.await_end(run)
    state, code, reason = told(lab.tree, run)
    assert (state, code) == ("not started", 69) and "n3" in reason, reason
    assert f"source path does not exist: {disk}" in reason


def test_a_node_that_fails(lab: Lab, place: Path) -> None:
    """And no attempt is left."""
    run = once(lab, place, "wait=true")
    node = lab.slurm.job(lab.job(run))["NodeList"]
    lab.slurm.kill_node(node)
    lab.slurm.declare_down(node)
    lab.await_end(run, "NODE_FAIL")
    try:
        state, code, reason = told(lab.tree, run)
    finally:
        lab.slurm.restart_node(node)
    assert (state, code) == ("node failed", 75) and reason.startswith("a node failed"), reason
    assert run.outcome["cause"] == "node"


def test_a_node_that_fails_is_made_good_by_another(lab: Lab, place: Path) -> None:
    run = lab.submit(*toy(place / "out", "wait=true"))
    lab.await_file(place / "out" / "waiting")
    node = lab.slurm.job(lab.job(run))["NodeList"]
    (place / "out" / "waiting").unlink()
    lab.slurm.kill_node(node)
    lab.slurm.declare_down(node)
    lab.slurm.run_now(lab.job(run))
    try:
        lab.await_file(place / "out" / "waiting")
        assert lab.slurm.job(lab.job(run))["NodeList"] != node
        (place / "out" / "go").touch()
        lab.await_end(run)
    finally:
        lab.slurm.restart_node(node)
    assert told(lab.tree, run) == ("done", 0, "done")


def test_a_job_that_stands_still_starts_anew(lab: Lab, place: Path) -> None:
    """And its second attempt goes on; in the last one it is over."""
    lines = ("stall: 0.05", "attempts: 2")
    run = submit(lab, "impatient", *toy(place / "out", "wait=true", "deaf=true"), lines=lines)
    lab.await_file(place / "out" / "waiting")
    (place / "out" / "waiting").unlink()
    until("the second attempt", lambda: lab.slurm.job(lab.job(run)).get("Restarts") == "1")
    lab.slurm.run_now(lab.job(run))
    lab.await_file(place / "out" / "waiting")
    lab.await_end(run)
    state, code, reason = told(lab.tree, run)
    assert (state, code) == ("stalled", 75)
    assert reason.startswith("it stood still: nothing has moved for 0.05 min; the last to move was rank 0 on "), reason
    first = json.loads((run.path / "attempts.jsonl").read_text().splitlines()[1])
    assert (first["why"], first["requeued"], first["exit"]) == ("it stood still", "true", "75")


def test_preempted_and_over(lab: Lab, place: Path) -> None:
    """A job that Slurm may not put back, it cancels."""
    run = once(lab, place, "wait=true", "--nodes", "1")
    assert lab.slurm.call("srun", "--partition=urgent", "--exclusive", "-N3", "true").code == 0
    lab.await_end(run, "PREEMPTED", "CANCELLED", "FAILED")
    assert told(lab.tree, run) == ("preempted", 143, f"a job of higher priority took its place: {SAVED}")
    assert (place / "out" / "saved").exists()


def test_the_time_limit(lab: Lab, place: Path) -> None:
    run = once(lab, place, "wait=true")
    lab.near_limit(run)
    lab.await_end(run)
    assert told(lab.tree, run) == ("time limit", 143, f"the time limit ended it: {SAVED}")
    assert (place / "out" / "saved").exists()


@pytest.mark.long
def test_what_does_not_leave_at_its_time_limit(lab: Lab, place: Path) -> None:
    """A step that does not listen, told ahead of the limit; Slurm looks for such jobs twice a minute."""
    run = once(lab, place, "wait=true", "deaf=true")
    assert lab.slurm.call("scontrol", "update", f"JobId={lab.job(run)}", "EndTime=now+5").code == 0
    lab.await_end(run, "TIMEOUT")
    state, code, reason = told(lab.tree, run)
    assert (state, code) == ("time limit", 143) and reason.startswith("the time limit ended it"), reason
    assert not (place / "out" / "saved").exists()


def test_what_only_the_script_was_told(lab: Lab, place: Path) -> None:
    """By somebody who knows Slurm, and not `launch cancel`."""
    run = once(lab, place, "wait=true")
    assert lab.slurm.call("scancel", "--batch", "--signal=USR2", lab.job(run)).code == 0
    lab.await_end(run)
    assert told(lab.tree, run) == ("stopped", 143, f"stopped: {SAVED}")


def test_a_step_that_somebody_kills(lab: Lab, place: Path) -> None:
    run = once(lab, place, "wait=true")
    assert lab.slurm.call("scancel", "--signal=KILL", f"{lab.job(run)}.0").code == 0
    lab.await_end(run)
    assert told(lab.tree, run) == ("killed", 137, "killed before it could save: by whom is not known")


def test_a_job_starts_after_another_has_ended_well_and_not_otherwise(lab: Lab, place: Path) -> None:
    """--after: Slurm waits, and cancels what would wait in vain."""
    first = once(lab, place, "wait=true")
    second = lab.submit(*toy(place / "second"), "--after", first.id)
    third = lab.submit(*toy(place / "third"), "--after", second.id)
    for run, before in ((second, first), (third, second)):
        said = lab.slurm.call("scontrol", "show", "job", lab.job(run)).out
        assert f"Dependency=afterok:{lab.job(before)}" in said
    assert lab.tree.launch("cancel", first.id).code == 0
    for run in (second, third):
        lab.await_end(run, "CANCELLED")
        assert told(lab.tree, run) == ("cancelled", 143, "cancelled: while it waited in the queue")
    fourth = lab.submit(*toy(place / "fourth"))
    last = lab.submit(*toy(place / "last"), "--after", fourth.id)
    lab.await_end(last)
    assert told(lab.tree, last) == told(lab.tree, fourth) == ("done", 0, "done")


@pytest.mark.parametrize("way", ["launch cancel", "scancel"])
def test_cancelled_while_it_waits(lab: Lab, place: Path, way: str) -> None:
    run = submit(lab, "held", *toy(place / "out"), lines=("sbatch: {hold: true}",))
    cancel(lab, run, way)
    assert told(lab.tree, run) == ("cancelled", 143, "cancelled: while it waited in the queue")
    assert not (place / "out" / "written").exists()


@pytest.mark.parametrize("way", ["launch cancel", "scancel"])
def test_cancelled_while_it_runs(lab: Lab, place: Path, way: str) -> None:
    run = once(lab, place, "wait=true")
    cancel(lab, run, way)
    assert told(lab.tree, run) == ("cancelled", 143, f"cancelled: {SAVED}")
    assert (place / "out" / "saved").exists()


@stand_in
@pytest.mark.parametrize("way", ["launch cancel", "scancel"])
def test_cancelled_while_its_container_is_made(lab: Lab, place: Path, way: str) -> None:
    lab.slurm.write_local("n2", ".unpacking", "")
    try:
        run = submit(lab, "second", *toy(place / "out"), lines=("sbatch: {nodelist: n2}",))
        steps = ("squeue", "--steps", "--noheader", f"--jobs={lab.job(run)}", "--format=%j")
        until("the step", lambda: "slipway" in lab.slurm.call(*steps).out.split())
        cancel(lab, run, way)
    finally:
        lab.slurm.remove_local("n2", ".unpacking")
    assert told(lab.tree, run) == ("cancelled", 143, "cancelled: before its container was made")


def cancel(lab: Lab, run: Run, way: str) -> None:
    done = lab.launch("cancel", run.id) if way == "launch cancel" else lab.slurm.call("scancel", lab.job(run))
    assert done.code == 0, done
    lab.await_end(run)


def test_a_step_that_the_kernel_ends_for_want_of_memory(lab: Lab, place: Path) -> None:
    run = once(lab, place, "--env", f"TOY_RUN={encoded(GREEDY)}")
    with cramped(run):
        (place / "out" / "go").touch()
        lab.await_end(run)
    assert told(lab.tree, run) == ("out of memory", 137, "killed: out of memory: ended by signal KILL")


REPORTS = """\
#!/bin/sh
{scontrol} "$@" | sed 's/JobState=FAILED/JobState=OUT_OF_MEMORY/; s/ExitCode=9:0/ExitCode=0:125/'
"""


def test_a_job_that_slurm_ends_for_want_of_memory(lab: Lab, place: Path) -> None:
    """This cluster limits no memory: what stands in is scontrol's word for it."""
    run = lab.submit(*toy(place / "out", "code=9"))
    lab.await_end(run)
    scontrol = place / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(REPORTS.format(scontrol=shutil.which("scontrol", path=lab.tree.env["PATH"])))
    scontrol.chmod(0o755)
    assert lab.launch("show", run.id, PATH=f"{scontrol.parent}:{lab.tree.env['PATH']}").code == 0
    why = "killed: out of memory: Slurm, at the job's limit; exit code 9"
    assert told(lab.tree, run) == ("out of memory", 137, why)


def test_a_launcher_that_dies_before_sbatch_has_never_started(lab: Lab, place: Path) -> None:
    before, sbatch = lab.tree.all_runs(), place / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f"#!/bin/sh\necho $$ >{place}/asked\nexec sleep 600\n")
    sbatch.chmod(0o755)
    path = f"{sbatch.parent}:{lab.tree.env['PATH']}"
    launched = lab.tree.start("launch", "--profile", "lab", *toy(place / "out"), PATH=path)
    pid = int(until("sbatch", lambda: (place / "asked").exists() and (place / "asked").read_text()))
    launched.kill()
    os.kill(pid, signal.SIGKILL)
    (run,) = lab.tree.since(before)
    assert told(lab.tree, run) == ("never started", 70, "the launcher died before it was started")


def test_a_job_that_slurm_has_forgotten(lab: Lab, place: Path) -> None:
    run = submit(lab, "held", *toy(place / "out"), lines=("sbatch: {hold: true}",))
    assert lab.slurm.call("scancel", lab.job(run)).code == 0
    (run.path / "job").write_text("987654\n")
    state, code, reason = told(lab.tree, run)
    said = "nobody knows how it ended: Slurm has forgotten job 987654, whose script never began: "
    assert (state, code) == ("lost", 70) and reason.startswith(said)
