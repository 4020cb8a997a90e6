"""launcher/engines/enroot.py, enrootruns.py and entrypoints/enroot.sh: the script, its words for enroot, its files.

The enroot of these tests is a program of a few lines; a container with everything in it is in tests/real.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import (
    HERE,
    IMAGE,
    MODEL,
    REPO,
    TRAIN,
    Inputs,
    Project,
    SpecOf,
    engine_of,
    entry_of,
    left_by,
    rows_of,
    seen_of,
)
from test_golden import SHAPES, compare, without_hash

from launcher.catalog import profiles
from launcher.catalog.profiles import EnrootProfile, ExtraMount
from launcher.core.plan import ImageInfo, Plan
from launcher.engines import Status, enroot, enrootruns
from launcher.planning.planner import make_plan
from launcher.records.outcome import End, Ended
from launcher.records.run_directory import Run
from slipway.errors import Exit, SlipwayError
from slipway.project import Root

SQSH = "/squash/boats-1.0-cpu-111111111111.sqsh"
NASTY = '"it\'s here", $HOME `id` \\ *\n=;"'
PROFILE = EnrootProfile(schema=1, name="enroot", file="/project/enroot.yaml", data="/data/enroot")
# Unpacks by making a folder; starts by writing its words down and becoming the command, outside of any container.
STANDIN = """\
printf '%s\\0' "$@" >>{folder}/calls; printf '\\n' >>{folder}/calls
case $1 in
    version) echo 4.1.2 ;;
    create) {create} ;;
    start) while [ "$1" != env ]; do [ "$1" != --env ] || export "$2"; shift; done; shift 2; exec "$@" ;;
esac
"""


@pytest.fixture
def plan_of(spec_of: SpecOf) -> Callable[..., Plan]:
    """Makes a plan for enroot, with changes of the spec; `profile`: keys of the profile."""

    def make(profile: dict[str, Any] | None = None, **changes: Any) -> Plan:
        keys = msgspec.structs.replace(PROFILE, **(profile or {}))
        seen = seen_of(image=ImageInfo(id=IMAGE, source=SQSH, recorded=1), engine=engine_of(kind="enroot"))
        return make_plan(spec_of(profile=keys, **changes), seen, {})

    return make


@pytest.mark.parametrize("shape", SHAPES)
def test_the_script_is_the_golden_one(plan_of: Callable[..., Plan], shape: str) -> None:
    plan = plan_of(entry=entry_of(shape), env={"NASTY": NASTY, "EMPTY": ""}, **SHAPES[shape])
    text = enroot.request_text(enroot.render(plan))
    assert text == enroot.as_text(enroot.render(plan)) and f"PLAN={plan.hash}\n" in text
    text = without_hash(text, plan)
    compare(HERE / "golden" / plan.step / f"enroot-{shape}" / "script.sh", text)


def words_of(script: str, folder: Path, body: str = 'printf "%s\\0" "${START[@]}" -- "$@"') -> list[str]:
    """What the script's main would give to enroot, when it is run in `folder`."""
    (folder / "slipway").mkdir(parents=True)
    (folder / "slipway" / "enroot.sh").write_text(f"main() {{ {body}; }}\n")
    done = subprocess.run(["bash", "-eu"], input=script, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def test_enroot_gets_every_mount_and_value_as_it_is(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of(env={"NASTY": NASTY, "QUOTED": "'a'", "PLAIN": "it's $HOME", "ENROOT_X": "1"})
    run = tmp_path / "20260101T000000Z-a-b"
    words = words_of(enroot.render(plan)["script"], run)
    start, command = words[: words.index("--")], words[words.index("--") + 1 :]
    given = list(zip(start[::2], start[1::2], strict=True))
    mounts = [value for option, value in given if option == "--mount"]
    assert f"{TRAIN.path}:/inputs/train-aaaaaaaa/chats.jsonl:none:x-create=auto,rbind,ro:0:0" in mounts
    assert f"{MODEL.path}:/inputs/model-bbbbbbbb:none:x-create=auto,rbind,ro:0:0" in mounts
    assert f"{run}/container:/run/slipway:none:x-create=auto,rbind,rw:0:0" in mounts
    assert all(re.fullmatch(r"[^\s:]+(:[^\s:]+){5}", mount) for mount in mounts), "enroot's own grammar"
    variables = [value for option, value in given if option == "--env"]
    assert {"PLAIN=it's $HOME", f"SLIPWAY_RUN={run.name}", "NVIDIA_VISIBLE_DEVICES=void"} <= set(variables)
    # Read in enroot's sources: it reads lines, takes quotes off a value, and drops names of its own.
    assert not any("\n" in v or v.startswith(("QUOTED", "ENROOT_")) for v in variables)
    inside = ["env", "--chdir=/run/slipway", "ENROOT_X=1", f"NASTY={NASTY}", "QUOTED='a'"]
    assert command == [*inside, *plan.command]


@pytest.mark.parametrize(
    ("gpus", "env", "expected"),
    [
        (0, {}, {"NVIDIA_VISIBLE_DEVICES": "void"}),
        (2, {}, {"NVIDIA_VISIBLE_DEVICES": "0,1", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}),
        (2, {"NVIDIA_VISIBLE_DEVICES": "4,5"}, {"NVIDIA_VISIBLE_DEVICES": "4,5"}),
    ],
)
def test_devices_are_told_to_the_hooks(
    plan_of: Callable[..., Plan], tmp_path: Path, gpus: int, env: dict[str, str], expected: dict[str, str]
) -> None:
    script = enroot.render(plan_of(gpus=gpus, procs=gpus or 1, env=env))["script"]
    told = dict(word.split("=", 1) for word in words_of(script, tmp_path / "run", "env -0"))
    assert {name: told[name] for name in expected} == expected


def test_a_writable_root_is_asked_for(plan_of: Callable[..., Plan]) -> None:
    assert "\n    --rw\n" in enroot.render(plan_of(profile={"writable": True}))["script"]
    assert "--rw" not in enroot.render(plan_of())["script"]


def findings(plan: Plan, **image: Any) -> list[tuple[str, str, int]]:
    seen = seen_of(image=ImageInfo(id=IMAGE, source=SQSH, recorded=1, **image))
    return [(f.where, f.what, f.code) for f in enroot.check(plan, seen)]


@pytest.mark.parametrize("path", ["/a b", "/a\tb", "/a\nb", "/a:b", "/a,b", "/a\\040b"])
def test_paths_that_enroot_cannot_mount_are_refused(plan_of: Callable[..., Plan], path: str) -> None:
    assert findings(plan_of()) == []
    for mount in (ExtraMount(source=path, target="/b"), ExtraMount(source="/b", target=path)):
        ((where, what, code),) = findings(plan_of(profile={"mounts": [mount]}))
        assert where == f"mount {mount.target}" and repr(path) in what and code == Exit.CONFIG
    ((where, _, code),) = findings(plan_of(profile={"data": path}))
    assert where == "/project/enroot.yaml: data" and code == Exit.CONFIG


def test_room_is_looked_for_before_anything_starts(plan_of: Callable[..., Plan]) -> None:
    assert findings(plan_of(), unpack=5, unpack_free=5) == []
    ((where, what, code),) = findings(plan_of(), unpack=2 * 10**9, unpack_free=10**9)
    assert code == Exit.CANNOT_WRITE and where == "/project/enroot.yaml: data"
    assert what == "the image takes about 2.00 GB in /data/enroot, where 1.00 GB can be written"


def test_the_data_folder_is_the_projects_own_unless_named(project: Project) -> None:
    assert profiles.find_profile(project.root, "enroot").data == str(project.path / ".slipway" / "enroot")  # type: ignore[union-attr]
    project.write("launcher/profiles/mine.yaml", "schema: 1\nkind: enroot\nextends: enroot\ndata: ~/here\n")
    assert profiles.find_profile(project.root, "mine").data == str(Path.home() / "here")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("log", "why"),
    [
        ("[INFO] x\nenroot-mount: failed to mount: /a at /b\n", "enroot-mount: failed to mount: /a at /b"),
        ("[WARN] fuse\n[ERROR] Failed to mount: X\n", "[ERROR] Failed to mount: X"),
        ("[ERROR] Command not found: nvidia-container-cli\n[ERROR] 98-nvidia.sh exited with return code 1\n",
         "[ERROR] Command not found: nvidia-container-cli"),
        ("a step's [ERROR] of its own\n", ""),
    ],
)  # fmt: skip
def test_the_cause_of_a_failed_start(log: str, why: str) -> None:
    assert enroot.explain(log) == why


def test_a_machine_without_enroot(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", project.env["PATH"])
    seen = enroot.probe(project.root, PROFILE)
    assert (seen.error, seen.remedy) == ("there is no enroot here", "install enroot, or name another --profile")
    project.program("enroot", "echo 4.1.2")
    assert (seen := enroot.probe(project.root, PROFILE)).version == "4.1.2" and not seen.error
    project.program("enroot", "exit 3")
    assert "returned non-zero exit status 3" in enroot.probe(project.root, PROFILE).error


def test_a_launch_says_what_is_missing(project: Project, inputs: Inputs) -> None:
    """Without enroot, and without the .sqsh."""
    words = ("--profile", "enroot", "sft/automodel", "--flavour", "cpu", *inputs.words, "--dry-run")
    done = project.launch(*words)
    assert done.code == Exit.UNAVAILABLE
    assert "error: enroot (from profile enroot): there is no enroot here\n  install enroot, or name" in done.stderr
    project.program("enroot", "echo 4.1.2")
    done = project.launch(*words)
    assert done.code == Exit.NO_INPUT and "images squash automodel/0.7.0-cpu" in done.stderr, done
    assert done.stdout.startswith("#!/usr/bin/env bash\n") and "\nIMAGE=UNRESOLVED\n" in done.stdout


# What the script writes, and what is read from it


class Place:
    """A run directory whose container is a shell command."""

    def __init__(self, folder: Path, plan: Plan, create: str = "mkdir -p $ENROOT_DATA_PATH/$3") -> None:
        self.folder, self.data, self.run = folder, Path(str(plan.profile.data)), Run(folder / "run")  # type: ignore[union-attr]
        (folder / "bin").mkdir()
        program = folder / "bin" / "enroot"
        program.write_text("#!/bin/sh\n" + STANDIN.format(folder=folder, create=create))
        program.chmod(0o755)
        (self.run.path / "slipway").mkdir(parents=True)
        (self.run.path / "logs").mkdir()
        for name in ("plan.json", "slipway/plan.json"):
            (self.run.path / name).write_bytes(msgspec.json.encode(plan))
        for name in enroot.FILES:
            shutil.copy(REPO / "entrypoints" / name, self.run.path / "slipway")
        (self.run.path / "script.sh").write_text(enroot.render(plan)["script"])
        self.engine = enrootruns.EnrootRuns()

    def submit(self) -> None:
        self.engine.submit({}, self.run)

    @property
    def log(self) -> str:
        return (self.run.path / "logs" / "step.log").read_text()

    @property
    def status(self) -> Status:
        return self.engine.status(self.run)

    def write(self, name: str, **facts: Any) -> None:
        path = self.run.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts))


@pytest.fixture
def place(
    plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Place]]:
    """Makes a run directory whose container runs a line of shell."""
    made: list[Place] = []

    def make(line: str = "true", create: str = "mkdir -p $ENROOT_DATA_PATH/$3", **profile: Any) -> Place:
        plan = plan_of(profile={"data": str(tmp_path / "data"), **profile})
        mounts = [m for m in plan.mounts if m.target == "/run/slipway"]
        plan = msgspec.structs.replace(plan, command=["bash", "-c", line], mounts=mounts)
        made.append(Place(tmp_path, plan, create))
        return made[-1]

    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    yield make
    for one in made:
        one.engine.signal(one.run, "KILL")
        assert one.engine.wait(one.run, 30)


START = "mkdir -p container/0/ranks; echo up"
FOREVER = "while :; do sleep 0.05; done"


def await_line(place: Place, line: str) -> None:
    for piece in place.engine.logs(place.run, follow=True):
        if line in piece.decode():
            return
    pytest.fail(f"ended without {line!r}: {place.log}")


@pytest.mark.parametrize(("line", "code"), [("exit 17", 17), ("none-such", 127), ("kill -KILL $$", 137), ("exit 0", 0)])
def test_the_code_passes_through(place: Callable[..., Place], line: str, code: int) -> None:
    one = place(line)
    assert one.status == Status("missing")
    one.submit()
    assert one.engine.wait(one.run, 30)
    assert (one.status.state, one.status.exit_code, one.status.end) == ("exited", code, None)
    assert one.status.started <= one.status.finished and one.status.started.endswith("Z")
    assert [p.name for p in one.data.iterdir() if p.is_dir()] == ["boats-1.0-cpu-111111111111"]


@pytest.mark.parametrize(("name", "told"), [("TERM", 7), ("INT", 8)])
def test_a_signal_reaches_the_entrypoint_alone(place: Callable[..., Place], name: str, told: int) -> None:
    """Also INT, which a shell's children in the background ignore."""
    one = place(f"{START}; trap 'exit 7' TERM; trap 'exit 8' INT; echo trapped; {FOREVER}")
    one.submit()
    await_line(one, "trapped")
    assert one.status.state == "running"
    one.engine.signal(one.run, name)
    assert one.engine.wait(one.run, 30)
    assert one.status.exit_code == told
    one.engine.signal(one.run, name)  # one that has ended is left alone


@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("INT", 130)])
def test_a_signal_before_the_entrypoint_ends_enroot(place: Callable[..., Place], name: str, code: int) -> None:
    one = place(create=f"mkdir -p $ENROOT_DATA_PATH/$3; echo creating; {FOREVER}")
    one.submit()
    await_line(one, "creating")
    one.engine.signal(one.run, name)
    assert one.engine.wait(one.run, 30)
    assert (one.status.exit_code, one.status.end) == (code, Ended(End.STOPPED, "before its container was made"))
    assert not (one.data / "boats-1.0-cpu-111111111111").exists()


def test_kill_takes_processes_in_sessions_of_their_own(place: Callable[..., Place]) -> None:
    one = place(
        f"{START}; trap '' TERM INT; setsid bash -c 'echo $$ >container/pid; echo begun; {FOREVER}' & {FOREVER}"
    )
    one.submit()
    await_line(one, "begun")
    one.engine.signal(one.run, "TERM")
    assert not one.engine.wait(one.run, 0)
    one.engine.signal(one.run, "KILL")
    assert one.engine.wait(one.run, 30)
    assert one.status.exit_code == 137
    assert_dead(one.run.path / "container" / "pid")


def assert_dead(file: Path) -> None:
    """The process whose pid is in `file`, whether or not anybody has waited for it."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", file.read_text().strip()], stdout=subprocess.PIPE, text=True)
    assert done.stdout.strip()[:1] in ("", "Z")


def test_what_outlives_the_entrypoint_is_ended(place: Callable[..., Place]) -> None:
    one = place(f"{START}; setsid bash -c 'echo $$ >container/pid; {FOREVER}' & until [ -s container/pid ]; do :; done")
    one.submit()
    assert one.engine.wait(one.run, 30)
    assert one.status.exit_code == 0
    assert_dead(one.run.path / "container" / "pid")


def test_a_create_that_fails_names_folder_and_key(place: Callable[..., Place]) -> None:
    one = place(create="mkdir -p $ENROOT_DATA_PATH/$3/half; exit 1")
    one.submit()
    assert one.engine.wait(one.run, 30)
    assert one.status.exit_code == Exit.CANNOT_WRITE
    said = f"cannot unpack {SQSH} into {one.data}: free space there, or name another folder (profile: data)"
    assert one.status.end == Ended(End.REFUSED, said)
    assert not [p for p in one.data.iterdir() if p.is_dir()]


def test_a_root_of_its_own_ends_with_the_run(place: Callable[..., Place]) -> None:
    one = place(START, writable=True)
    one.submit()
    assert one.engine.wait(one.run, 30)
    calls = [line.split("\0") for line in (one.folder / "calls").read_text().splitlines()]
    assert [c[2] for c in calls if c[0] == "create"] == ["boats-1.0-cpu-111111111111-run"]
    assert not [p for p in one.data.iterdir() if p.is_dir()]


def test_what_a_killed_script_has_left_is_removed(place: Callable[..., Place]) -> None:
    one = place(f"{START}; {FOREVER}", writable=True)
    one.submit()
    await_line(one, "up")
    pid = json.loads((one.run.path / "process").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert one.status.state == "running", "its container is there"
    one.engine.signal(one.run, "KILL")
    assert one.engine.wait(one.run, 30)
    assert one.status.end == Ended(End.LOST, "its script was killed")
    one.engine.remove(one.run)
    assert not [p for p in one.data.iterdir() if p.is_dir()]


def test_a_removed_run_cannot_begin(place: Callable[..., Place]) -> None:
    """A launcher that was killed before its script began: whoever collects the run first has it."""
    one = place("echo began")
    one.engine.remove(one.run)
    assert one.status == Status("missing")
    with pytest.raises(SlipwayError, match="this run was already started") as e:
        one.submit()
    assert e.value.code == Exit.UNAVAILABLE and "began" not in one.log


def test_secrets_have_to_be_there(place: Callable[..., Place]) -> None:
    one = place()
    script = one.run.path / "script.sh"
    script.write_text(script.read_text().replace("SECRETS=()", "SECRETS=(HF_TOKEN)"))
    one.submit()
    assert one.engine.wait(one.run, 30)
    assert one.status.exit_code == Exit.NOT_PERMITTED and f"launch submit '{one.run.path}'" in one.log
    assert one.status.end and one.status.end.reason.startswith("refused: the secret HF_TOKEN is not in ")


# Status from files alone

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def own(**changes: Any) -> dict[str, Any]:
    """What a script would write that were this process."""
    start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    facts = {"pid": os.getpid(), "start": start, "boot": BOOT, "host": os.uname().nodename, "mark": "none", "own": "",
             "started": "2026-01-01T00:00:00Z"}  # fmt: skip
    return facts | changes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("running", None)),
        ({"start": "1"}, ("exited", Ended(End.LOST, "its script was killed"))),  # another process has its pid
        ({"pid": 2**22 + 1}, ("exited", Ended(End.LOST, "its script was killed"))),
        ({"boot": "another"}, ("exited", Ended(End.LOST, "the machine was restarted while it ran"))),
    ],
    ids=["alive", "another's pid", "gone", "restarted"],
)
def test_a_process_is_known_by_its_start(
    tmp_path: Path, changes: dict[str, Any], expected: tuple[str, Ended | None]
) -> None:
    (tmp_path / "process").write_text(json.dumps(own(**changes)))
    status = enrootruns.EnrootRuns().status(Run(tmp_path))
    assert (status.state, status.end) == expected


def test_another_machines_run_is_not_taken_for_dead(tmp_path: Path) -> None:
    (tmp_path / "process").write_text(json.dumps(own(host="elsewhere", boot="another")))
    with pytest.raises(SlipwayError, match="it runs on elsewhere"):
        enrootruns.EnrootRuns().status(Run(tmp_path))
    (tmp_path / "ended").write_text(json.dumps({"exit": 4, "finished": "2026-01-01T00:00:09Z"}))
    assert enrootruns.EnrootRuns().status(Run(tmp_path)).exit_code == 4


def test_the_entrypoints_word_counts_where_the_script_was_killed(tmp_path: Path) -> None:
    (tmp_path / "process").write_text(json.dumps(own(start="1")))
    (tmp_path / "container" / "0").mkdir(parents=True)
    (tmp_path / "container" / "0" / "status.json").write_text('{"exit_code": 5, "finished": "x"}')
    status = enrootruns.EnrootRuns().status(Run(tmp_path))
    assert (status.state, status.exit_code, status.end) == ("exited", 5, None)


def test_a_process_that_nobody_has_waited_for_is_dead(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        start = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
        (tmp_path / "process").write_text(json.dumps(own(pid=child.pid, start=start)))
        assert enrootruns.EnrootRuns().status(Run(tmp_path)).state == "exited"


ODD_FILES: list[tuple[str, Any, str]] = [
    ("process", {"pid": -1}, "Expected `int` >= 1 - at `$.pid`"),
    ("process", {"pid": "1"}, "Expected `int`, got `str` - at `$.pid`"),
    ("process", {"pid": 2**70}, "Expected `int` <= 2147483647 - at `$.pid`"),
    ("process", {"mark": ""}, "Expected `str` of length >= 1 - at `$.mark`"),
    ("process", {"own": "../../precious"}, "Expected `str` matching regex '^[^/]*$' - at `$.own`"),
    ("process", "[]", "is no JSON object"),
    ("process", "[" * 60_000, "is nested too deep"),
    ("process", os.mkfifo, "is no regular file"),
    ("ended", {"exit": "0"}, "Expected `int`, got `str` - at `$.exit`"),
    ("ended", {"exit": 300}, "Expected `int` <= 255 - at `$.exit`"),
    ("ended", '{"exit', "is no JSON"),
    ("ended", os.mkfifo, "is no regular file"),
]


def test_files_that_no_script_wrote_are_named_and_nothing_is_signalled(
    project: Project, plan_of: Callable[..., Plan]
) -> None:
    said = {}
    for number, (name, content, why) in enumerate(ODD_FILES):
        run = left_by(project, plan_of(), f"20260101T000000Z-sft.automodel-{number:06}")
        usual: dict[str, Any] = {"process": own(), "ended": {"exit": 0, "finished": "x"}}
        usual |= {name: usual[name] | content if isinstance(content, dict) else content}
        for file, value in usual.items():
            if callable(value):
                value(run.path / file)
            else:
                (run.path / file).write_text(value if isinstance(value, str) else json.dumps(value))
        said[run.id] = f"{name}: {why}"
    done = project.launch("runs")
    rows = rows_of(done)
    assert done.code == 0 and rows.keys() == said.keys()
    for run_id, why in said.items():
        assert rows[run_id].startswith(f"damaged {why}")
        cancelled = project.launch("cancel", run_id)
        assert (cancelled.code, why in cancelled.stderr) == (65, True)


@pytest.mark.parametrize("code", [0, 3])
def test_a_status_that_cannot_be_read_is_said_beside_the_scripts_code(
    project: Project, plan_of: Callable[..., Plan], code: int
) -> None:
    run = left_by(project, plan_of())
    (run.path / "process").write_text(json.dumps(own()))
    (run.path / "ended").write_text(json.dumps({"exit": code, "finished": "x"}))
    (run.path / "container" / "0" / "status.json").write_text('{"exit_code": 0, "reas')
    row = rows_of(project.launch("runs"))[run.id]
    assert f"{code} sft/automodel enroot damaged: container/0/status.json: is no JSON" in row
    shown = project.launch("show", run.id)
    why = f" (step: the step failed: exit code {code}, and what its entrypoint wrote cannot be read)" if code else ""
    assert (shown.code, f"step       sft/automodel: exit {code}{why}\n" in shown.stdout) == (65, True)


@pytest.mark.parametrize(("name", "kept"), [("..", True), ("boats", True), ("boats-{run}", False)])
def test_only_a_root_file_system_of_the_run_itself_is_removed(
    project: Project, plan_of: Callable[..., Plan], tmp_path: Path, name: str, kept: bool
) -> None:
    plan = plan_of(profile={"data": str(tmp_path / "data")})
    run = left_by(project, plan)
    (tmp_path / "data").mkdir()
    root = tmp_path / "data" / name.format(run=run.id)
    root.mkdir(exist_ok=True)
    (run.path / "plan.json").write_bytes(msgspec.json.encode(plan))
    (run.path / "process").write_text(json.dumps(own(own=root.name)))
    (run.path / "ended").write_text('{"exit": 0, "finished": "x"}')
    assert rows_of(project.launch("runs"))[run.id].startswith("done 0 ")
    assert (root.is_dir(), project.path.is_dir()) == (kept, True)


def test_the_shipped_profile_is_whole() -> None:
    assert profiles.find_profile(Root(REPO), "enroot").kind == "enroot"
