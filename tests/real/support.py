"""What the tests against a real engine share: commands as processes, a project of their own, requests held in flight.

Nothing here waits for time to pass: conditions are awaited, and PATIENCE only ends a test whose condition never comes.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

PROJECT = Path(__file__).parents[2]
PATIENCE = 240.0  # seconds
ENDLESS = 1_000_000  # steps
T = TypeVar("T")


def until(what: str | Callable[[], str], look: Callable[[], T]) -> T:
    """What `look` returns, once that is true. `what` names it, or explains when it has not come why it may not have."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, f"it never came: {what if isinstance(what, str) else what()}"
        time.sleep(0.02)
    return found


def docker_with_memory(folder: Path) -> tuple[str, Callable[[], str]]:
    """A PATH whose docker writes down what it is asked before it does it, and what it has been asked so far."""
    real, log = shutil.which("docker"), folder / "asked"
    (folder / "docker").write_text(f'#!/bin/sh\necho "$@" >>{log}\nexec {real} "$@"\n')
    (folder / "docker").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}", lambda: log.read_text() if log.exists() else ""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


class Running:
    """A command that was started; what it prints can be awaited."""

    def __init__(
        self, argv: list[str], cwd: Path, env: dict[str, str], glance: bool = False, merged: bool = False
    ) -> None:
        """`glance`: whoever reads its stdout leaves after the first words, as `head` does. `merged`: `2>&1`."""
        self._glance = glance
        errors = subprocess.STDOUT if merged else subprocess.PIPE
        self.process = subprocess.Popen(argv, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=errors)
        self._texts = {"out": b"", "err": b""}
        streams = {"out": self.process.stdout} | ({} if merged else {"err": self.process.stderr})
        self._readers = [threading.Thread(target=self._read, args=item, daemon=True) for item in streams.items()]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, stream: Any) -> None:
        with stream:
            while piece := os.read(stream.fileno(), 65536):
                self._texts[name] += piece
                if name == "out" and self._glance:
                    return

    @property
    def out(self) -> str:
        return self._texts["out"].decode(errors="replace")

    @property
    def err(self) -> str:
        return self._texts["err"].decode(errors="replace")

    def await_line(self, pattern: str) -> re.Match[str]:
        """The first line on stdout that matches, as soon as it is there."""
        return self._await(pattern, "out")

    def await_told(self, pattern: str) -> re.Match[str]:
        """The same of stderr."""
        return self._await(pattern, "err")

    def _await(self, pattern: str, stream: str) -> re.Match[str]:
        wanted = re.compile(f"^.*{pattern}.*$", re.M)

        def look() -> re.Match[str] | None:
            over = self.process.poll() is not None
            if over:
                self._join()
            found = wanted.search(self._texts[stream].decode(errors="replace"))
            assert found or not over, f"ended without {pattern!r}:\n{self.out[-2000:]}\n{self.err}"
            return found

        return until(pattern, look)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and its end."""
        self.process.kill()
        self.process.wait()

    def finish(self, patience: float = PATIENCE) -> Done:
        """Waits for the end."""
        code = self.process.wait(patience)
        self._join()
        assert "Traceback" not in self.err, self.err
        return Done(code, self.out, self.err)

    def _join(self) -> None:
        for reader in self._readers:
            reader.join(PATIENCE)


@dataclass(frozen=True)
class Run:
    """A run directory, as a person reads it."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "record.json").read_text()))

    @property
    def outcome(self) -> dict[str, Any]:
        return dict(self.record.get("outcome") or {})

    @property
    def ended(self) -> tuple[int, str]:
        """Exit code and cause."""
        return self.outcome["exit_code"], self.outcome["cause"]

    @property
    def log(self) -> str:
        return (self.path / "logs" / "step.log").read_text()

    @property
    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in (self.path / "events.jsonl").read_text().splitlines()]


@dataclass
class Tree:
    """A project: a copy of this one's data with a step of its own, and the commands run in it as programs."""

    path: Path
    runs: Path
    env: dict[str, str]
    docker: Any
    prefix: list[str] = field(default_factory=list)
    _started: list[Running] = field(default_factory=list)

    def start(self, program: str, *words: str, glance: bool = False, merged: bool = False, **env: str) -> Running:
        argv = [*self.prefix, str(Path(sys.executable).parent / program), *words]
        self._started.append(Running(argv, self.path, self.env | env, glance, merged))
        return self._started[-1]

    def launch(self, *words: str, **env: str) -> Done:
        return self.start("launch", *words, **env).finish()

    def images(self, *words: str, **env: str) -> Done:
        return self.start("images", *words, **env).finish()

    def all_runs(self) -> list[Run]:
        """Oldest first. What was converted for runs stands beside them, below a name that begins with a dot."""
        return [Run(p) for p in sorted(self.runs.glob("[!.]*"))]

    def since(self, before: list[Run]) -> list[Run]:
        """The runs that are new, oldest first: the last ones of all may be another test's."""
        return [run for run in self.all_runs() if run not in before]

    def run_of(self, command: Running | Done) -> Run:
        """The run that a launch in the foreground has announced."""

        def look() -> re.Match[str] | None:
            found = re.search(r"^run +(\d{8}T\d{6}Z-[\w.-]+)$", command.err, re.M)
            assert found or not isinstance(command, Done), f"no run was announced: {command}"
            return found

        return Run(self.runs / until("run id", look)[1])

    def container(self, run: Run) -> Any:
        """The engine's container of a run, None where there is none."""
        found = self.docker.containers.list(all=True, filters={"label": f"slipway.run={run.id}"})
        return found[0] if found else None

    def await_running(self, run: Run) -> Any:
        def look() -> Any:
            container = self.container(run)
            return container if container and container.status == "running" else None

        return until("a running container", look)

    def await_exit(self, run: Run) -> None:
        """Nothing runs any more, whoever removes it."""

        def look() -> bool:
            container = self.container(run)
            return container is None or container.status != "running"

        until("the container's end", look)

    def show(self, run: Run) -> Done:
        return self.launch("show", run.id)

    def end_all(self) -> None:
        """Ends what a failed test has left: launchers by their pid, containers by their run."""
        for running in self._started:
            if running.process.poll() is None:
                running.kill()
        self._started.clear()
        for run in self.all_runs():
            if container := self.container(run):
                container.remove(force=True)


@dataclass(frozen=True)
class Planned:
    """What `-o` wrote, to be run by hand: without the launcher, by the engine's own interface."""

    folder: Path

    @property
    def request(self) -> dict[str, Any]:
        text = (self.folder / "request.json").read_text()
        return dict(json.loads(text.replace("${RUN_ID}", "by-hand").replace("${RUN_DIR}", str(self.folder))))

    def make_folders(self) -> None:
        """Those that the container writes to, with the user's own hands."""
        uid, _, gid = self.request["User"].partition(":")
        for mount in self.request["HostConfig"]["Mounts"]:
            if not mount["ReadOnly"]:
                Path(mount["Source"]).mkdir(parents=True, exist_ok=True)
                os.chown(mount["Source"], int(uid), int(gid))

    def run(self, docker: Any, **host: Any) -> Done:
        """Creates and starts the request, `Image` or keys of its HostConfig changed; returns when it has ended."""
        self.make_folders()
        request = self.request
        request["Image"] = host.pop("Image", request["Image"])
        request["HostConfig"] |= host
        made = docker.api.create_container_from_config(request, f"slipway-by-hand-{os.getpid()}")["Id"]
        try:
            docker.api.start(made)
            code = docker.api.wait(made)["StatusCode"]
            return Done(code, docker.api.logs(made).decode(), "")
        finally:
            docker.api.remove_container(made, force=True)

    @property
    def status(self) -> dict[str, Any]:
        """How the entrypoint says that it ended."""
        return dict(json.loads((self.folder / "container" / "0" / "status.json").read_text()))


@dataclass
class Hold:
    """A request that stands still: `reached` when it has come, until `release` or `drop`."""

    method: str
    path: str
    answered: bool  # the engine has done it, its answer is what is held back
    skip: int  # how many such requests pass before
    reached: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    dropped: bool = False

    def wait(self) -> None:
        assert self.reached.wait(PATIENCE), f"nobody asked for {self.method} {self.path}"

    def release(self) -> None:
        self.over.set()

    def drop(self) -> None:
        """The request never arrives."""
        self.dropped = True
        self.over.set()


class Proxy:
    """Stands between a launcher and its engine, and can hold a request: moments that are met exactly, not by luck.

    It listens on `path` for any user, or on a TCP port of this machine; whoever connects is served as the tests' user.
    """

    def __init__(self, path: Path | None, engine: str) -> None:
        self._engine = engine
        self._holds: list[Hold] = []
        self._alive: list[socket.socket] = []
        if path:
            self._listener, self.url = socket.socket(socket.AF_UNIX), f"unix://{path}"
            self._listener.bind(str(path))
            path.chmod(0o666)
        else:
            self._listener = socket.socket()
            self._listener.bind(("127.0.0.1", 0))
            self.url = "tcp://{}:{}".format(*self._listener.getsockname())
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    @contextlib.contextmanager
    def hold(self, method: str, path: str, answered: bool = False, skip: int = 0) -> Iterator[Hold]:
        """Holds the next request of that method whose path matches (after `skip`), or the engine's answer to it."""
        hold = Hold(method, path, answered, skip)
        self._holds.append(hold)
        try:
            yield hold
        finally:
            hold.release()

    def close(self) -> None:
        """As when the engine's process ends."""
        for end in (self._listener, *self._alive):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._alive.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        gate = threading.Event()
        gate.set()
        held: list[Hold] = []
        with client, contextlib.suppress(OSError), _connect(self._engine) as engine:
            threading.Thread(target=self._answer, args=(engine, client, gate, held), daemon=True).start()
            for request in _requests(client):
                hold = self._taken(request)
                if hold and hold.answered:
                    held[:] = [hold]
                    gate.clear()
                elif hold:
                    hold.reached.set()
                    hold.over.wait()
                    if hold.dropped:
                        return
                engine.sendall(request)

    @staticmethod
    def _answer(engine: socket.socket, client: socket.socket, gate: threading.Event, held: list[Hold]) -> None:
        with contextlib.suppress(OSError):
            while piece := engine.recv(65536):
                if not gate.is_set():
                    held[0].reached.set()
                    held[0].over.wait()
                    gate.set()
                client.sendall(piece)
            client.shutdown(socket.SHUT_RDWR)

    def _taken(self, request: bytes) -> Hold | None:
        method, path, _ = request.split(b"\r\n", 1)[0].decode().split(" ", 2)
        for hold in self._holds:
            if hold.method == method and re.search(hold.path, path):
                hold.skip -= 1
                if hold.skip < 0:
                    self._holds.remove(hold)
                    return hold
        return None


def _connect(url: str) -> socket.socket:
    """To a unix:// or tcp:// engine."""
    if url.startswith("tcp://"):
        return socket.create_connection((urlsplit(url).hostname or "localhost", urlsplit(url).port or 2375))
    made = socket.socket(socket.AF_UNIX)
    made.connect(url.removeprefix("unix://"))
    return made


def _requests(client: socket.socket) -> Iterator[bytes]:
    """The requests of a connection, each whole: head, and as much body as its Content-Length says."""
    with client.makefile("rb") as stream:
        head = b""
        while line := stream.readline():
            head += line
            if line == b"\r\n":
                length = re.search(rb"^content-length: *(\d+)", head, re.I | re.M)
                yield head + stream.read(int(length[1]) if length else 0)
                head = b""


def by_umask(tree: Tree, mask: int) -> Tree:
    """The same project, whose commands are started with that umask."""
    return dataclasses.replace(tree, prefix=[*tree.prefix, "bash", "-c", f'umask {mask:04o}; exec "$@"', "-"])


def open_to_others(folder: Path) -> dict[str, int]:
    """What in a folder somebody else than its owner may do something with, by its path below: its permissions."""
    modes = {str(p.relative_to(folder)): p.lstat().st_mode & 0o777 for p in folder.rglob("*") if not p.is_symlink()}
    return {name: mode for name, mode in modes.items() if mode & 0o077}


def open_runs(place: Path) -> Path:
    """A folder of runs that hands down all it can: its group, and a default ACL that gives a user everything."""
    made = place / "runs"
    made.mkdir()
    made.chmod(0o2777)
    entries = [(0x01, 7, 0xFFFFFFFF), (0x02, 7, 12345), *((tag, 7, 0xFFFFFFFF) for tag in (0x04, 0x10, 0x20))]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)  # linux/posix_acl_xattr.h
    os.setxattr(made, "system.posix_acl_default", acl)
    return made


def told(tree: Tree, run: Run) -> tuple[str, int, str]:
    """State, exit code and cause line of a run that has ended: the same, whoever is asked."""
    shown, line = tree.launch("show", run.id).out, _row(tree, run)
    rows = (json.loads(text) for text in tree.launch("runs", "--json").out.splitlines())
    (row,) = (found for found in rows if found["run"] == run.id)
    outcome = json.loads(tree.launch("show", run.id, "--json").out)["outcome"]
    words = outcome["end"], outcome["exit_code"], outcome["reason"]
    assert words == (row["state"], row["exit_code"], row["reason"]) and outcome == run.outcome
    state, code, reason = words
    assert f"state      {state}\n" in shown and re.search(rf" {re.escape(state)} +{code}\b", line), (shown, line)
    why = f" ({outcome['cause']}: {reason})" if code else ""
    assert f": exit {code}{why}\n" in shown, shown
    return words


def _row(tree: Tree, run: Run) -> str:
    return next(line for line in tree.launch("runs").out.splitlines() if line.startswith(f"{run.id} "))


# What the toy does as its TOY_RUN: wants more memory than `cramped` gives, once it is told to.
REFUSING = "import slipway_step; raise slipway_step.ConfigError('this cannot be run')"
GREEDY = """
import pathlib, time
output = pathlib.Path("/output")
(output / "waiting").touch()
while not (output / "go").exists():
    time.sleep(0.02)
bytes(1 << 20) * 1024
"""


def encoded(program: str) -> str:
    """A value of TOY_RUN."""
    return base64.b64encode(program.encode()).decode()


@contextlib.contextmanager
def cramped(run: Run) -> Iterator[None]:
    """The kernel kills the run's step when it wants more memory: a control group of its own, as a site may have."""
    (pid,) = (folder for folder in Path("/proc").glob("[0-9]*") if _is_step(folder, run.id))
    root = Path("/sys/fs/cgroup/memory")
    name = "memory.limit_in_bytes" if root.is_dir() else "memory.max"
    group = (root if root.is_dir() else root.parent) / f"slipway-test-{os.getpid()}"
    group.mkdir()
    (group / name).write_text(str(100 * 2**20))
    (group / "cgroup.procs").write_text(pid.name)
    try:
        yield
    finally:
        until("nobody in the control group", lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def _is_step(folder: Path, run_id: str) -> bool:
    with contextlib.suppress(OSError):
        words = (folder / "cmdline").read_bytes()
        named = f"SLIPWAY_RUN={run_id}".encode() in (folder / "environ").read_bytes().split(b"\0")
        return named and re.match(rb"[^\0]+python\0/slipway/steps/toy.py", words) is not None
    return False
