"""The private engine: a Docker engine of the project's own, started where none answers, and removed without a trace.

It has its own data, sockets and cgroups, and leaves the machine's network alone: no bridge, no iptables rule, no
ip_forward. So its containers have the host's network or none, and builds need `--network host`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from images.bootstrap.debian import OLDEST_ENGINE, Say, dockerd_version, missing, need, search_path, which
from images.machine import dockerhost
from images.machine.dockerhost import Address
from slipway import canonical
from slipway.errors import Exit, SlipwayError
from slipway.files import cannot_write, make_folders, write_atomic
from slipway.project import Root

TOOLS = ("dockerd", "docker", "buildx", "mmdebstrap")  # what an engine of our own, and builds on it, need
_START_SECONDS = 60
_STOP_SECONDS = 30  # dockerd itself gives its containers 15


@dataclass(frozen=True)
class Places:
    """Where one project's engine keeps what; `stop` removes all of it."""

    home: Path  # data, configuration, log
    run: Path  # sockets and pids: short, because a socket's path has at most 107 bytes
    record: Path

    @classmethod
    def of(cls, root: Root) -> Places:
        record, home = root.kept(dockerhost.RECORD), root.kept("engine")
        state = root.state.resolve()
        name = f"slipway-{canonical.sha256(str(state).encode())[:8]}"
        return cls(state / home.name, Path("/run") / name, state / record.name)

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def log(self) -> Path:
        return self.home / "dockerd.log"

    @property
    def url(self) -> str:
        return f"unix://{self.run}/docker.sock"


@dataclass(frozen=True)
class Record:
    """engine.json, the only proof that an engine is ours to stop."""

    address: str
    pid: int
    started: int  # clock ticks since boot: by now the pid alone may be another process's
    data_root: str
    exec_root: str
    version: str


@dataclass(frozen=True)
class Status:
    """The engine that commands use, whether it answers, and the private one where its process is alive."""

    address: Address
    answers: bool
    private: Record | None


def ensure(root: Root, say: Say) -> Address:
    """The engine that answers, else the private one, installed if need be and started.

    Raises SlipwayError 69 where DOCKER_HOST names a dead engine, or none can be installed or started here.
    """
    found = dockerhost.find(root)
    if dockerhost.answers(found.url):
        return found
    places = Places.of(root)
    _check_may_start(found, places)
    with _locked(root):
        record = _alive(places)
        if not record:
            if missing("dockerd", "docker", "buildx"):
                need(root, say, *TOOLS)
            record = start_daemon(places)
            say(f"starting Docker Engine {record.version}, log in {places.log}")
        wait_for(record, places)
    return dockerhost.find(root)


def status(root: Root) -> Status:
    """What `ensure` would find. Starts and changes nothing."""
    found = dockerhost.find(root)
    return Status(found, dockerhost.answers(found.url), _alive(Places.of(root)))


def stop(root: Root, say: Say) -> None:
    """Ends the private engine with its containers and removes its images and every other file of it.

    Safe to repeat and after a crash; Debian's packages stay.
    Raises SlipwayError 75 for what does not go away, 77 without root.
    """
    places = Places.of(root)
    if not any(path.exists() for path in (places.home, places.run, places.record)):
        return say("there is no private engine")
    if os.geteuid() != 0:
        raise SlipwayError(Exit.NOT_PERMITTED, "the private engine is root's", remedy="as root: images engine down")
    with _locked(root):
        end_daemon(places, say)
        remove(places, say)


def _check_may_start(found: Address, places: Places) -> None:
    if found.source == "DOCKER_HOST" and found.url != places.url:
        where, remedy = f"DOCKER_HOST={found.url}", "start that engine, or unset DOCKER_HOST"
        raise SlipwayError(Exit.UNAVAILABLE, "no Docker engine answers", where=where, remedy=remedy)
    if os.geteuid() != 0:
        remedy = (
            f"start it, install Docker Engine {OLDEST_ENGINE} or later with buildx, or set DOCKER_HOST; "
            "on Debian 12 or later, root gets an engine for this project alone"
        )
        where = f"{found.url} ({found.source})"
        raise SlipwayError(Exit.UNAVAILABLE, "no Docker engine answers", where=where, remedy=remedy)


@contextlib.contextmanager
def _locked(root: Root) -> Iterator[None]:
    """One command at a time starts or stops this engine. The lock is on the folder itself, so it leaves no file."""
    with cannot_write(root.state):
        make_folders(root.state)
        folder = os.open(root.state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


# The daemon


def start_daemon(places: Places, more: Mapping[str, Any] | None = None) -> Record:
    """Starts dockerd in a session of its own; recorded at once, so that there is proof even if we are killed now.

    `more`: keys of daemon.json beside, or in place of, ours. `wait_for` returns when it answers.
    """
    exec_root, pidfile, version = places.run / "exec", places.run / "docker.pid", dockerd_version()
    with cannot_write(places.run):
        places.run.mkdir(mode=0o700, exist_ok=True)
        # Left by a crash: dockerd would wait for whatever has these numbers now, or its remains, to end.
        for stale in (pidfile, exec_root / "containerd" / "containerd.pid"):
            stale.unlink(missing_ok=True)
    config = {
        "features": {"containerd-snapshotter": True},
        "data-root": str(places.data),
        "exec-root": str(exec_root),
        "pidfile": str(pidfile),
        "hosts": [places.url],
        "bridge": "none",
        "iptables": False,
        "ip6tables": False,
        "ip-forward": False,
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "cgroup-parent": f"/{places.run.name}",  # a name of our own: what is in it is ours to end and to remove
    }
    file = places.home / "daemon.json"
    write_atomic(file, canonical.pretty({**config, **(more or {})}))
    pid = _spawn([which("dockerd") or "dockerd", "--config-file", str(file)], places.log)
    record = Record(places.url, pid, _started(pid) or 0, str(places.data), str(exec_root), version)
    write_atomic(places.record, canonical.pretty(asdict(record)))
    return record


def _spawn(argv: list[str], log: Path) -> int:
    """Starts a process that outlives us, and returns its pid. Popen would want to be waited for."""
    return os.posix_spawn(
        argv[0],
        argv,
        {**os.environ, "PATH": search_path()},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores these, and its children would
    )


def wait_for(record: Record, places: Places) -> None:
    """Returns once the engine answers. Raises SlipwayError 69, with the end of its log, when it does not."""
    deadline = time.monotonic() + _START_SECONDS
    while not dockerhost.answers(record.address):
        ended = _gone(record.pid, 0.05)
        if ended or time.monotonic() > deadline:
            what = "dockerd ended" if ended else f"dockerd does not answer after {_START_SECONDS} s"
            last = "\n  ".join(places.log.read_text(errors="replace").splitlines()[-8:])
            remedy = "the log says why; `images engine down` removes what this left"
            raise SlipwayError(Exit.UNAVAILABLE, f"{what}\n  {last}", where=str(places.log), remedy=remedy)


def _alive(places: Places) -> Record | None:
    """The record of this project's engine while its process runs.

    A record that came with a copy of another tree names other folders, and an unreadable one proves nothing.
    """
    try:
        record = msgspec.json.decode(places.record.read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    ours = record.data_root == str(places.data) and _started(record.pid) == record.started
    return record if ours else None


def end_daemon(places: Places, say: Say) -> None:
    """Ends the engine with its containers; its data stay."""
    if record := _alive(places):
        say(f"stopping Docker Engine {record.version}, process {record.pid}")
        _end(record.pid, record.started, _STOP_SECONDS)
    while left := _left_over(places):
        for pid, started in left:
            _end(pid, started, 0)


def remove(places: Places, say: Say) -> None:
    """Removes everything of an engine that has ended."""
    _unmount(places)
    _remove_shim_sockets(places)
    _remove_cgroups(places, say)
    for path in (places.run, places.home):
        if path.exists():
            with cannot_write(path):
                shutil.rmtree(path)
            say(f"removed {path}")
    places.record.unlink(missing_ok=True)


# What it leaves: processes, mounts, sockets, cgroups


def _started(pid: int) -> int | None:
    """When a process started (proc_pid_stat(5), field 22); None where it is gone or only its exit status is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _gone(pid: int, seconds: float) -> bool:
    """Whether the process has ended, waiting up to `seconds` for that; collects it where it is our child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        ended = bool(select.select([fd], [], [], seconds)[0])
    finally:
        os.close(fd)
    if ended:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return ended


def _end(pid: int, started: int, patience: float) -> None:
    """TERM, after `patience` seconds KILL, to no other process than the one that started at `started`.

    Returns when it is gone. Raises SlipwayError 75 where even KILL does not end it.
    """
    for signum, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            try:
                if _started(pid) == started:  # asked with the pidfd open, which stays with that process
                    signal.pidfd_send_signal(fd, signum)
            finally:
                os.close(fd)
        if _started(pid) != started or _gone(pid, seconds):
            return
    raise SlipwayError(Exit.TRY_AGAIN, f"process {pid} of the engine does not end")


def _left_over(places: Places) -> list[tuple[int, int]]:
    """(pid, start) of all in this engine's cgroups, and of Docker's programs whose command line names its folders."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            program = (folder / "comm").read_text()
            words = (folder / "cmdline").read_text(errors="replace")
            groups = (folder / "cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        named = any(f"{path}/" in words for path in (places.run, places.home))
        ours = named and program.startswith(("dockerd", "containerd", "runc"))
        started = _started(int(folder.name))
        if started is not None and (ours or f":/{places.run.name}/" in groups):
            found.append((int(folder.name), started))
    return found


def _unmount(places: Places) -> None:
    while points := _mounts(places.data, places.run):
        done = subprocess.run(["umount", points[0]], capture_output=True, text=True)
        if done.returncode and points[0] in _mounts(places.data, places.run):
            raise SlipwayError(Exit.TRY_AGAIN, f"cannot unmount: {done.stderr.strip()}", where=points[0])


def _mounts(*folders: Path) -> list[str]:
    """Mount points at or below `folders`, deepest first."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    points = [re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split()[4]) for line in lines]
    return sorted((p for p in points if any(Path(p).is_relative_to(f) for f in folders)), key=len, reverse=True)


def _remove_shim_sockets(places: Places) -> None:
    """containerd's shims listen below /run/containerd, whatever the exec-root, and only name their sockets in it."""
    for file in places.run.glob("exec/containerd/daemon/io.containerd.runtime.v2.task/*/*/address"):
        socket = file.read_text().strip().removeprefix("unix://")
        if socket.startswith("/run/containerd/s/"):
            Path(socket).unlink(missing_ok=True)


def _remove_cgroups(places: Places, say: Say) -> None:
    """Removes this engine's cgroups: one tree per controller (v1), or one for all (v2)."""
    top = Path("/sys/fs/cgroup")
    for tree in (top / places.run.name, *top.glob(f"*/{places.run.name}")):
        for folder, _, _ in os.walk(tree, topdown=False):
            try:
                Path(folder).rmdir()
            except OSError as e:
                say(f"left {folder}: {e.strerror}")
