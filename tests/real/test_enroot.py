"""launch --profile enroot: the real step in the real image, through enroot or its stand-in, and what can happen to it.

SLIPWAY_TEST_ENROOT=PATH names a real enroot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import hf_home
from .cache import conversions, converted, leftovers, model, reads
from .conftest import Work, every_command_agrees, facts, toy
from .support import (
    ENDLESS,
    GREEDY,
    PROJECT,
    Run,
    Running,
    Tree,
    by_umask,
    cramped,
    encoded,
    open_runs,
    open_to_others,
    told,
    until,
)

REAL = os.environ.get("SLIPWAY_TEST_ENROOT", "")
STANDIN = PROJECT / "tests" / "standins" / "enroot.py"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not REAL and os.geteuid() != 0, reason="the stand-in of enroot mounts as root"),
]
NASTY = '"it\'s here" $HOME `id`\n\\ *"'


@pytest.fixture(scope="module")
def machine(project: Tree, squashed: Path, ground: Path) -> Tree:
    """The project on a machine with enroot."""
    assert squashed.is_file()
    folder = ground / "enroot"
    (folder / "bin").mkdir(parents=True)
    program = shlex.quote(REAL) if REAL else f"{sys.executable} -IS {STANDIN} {folder}"
    (folder / "bin" / "enroot").write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    (folder / "bin" / "enroot").chmod(0o755)
    profile = project.path / "launcher" / "profiles" / "enroot.yaml"
    # Not in the project, of which other tests make copies.
    profile.write_text(f"{profile.read_text()}data: {folder}/data\n")
    path = f"{folder}/bin:{project.env['PATH']}"
    env = project.env | {"PATH": path, "SLIPWAY_PROFILE": "enroot", "SLIPWAY_RUNS": str(folder / "runs")}
    return dataclasses.replace(project, runs=folder / "runs", env=env, _started=[])


@pytest.fixture
def site(machine: Tree) -> Iterator[Tree]:
    """That machine, for one test: what this leaves running ends with it."""
    yield machine
    for running in machine._started:
        if running.process.poll() is None:
            running.kill()
    machine._started.clear()
    for run in machine.all_runs():
        end(run)


def process(run: Run) -> dict[str, Any]:
    """What the run's script says of itself."""
    file = run.path / "process"
    return dict(json.loads(file.read_text() or "{}")) if file.exists() else {}


def members(run: Run) -> dict[int, bytes]:
    """Every process of the container: pid -> its words."""
    mark, found = f"SLIPWAY_CONTAINER={process(run).get('mark')}".encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes()
    return found


def one(run: Run, words: bytes) -> int:
    """The one process of the container whose words begin so."""
    (pid,) = (pid for pid, said in members(run).items() if re.match(words, said))
    return pid


def session(run: Run) -> list[int]:
    """Every process of the session that the run's script began."""
    stats = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            stats[int(file.parent.name)] = file.read_text().rpartition(")")[2].split()
    return [pid for pid, stat in stats.items() if stat[3] == str(process(run).get("pid")) and stat[0] != "Z"]


def end(run: Run) -> None:
    """kill -9 of the run's script, first, and of all that it has started."""
    for pid in [*session(run), *members(run)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def await_end(run: Run) -> None:
    until("the end of the run's script", (run.path / "ended").exists)


def profile(site: Tree, name: str, **keys: Any) -> str:
    """A profile over enroot's."""
    file = site.path / "launcher" / "profiles" / f"{name}.yaml"
    file.write_text(json.dumps({"schema": 1, "kind": "enroot", "extends": "enroot", **keys}))
    return name


def test_a_shell_and_a_command(site: Tree, place: Path) -> None:
    """`launch shell` enters the container by `enroot exec`; `launch exec` is a run as any other."""
    (place / "token").write_text("s3cr3t")
    script = "echo $SLIPWAY_STEP ${#MY_TOKEN} $PWD; ls /output; exit 4"
    words = ("shell", *toy(place / "output"), "--secret", f"MY_TOKEN=file:{place}/token")
    done = subprocess.run(
        [str(Path(sys.executable).parent / "launch"), *words],
        input=script, cwd=site.path, env=site.env, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (4, "shell/test/toy 6 /run/slipway\n"), done
    (run,) = (run for run in site.all_runs() if f"run {run.id}\n" in done.stderr)
    assert run.ended == (4, "step") and members(run) == {}
    words = ("exec", "automodel", "--flavour", "cpu", "--mount", f"{place}:/data", "--", "sh", "-c", "pwd; exit 6")
    command = site.launch(*words)
    assert (command.code, site.run_of(command).ended) == (6, (6, "step")) and "\n/data\n" in command.out


def saved_steps(output: Path) -> list[int]:
    return sorted(int(p.name.rpartition("_")[2]) + 1 for p in output.glob("epoch_*_step_*"))


def test_the_dry_run_is_the_run(site: Tree, work: Work, place: Path) -> None:
    words = work.words(place / "output", "max_steps=2")
    planned = site.launch(*words, "--dry-run")
    assert planned.code == 0, planned
    done = site.launch(*words)
    assert done.code == 0, done
    run = site.run_of(done)
    assert run.ended == (0, "step")
    assert planned.out == (run.path / "script.sh").read_text() == run.record["request"]["script"]
    assert run.outcome["result"]["steps"] == 2 and saved_steps(place / "output") == [2]
    assert done.out == run.log == site.launch("logs", run.id).out
    assert run.record["versions"]["environments"]
    assert members(run) == {} and "ended" in run.events


def test_what_the_container_is_given(site: Tree, place: Path) -> None:
    """Every value as it was said; the caller's uid; a home and a /tmp of its own; a root that cannot be written."""
    launched = site.start("launch", *toy(place / "output", "wait=true", "--env", f"NASTY={NASTY}"))
    launched.await_line("waiting")
    seen = facts(launched.out)
    assert (seen["uid"], seen["gid"]) == (os.getuid(), os.getgid())
    assert seen["variables"]["HOME"].startswith("/tmp/slipway-home.") and all(seen["writable"].values())
    step = one(site.run_of(launched), rb"[^\0]+python\0/slipway/steps/toy.py")
    environment = Path(f"/proc/{step}/environ").read_bytes().decode().split("\0")
    assert f"NASTY={NASTY}" in environment and "NVIDIA_VISIBLE_DEVICES=void" in environment
    assert str(Path(f"/proc/{step}/cwd").readlink()).endswith("/run/slipway")
    mounts = [line.split() for line in Path(f"/proc/{step}/mounts").read_text().splitlines()]
    options = {target: words.split(",") for _, target, _, words, *_ in mounts}
    assert "ro" in options["/"] and "ro" in options["/slipway"] and "rw" in options["/output"]
    (place / "output" / "go").touch()
    assert launched.finish().code == 0


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o077])
def test_a_run_directory_is_for_its_owner_alone(site: Tree, place: Path, mask: int) -> None:
    """What the step makes has the modes of the umask, unless that lets everybody write."""
    runs = open_runs(place)
    done = by_umask(site, mask).launch("test/toy", "--flavour", "cpu", "--runs-dir", str(runs))
    assert done.code == 0, done
    (run,) = map(Run, runs.glob("[!.]*"))
    assert {"process", "ended", "script.sh"} <= {p.name for p in run.path.iterdir()} and "line 3\n" in run.log
    assert run.path.stat().st_mode & 0o777 == 0o700
    written = {0o000: {"output/written": 0o644}, 0o002: {"output/written": 0o664}, 0o077: {}}
    assert open_to_others(run.path) == written[mask]


def test_a_login_is_hidden_and_the_hubs_cache_cannot_be_changed(site: Tree, place: Path) -> None:
    home = place / "hf"
    before = hf_home.log_in(home)
    done = site.launch(*toy(place / "output"), *hf_home.told(), HF_HOME=str(home))
    assert done.code == 0, done
    assert hf_home.seen(done.out) == hf_home.HIDDEN
    assert hf_home.content(home) == before


def test_ctrl_c_saves_and_resume_goes_on(site: Tree, work: Work, place: Path) -> None:
    output = place / "output"
    launched = site.start("launch", *work.words(output, f"max_steps={ENDLESS}", f"checkpoint_every={ENDLESS}"))
    launched.await_line(rf"step 2/{ENDLESS} .*loss")
    launched.signal(signal.SIGINT)
    done = launched.finish()
    assert done.code == 130
    assert site.run_of(done).ended == (130, "signal")
    (saved,) = saved_steps(output)

    total = saved + 1
    resumed = site.launch(*work.words(output, f"max_steps={total}", f"checkpoint_every={ENDLESS}", "--resume"))
    assert resumed.code == 0, resumed
    assert [int(n) for n in re.findall(rf"step (\d+)/{total} ", resumed.out)] == [total]
    assert saved_steps(output) == [saved, total]


@pytest.mark.long
def test_the_third_signal_kills(site: Tree, place: Path) -> None:
    launched = site.start("launch", *toy(place / "output", "wait=true", "deaf=true"))
    launched.await_line("waiting")
    launched.signal(signal.SIGINT)
    launched.await_line("slipway: INT: TERM to 1 rank")
    launched.signal(signal.SIGINT)
    launched.await_line("slipway: ending what is left of the step")
    launched.signal(signal.SIGINT)
    done = launched.finish()
    assert done.code == 137
    run = site.run_of(done)
    assert run.ended == (137, "signal") and members(run) == {}


def test_detached_followed_and_cancelled(site: Tree, place: Path) -> None:
    run = Run(site.runs / site.launch(*toy(place / "output", "wait=true"), "--detach").out.strip())
    assert " running" in next(line for line in site.launch("runs").out.splitlines() if line.startswith(run.id))
    following = site.start("launch", "logs", "-f", run.id)
    following.await_line("waiting")
    cancelled = site.launch("cancel", run.id)
    assert f"run        {run.id}: cancelled\n" in cancelled.err
    assert following.finish().out == run.log
    assert run.ended == (143, "cancelled")
    assert (place / "output" / "saved").exists(), "it was asked, not killed"
    assert members(run) == {}


def test_a_killed_launcher_leaves_a_run_that_is_collected(site: Tree, place: Path) -> None:
    launched = site.start("launch", *toy(place / "output", "wait=true", "code=3"))
    launched.await_line("waiting")
    run = site.run_of(launched)
    launched.kill()
    assert "state      running\n" in site.show(run).out
    (place / "output" / "go").touch()
    await_end(run)
    assert run.outcome == {}
    listed = next(line for line in site.launch("runs").out.splitlines() if line.startswith(run.id))
    assert listed.split()[1:3] == ["failed", "3"]
    assert run.ended == (3, "step") and "line 3\n" in run.log


@pytest.mark.long
def test_the_end_of_the_entrypoint_is_the_end_of_all(site: Tree, place: Path) -> None:
    """As a container's first process takes all others along."""
    launched = site.start("launch", *toy(place / "output", "wait=true"))
    launched.await_line("waiting")
    run = site.run_of(launched)
    pid = one(run, rb"[^\0]+\0-I\0-S\0-B\0-X\0utf8\0/slipway/supervisor/")
    os.kill(pid, signal.SIGKILL)
    assert launched.finish().code == 137
    assert run.ended[0] == 137 and members(run) == {}


@pytest.mark.long
def test_the_scripts_end_is_not_the_containers(site: Tree, place: Path) -> None:
    """Whatever kills the script alone: the run goes on, can be told to stop, and its step's word counts."""
    launched = site.start("launch", *toy(place / "output", "wait=true"))
    launched.await_line("waiting")
    run = site.run_of(launched)
    os.kill(process(run)["pid"], signal.SIGKILL)
    assert "state      running\n" in site.show(run).out
    launched.signal(signal.SIGTERM)
    assert launched.finish().code == 143
    assert run.ended == (143, "signal") and (place / "output" / "saved").exists()


def test_two_runs_make_one_root_file_system(site: Tree, place: Path) -> None:
    name = profile(site, "fresh", data=str(place / "data"))
    both = [site.start("launch", "--profile", name, *toy(place / f"output{n}")) for n in range(2)]
    done = [launched.finish() for launched in both]
    assert [d.code for d in done] == [0, 0], done
    assert sum("slipway: unpacking" in d.out for d in done) == 1
    (root,) = (p for p in (place / "data").iterdir() if p.is_dir())
    assert (root / "etc" / "slipway" / "entry.json").is_file()


@pytest.mark.long
def test_a_killed_unpacking_leaves_nothing_that_is_taken_for_whole(site: Tree, place: Path) -> None:
    name, data = profile(site, "killed", data=str(place / "data")), place / "data"
    launched = site.start("launch", "--profile", name, *toy(place / "output"))
    until("a part of the root", lambda: list(data.glob(".*.new/*/opt")))
    run = site.run_of(launched)
    end(run)
    assert launched.finish().code == 70
    assert run.ended == (70, "engine") and run.outcome["reason"] == "nobody knows how it ended: its script was killed"
    assert list(data.glob(".*.new")) and not list(data.glob("automodel-*"))
    again = site.launch("--profile", name, *toy(place / "output"))
    assert again.code == 0 and "slipway: unpacking" in again.out, again
    assert [p.name for p in data.iterdir() if p.is_dir()] == [p.name for p in data.glob("automodel-*")]


@pytest.mark.long
def test_ctrl_c_while_the_image_is_unpacked(site: Tree, place: Path) -> None:
    name = profile(site, "stopped", data=str(place / "data"))
    launched = site.start("launch", "--profile", name, *toy(place / "output"))
    until("a part of the root", lambda: list((place / "data").glob(".*.new/*")))
    launched.signal(signal.SIGINT)
    done = launched.finish()
    assert done.code == 130
    assert site.run_of(done).ended == (130, "signal") and members(site.run_of(done)) == {}
    assert not list((place / "data").glob("automodel-*"))


def test_cancelled_while_the_image_is_unpacked(site: Tree, place: Path) -> None:
    name = profile(site, "early", data=str(place / "data"))
    run = Run(site.runs / site.launch("--profile", name, *toy(place / "output"), "--detach").out.strip())
    until("a part of the root", lambda: list((place / "data").glob(".*.new/*")))
    assert site.launch("cancel", run.id).code == 0
    assert told(site, run) == ("cancelled", 143, "cancelled: before its container was made")
    assert members(run) == {} and not list((place / "data").glob("automodel-*"))


def test_every_command_says_the_same_of_an_end(site: Tree, place: Path) -> None:
    every_command_agrees(site, place)


def test_a_run_that_has_not_come_to_what_was_expected(site: Tree, work: Work, place: Path) -> None:
    words = ("test/link", "--flavour", "cpu", f"model={work.model}", f"output={place}/out", "loss=5")
    run = site.run_of(site.launch(*words, "--expect", "loss<2"))
    why = "it has not come to what was expected: expected loss < 2, found 5"
    assert told(site, run) == ("not met", 76, why)


def test_out_of_memory(site: Tree, place: Path) -> None:
    """Nothing but the kernel's own count tells."""
    words = toy(place / "output", "--env", f"TOY_RUN={encoded(GREEDY)}")
    run = Run(site.runs / site.launch(*words, "--detach").out.strip())
    until("the step", (place / "output" / "waiting").exists)
    with cramped(run):
        (place / "output" / "go").touch()
        await_end(run)
    assert told(site, run) == ("out of memory", 137, "killed: out of memory: ended by signal KILL")


def test_a_run_that_stands_still(site: Tree, place: Path) -> None:
    profile = site.path / "launcher" / "profiles" / "impatient.yaml"
    profile.write_text("schema: 1\nkind: enroot\nextends: enroot\nstall: 0.05\n")
    launched = site.start("launch", "--profile", "impatient", *toy(place / "output", "wait=true", "deaf=true"))
    assert launched.finish().code == 75
    state, code, reason = told(site, site.run_of(launched))
    assert (state, code) == ("stalled", 75)
    assert reason.startswith("it stood still: nothing has moved for 0.05 min; the last to move was rank 0 on "), reason


def test_a_launcher_that_dies_before_its_script_has_never_started(site: Tree, place: Path) -> None:
    (place / "bin").mkdir()
    shell, before = place / "bin" / "bash", site.all_runs()
    shell.write_text(f'#!/bin/sh\n[ "$1" = script.sh ] || exec /bin/bash "$@"\necho $$ >{place}/pid\nexec sleep 600\n')
    shell.chmod(0o755)
    launched = site.start("launch", *toy(place / "output"), PATH=f"{place}/bin:{site.env['PATH']}")
    pid = int(until("its script", lambda: (place / "pid").exists() and (place / "pid").read_text()))
    launched.kill()
    os.kill(pid, signal.SIGKILL)
    (run,) = site.since(before)
    assert told(site, run) == ("never started", 70, "the launcher died before it was started")


@pytest.mark.long
def test_a_writable_root_is_the_runs_own(site: Tree, place: Path) -> None:
    name, data = profile(site, "writable", data=str(place / "data"), writable=True), place / "data"
    launched = site.start("launch", "--profile", name, *toy(place / "output", "wait=true"))
    launched.await_line("waiting")
    run = site.run_of(launched)
    (root,) = (p for p in data.iterdir() if p.is_dir())
    assert root.name.endswith(run.id)
    pid = one(run, rb"[^\0]+\0-I\0-S\0-B\0-X\0utf8\0/slipway/supervisor/")
    Path(f"/proc/{pid}/root/opt/mine").touch()
    assert (root / "opt" / "mine").exists()
    (place / "output" / "go").touch()
    assert launched.finish().code == 0
    assert not [p for p in data.iterdir() if p.is_dir()]


def test_a_start_that_fails_says_why(site: Tree, place: Path) -> None:
    (place / "gone").mkdir()
    name = profile(site, "gone", mounts=[{"source": str(place / "gone"), "target": "/gone"}])
    written = site.launch("--profile", name, *toy(place / "output"), "-o", str(place / "run"))
    assert written.code == 0, written
    (place / "gone").rmdir()
    done = site.launch("submit", str(place / "run"))
    assert done.code == 69 and site.run_of(done).ended == (69, "engine")
    said = f"its container did not start: enroot-mount: failed to mount: {place}/gone at "
    assert site.run_of(done).outcome["reason"].startswith(said)


def test_a_directory_can_be_run_by_hand(site: Tree, place: Path) -> None:
    """Also once more, and by the launcher."""
    words = toy(place / "output", "code=3")
    assert site.launch(*words, "-o", str(place / "run")).code == 0
    for _ in range(2):
        by_hand = Running(["bash", "script.sh"], place / "run", site.env).finish()
        assert by_hand.code == 3 and "line 3\n" in by_hand.out, by_hand
    (place / "output" / "written").unlink()
    submitted = site.launch("submit", str(place / "run"))
    assert submitted.code == 3 and "line 3\n" in submitted.out, submitted
    assert (site.run_of(submitted).path / "script.sh").read_text() == (place / "run" / "script.sh").read_text()


def test_a_converter_that_was_killed_is_known_by_its_process(site: Tree, work: Work, place: Path) -> None:
    """Nobody collects it; the next launch sees that it is gone, puts aside what it left, and converts anew."""
    kept, cache = model(work.model, place, "half"), ("--megatron-cache", str(place / "cache"))
    before = site.all_runs()
    first = site.start("launch", *reads(kept, place / "one"), *cache)
    until("the converter", lambda: list((place / "cache").glob("*/model_*/reached")))
    first.kill()
    (conversion,) = conversions(site, before)
    assert [i["state"] for i in converted(site, place / "cache")] == ["being made"]
    end(conversion)
    again = site.start("launch", *reads(kept, place / "two"), *cache)
    again.await_told("was not whole: it is in ")
    until("the second", lambda: list((place / "cache").glob("*/model_*/reached")))[0].with_name("go").touch()
    done = again.finish()
    assert done.code == 0 and "slipway.json" in (place / "two" / "seen.json").read_text(), done
    assert len(conversions(site, before)) == 2 and leftovers(place / "cache") == []
