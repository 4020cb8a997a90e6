"""The rendered entrypoint with its supervisor, run as a program with a real verify.py and small stand-in steps."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import pytest

MAIN = Path(__file__).parent.parent
PATIENCE = 30  # seconds until a test that waits in vain fails
READY = "import os, pathlib, signal, sys, time\nnode = pathlib.Path(os.environ['SLIPWAY_NODE_DIR'])\n"
ANNOUNCE = "(node / 'ranks' / '0.pid').write_text(str(os.getpid()))\nprint('ready', flush=True)\n"
WAIT = "while True:\n    signal.pause()\n"


def render(python: str) -> str:
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(MAIN / "templates"), keep_trailing_newline=True)
    return templates.get_template("entrypoint.sh.j2").render(library="automodel", python=python)


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Container:
    """A run directory as the launcher mounts it, at other paths than a container has it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.started: list[subprocess.Popen[bytes]] = []
        self.slipway, self.state, self.output = root / "slipway", root / "run", root / "output"
        for folder in (self.slipway, self.state, self.output):
            folder.mkdir(mode=0o777)
            folder.chmod(0o777)
        self.environments = {"main": {"python": sys.executable, "packages": {"pytest": version("pytest")}}}
        self.plan = {
            "step": "sft/automodel",
            "library": "automodel",
            "release": "0.7.0",
            "flavour": "cpu",
            "entry": "a" * 64,
            "environments": self.environments,
            "allow_drift": False,
            "driver": None,
            "shape": {"nodes": 1, "gpus": 0, "procs": 1},
            "mounts": [{"target": str(self.output), "readonly": False}],
        }
        for name in ("gpus.py", "verify.py"):
            shutil.copy(MAIN / "entrypoints" / name, self.slipway)
        (self.slipway / "supervisor").mkdir()
        for path in (MAIN / "entrypoints" / "supervisor").glob("*.py"):
            shutil.copy(path, self.slipway / "supervisor")
        (self.slipway / "entrypoint.sh").write_text(render(sys.executable))
        self.entry(entry="a" * 64)
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "SLIPWAY_DIR": str(self.slipway),
            "SLIPWAY_STATE_DIR": str(self.state),
            "SLIPWAY_ENTRY_FILE": str(self.slipway / "entry.json"),
            "SLIPWAY_RUN": "20260101T000000Z-sft.automodel-abcdef",
            "SLIPWAY_NODES": "1",
            "SLIPWAY_PROCS": "1",
            "SLIPWAY_LAUNCHER": "torchrun",
            "SLIPWAY_STOP_TO": "ranks",
            "SLIPWAY_STOP_SIGNAL": "TERM",
            "SLIPWAY_STOP_SECONDS": "600",
            "SLIPWAY_KILL_SECONDS": "1",
        }

    def nvidia_smi(self, listing: str) -> None:
        """The container has one; `listing`: a script, what it does for -L."""
        program = self.root / "bin" / "nvidia-smi"
        program.parent.mkdir()
        program.write_text(
            f"#!/bin/sh\ncase $1 in --query-gpu=driver_version) echo 575.57.08; exit ;; esac\n{listing}\n"
        )
        program.chmod(0o755)
        self.env["PATH"] = f"{program.parent}:{self.env['PATH']}"

    def use(self, python: str) -> None:
        """Another interpreter, of which nothing is expected."""
        self.environments["main"] = {"python": python, "packages": {}}
        (self.slipway / "entrypoint.sh").write_text(render(python))

    def entry(self, **change: Any) -> None:
        keys = ("library", "release", "flavour", "entry", "environments")
        (self.slipway / "entry.json").write_text(json.dumps({k: self.plan[k] for k in keys} | change))

    def start(self, program: str, *args: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        (self.slipway / "plan.json").write_text(json.dumps(self.plan))
        step = self.slipway / "step.py"
        step.write_text(program)
        command = [*prefix, "bash", str(self.slipway / "entrypoint.sh"), "python", str(step), *args]
        with (self.root / "out").open("wb") as out, (self.root / "err").open("wb") as err:
            process = subprocess.Popen(
                command, env=self.env, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.started.append(process)
        return process

    def end(self) -> None:
        """Nothing is left of a test that failed."""
        for process in self.started:
            if process.poll() is None:
                for pid in session(process.pid):
                    os.kill(pid, signal.SIGKILL)
                process.wait()

    def run(self, program: str, *args: str, prefix: tuple[str, ...] = ()) -> int:
        return self.start(program, *args, prefix=prefix).wait(PATIENCE)

    def start_ready(self, program: str) -> subprocess.Popen[bytes]:
        process = self.start(program)
        wait_for(lambda: "ready" in self.out or process.poll() is not None)
        assert process.poll() is None, self.err
        return process

    @property
    def out(self) -> str:
        return (self.root / "out").read_text()

    @property
    def err(self) -> str:
        return (self.root / "err").read_text()

    @property
    def status(self) -> dict[str, Any]:
        return json.loads((self.state / "0" / "status.json").read_text())


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Container]:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder.stat().st_mode & 0o777 == 0o700 and os.getuid() == 0:
            folder.chmod(0o755)  # so that another uid gets through
    container = Container(tmp_path)
    yield container
    container.end()


def as_uid(uid: int) -> tuple[str, ...]:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another uid")
    return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")


@pytest.fixture
def stranger(box: Container) -> tuple[str, ...]:
    """Runs a command as a uid without an entry in passwd; the box gets an interpreter that this uid can reach."""
    become = as_uid(12345)
    for python in (sys.executable, "/usr/bin/python3"):
        if subprocess.run([*become, "bash", "-c", "[[ -x $0 ]]", python], check=False).returncode == 0:
            box.use(python)
            return become
    pytest.skip("no interpreter that another uid can run")


def session(leader: int) -> list[int]:
    """The processes of a session."""
    pids = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [pid for pid in pids if not gone(pid) and os.getsid(pid) == leader]


def gone(pid: int) -> bool:
    """Whether no process runs under `pid` any more; one that nobody has waited for yet does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_the_committed_entrypoint_is_the_rendered_one() -> None:
    assert (MAIN / "entrypoints" / "automodel.sh").read_text() == render("/opt/venv/bin/python")


def test_shellcheck_has_nothing_to_say() -> None:
    files = [MAIN / "entrypoints" / "automodel.sh"]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("shellcheck")), "-x", *files], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("code", [0, 3, 78, 255])
def test_the_exit_code_is_the_steps_own(box: Container, code: int) -> None:
    assert box.run(f"raise SystemExit({code})") == code
    status = box.status
    assert status["cause"] == "step"
    assert (status["exit_code"], status["step_exit_code"], status["signal"]) == (code, code, None)
    assert status["reason"] == f"exit code {code}"
    assert status["started"] <= status["finished"] and status["started"].endswith("Z")


def test_says_what_runs_first(box: Container) -> None:
    box.run("print('the step')")
    first, second = box.out.splitlines()
    assert first.startswith(
        "slipway: sft/automodel, automodel 0.7.0 (cpu), run 20260101T000000Z-sft.automodel-abcdef, uid "
    )
    assert f"{os.getuid()}:{os.getgid()}" in first
    assert second == "the step"


def test_arguments_reach_the_step_as_they_are(box: Container) -> None:
    words = ["a b", "$(touch evaluated)", "`id`", '"', "*", ""]
    assert box.run("import json, sys; print(json.dumps(sys.argv[1:]))", *words) == 0
    assert json.loads(box.out.splitlines()[1]) == words


def test_another_version_is_refused_before_the_step_starts(box: Container) -> None:
    box.environments["main"]["packages"] = {"pytest": "0.1", "nosuchpackage": "1.0"}
    assert box.run("print('the step')") == 78
    found = f"environment main: pytest: found {version('pytest')}, expected 0.1"
    missing = "environment main: nosuchpackage: not installed, expected 1.0"
    assert box.status["cause"] == "entrypoint"
    assert box.status["reason"] == f"{missing}; {found}"
    assert box.status["step_exit_code"] is None
    assert box.err.splitlines() == [f"slipway: refused: {missing}", f"slipway: refused: {found}"]
    assert "the step" not in box.out
    assert json.loads((box.state / "0" / "versions.json").read_text())["environments"]["main"]["packages"]["pytest"]


def test_drift_that_is_allowed_is_said(box: Container) -> None:
    box.plan["allow_drift"] = True
    box.entry(entry="b" * 64)
    assert box.run("print('the step')") == 0
    assert "slipway: drift: " in box.err and "bbbbbbbbbbbb" in box.err
    assert "the step" in box.out


UUIDS = ["GPU-0", "GPU-1", "MIG-2"]
LISTED = [
    "GPU 0: A (UUID: GPU-0)",
    "GPU 1: A (UUID: GPU-1)",
    "GPU 2: B (UUID: GPU-2)",
    "  MIG 1g Device 0: (UUID: MIG-2)",
]


@pytest.mark.parametrize(
    ("wanted", "uuids", "listed", "said"),
    [
        (3, UUIDS, LISTED, ""),
        (2, [], LISTED, ""),
        (4, [], LISTED, "GPUs: found 3, expected 4"),
        (1, ["GPU-9"], LISTED, "GPUs: found GPU-0, GPU-1, MIG-2, expected GPU-9"),
        (1, ["GPU-9"], [], "GPUs: found none, expected GPU-9"),
    ],
)
def test_gpus_are_those_of_the_plan(
    box: Container, wanted: int, uuids: list[str], listed: list[str], said: str
) -> None:
    """The driver's version is nvidia-smi's where the kernel has no file of it, as in WSL2."""
    box.nvidia_smi("\n".join(f"echo '{line}'" for line in listed) or ":")
    gpus = {"driver": "nvidia", "ids": [], "uuids": uuids, "all": False}
    box.plan |= {"flavour": "cuda", "driver": "570.26", "shape": {"nodes": 1, "gpus": wanted, "procs": 1}, "gpus": gpus}
    box.entry()
    code = box.run("print('stepped')")
    assert (code, box.status["reason"]) == ((78, said) if said else (0, "exit code 0")), box.err
    assert json.loads((box.state / "0" / "versions.json").read_text())["gpus"] == (UUIDS if listed else [])


def test_a_driver_that_is_too_old_is_refused_where_only_nvidia_smi_knows_it(box: Container) -> None:
    box.nvidia_smi("echo 'GPU 0: A (UUID: GPU-0)'")
    box.plan |= {"flavour": "cuda", "driver": "580", "shape": {"nodes": 1, "gpus": 1, "procs": 1}}
    box.entry()
    assert box.run("") == 78 and box.status["reason"] == "driver: found 575.57.08, expected at least 580"


def test_an_nvidia_smi_that_fails_refuses_nothing(box: Container) -> None:
    box.nvidia_smi("exit 9")
    box.plan |= {"flavour": "cuda", "shape": {"nodes": 1, "gpus": 1, "procs": 1}}
    box.entry()
    assert box.run("") == 0, box.err
    assert "gpus" not in json.loads((box.state / "0" / "versions.json").read_text())


def test_a_node_that_is_not_fit_ends_a_job_with_75_and_is_named(box: Container) -> None:
    box.nvidia_smi("exit 9")
    box.plan |= {"flavour": "cuda", "shape": {"nodes": 1, "gpus": 1, "procs": 1}, "profile": {"kind": "slurm"}}
    box.env |= {"SLIPWAY_NODE_NAMES": "n7", "SLURM_NODEID": "0"}
    box.entry()
    assert box.run("print('stepped')") == 75 and "stepped" not in box.out
    assert (box.status["cause"], box.status["reason"]) == ("node", "node n7 is not fit: nvidia-smi: exit code 9")
    assert (box.state / "bad").read_text() == "n7 nvidia-smi: exit code 9\n"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (
            "SLIPWAY_NODES",
            "2",
            "SLIPWAY_NODES=2: the job has to say how nodes find each other: SLIPWAY_NONCE, SLIPWAY_HEAD",
        ),
        ("SLIPWAY_PROCS", "0", "SLIPWAY_PROCS=0: expected the number of processes of this node"),
        ("SLIPWAY_STOP_SIGNAL", "NOPE", "SLIPWAY_STOP_SIGNAL=NOPE: expected the name of a signal"),
        ("SLIPWAY_STOP_SECONDS", "soon", "SLIPWAY_STOP_SECONDS=soon: expected a number of seconds"),
    ],
)
def test_what_it_is_told_and_cannot_do_is_refused(box: Container, name: str, value: str, reason: str) -> None:
    box.env[name] = value
    assert box.run("") == 78
    assert box.status["reason"] == reason


def test_python_alone_is_one_process(box: Container) -> None:
    box.env |= {"SLIPWAY_LAUNCHER": "python", "SLIPWAY_PROCS": "2"}
    assert box.run("") == 78
    assert "SLIPWAY_LAUNCHER=python with 2 processes" in box.status["reason"]


def test_a_missing_interpreter_is_refused(box: Container) -> None:
    (box.slipway / "entrypoint.sh").write_text(render("/no/such/python"))
    assert box.run("") == 78
    assert box.status["reason"] == "/no/such/python: the image has no such interpreter"


def test_an_interpreter_of_another_machine_is_refused(box: Container, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_bytes(b"\x7fELF\2\1\1\0of none")
    python.chmod(0o755)
    (box.slipway / "entrypoint.sh").write_text(render(str(python)))
    assert box.run("") == 78
    assert box.status["reason"] == f"{python}: cannot be started"
    assert (box.state / "failed").read_text() == f"78 0 {os.uname().nodename}\n"


def test_an_interpreter_that_leads_to_where_nothing_is_seen_is_refused(box: Container, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to("/root/.local/share/uv/python/hidden")
    (box.slipway / "entrypoint.sh").write_text(render(str(python)))
    assert box.run("") == 78
    leads = f"{python}: leads to /root/.local/share/uv/python/hidden, which uid {os.getuid()} does not see: "
    assert box.status["reason"].startswith(leads) and "`images build` opens those" in box.status["reason"]


def test_a_verify_that_breaks_is_a_refusal_and_stays_visible(box: Container) -> None:
    (box.slipway / "verify.py").write_text("raise ValueError('a \"quoted\" \\\\ thing')")
    assert box.run("") == 78
    assert box.status["reason"].endswith('ValueError: a "quoted" \\ thing')
    assert "Traceback" in box.err


def test_a_refusal_of_the_step_program_is_one_of_the_entrypoint(box: Container) -> None:
    assert box.run(READY + "(node / 'refused').write_text('dataset: is missing\\n'); sys.exit(78)") == 78
    assert (box.status["cause"], box.status["reason"]) == ("entrypoint", "dataset: is missing")


def test_the_reason_of_a_failed_step_is_told(box: Container) -> None:
    assert box.run(READY + "(node / 'reason').write_text('KeyError: x\\n'); sys.exit(1)") == 1
    assert (box.status["cause"], box.status["reason"]) == ("step", "exit code 1: KeyError: x")


def test_what_an_earlier_run_left_is_not_taken_for_this_one(box: Container) -> None:
    (box.state / "0" / "ranks").mkdir(parents=True)
    for name in ("reason", "refused", "ranks/7.pid"):
        (box.state / "0" / name).write_text("1\n")
    assert box.run("raise SystemExit(1)") == 1
    assert box.status["reason"] == "exit code 1"
    assert not list((box.state / "0" / "ranks").iterdir())


@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("INT", 130)])
def test_ranks_are_told_and_may_save(box: Container, name: str, code: int) -> None:
    saves = "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(0)))\n"
    process = box.start_ready(READY + saves + ANNOUNCE + WAIT)
    process.send_signal(getattr(signal, f"SIG{name}"))
    assert process.wait(PATIENCE) == code
    assert "saved" in box.out
    status = box.status
    assert (status["exit_code"], status["cause"], status["signal"], status["step_exit_code"]) == (
        code,
        "signal",
        name,
        0,
    )
    assert status["reason"] == f"told to stop by {name}; exit code 0"


CHILD = """
import subprocess
told = lambda *_: (print(os.getpid(), 'told', flush=True), sys.exit(0))
if len(sys.argv) == 1 and not os.environ.get('CHILD'):
    signal.signal(signal.SIGTERM, lambda *_: print('parent told', flush=True))
    child = subprocess.Popen([sys.executable, __file__], env={**os.environ, 'CHILD': '1'})
    child.wait()
    sys.exit(0)
signal.signal(signal.SIGTERM, lambda *_: (print('child told', flush=True), sys.exit(0)))
"""


@pytest.mark.parametrize(("to", "parent_is_told"), [("group", True), ("ranks", False)])
def test_whom_the_signal_reaches(box: Container, to: str, parent_is_told: bool) -> None:
    box.env["SLIPWAY_STOP_TO"] = to
    process = box.start_ready(READY + CHILD + ANNOUNCE + WAIT)
    process.terminate()
    assert process.wait(PATIENCE) == 143
    assert "child told" in box.out
    assert ("parent told" in box.out) is parent_is_told


def test_a_pid_that_is_not_of_the_step_is_left_alone(box: Container) -> None:
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        stale = f"(node / 'ranks' / '1.pid').write_text('{bystander.pid}')\n"
        process = box.start_ready(READY + stale + ANNOUNCE + WAIT)
        process.terminate()
        assert process.wait(PATIENCE) == 143
        assert bystander.poll() is None
        assert "TERM to 1 rank(s)" in box.err
    finally:
        bystander.kill()
        bystander.wait()


def test_the_signal_that_the_step_wants_is_sent(box: Container) -> None:
    box.env["SLIPWAY_STOP_SIGNAL"] = "USR1"
    saves = "signal.signal(signal.SIGUSR1, lambda *_: (print('saved', flush=True), sys.exit(0)))\n"
    process = box.start_ready(READY + saves + ANNOUNCE + WAIT)
    process.terminate()
    assert process.wait(PATIENCE) == 143
    assert "saved" in box.out


def test_a_signal_that_all_others_ignore_is_as_good_as_term(box: Container) -> None:
    """The job's script sends it to all processes of the step."""
    saves = "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(0)))\n"
    process = box.start_ready(READY + saves + ANNOUNCE + WAIT)
    process.send_signal(signal.SIGURG)
    assert process.wait(PATIENCE) == 143
    assert "saved" in box.out and box.status["signal"] == "TERM"


def test_without_ranks_the_group_is_told(box: Container) -> None:
    process = box.start_ready(READY + "print('ready', flush=True)\n" + WAIT)
    process.terminate()
    assert process.wait(PATIENCE) == 143
    assert box.status["reason"] == "told to stop by TERM; ended by signal TERM"


STUBBORN = "signal.signal(signal.SIGTERM, lambda *_: print('told', flush=True))\n"


def test_a_step_that_does_not_stop_in_time_is_killed(box: Container) -> None:
    box.env["SLIPWAY_STOP_SECONDS"] = "0.2"
    process = box.start_ready(READY + STUBBORN + ANNOUNCE + WAIT)
    process.terminate()
    assert process.wait(PATIENCE) == 143
    assert box.out.count("told") == 2  # once to save, once more before it was killed
    assert box.status["reason"] == "told to stop by TERM; ended by signal KILL"
    assert box.status["step_exit_code"] == 137
    assert "killing what is left of the step" in box.err


def test_in_a_job_of_slurm_a_signal_may_come_twice_at_once(box: Container) -> None:
    """Its srun is told, too, and tells the step once more."""
    box.env["SLURM_JOB_ID"] = "7"
    process = box.start_ready(
        READY + "told = []\nsignal.signal(signal.SIGTERM, lambda *_: told.append(1))\n" + ANNOUNCE
        + "while not told:\n    time.sleep(0.01)\nprint('saving', flush=True)\n"
        "while not (node / 'go').exists():\n    time.sleep(0.01)\nprint('saved')\n"
    )  # fmt: skip
    process.terminate()
    wait_for(lambda: "saving" in box.out)
    process.terminate()
    wait_for(lambda: not pending(process.pid, signal.SIGTERM))
    (box.state / "0" / "go").touch()
    assert process.wait(PATIENCE) == 143
    assert "saved" in box.out and "ending what is left" not in box.err


def test_a_second_signal_shortens_the_wait(box: Container) -> None:
    process = box.start_ready(READY + STUBBORN + ANNOUNCE + WAIT)
    process.terminate()
    wait_for(lambda: "told" in box.out)
    process.terminate()
    assert process.wait(PATIENCE) == 143
    assert box.out.count("told") == 2
    assert box.status["step_exit_code"] == 137


def test_the_first_signal_names_the_exit_code(box: Container) -> None:
    process = box.start_ready(READY + STUBBORN + ANNOUNCE + WAIT)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: "told" in box.out)
    process.terminate()
    assert process.wait(PATIENCE) == 130


def test_a_signal_before_the_step_keeps_it_from_starting(box: Container) -> None:
    waits = "import pathlib, time\nhere = pathlib.Path(__file__).parent\n(here / 'verifying').touch()\n"
    (box.slipway / "verify.py").write_text(waits + "while not (here / 'go').exists():\n    time.sleep(0.01)\n")
    process = box.start("print('the step')")
    wait_for((box.slipway / "verifying").exists)
    process.terminate()
    (box.slipway / "go").touch()
    assert process.wait(PATIENCE) == 143
    assert "the step" not in box.out
    assert (box.status["cause"], box.status["step_exit_code"]) == ("signal", None)


@pytest.mark.parametrize(("name", "code"), [("INT", 130), ("TERM", 143)])
def test_what_was_said_before_it_could_hear_is_read(box: Container, name: str, code: int) -> None:
    (box.state / "told").write_text(name)
    process = box.start("print('the step')")
    assert process.wait(PATIENCE) == code
    assert "the step" not in box.out and not (box.state / "told").exists()
    assert (box.status["cause"], box.status["reason"]) == ("signal", f"told to stop by {name} before the step started")


def pending(pid: int, number: int) -> bool:
    """Whether a signal has not reached its process yet."""
    (mask,) = (line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line[:6] == "ShdPnd")
    return bool(int(mask, 16) >> (number - 1) & 1)


FIRST = """
import subprocess
read, write = os.pipe()
if not os.fork():
    orphan = subprocess.Popen(['sleep', '0'])
    os.write(write, b'%d' % orphan.pid)
    os._exit(9)
os.wait()
orphan = int(os.read(read, 20))
while pathlib.Path(f'/proc/{orphan}').exists():
    time.sleep(0.01)
sys.exit(5)
"""


@pytest.fixture
def alone() -> tuple[str, ...]:
    """Makes a command the first process of its namespace, as an engine does that starts containers without an init."""
    words = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if subprocess.run([*words, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no process namespace can be made here")
    return words


def test_as_the_first_process_it_reaps_orphans_and_keeps_the_steps_code(box: Container, alone: tuple[str, ...]) -> None:
    assert box.run(READY + FIRST, prefix=alone) == 5, box.err
    assert box.status["step_exit_code"] == 5


@pytest.mark.parametrize("name", ["TERM", "URG"])
def test_as_the_first_process_it_is_told_to_stop(box: Container, alone: tuple[str, ...], name: str) -> None:
    """To which the kernel brings no signal that has its default action."""
    saves = "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(0)))\n"
    process = box.start(READY + saves + ANNOUNCE + WAIT, prefix=alone)
    wait_for(lambda: "ready" in box.out)
    first = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
    os.kill(first, getattr(signal, f"SIG{name}"))
    assert process.wait(PATIENCE) == 143
    assert "saved" in box.out and box.status["signal"] == "TERM"


def test_neither_variables_nor_modules_of_the_caller_change_the_supervisor(box: Container, tmp_path: Path) -> None:
    """The step has them."""
    (tmp_path / "mine").mkdir()
    for name in ("supervisor", "traceback", "signal"):
        (tmp_path / "mine" / f"{name}.py").write_text("raise SystemExit('of the caller')")
    (tmp_path / "mine" / "own.py").write_text("SAID = 'of the caller'")
    box.env |= {"PYTHONPATH": str(tmp_path / "mine"), "PYTHONCOERCECLOCALE": "0", "ODD": "\udcff"}
    shows = "import json, os, own; print(json.dumps([own.SAID, os.environ['ODD'], 'LC_CTYPE' in os.environ]))"
    assert box.run(shows, prefix=("env", "-C", str(tmp_path / "mine"))) == 0, box.err
    assert json.loads(box.out.splitlines()[1]) == ["of the caller", "\udcff", False]
    assert not list(box.slipway.rglob("__pycache__"))


@pytest.mark.parametrize("name", ["HUP", "QUIT", "USR1"])
def test_a_signal_that_asks_nobody_leaves_nothing_behind(box: Container, name: str) -> None:
    process = box.start_ready(READY + ANNOUNCE + WAIT)
    rank = int((box.state / "0" / "ranks" / "0.pid").read_text())
    process.send_signal(getattr(signal, f"SIG{name}"))
    assert process.wait(PATIENCE) == 128 + getattr(signal, f"SIG{name}")
    assert gone(rank)
    assert (box.status["cause"], box.status["step_exit_code"]) == ("entrypoint", None)
    assert box.status["reason"] == f"the entrypoint was ended by signal {name}"


# Secrets


SECRET = "a 'quoted' \"$HOME\" `id` \\\nsecond line\n\nlast"


def test_secrets_become_variables(box: Container, tmp_path: Path) -> None:
    box.env |= {"SLIPWAY_SECRETS": "KEY TOKEN", "SLIPWAY_SECRETS_DIR": str(tmp_path / "secrets")}
    (tmp_path / "secrets").mkdir()
    for name, text in {"TOKEN": f"{SECRET}\n", "KEY": "", "OTHER": "not declared"}.items():
        (tmp_path / "secrets" / name).write_text(text)
    assert box.run("import json, os; print(json.dumps([os.environ.get(n) for n in ('TOKEN', 'KEY', 'OTHER')]))") == 0
    assert json.loads(box.out.splitlines()[1]) == [SECRET, "", None]
    assert "last" not in box.err and "last" not in json.dumps(box.status)


def test_a_secret_is_no_variable_of_the_entrypoint(box: Container, tmp_path: Path) -> None:
    names = "MARK STEP_UMASK CAUSE COMMAND NODE_DIR"
    box.env |= {"SLIPWAY_SECRETS": names, "SLIPWAY_SECRETS_DIR": str(tmp_path / "secrets")}
    (tmp_path / "secrets").mkdir()
    for name in names.split():
        (tmp_path / "secrets" / name).write_text("hush")
    assert box.run("import os; print(os.environ['MARK'], os.environ['SLIPWAY_MARK'])") == 0, box.err
    told, mark = box.out.splitlines()[1].split()
    assert told == "hush" and mark != "hush"
    assert box.status["cause"] == "step"


def test_a_secret_that_is_not_there_is_refused(box: Container, tmp_path: Path) -> None:
    box.env |= {"SLIPWAY_SECRETS": "TOKEN", "SLIPWAY_SECRETS_DIR": str(tmp_path / "secrets")}
    assert box.run("print('the step')") == 78
    assert box.status["reason"] == f"the secret TOKEN is not in {tmp_path}/secrets"
    assert "the step" not in box.out


# A run that stands still

SHOWN = """
import sys, threading, time
sys.path.insert(0, {steps!r})
import slipway_step

def stuck():
    print("ready", flush=True)
    threading.Event().wait()

slipway_step.run({what})
"""
STEPS = str(MAIN / "entrypoints" / "steps")


def test_a_step_in_which_nothing_moves_is_ended_and_leaves_its_stacks(box: Container) -> None:
    box.env["SLIPWAY_STALL_SECONDS"] = "1"
    assert box.run(SHOWN.format(steps=STEPS, what="stuck")) == 75, box.err
    assert (box.status["cause"], box.status["step_exit_code"]) == ("stalled", None)
    name = os.uname().nodename
    assert box.status["reason"] == f"nothing has moved for 0.0167 min; the last to move was rank 0 on {name}"
    stacks = box.state / "0" / "stacks"
    assert "in stuck" in (stacks / "0.txt").read_text()
    assert "python" in (stacks / "processes.txt").read_text()


def test_a_step_that_writes_now_and_then_goes_on(box: Container) -> None:
    """Longer than it may stand still, and by a line of its log alone."""
    box.env["SLIPWAY_STALL_SECONDS"] = "2"
    says = "[print(n, flush=True) or time.sleep(0.25) for n in range(20)]"
    assert box.run(SHOWN.format(steps=STEPS, what=f"lambda: {says}")) == 0, box.err
    assert not (box.state / "stalled").exists()


def test_a_stalled_step_that_is_told_to_stop_has_stopped(box: Container) -> None:
    box.env |= {"SLIPWAY_STALL_SECONDS": "3600", "SLIPWAY_STOP_TO": "group"}
    process = box.start_ready(SHOWN.format(steps=STEPS, what="stuck"))
    process.terminate()
    assert process.wait(PATIENCE) == 143
    assert box.status["cause"] == "signal"


# Several nodes


class Nodes:
    """Two nodes side by side: containers of their own that share the run's state and, unless told otherwise, output.

    torch.distributed.run is a stand-in, which writes down its words.
    """

    def __init__(self, torchrun: Container, folder: Path) -> None:
        folder.mkdir()
        self.state, self.boxes = torchrun.state, (torchrun, Container(folder))
        for place in (torchrun.state, torchrun.output):  # by the job's script
            (place / ".slipway-nonce-7.0.abc").touch()
        for rank, box in enumerate(self.boxes):
            box.state = self.state
            box.env |= torchrun.env | {
                "SLIPWAY_DIR": str(box.slipway), "SLIPWAY_ENTRY_FILE": str(box.slipway / "entry.json"),
                "SLIPWAY_NODES": "2", "SLIPWAY_PROCS": "1", "SLURM_NODEID": str(rank), "SLIPWAY_HEAD": "10.0.0.1",
                "SLIPWAY_NODE_NAMES": "n1 n2", "SLIPWAY_NONCE": "7.0.abc", "SLIPWAY_SHARED": str(torchrun.output),
            }  # fmt: skip

    def run(self, *programs: str) -> list[int]:
        started = [box.start(program) for box, program in zip(self.boxes, programs, strict=True)]
        return [process.wait(PATIENCE) for process in started]

    def status(self, rank: int) -> dict[str, Any]:
        return json.loads((self.state / str(rank) / "status.json").read_text())

    def options(self, rank: int) -> dict[str, str]:
        """The shape that torchrun was given."""
        words = json.loads((self.state / str(rank) / "argv").read_text())
        return dict(word.split("=") for word in words if word.startswith("--"))


@pytest.fixture
def nodes(torchrun: Container, tmp_path: Path) -> Iterator[Nodes]:
    found = Nodes(torchrun, tmp_path / "n2")
    yield found
    found.boxes[1].end()


# The first leaves when the second is there, as ranks do that talk to each other.
BOTH = READY + (
    "rank = os.environ['SLURM_NODEID']\n(node.parent / f'here{rank}').touch()\n"
    "while not all((node.parent / f'here{n}').exists() for n in range(2)):\n    time.sleep(0.01)\n"
)


def test_nodes_meet_and_agree_on_a_port(nodes: Nodes) -> None:
    assert nodes.run(BOTH, BOTH) == [0, 0], [box.err for box in nodes.boxes]
    first, second = nodes.options(0), nodes.options(1)
    assert (first["--node-rank"], second["--node-rank"], first["--nnodes"]) == ("0", "1", "2")
    assert first["--master-addr"] == second["--master-addr"] == "10.0.0.1"
    assert first["--master-port"] == second["--master-port"] and 1024 < int(first["--master-port"]) < 32768
    assert not (nodes.state / "failed").exists()
    assert [nodes.status(rank)["exit_code"] for rank in range(2)] == [0, 0]


def reducing(nodes: Nodes, does: str) -> None:
    """In place of allreduce.py, which wants torch: writes down its words, and does that."""
    for box in nodes.boxes:
        box.env["SLIPWAY_ALL_REDUCE"] = "1"
        words = f"'{nodes.state}/words' + os.environ['SLURM_NODEID'], 'w').write(' '.join(sys.argv[1:])"
        program = f"import os, sys, time\nopen({words})\n"
        (box.slipway / "allreduce.py").write_text(program + does)


def test_nodes_try_each_other_out_by_a_port_of_its_own(nodes: Nodes) -> None:
    reducing(nodes, "print('12 GB/s')")
    assert nodes.run(BOTH, BOTH) == [0, 0], [box.err for box in nodes.boxes]
    first, second = ((nodes.state / f"words{rank}").read_text() for rank in range(2))
    port = first.partition("--port=")[2].split()[0]
    assert port != nodes.options(0)["--master-port"]
    assert first == f"--nodes=2 --rank=0 --procs=1 --head=10.0.0.1 --port={port} --names=n1 n2 --bad={nodes.state}/bad"
    assert second == first.replace("--rank=0", "--rank=1")
    assert "12 GB/s" in nodes.boxes[0].out


def test_nodes_that_cannot_talk_to_each_other_end_with_75(nodes: Nodes) -> None:
    reducing(nodes, "print('all-reduce of 2 nodes: node n2 did not end it', file=sys.stderr)\nsys.exit(75)")
    assert nodes.run("print('the step')", "print('the step')") == [75, 75]
    reason = "all-reduce of 2 nodes: node n2 did not end it"
    assert (nodes.status(0)["cause"], nodes.status(0)["reason"]) == ("node", reason)
    assert not any("the step" in box.out for box in nodes.boxes)


def test_a_node_that_tries_others_out_can_be_told_to_stop(nodes: Nodes) -> None:
    """What it has started for that is ended, too."""
    reducing(nodes, f"if os.fork() == 0: open('{nodes.state}/child' + str(os.getpid()), 'w')\ntime.sleep(3600)")
    first, second = (box.start("print('the step')") for box in nodes.boxes)
    wait_for(lambda: len(list(nodes.state.glob("child*"))) == 2)
    for process in (first, second):
        process.terminate()
    assert [process.wait(PATIENCE) for process in (first, second)] == [143, 143]
    assert nodes.status(0)["reason"] == "told to stop by TERM before the step started"
    assert all(gone(int(child.name.removeprefix("child"))) for child in nodes.state.glob("child*"))


@pytest.mark.parametrize(
    ("fallback", "hosts", "code", "cause"),
    [("refuse", ["n1", "n2"], 78, "entrypoint"), ("refuse", ["n2"], 75, "node"), ("warn", ["n1", "n2"], 0, "step")],
)
def test_a_network_that_nccl_does_not_take_ends_the_run(
    nodes: Nodes, fallback: str, hosts: list[str], code: int, cause: str
) -> None:
    """By the first node, which sees what NCCL has written on all of them; the job ends the others then."""
    box = nodes.boxes[0]
    box.env["NCCL_DEBUG_FILE"] = f"{nodes.state}/nccl.%h.%p"
    box.plan |= {"profile": {"kind": "slurm", "network": {"fabric": "ib", "fallback": fallback}}}
    box.plan["shape"] = {"nodes": 2, "gpus": 1, "procs": 1}
    box.entry()
    shutil.copy(MAIN / "slipway" / "fabric.py", box.slipway)
    for host in ("n1", "n2"):
        used = "Socket" if host in hosts else "IB"
        (nodes.state / f"nccl.{host}.7").write_text(f"{host}:7:8 [0] NCCL INFO Using network {used}\n")
    waits = f"while 'NCCL used' not in open('{box.root}/err').read(): time.sleep(0.01)"
    ends = "time.sleep(3600)" if code else waits
    first, second = box.start(READY + ends), nodes.boxes[1].start("")
    assert (first.wait(PATIENCE), second.wait(PATIENCE)) == (code, 0)
    said = f"network: expected InfiniBand, NCCL used sockets on {' '.join(hosts)}"
    assert said in (nodes.status(0)["reason"] if code else box.err)
    assert nodes.status(0)["cause"] == cause


def test_nodes_stand_still_together_and_the_first_says_so(nodes: Nodes) -> None:
    """The other, which has never written anything since, is not missed before; and keeps its stacks."""
    for box in nodes.boxes:
        box.env["SLIPWAY_STALL_SECONDS"] = "2"
    busy = "lambda: [print(n, flush=True) or time.sleep(0.25) for n in range(20)] and stuck()"
    first = nodes.boxes[0].start("import os; os.environ['RANK'] = '0'" + SHOWN.format(steps=STEPS, what=busy))
    second = nodes.boxes[1].start("import os; os.environ['RANK'] = '1'" + SHOWN.format(steps=STEPS, what="stuck"))
    assert first.wait(PATIENCE) == 75, nodes.boxes[0].err
    assert "19" in nodes.boxes[0].out
    assert nodes.status(0)["reason"] == "nothing has moved for 0.0333 min; the last to move was rank 0 on n1"
    assert (nodes.state / "failed").read_text() == "75 0 n1\n"
    second.terminate()  # as srun does then
    second.wait(PATIENCE)
    for rank in range(2):
        assert "in stuck" in (nodes.state / str(rank) / "stacks" / f"{rank}.txt").read_text()


@pytest.mark.parametrize("late", [0, 1])
def test_a_node_waits_for_one_whose_container_takes_longer(nodes: Nodes, late: int) -> None:
    """Longer than storage may take to show a file."""
    other = nodes.boxes[1 - late]
    other.env["SLIPWAY_MOUNT_WAIT"] = "1"
    first = other.start(BOTH)
    names = ("n2", "n1") if late == 0 else ("n1", "n2")
    said = "{} waits for {}, whose container may take up to 1800 s".format(*names)
    wait_for(lambda: said in other.err or first.poll() is not None)
    second = nodes.boxes[late].start(BOTH)
    assert [process.wait(PATIENCE) for process in (first, second)] == [0, 0], other.err
    assert nodes.options(0)["--master-port"] == nodes.options(1)["--master-port"]


@pytest.mark.parametrize("late", [0, 1])
def test_a_node_that_does_not_come_is_named(nodes: Nodes, late: int) -> None:
    nodes.boxes[1 - late].env["SLIPWAY_START_WAIT"] = "1"
    assert nodes.boxes[1 - late].run("print('the step')") == 75
    said = f"n{late + 1} was not there within 1 s, n{2 - late} was: its container is not made"
    assert nodes.status(1 - late)["reason"] == said
    assert "the step" not in nodes.boxes[1 - late].out


def test_what_an_earlier_attempt_told_is_not_taken_for_this_one(nodes: Nodes) -> None:
    (nodes.state / "0").mkdir()
    (nodes.state / "0" / "go").write_text("7.0.old 1\n")
    nodes.boxes[1].env["SLIPWAY_START_WAIT"] = "1"
    assert nodes.boxes[1].run("") == 75


def test_a_node_that_waits_for_another_can_be_told_to_stop(nodes: Nodes) -> None:
    """And does not wait for that one to end."""
    process = nodes.boxes[0].start("print('the step')")
    wait_for((nodes.state / "0" / "there").exists)
    process.terminate()
    assert process.wait(PATIENCE) == 143
    assert nodes.status(0)["reason"] == "told to stop by TERM before the step started"


def test_what_another_job_left_is_not_taken_for_this_one(nodes: Nodes) -> None:
    for place in (nodes.state, nodes.boxes[0].output):
        next(place.glob(".slipway-nonce-*")).rename(place / ".slipway-nonce-7.0.old")
    nodes.boxes[1].env["SLIPWAY_MOUNT_WAIT"] = "1"
    assert nodes.boxes[1].run("") == 78
    assert f"node n2 does not see in {nodes.state} what n1 wrote there" in nodes.status(1)["reason"]


def test_a_node_with_other_storage_is_refused_and_named(nodes: Nodes) -> None:
    other = nodes.boxes[1]
    other.env |= {"SLIPWAY_SHARED": str(other.output), "SLIPWAY_MOUNT_WAIT": "1"}
    first, second = (box.start("print('the step')") for box in nodes.boxes)
    assert second.wait(PATIENCE) == 78
    first.terminate()  # as srun does then
    assert first.wait(PATIENCE) == 143
    reason = f"node n2 does not see in {other.output} what n1 wrote there, looked for it for 1 s: "
    reason += "it is not the same storage on both"
    assert (nodes.status(1)["cause"], nodes.status(1)["reason"]) == ("entrypoint", reason)
    assert "the step" not in other.out
    assert (nodes.state / "failed").read_text() == "78 1 n2\n", "the first's 143 came after it"


@pytest.mark.parametrize("name", ["SLIPWAY_NONCE", "SLIPWAY_HEAD"])
def test_nodes_that_cannot_find_each_other_are_refused(nodes: Nodes, name: str) -> None:
    del nodes.boxes[1].env[name]
    assert nodes.boxes[1].run("") == 78
    assert nodes.status(1)["reason"] == (
        "SLIPWAY_NODES=2: the job has to say how nodes find each other: SLIPWAY_NONCE, SLIPWAY_HEAD"
    )


def test_the_node_that_failed_first_tells_the_code(nodes: Nodes) -> None:
    later = BOTH + "while not (node.parent / 'failed').exists():\n    time.sleep(0.01)\nsys.exit(9)\n"
    assert nodes.run(later, BOTH + "sys.exit(5)") == [9, 5]
    assert (nodes.state / "failed").read_text() == "5 1 n2\n"


def test_a_node_that_was_told_to_stop_is_not_the_one_that_failed(nodes: Nodes) -> None:
    first, second = (box.start(READY + RANK_OF_NODE + WAIT) for box in nodes.boxes)
    wait_for(lambda: all((nodes.state / f"up{rank}").exists() for rank in range(2)))
    first.terminate()
    second.terminate()
    assert [process.wait(PATIENCE) for process in (first, second)] == [143, 143]
    assert not (nodes.state / "failed").exists()


RANK_OF_NODE = """
(node / 'ranks' / '0.pid').write_text(str(os.getpid()))
(node.parent / f"up{os.environ['SLURM_NODEID']}").touch()
"""


def test_a_killed_step_says_so(box: Container) -> None:
    assert box.run("import os; os.kill(os.getpid(), 9)") == 137
    assert box.status["cause"] == "step"
    assert box.status["reason"] == "ended by signal KILL"


def test_what_outlives_the_step_is_ended(box: Container) -> None:
    """A process in a session of its own whose parent is gone; one ignores TERM."""
    program = READY + (
        "import subprocess\n"
        "for ignore in ('', 'signal.signal(signal.SIGTERM, signal.SIG_IGN);'):\n"
        "    code = 'import signal;' + ignore + 'print(1, flush=True); signal.pause()'\n"
        "    p = subprocess.Popen([sys.executable, '-c', code], start_new_session=True, stdout=subprocess.PIPE)\n"
        "    p.stdout.readline()\n"
        "    print(p.pid)\n"
    )
    assert box.run(program) == 0
    pids = [int(line) for line in box.out.splitlines()[1:]]
    assert len(pids) == 2 and all(gone(pid) for pid in pids)
    assert "2 process(es) outlived the step: TERM" in box.err
    assert "1 process(es) outlived the step: KILL" in box.err


SHOW = """
import getpass, json, os, pathlib, tempfile
names = ["HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "HF_MODULES_CACHE", "TRITON_CACHE_DIR",
         "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR"]
for name in names:
    if name not in ("USER", "LOGNAME"):
        tempfile.TemporaryFile(dir=os.environ[name]).close()
mask = os.umask(0)
print(json.dumps({name: os.environ[name] for name in names} | {"user": getpass.getuser(), "umask": mask}))
"""


def test_any_uid_has_a_home_a_name_and_caches(box: Container, stranger: tuple[str, ...]) -> None:
    del box.env["HOME"]
    assert box.run(SHOW, prefix=stranger) == 0, box.err
    seen = json.loads(box.out.splitlines()[1])
    assert (seen["USER"], seen["LOGNAME"], seen["user"]) == ("uid12345", "uid12345", "uid12345")
    assert seen["MPLCONFIGDIR"].startswith(seen["XDG_CACHE_HOME"]) and seen["XDG_CACHE_HOME"].startswith(seen["HOME"])
    assert not Path(seen["HOME"]).exists()  # it was ours


def test_a_home_that_can_be_written_is_kept(box: Container) -> None:
    assert box.run(SHOW) == 0, box.err
    assert json.loads(box.out.splitlines()[1])["HOME"] == str(box.root)
    assert box.root.exists()


CACHES = ["DG_JIT_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE", "HF_MODULES_CACHE", "TILELANG_CACHE_DIR",
          "TRITON_CACHE_DIR", "VLLM_CACHE_ROOT"]  # fmt: skip
SHOW_CACHES = f"import json, os; print(json.dumps([os.environ[n] for n in {CACHES}] + [os.environ['XDG_CACHE_HOME']]))"


@pytest.mark.parametrize(("kind", "here"), [("nfs", False), ("lustre", False), ("UNKNOWN (0x47504653)", False),
                                            ("ext2/ext3", True), ("overlayfs", True)])  # fmt: skip
def test_caches_are_on_this_node_whatever_home_is(box: Container, tmp_path: Path, kind: str, here: bool) -> None:
    """The kernel's word for a file system, as `stat` prints it; workers' locks in caches fail on NFS."""
    program = tmp_path / "bin" / "stat"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{kind}'\n")
    program.chmod(0o755)
    box.env |= {"PATH": f"{program.parent}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    assert box.run(SHOW_CACHES) == 0, box.err
    *caches, root = json.loads(box.out.splitlines()[1])
    assert all(Path(cache).is_relative_to(root) for cache in caches)
    assert root == f"{box.env['HOME']}/.cache" if here else root.startswith(f"{tmp_path}/slipway-cache.")
    assert ("is on other nodes, too" in box.err) != here
    assert Path(root).exists() == here, "what was made for this run goes with it"


@pytest.mark.parametrize(
    ("driver", "cuda", "real", "path", "says"),
    [
        ("570.124.06", "580.95.05", True, "COMPAT:/lib", "comes first, which serves GPUs of data centres"),
        ("570.124.06", "580.95.05", False, "/lib", "and the image has no COMPAT"),
        ("580.65.06", "580.95.05", True, "/lib", ""),
        ("570.124.06", "", True, "/lib", ""),
        ("", "580.95.05", True, "/lib", ""),
    ],
)
def test_an_older_driver_gets_the_images_compatibility_libraries(
    box: Container, tmp_path: Path, driver: str, cuda: str, real: bool, path: str, says: str
) -> None:
    file, compat = tmp_path / "version", tmp_path / "compat" / "lib.real"
    if driver:
        file.write_text(f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {driver}  Release Build\n")
    if real:
        compat.mkdir(parents=True)
    box.env |= {"SLIPWAY_DRIVER_FILE": str(file), "_CUDA_COMPAT_PATH": str(compat.parent), "LD_LIBRARY_PATH": "/lib"}
    box.env |= {"CUDA_DRIVER_VERSION": cuda} if cuda else {}
    assert box.run("import os; print(os.environ['LD_LIBRARY_PATH'])") == 0, box.err
    assert box.out.splitlines()[1] == path.replace("COMPAT", str(compat))
    assert says.replace("COMPAT", str(compat)) in box.err and bool(says) == ("is older than" in box.err)


def test_the_networks_libraries_come_first(box: Container) -> None:
    box.env |= {"SLIPWAY_LIBRARIES": "/opt/a/lib:/opt/b/lib", "LD_LIBRARY_PATH": "/lib"}
    assert box.run("import os; print(os.environ['LD_LIBRARY_PATH'])") == 0, box.err
    assert box.out.splitlines()[1] == "/opt/a/lib:/opt/b/lib:/lib"


@pytest.mark.parametrize(
    ("inherited", "kept"), [(0o022, 0o022), (0o027, 0o027), (0o002, 0o002), (0, 0o022), (0o777, 0o022)]
)
def test_umask(box: Container, inherited: int, kept: int) -> None:
    assert box.run(SHOW, prefix=("bash", "-c", f'umask {inherited:04o}; exec "$@"', "-")) == 0, box.err
    assert json.loads(box.out.splitlines()[1])["umask"] == kept
    found = {path: path.stat().st_mode & 0o777 for path in box.state.rglob("*")}
    assert {"status.json", "versions.json", "ranks"} <= {path.name for path in found}
    assert {mode for path, mode in found.items() if path.is_file()} == {0o600}
    assert {mode for path, mode in found.items() if path.is_dir()} == {0o700}


def test_a_state_directory_that_cannot_be_written_is_refused(box: Container) -> None:
    box.state.chmod(0o755)
    assert box.run("", prefix=as_uid(12345)) == 78
    assert f"refused: {box.state}: uid 12345 gid 12345 cannot write there" in box.err


def test_an_output_that_cannot_be_written_is_refused(box: Container, stranger: tuple[str, ...]) -> None:
    box.output.chmod(0o755)
    assert box.run("print('the step')", prefix=stranger) == 78
    assert box.status["reason"].startswith(f"{box.output}: uid 12345 gid 12345 cannot write there")
    assert "the step" not in box.out


TORCHRUN = """
import json, os, pathlib, signal, subprocess, sys
node = pathlib.Path(os.environ["SLIPWAY_NODE_DIR"])
signal.signal(signal.SIGTERM, lambda *_: (node / "agent-told").touch())
(node / "argv").write_text(json.dumps(sys.argv[1:]))
options = dict(word.split("=") for word in sys.argv[1:] if word.startswith("--"))
command = [word for word in sys.argv[1:] if not word.startswith("--")]
ranks = [
    subprocess.Popen([sys.executable, *command], env={**os.environ, "RANK": str(rank)}, start_new_session=True)
    for rank in range(int(options["--nproc-per-node"]))
]
sys.exit(max(rank.wait() for rank in ranks))
"""
# One write a line: both ranks have one pipe, and what print writes in pieces may mix.
RANK = """
rank = os.environ['RANK']
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, f'saved {rank}\\n'.encode()), sys.exit(0)))
(node / 'ranks' / f'{rank}.pid').write_text(str(os.getpid()))
(node / f'ready{rank}').touch()
"""


@pytest.fixture
def torchrun(box: Container) -> Container:
    """A stand-in for torch.distributed.run that starts its ranks as torchrun does: each in a session of its own."""
    package = box.root / "site" / "torch" / "distributed"
    package.mkdir(parents=True)
    (package / "run.py").write_text(TORCHRUN)
    box.env |= {"PYTHONPATH": str(box.root / "site"), "SLIPWAY_PROCS": "2"}
    return box


def test_more_processes_are_started_by_torchrun(torchrun: Container) -> None:
    assert (
        torchrun.run(
            "import os, sys; os.write(1, (' '.join(['rank', os.environ['RANK'], *sys.argv[1:]]) + '\\n').encode())",
            "a b",
        )
        == 0
    ), torchrun.err
    assert sorted(torchrun.out.splitlines()[1:]) == ["rank 0 a b", "rank 1 a b"]
    *shape, port, step, argument = json.loads((torchrun.state / "0" / "argv").read_text())
    assert shape == ["--nnodes=1", "--node-rank=0", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    assert 1024 < int(port.removeprefix("--master-port=")) < 32768
    assert (step, argument) == (str(torchrun.slipway / "step.py"), "a b")


def test_a_refusal_of_a_rank_is_one_of_the_entrypoint(torchrun: Container) -> None:
    assert torchrun.run(READY + "(node / 'refused').write_text('dataset: is missing\\n'); sys.exit(1)") == 78
    status = torchrun.status
    assert (status["cause"], status["reason"], status["step_exit_code"]) == ("entrypoint", "dataset: is missing", 1)


def test_ranks_save_and_torchrun_is_left_alone(torchrun: Container) -> None:
    process = torchrun.start(READY + RANK + WAIT)
    wait_for(lambda: all((torchrun.state / "0" / f"ready{rank}").exists() for rank in range(2)))
    process.terminate()
    assert process.wait(PATIENCE) == 143
    assert sorted(torchrun.out.splitlines()[1:]) == ["saved 0", "saved 1"]
    assert not (torchrun.state / "0" / "agent-told").exists()
    assert torchrun.status["step_exit_code"] == 0
    assert "TERM to 2 rank(s)" in torchrun.err


def test_a_model_that_was_to_be_converted_has_to_be_whole(box: Container) -> None:
    """Without its marker NeMo RL would convert by itself; the marker may come while NFS hides it."""
    place = box.root / "cache"
    (place / "model_a" / "iter_0000000").mkdir(parents=True)
    box.env["SLIPWAY_CONVERTED"] = f"{place}/model_a\n{place}/model_b"
    (place / "model_b").mkdir()
    (place / "model_b" / "slipway.json").write_text("{}")
    assert box.run("print('ran')") == 78 and "ran" not in box.out
    assert box.status["reason"].startswith(f"{place}/model_a: the model is not there, or not whole: its conversion did")
    box.env["SLIPWAY_MOUNT_WAIT"] = str(PATIENCE)
    started = box.start("print('ran')")
    (place / "model_a" / "slipway.json").write_text("{}")
    assert started.wait(PATIENCE) == 0 and "ran" in box.out
