"""`launch --profile slurm-pyxis` on a real Slurm: the script, the job's life, and what is brought home of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .. import hf_home
from ..conftest import Work, facts, toy
from ..support import ENDLESS, Run, by_umask, open_runs, open_to_others, told, until
from .cluster import interrupt_removal, stand_in
from .conftest import Lab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons and containers need root here"),
]


def attempts(run: Run) -> list[dict[str, Any]]:
    path = run.path / "attempts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def steps(log: str) -> list[int]:
    """Which optimizer steps the log tells of."""
    return [int(n) for n in re.findall(r"\| step (\d+)/", log)]


def test_what_is_submitted_is_what_the_dry_run_printed(lab: Lab, place: Path) -> None:
    words = ("--profile", "lab", *toy(place / "out"))
    printed = lab.launch("--dry-run", *words)
    assert printed.code == 0, printed
    done = lab.launch(*words, "--follow")
    run = Run(lab.tree.runs / done.out.splitlines()[0])
    assert (done.code, run.ended) == (0, (0, "step")), done
    assert (run.path / "script.sh").read_text() == printed.out == run.record["request"]["script"]
    assert run.record["request"]["sha256"] == hashlib.sha256(printed.out.encode()).hexdigest()
    assert "line 3" in done.out and run.outcome["checkpoint"] == str(place / "out")
    seen = facts((run.path / "logs" / "node-0.log").read_text())
    assert seen["uid"] == 0 and all(seen["writable"].values())
    assert lab.slurm.job(lab.job(run))["JobName"] == f"slipway-{run.id}"


def test_the_environment_of_the_shell_stays_behind(lab: Lab, place: Path) -> None:
    odd = {"PYXIS_CONTAINER_IMAGE": "/nowhere", "SBATCH_PARTITION": "urgent", "SSL_CERT_FILE": "/x"}
    value = 'it\'s "quoted" $(touch /tmp/never) `id`\n#, and = more\nSSL_CERT_FILE=/of/a/line\n'
    words = (*toy(place / "out"), "--env", f"ODD={value}", "--env", "LC_ALL=C.UTF-8")
    run = lab.submit(*words, LD_LIBRARY_PATH="/hostlib", **odd)
    lab.await_end(run)
    assert lab.collected(run).ended == (0, "step")
    assert lab.slurm.job(lab.job(run))["Partition"] == "batch"
    given = facts((run.path / "logs" / "node-0.log").read_text())["given"]
    assert given.pop("PATH").startswith("/opt/venv/bin:")
    assert given == {
        "ODD": value, "LC_ALL": "C.UTF-8", "LD_LIBRARY_PATH": None, "SSL_CERT_FILE": None,
        "NVIDIA_VISIBLE_DEVICES": "void",
    }  # fmt: skip


@stand_in
def test_a_job_that_a_node_could_not_start_is_no_success(lab: Lab, place: Path) -> None:
    """Slurm drains that node, and calls the job completed, with 0:0."""
    lab.profile("third", "sbatch: {nodelist: n3}")
    lab.slurm.write_local("n3", ".no-pyxis", "")
    try:
        done = lab.launch("--profile", "third", *toy(place / "out"), "--follow")
    finally:
        lab.slurm.remove_local("n3", ".no-pyxis")
        lab.slurm.call("scontrol", "update", "NodeName=n3", "State=RESUME")
    run = Run(lab.tree.runs / done.out.splitlines()[0])
    told = lab.slurm.job(lab.job(run))
    assert (told["JobState"], told["ExitCode"]) == ("COMPLETED", "0:0")
    assert (done.code, run.ended) == (69, (69, "engine")), done
    assert "its script was never started" in run.outcome["reason"]


def test_a_home_that_is_mounted_changes_no_variable(lab: Lab, place: Path) -> None:
    lab.profile("homely", "mount_home: true")
    done = lab.launch("--profile", "homely", *toy(place / "out"), "--follow")
    run = Run(lab.tree.runs / done.out.splitlines()[0])
    given = facts((run.path / "logs" / "node-0.log").read_text())["given"]
    assert done.code == 0 and given["PATH"].startswith("/opt/venv/bin:") and given["LD_LIBRARY_PATH"] is None, done


@pytest.mark.parametrize("name", ["$(echo other)", 'a"b', "a b", "a`b", "a\\b"])
def test_a_path_that_a_shell_would_read_is_refused_before_anything_is_made(lab: Lab, place: Path, name: str) -> None:
    before = lab.tree.all_runs()
    done = lab.launch("--profile", "lab", *toy(place / name))
    assert done.code == 78 and "mount /output: " in done.err and "which pyxis cannot mount" in done.err, done
    assert "use a folder with another name" in done.err
    assert lab.tree.all_runs() == before and not (place / name).exists()


def test_a_login_is_hidden_and_the_hubs_cache_cannot_be_changed(lab: Lab, place: Path) -> None:
    home = place / "hf"
    before = hf_home.log_in(home)
    lab.profile(place.name.lower(), f"hf_home: {home}")
    done = lab.launch("--profile", place.name.lower(), *toy(place / "out"), *hf_home.told(), "--follow")
    assert done.code == 0, done
    run = Run(lab.tree.runs / done.out.splitlines()[0])
    assert hf_home.seen((run.path / "logs" / "node-0.log").read_text()) == hf_home.HIDDEN
    assert hf_home.content(home) == before


def test_a_failing_node_tells_the_exit_code(lab: Lab, place: Path) -> None:
    """srun says 143, for the nodes that it ended because of the first."""
    done = lab.launch("--profile", "lab", *toy(place / "out"), "code=7", "--follow")
    run = Run(lab.tree.runs / done.out.splitlines()[0])
    assert (done.code, run.ended) == (7, (7, "step")), done
    assert attempts(run)[-1]["exit"] == "7"


def test_training_on_three_nodes_survives_a_preemption(lab: Lab, work: Work, place: Path) -> None:
    """The same number of steps as without, from the last checkpoint on, with the same data and weights."""
    shape = ("--nodes", "3", "--procs", "1", "global_batch_size=12", "max_steps=24", "checkpoint_every=8")
    calm = lab.submit(*work.words(place / "calm", *shape))
    lab.await_end(calm)
    assert lab.collected(calm).ended == (0, "step"), (calm.path / "logs" / "node-0.log").read_text()
    assert sorted(p.name for p in (calm.path / "logs").iterdir()) == ["job.log", *(f"node-{n}.log" for n in range(3))]
    assert not list((place / "calm").glob(".slipway-nonce-*"))

    run = lab.submit(*work.words(place / "out", *shape))
    log = run.path / "logs" / "node-0.log"
    until("step 10", lambda: log.exists() and "| step 10/" in log.read_text())
    lab.slurm.call("srun", "--partition=urgent", "--exclusive", "-N3", "true")
    lab.slurm.run_now(lab.job(run))
    lab.await_end(run)
    assert lab.collected(run).ended == (0, "step"), log.read_text()
    before, after = (steps(part) for part in log.read_text().split("Signal handler installed")[1:])
    assert (after[0], after[-1]) == (before[-1] + 1 if saved(run) else 9, 24)
    assert [a["attempt"] for a in attempts(run) if a["event"] == "start"] == [0, 1]
    texts = [(r.path / "logs" / "node-0.log").read_text() for r in (calm, run)]
    assert len({re.findall(r"step 24/24 .* loss (\S+)", text)[-1] for text in texts}) == 1, "other weights or data"


def saved(run: Run) -> bool:
    """Whether the preempted attempt could still write a checkpoint, before Slurm killed it."""
    first = (run.path / "logs" / "node-0.log").read_text().split("Signal handler installed")[1]
    return "Saving checkpoint" in first.rpartition("rank(s), up to")[2]


def test_ahead_of_the_time_limit_the_step_saves_and_the_job_goes_on(lab: Lab, work: Work, place: Path) -> None:
    lab.profile("brief", "attempts: 2")
    words = work.words(place / "out", f"max_steps={ENDLESS}", "checkpoint_every=1000")
    done = lab.launch("--profile", "brief", *words)
    run = Run(lab.tree.runs / done.out.strip())
    log = run.path / "logs" / "node-0.log"
    for attempt in (1, 2):
        until("a step", lambda n=attempt: "| step " in part(log, n))
        lab.near_limit(run)
        if attempt == 1:
            until("requeued", lambda: any(a.get("requeued") == "true" for a in attempts(run)))
            assert "pending (BeginTime" in until_shown(lab, run, "pending")
            lab.slurm.run_now(lab.job(run))
    lab.await_end(run)
    assert lab.collected(run).ended == (143, "signal")
    ends = [a for a in attempts(run) if a["event"] == "end"]
    assert [(a["why"], a["requeued"]) for a in ends] == [("time limit", "true"), ("time limit", "false")]
    assert Path(run.outcome["checkpoint"]).is_dir()
    first, second = (steps(part) for part in log.read_text().split("Signal handler installed")[1:])
    assert second[0] == first[-1] + 1


def test_a_preemption_with_grace_lets_the_step_save(lab: Lab, place: Path) -> None:
    """Slurm tells the step alone, and would call a job that leaves in its grace time failed: the script requeues it."""
    assert lab.slurm.call("scontrol", "update", "PartitionName=batch", "GraceTime=60").code == 0
    try:
        run = lab.submit(*toy(place / "out"), "wait=true")
        lab.await_file(place / "out" / "waiting")
        lab.slurm.call("srun", "--partition=urgent", "--exclusive", "-N3", "true")
        until("requeued", lambda: any(a.get("requeued") == "true" for a in attempts(run)))
        lab.slurm.run_now(lab.job(run))
        lab.await_end(run)
    finally:
        lab.slurm.call("scontrol", "update", "PartitionName=batch", "GraceTime=0")
    assert lab.collected(run).ended == (0, "step")
    assert (place / "out" / "saved").exists()
    ends = [(a["attempt"], a["why"], a["requeued"]) for a in attempts(run) if a["event"] == "end"]
    assert ends == [(0, "preempted", "true"), (1, "", "false")]


@pytest.mark.parametrize("mode", ["REQUEUE", "CANCEL"])
def test_a_preemption_without_grace_lets_the_step_save(lab: Lab, place: Path, mode: str) -> None:
    """Within KillWait: Slurm's TERM comes twice, to the step and by srun, which is told, too. Where Slurm would cancel
    the job, its script puts it back."""
    assert lab.slurm.call("scontrol", "update", "PartitionName=batch", f"PreemptMode={mode}").code == 0
    try:
        run = lab.submit(*toy(place / "out"), "wait=true", "slow=7")
        lab.await_file(place / "out" / "waiting")
        lab.slurm.call("srun", "--partition=urgent", "--exclusive", "-N3", "true")
        until("requeued", lambda: any(a.get("requeued") == "true" for a in attempts(run)))
        lab.slurm.run_now(lab.job(run))
        lab.await_end(run)
    finally:
        lab.slurm.call("scontrol", "update", "PartitionName=batch", "PreemptMode=REQUEUE")
    assert lab.collected(run).ended == (0, "step")
    assert (place / "out" / "saved").exists()
    assert [a["requeued"] for a in attempts(run) if a["event"] == "end"] == ["true", "false"]


@stand_in
def test_what_an_attempt_left_is_not_in_the_way_of_the_next(lab: Lab, place: Path) -> None:
    """Slurm's KILL may hit the removal of the container, whose name the next attempt's has, too."""
    lab.profile("second", "sbatch: {nodelist: n2}")
    run = Run(lab.tree.runs / lab.launch("--profile", "second", *toy(place / "out"), "wait=true").out.strip())
    lab.await_file(place / "out" / "waiting")
    job = lab.job(run)
    lab.slurm.write_local("n2", ".removing", "")
    assert lab.slurm.call("scontrol", "requeue", job).code == 0
    interrupt_removal(job)
    lab.slurm.remove_local("n2", ".removing")
    until("requeued", lambda: lab.slurm.job(job)["JobState"] == "PENDING")
    assert lab.slurm.containers("n2") == f"pyxis_{job}.0\n"
    lab.slurm.run_now(job)
    lab.await_end(run)
    assert lab.collected(run).ended == (0, "step"), (run.path / "logs" / "job.log").read_text()
    assert f"n2: removing pyxis_{job}.0, which an earlier attempt left" in (run.path / "logs" / "job.log").read_text()
    assert lab.slurm.containers("n2") == ""


def part(log: Path, attempt: int) -> str:
    """What the log tells of an attempt's training, counted from 1; empty where it has not begun."""
    parts = log.read_text().split("Signal handler installed") if log.exists() else []
    return parts[attempt] if attempt < len(parts) else ""


def until_shown(lab: Lab, run: Run, word: str) -> str:
    """What `launch show` says of a run, as soon as the word is in it."""

    def look() -> str:
        shown = lab.launch("show", run.id).out
        return shown if word in shown else ""

    return until(word, look)


def test_nodes_without_shared_storage_are_named(lab: Lab, work: Work) -> None:
    """What every node has and none shares: plan time where the profile knows, else the job's start."""
    here = lab.slurm.local / "out"
    words = (*work.words(here, "max_steps=2", "global_batch_size=12"), "--nodes", "3", "--procs", "1")
    refused = lab.launch("--profile", "lab", *words)
    assert refused.code == 78 and f"{here} is under no shared folder" in refused.err
    lab.profile("unsure", "shared: []", "mount_wait: 2")
    for node in lab.slurm.nodes:
        lab.slurm.write_local(node, "out/.keep", "")
    done = lab.launch("--profile", "unsure", *words, "--follow")
    run = Run(lab.tree.runs / done.out.splitlines()[0])
    assert (done.code, run.ended[0]) == (78, 78), done
    assert re.search(r"node n[23] does not see in /output what n1 wrote there", run.outcome["reason"])


@stand_in
def test_nodes_wait_for_those_whose_containers_take_longer(lab: Lab, work: Work, place: Path) -> None:
    """Longer than shared storage may take to show a file."""
    lab.profile("uneven", "mount_wait: 2")
    words = (*work.words(place / "out", "max_steps=2", "global_batch_size=12"), "--nodes", "3", "--procs", "1")
    for node in ("n1", "n3"):
        lab.slurm.write_local(node, ".unpacking", "")
    run = Run(lab.tree.runs / lab.launch("--profile", "uneven", *words).out.strip())
    for log, node, late in (("node-1.log", "n2", "n1"), ("node-0.log", "n1", "n3")):
        file = run.path / "logs" / log
        said = f"{node} waits for {late}, whose container may take"
        until(said, lambda f=file, s=said: (f.exists() and s in f.read_text()) or attempts(run)[1:])
        lab.slurm.remove_local(late, ".unpacking")
    lab.await_end(run)
    assert lab.collected(run).ended == (0, "step"), run.outcome


def test_the_cause_of_a_failed_start_is_one_line(lab: Lab, place: Path) -> None:
    planned = place / "planned"
    assert lab.launch("--profile", "lab", *toy(place / "out"), "-o", str(planned)).code == 0
    script = planned / "script.sh"
    script.write_text(script.read_text().replace(f"{place}/out:/output", f"{place}/gone:/output"))
    done = lab.slurm.call("sbatch", "--parsable", "--wait", f"--chdir={planned}", str(script))
    assert done.code != 0
    log = (planned / "logs" / "job.log").read_text() + "".join(p.read_text() for p in (planned / "logs").glob("node*"))
    assert f"pyxis: --container-mounts: source path does not exist: {place}/gone" in log


def test_a_directory_of_o_is_a_job_by_itself(lab: Lab, place: Path) -> None:
    planned = place / "planned"
    assert lab.launch("--profile", "lab", *toy(place / "out"), "-o", str(planned)).code == 0
    done = subprocess.run(
        ["sbatch", "--wait", "script.sh"], cwd=planned, env=lab.tree.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + (planned / "logs" / "job.log").read_text()
    assert (place / "out" / "written").exists()
    again = place / "again"
    assert lab.launch("--profile", "lab", *toy(place / "out2"), "-o", str(again)).code == 0
    submitted = lab.launch("submit", str(again), "--follow")
    assert submitted.code == 0 and (place / "out2" / "written").exists(), submitted


def test_a_secret_reaches_the_step_and_nothing_else(lab: Lab, place: Path) -> None:
    canary = "canary-6b1f"
    lab.profile("secretive", "secrets: {TOKEN: env}")
    planned = place / "planned"
    words = ("--profile", "secretive", *toy(place / "out"))
    assert lab.launch(*words, "-o", str(planned), TOKEN=canary).code == 0
    bare = subprocess.run(
        ["sbatch", "--wait", "script.sh"], cwd=planned, env=lab.tree.env, capture_output=True, text=True, check=False
    )
    assert bare.returncode == 77 and "launch submit" in (planned / "logs" / "job.log").read_text()
    missing = lab.launch(*words)
    assert missing.code == 66 and "secrets.TOKEN" in missing.err
    done = lab.launch(*words, "wait=true", TOKEN=canary)
    run = Run(lab.tree.runs / done.out.strip())
    lab.await_file(place / "out" / "waiting")
    secret = lab.tree.runs / ".secrets" / run.id / "TOKEN"
    modes = [path.stat().st_mode & 0o777 for path in (secret, secret.parent)]
    assert (secret.read_text(), *modes) == (canary, 0o600, 0o700)
    (place / "out" / "go").touch()
    lab.await_end(run)
    assert lab.collected(run).ended == (0, "step")
    assert not secret.exists()
    digest = hashlib.sha256(canary.encode()).hexdigest()
    seen = facts((run.path / "logs" / "node-0.log").read_text())["secrets"]
    assert seen == {"TOKEN": {"file": digest, "variable": digest, "mode": "600"}}
    found = subprocess.run(
        ["grep", "-rl", canary, str(run.path), str(planned), str(place)], capture_output=True, text=True
    )
    assert found.stdout == ""


@pytest.mark.parametrize(("mask", "written"), [(0o000, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_run_directory_is_for_its_owner_alone(lab: Lab, place: Path, mask: int, written: int) -> None:
    """What Slurm itself opens in it, too. What the step makes has the modes of the umask at submission."""
    runs = open_runs(place)
    done = by_umask(lab.tree, mask).launch("--profile", "lab", "test/toy", "--runs-dir", str(runs), "--follow")
    assert done.code == 0, done
    (run,) = map(Run, runs.glob("[!.]*"))
    assert {p.name for p in (run.path / "logs").iterdir()} == {"job.log", "node-0.log"}
    assert {"attempts.jsonl", "job"} <= {p.name for p in run.path.iterdir()}
    assert run.path.stat().st_mode & 0o777 == 0o700
    assert open_to_others(run.path) == ({"output/written": written} if written & 0o077 else {})


def test_cancel_asks_the_step_first(lab: Lab, work: Work, place: Path) -> None:
    shape = ("--nodes", "3", "--procs", "1", "global_batch_size=12")
    run = lab.submit(*work.words(place / "out", f"max_steps={ENDLESS}", "checkpoint_every=100000", *shape))
    log = run.path / "logs" / "node-0.log"
    until("a step", lambda: log.exists() and "| step 3/" in log.read_text())
    done = lab.launch("cancel", run.id)
    assert done.code == 0 and run.ended == (143, "cancelled"), done
    assert Path(run.outcome["checkpoint"]).is_dir(), "it had time to save"
    assert [a["requeued"] for a in attempts(run) if a["event"] == "end"] == ["false"]


@stand_in
@pytest.mark.parametrize("way", ["cancel", "time limit"])
def test_where_pyxis_mounts_the_image_a_step_can_save(lab: Lab, place: Path, way: str) -> None:
    """By a process of the step, which a TERM to the step would end."""
    lab.profile("mounting", "sbatch: {nodelist: n2}", "attempts: 1")
    lab.slurm.write_local("n2", ".squashfuse", "")
    try:
        run = Run(lab.tree.runs / lab.launch("--profile", "mounting", *toy(place / "out"), "wait=true").out.strip())
        lab.await_file(place / "out" / "waiting")
        lab.stop(run, way)
        lab.await_end(run)
    finally:
        lab.slurm.remove_local("n2", ".squashfuse")
    assert lab.collected(run).ended == (143, "cancelled" if way == "cancel" else "signal"), run.outcome
    assert (place / "out" / "saved").exists()


@stand_in
def test_near_its_limit_a_job_whose_container_is_being_made_is_ended(lab: Lab, place: Path) -> None:
    """What makes it takes the signal for itself, and fails."""
    lab.profile("single", "sbatch: {nodelist: n2}", "attempts: 1")
    lab.slurm.write_local("n2", ".unpacking", "")
    try:
        run = Run(lab.tree.runs / lab.launch("--profile", "single", *toy(place / "out")).out.strip())
        steps = ("squeue", "--steps", "--noheader", f"--jobs={lab.job(run)}", "--format=%j")
        until("the step", lambda: "slipway" in lab.slurm.call(*steps).out.split())
        lab.near_limit(run)
        lab.await_end(run)
    finally:
        lab.slurm.remove_local("n2", ".unpacking")
    assert told(lab.tree, run) == ("time limit", 143, "the time limit ended it: before its container was made")


def test_a_job_that_waits_is_explained_and_can_be_cancelled(lab: Lab, place: Path) -> None:
    lab.profile("held", "sbatch: {hold: true}")
    run = Run(lab.tree.runs / lab.launch("--profile", "held", *toy(place / "out")).out.strip())
    assert "pending (JobHeldUser: is held by its user" in until_shown(lab, run, "pending (")
    done = lab.launch("cancel", run.id)
    assert done.code == 0 and run.ended[1] == "cancelled", done
    assert not (place / "out" / "written").exists()


def test_the_hint_finds_a_run_that_is_not_in_this_shells_place(lab: Lab, place: Path) -> None:
    lab.profile("own", f"runs: {place}/runs")
    done = lab.launch("--profile", "own", *toy(place / "out"))
    hint = re.search(r"^follow it with: launch (logs -f .+)$", done.err, re.M)
    assert done.code == 0 and hint, done
    followed = lab.launch(*shlex.split(hint[1]))
    assert followed.code == 0 and "line 3" in followed.out, followed


def test_ctrl_c_while_following_leaves_the_job_alone(lab: Lab, place: Path) -> None:
    command = lab.tree.start("launch", "--profile", "lab", *toy(place / "out"), "wait=true", "--follow")
    lab.await_file(place / "out" / "waiting")
    command.await_line("waiting")
    command.signal(signal.SIGINT)
    done = command.finish()
    run = Run(lab.tree.runs / done.out.splitlines()[0])
    assert done.code == 130 and "the run goes on" in done.err
    assert "running" in lab.launch("show", run.id).out
    (place / "out" / "go").touch()
    lab.await_end(run)
    assert lab.collected(run).ended == (0, "step")


def test_a_refusal_of_sbatch_leaves_nothing(lab: Lab, place: Path) -> None:
    lab.profile("wrong", "partition: nowhere")
    before = lab.tree.all_runs()
    done = lab.launch("--profile", "wrong", *toy(place / "out"))
    assert done.code == 69 and "partition: sbatch: invalid partition specified: nowhere" in done.err, done
    assert lab.tree.all_runs() == before and not (place / "out").exists()


def test_a_job_that_slurm_has_forgotten_is_known_from_its_own_record(lab: Lab, place: Path) -> None:
    run = lab.submit(*toy(place / "out"), "code=5")
    lab.await_end(run)
    (run.path / "job").write_text("987654\n")
    assert lab.collected(run).ended == (5, "step")


def test_a_prolog_that_the_container_lacks_is_the_cause(lab: Lab, place: Path) -> None:
    """A site's TaskProlog runs inside."""
    prolog, config = lab.slurm.folder / "prolog", lab.slurm.folder / "slurm.conf"
    prolog.write_text("#!/bin/sh\n")
    prolog.chmod(0o755)
    text = config.read_text()
    try:
        config.write_text(f"{text}TaskProlog={prolog}\n")
        assert lab.slurm.call("scontrol", "reconfigure").code == 0
        done = lab.launch("--profile", "lab", *toy(place / "out"), "--follow")
    finally:
        config.write_text(text)
        lab.slurm.call("scontrol", "reconfigure")
    run = Run(lab.tree.runs / done.out.splitlines()[0])
    assert (done.code, run.ended, run.outcome["reason"]) == (
        69, (69, "engine"), "its container did not start: on n1; TaskProlog failed status=1"
    )  # fmt: skip


def test_a_launcher_that_dies_after_sbatch_has_not_lost_the_job(lab: Lab, place: Path) -> None:
    """The job's name is the run's: whoever comes next finds it, and a second look collects it."""
    run = lab.submit(*toy(place / "out"), "wait=true")
    lab.await_file(place / "out" / "waiting")
    for name in ("job", "attempts.jsonl"):
        (run.path / name).rename(run.path / f"{name}.away")
    events = [line for line in (run.path / "events.jsonl").read_text().splitlines() if '"started"' not in line]
    (run.path / "events.jsonl").write_text("\n".join(events) + "\n")
    assert "running" in lab.launch("show", run.id).out
    (run.path / "attempts.jsonl.away").rename(run.path / "attempts.jsonl")
    (place / "out" / "go").touch()
    until("its end", lambda: any(a["event"] == "end" for a in attempts(run)))
    lab.slurm.wait_for_idle()
    assert lab.collected(run).ended == (0, "step")
