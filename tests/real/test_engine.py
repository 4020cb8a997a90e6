"""images/bootstrap/engine.py against real engines: each test has its own, beside whatever else runs on this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from images.bootstrap import engine
from images.bootstrap.debian import need
from images.machine import dockerhost
from slipway.errors import Exit, SlipwayError
from slipway.project import Root

from .support import PROJECT

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start an engine"),
]
NewRoot = Callable[[], Root]


def quiet(_: str) -> None:
    """A `say` for which nobody listens."""


@pytest.fixture(autouse=True, scope="module")
def programs() -> None:
    """What an engine is made of; looked for when the tests run, since others may install it after they were found."""
    try:
        need(Root(PROJECT), quiet, *engine.TOOLS)
    except SlipwayError as e:
        pytest.skip(str(e))


@pytest.fixture(autouse=True)
def no_other_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing names an engine that answers, whatever this machine has: docker's context is a dead one."""
    name, folder = "dead", tmp_path / "docker"
    meta = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Endpoints": {"docker": {"Host": f"unix://{tmp_path}/dead.sock"}}}))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    monkeypatch.setenv("DOCKER_CONTEXT", name)


@pytest.fixture
def new_root(tmp_path: Path) -> Iterator[NewRoot]:
    """Makes project roots, whose engines end with the test."""
    roots: list[Root] = []

    def make() -> Root:
        roots.append(Root(tmp_path / f"project {len(roots)}"))  # the space is on purpose
        roots[-1].path.mkdir()
        return roots[-1]

    yield make
    for root in roots:
        engine.stop(root, quiet)


@pytest.fixture
def root(new_root: NewRoot) -> Root:
    return new_root()


def docker(url: str, *words: str, stdin: bytes | None = None) -> str:
    done = subprocess.run(["docker", "--host", url, *words], input=stdin, capture_output=True, check=True)
    return done.stdout.decode().strip()


def import_sleep(url: str) -> None:
    """An image `sleep` with nothing but that program and its libraries, taken from this machine."""
    program = shutil.which("sleep") or ""
    libraries = re.findall(r"/\S+", subprocess.check_output(["ldd", program], text=True))
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", dereference=True) as archive:
        for file in (program, *libraries):
            archive.add(file)
    docker(url, "import", "-", "sleep", stdin=tar.getvalue())


def private(root: Root) -> engine.Record:
    record = engine.status(root).private
    assert record is not None
    return record


def wait_for_end(*pids: int) -> None:
    """Returns once each of the processes has ended."""
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended = select.select([fd], [], [], 60)[0]  # so that a failing test does not hang
        os.close(fd)
        assert ended, f"process {pid} is still there"


def network() -> tuple[str, str]:
    """ip_forward, and iptables' policies and rules without their counters and dates."""
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    return Path("/proc/sys/net/ipv4/ip_forward").read_text(), re.sub(r"\[\d+:\d+\]|^#.*$", "", rules, flags=re.M)


def traces(root: Root) -> list[str]:
    """What is left of the engine on this machine."""
    places = engine.Places.of(root)
    files = [str(p) for p in (places.home, places.run, places.record) if p.exists()]
    cgroups = [str(p) for p in Path("/sys/fs/cgroup").glob(f"**/{places.run.name}")]
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(places.run) in line]
    mounts += [m for m in Path("/proc/self/mountinfo").read_text().splitlines() if str(root.path.parent) in m]
    words = [p.read_bytes().decode(errors="replace") for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
    return files + cgroups + mounts + [w for w in words if str(places.run) in w or str(places.home) in w]


def test_it_answers_and_leaves_the_network_as_it_was(root: Root) -> None:
    before = network()
    said: list[str] = []
    address = engine.ensure(root, said.append)
    assert address.source == ".slipway/engine.json" and dockerhost.answers(address.url)
    assert len(said) == 1 and said[0].startswith("starting Docker Engine ")
    assert network() == before

    info = json.loads(docker(address.url, "info", "--format", "{{json .}}"))
    assert info["Driver"] == "overlayfs"
    assert ["driver-type", "io.containerd.snapshotter.v1"] in info["DriverStatus"]
    assert info["DockerRootDir"] == str(engine.Places.of(root).data)
    assert dockerhost.peer_pid(address.url) == private(root).pid

    record = private(root)
    assert engine.ensure(root, said.append) == address and private(root) == record
    assert len(said) == 1, "the second call finds the engine and has nothing to say"


def test_two_commands_at_once_start_one(root: Root) -> None:
    code = (
        "import sys, pathlib; from images.bootstrap import engine; from slipway.project import Root;"
        "root = Root(pathlib.Path(sys.argv[1])); engine.ensure(root, print); print(engine.status(root).private.pid)"
    )
    argv, here = [sys.executable, "-c", code, str(root.path)], Path(engine.__file__).parents[2]
    both = [subprocess.Popen(argv, cwd=here, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = [line for process in both for line in process.communicate()[0].splitlines()]
    assert [line for line in lines if line.isdigit()] == [str(private(root).pid)] * 2
    assert len([line for line in lines if line.startswith("starting")]) == 1


@pytest.mark.parametrize("shim_dies_too", [False, True])
def test_stop_after_a_crash_leaves_nothing(root: Root, shim_dies_too: bool) -> None:
    url = engine.ensure(root, quiet).url
    import_sleep(url)
    container = docker(url, "run", "--detach", "--network", "none", "sleep", "sleep", "1000")
    program = int(docker(url, "inspect", "--format", "{{.State.Pid}}", container))
    context = root.path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text('FROM sleep\nRUN ["sleep", "0"]\n')
    docker(url, "buildx", "build", "--network", "host", "--tag", "built", str(context))
    places = engine.Places.of(root)
    (address,) = places.run.glob(f"exec/**/{container}/address")
    socket = Path(address.read_text().removeprefix("unix://"))
    assert socket.is_socket() and not socket.is_relative_to(places.run)
    daemon, shim = private(root).pid, int(Path(f"/proc/{program}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(daemon, signal.SIGKILL)
    if shim_dies_too:
        os.kill(shim, signal.SIGKILL)
        wait_for_end(shim)
    wait_for_end(daemon)
    assert Path(f"/proc/{program}").exists(), "the container outlives its engine"

    said: list[str] = []
    engine.stop(root, said.append)
    wait_for_end(program, shim)
    assert traces(root) == []
    assert not socket.exists()
    assert [line for line in said if line.startswith("left")] == []
    engine.stop(root, said.append)
    assert said[-1] == "there is no private engine"


def test_stop_ends_a_running_engine_with_its_containers(root: Root) -> None:
    url = engine.ensure(root, quiet).url
    import_sleep(url)
    container = docker(url, "run", "--detach", "--init", "--network", "none", "sleep", "sleep", "1000")
    program = int(docker(url, "inspect", "--format", "{{.State.Pid}}", container))
    engine.stop(root, quiet)
    wait_for_end(program)
    assert traces(root) == []


def test_images_survive_a_crash(root: Root) -> None:
    first = engine.ensure(root, quiet)
    import_sleep(first.url)
    before = private(root)
    os.kill(before.pid, signal.SIGKILL)
    wait_for_end(before.pid)
    assert engine.status(root).private is None
    assert engine.ensure(root, quiet) == first
    assert private(root).pid != before.pid
    assert docker(first.url, "images", "--format", "{{.Repository}}") == "sleep"


def test_stop_leaves_another_trees_engine_alone(new_root: NewRoot) -> None:
    """A copied tree brings engine.json along: the engine that it names belongs to the first tree."""
    ours, copy = new_root(), new_root()
    url = engine.ensure(ours, quiet).url
    other = engine.ensure(copy, quiet).url
    assert other != url and dockerhost.answers(url)
    engine.stop(copy, quiet)
    assert not dockerhost.answers(other)
    shutil.copytree(ours.state, copy.state, dirs_exist_ok=True, ignore=shutil.ignore_patterns("engine"))
    engine.stop(copy, quiet)
    assert dockerhost.answers(url)
    assert not engine.Places.of(copy).record.exists()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of the engine's."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def test_stop_leaves_a_process_alone_that_only_has_the_pid(root: Root, bystander: subprocess.Popen[bytes]) -> None:
    places = engine.Places.of(root)
    record = engine.Record(places.url, bystander.pid, 1, str(places.data), str(places.run), "26.1.5")
    places.record.parent.mkdir()
    places.record.write_text(json.dumps(dataclasses.asdict(record)))
    assert engine.status(root).private is None
    engine.stop(root, quiet)
    assert bystander.poll() is None
    assert not places.record.exists()


def test_what_dockerd_says_is_shown_when_it_ends(root: Root) -> None:
    places = engine.Places.of(root)
    places.home.mkdir(parents=True)
    places.data.write_text("a file where dockerd wants a folder")
    with pytest.raises(SlipwayError, match=r"dockerd ended\n(.*\n)*.* points to a file") as e:
        engine.ensure(root, quiet)
    assert (e.value.code, e.value.where) == (Exit.UNAVAILABLE, str(places.log))
    engine.stop(root, quiet)
    assert traces(root) == []


def test_a_dead_docker_host_is_not_replaced(root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private engine would go unused: DOCKER_HOST stands above it."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/dead.sock")
    with pytest.raises(SlipwayError, match="no Docker engine answers") as e:
        engine.ensure(root, quiet)
    assert (e.value.code, e.value.remedy) == (Exit.UNAVAILABLE, "start that engine, or unset DOCKER_HOST")
    assert traces(root) == []


def test_docker_host_may_name_the_private_engine(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    url = engine.Places.of(root).url
    monkeypatch.setenv("DOCKER_HOST", url)
    assert engine.ensure(root, quiet) == dockerhost.Address(url, "DOCKER_HOST")
    assert dockerhost.answers(url)
