"""images/machine/dockerhost.py: which engine a command talks to. The engines here are servers that only know /_ping."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from images.machine import dockerhost
from images.machine.dockerhost import Address
from slipway.errors import Exit, SlipwayError
from slipway.project import Root


class Ping(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/_ping" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """A unix socket's client has no address to log."""


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


Engine = Callable[..., str]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Starts a stand-in that answers /_ping with `status`, and returns its URL."""
    with ExitStack() as stack:

        def start(name: str = "engine", status: int = 200, tcp: bool = False) -> str:
            handler = type("Handler", (Ping,), {"status": status})
            if tcp:
                server: socketserver.TCPServer = socketserver.TCPServer(("127.0.0.1", 0), handler)
                url = f"tcp://127.0.0.1:{server.server_address[1]}"
            else:
                server = socketserver.UnixStreamServer(str(tmp_path / name), handler)
                url = f"unix://{tmp_path / name}"
            stack.enter_context(serving(server))
            return url

        yield start


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path / "project")


@pytest.fixture(autouse=True)
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine where nothing is configured; returns docker's empty configuration folder."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return tmp_path / "docker"


def record(root: Root, value: object) -> Path:
    root.state.mkdir(parents=True, exist_ok=True)
    path = root.state / "engine.json"
    path.write_text(json.dumps(value))
    return path


def add_context(folder: Path, name: str, url: str) -> None:
    meta = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": url}}}))


def use_context(folder: Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"currentContext": name}))


def test_each_source_stands_above_the_next(
    root: Root, engine: Engine, docker_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = engine()
    path = record(root, {"address": own})
    monkeypatch.setenv("DOCKER_HOST", "tcp://variable:1")
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    add_context(docker_config, "far", "ssh://far")
    add_context(docker_config, "near", "unix:///near.sock")
    use_context(docker_config, "near")

    assert dockerhost.find(root, "tcp://profile:1") == Address("tcp://profile:1", "the profile's engine")
    assert dockerhost.find(root) == Address("tcp://variable:1", "DOCKER_HOST")
    monkeypatch.delenv("DOCKER_HOST")
    assert dockerhost.find(root) == Address(own, ".slipway/engine.json")
    path.unlink()
    assert dockerhost.find(root) == Address("ssh://far", "docker context 'far'")
    monkeypatch.delenv("DOCKER_CONTEXT")
    assert dockerhost.find(root) == Address("unix:///near.sock", "docker context 'near'")
    use_context(docker_config, "default")
    assert dockerhost.find(root) == Address("unix:///var/run/docker.sock", "docker's default")
    (docker_config / "config.json").unlink()
    assert dockerhost.find(root) == Address("unix:///var/run/docker.sock", "docker's default")


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_value_is_an_unset_one(
    root: Root, docker_config: Path, monkeypatch: pytest.MonkeyPatch, blank: str
) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.setenv(name, blank)
    add_context(docker_config, "near", "unix:///near.sock")
    use_context(docker_config, "near")
    assert dockerhost.find(root, blank).url == "unix:///near.sock"


def test_the_projects_engine_is_skipped_while_it_does_not_answer(root: Root, engine: Engine, tmp_path: Path) -> None:
    record(root, {"address": f"unix://{tmp_path}/gone"})
    assert dockerhost.find(root).source == "docker's default"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "left"))  # what kill -9 leaves: a socket in the file system with nobody behind it
    left.close()
    record(root, {"address": f"unix://{tmp_path}/left"})
    assert dockerhost.find(root).source == "docker's default"
    record(root, {"address": engine("ill", status=500)})
    assert dockerhost.find(root).source == "docker's default"


@pytest.mark.parametrize("value", [[], {}, {"address": 7}, {"address": ""}, "text"])
def test_a_record_without_an_address_is_skipped(root: Root, value: object) -> None:
    record(root, value)
    assert dockerhost.find(root).source == "docker's default"


def test_files_that_are_no_json_are_named(root: Root, docker_config: Path) -> None:
    docker_config.mkdir()
    (docker_config / "config.json").write_text("{")
    with pytest.raises(SlipwayError, match=r"config\.json: not valid JSON") as e:
        dockerhost.find(root)
    assert e.value.code == Exit.CONFIG
    record(root, {}).write_text("")
    with pytest.raises(SlipwayError, match=r"engine\.json: not valid JSON"):
        dockerhost.find(root)


def test_a_context_that_is_not_there_is_named(root: Root, docker_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "lost")
    with pytest.raises(SlipwayError, match="no docker context 'lost'") as e:
        dockerhost.find(root)
    assert (e.value.code, e.value.where) == (Exit.CONFIG, str(docker_config))


def test_docker_keeps_its_configuration_at_home(root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    add_context(tmp_path / ".docker", "near", "unix:///near.sock")
    use_context(tmp_path / ".docker", "near")
    assert dockerhost.find(root).url == "unix:///near.sock"


@pytest.mark.real
@pytest.mark.skipif(not shutil.which("docker"), reason="no docker command")
def test_the_docker_command_keeps_its_contexts_there(root: Root) -> None:
    make = ["docker", "context", "create", "made", "--docker", "host=tcp://made.example:2375"]
    for command in (make, ["docker", "context", "use", "made"]):
        subprocess.run(command, check=True, capture_output=True)
    assert dockerhost.find(root) == Address("tcp://made.example:2375", "docker context 'made'")


@pytest.mark.parametrize(
    ("status", "tcp", "good"),
    [
        (200, False, True),
        (400, False, False),
        (404, False, False),
        (200, True, True),
        (400, True, True),
        (500, True, False),
    ],
)
def test_what_counts_as_an_answer(engine: Engine, status: int, tcp: bool, good: bool) -> None:
    assert dockerhost.answers(engine(status=status, tcp=tcp)) is good


def test_what_is_not_there_does_not_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for url in (f"unix://{tmp_path}/none", f"unix://{tmp_path}/{'x' * 200}", f"tcp://127.0.0.1:{port}", "tcp://h:port"):
        assert not dockerhost.answers(url), url


def test_an_engine_that_hangs_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dockerhost, "_PATIENCE", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen()
        assert not dockerhost.answers(f"unix://{tmp_path}/silent")


def test_what_only_docker_can_reach_is_not_asked() -> None:
    assert dockerhost.answers("ssh://nobody@nowhere.invalid")


def test_the_process_behind_a_socket(engine: Engine, tmp_path: Path) -> None:
    assert dockerhost.peer_pid(engine()) == os.getpid()
    assert dockerhost.peer_pid(f"unix://{tmp_path}/none") is None
    assert dockerhost.peer_pid(engine(tcp=True)) is None


def test_importing_it_is_cheap() -> None:
    """Every launch asks for the engine, also those that never talk to it."""
    code = (
        "import sys, images.machine.dockerhost; print(*{'docker', 'http.client', 'msgspec', 'yaml'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""
