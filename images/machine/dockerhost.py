"""Which Docker engine a command talks to, and whether it answers."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from images.machine import sshway
from slipway.errors import Exit, SlipwayError
from slipway.project import Root

DEFAULT = "unix:///var/run/docker.sock"
RECORD = "engine.json"  # in Root.state: the project's own engine, its URL under `address`
_PATIENCE = 5.0  # seconds; a dead engine's socket refuses at once, only a busy engine takes longer
_REMEDY = "start one, set DOCKER_HOST, or run: images engine up"


@dataclass(frozen=True)
class Address:
    """An engine's URL and, in words for people, where it was found."""

    url: str
    source: str


def find(root: Root, wanted: str | None = None) -> Address:
    """The engine to talk to: `wanted` (a profile's `engine:`), DOCKER_HOST, the project's own, docker's context.

    The project's own counts only while it answers; no other is asked. A blank value is an unset one.
    Raises SlipwayError 78 for a configuration that is no JSON or names a context that is not there, 77 for a record
    of an engine that others may write.
    """
    if wanted and wanted.strip():
        return Address(wanted.strip(), "the profile's engine")
    if named := _variable("DOCKER_HOST"):
        return Address(named, "DOCKER_HOST")
    own = _value(root.kept(RECORD), "address")
    if own and answers(own):
        return Address(own, f"{root.state.name}/{RECORD}")
    return _context()


def answers(url: str) -> bool:
    """Whether a unix:// or tcp:// engine answers `GET /_ping`, within seconds.

    Behind TLS it answers 400 to plain HTTP, which counts. Any other scheme (ssh://, npipe://) is True without being
    asked: only docker itself can reach those, and its own error says more than a guess of ours.
    """
    if not url.startswith(("unix://", "tcp://")):
        return True
    try:
        with _connect(url) as s:
            s.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            words = s.makefile("rb").readline(256).split()
    except (OSError, ValueError):  # ValueError: a port that is no number
        return False
    good = (b"200",) if url.startswith("unix://") else (b"200", b"400")
    return len(words) > 1 and words[0].startswith(b"HTTP/") and words[1] in good


@contextmanager
def engine_client(address: Address) -> Iterator[Any]:
    """A docker SDK client for `address`. Raises SlipwayError 69 where nothing answers there."""
    import docker
    import docker.errors
    import requests

    with sshway.reached(address.url) as url:
        try:
            client = docker.DockerClient(base_url=url, timeout=600)
            client.ping()
        except docker.errors.DockerException as e:
            raise SlipwayError(
                Exit.UNAVAILABLE,
                "no Docker engine answers",
                where=f"{address.url} (from {address.source})",
                remedy=sshway.remedy(address.url) or _REMEDY,
            ) from e
        try:
            yield client
        except requests.exceptions.RequestException as e:
            raise SlipwayError(Exit.UNAVAILABLE, f"the engine went away: {e}", where=address.url, remedy=_REMEDY) from e
        finally:
            client.close()


def elsewhere(url: str, info: Mapping[str, Any]) -> str:
    """The machine that the engine is on, where that is another one: a socket is this one's, other URLs may be.

    `info`: what the engine says of itself.
    """
    host, here = urlsplit(url).hostname or "localhost", os.uname().nodename
    if url.startswith("unix://") or (host in ("localhost", "127.0.0.1", "::1", here) and info.get("Name") == here):
        return ""
    return str(info.get("Name") or host)


def owner(url: str) -> int | None:
    """Uid of who owns a unix:// engine's socket; None where there is none to look at."""
    try:
        return Path(url.removeprefix("unix://")).stat().st_uid if url.startswith("unix://") else None
    except OSError:
        return None


def peer_pid(url: str) -> int | None:
    """The pid behind a unix:// engine's socket; None where it is unreachable, not on this machine or systemd's."""
    if not url.startswith("unix://") or not hasattr(socket, "SO_PEERCRED"):
        return None
    try:
        with _connect(url) as s:
            credentials = s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    except OSError:
        return None
    pid = int(struct.unpack("iII", credentials)[0])
    return pid if pid > 1 else None  # 1: systemd made the socket; 0: a process outside this pid namespace


def _connect(url: str) -> socket.socket:
    if url.startswith("tcp://"):
        parts = urlsplit(url)
        return socket.create_connection((parts.hostname or "localhost", parts.port or 2375), _PATIENCE)
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(_PATIENCE)
    try:
        s.connect(url.removeprefix("unix://"))
    except OSError:
        s.close()
        raise
    return s


def _context() -> Address:
    """The docker CLI's current context, from the files in which it keeps them."""
    folder = Path(_variable("DOCKER_CONFIG") or Path.home() / ".docker")
    name = _variable("DOCKER_CONTEXT") or _value(folder / "config.json", "currentContext")
    if name in ("", "default"):
        return Address(DEFAULT, "docker's default")
    meta = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
    url = _value(meta, "Endpoints", "docker", "Host")
    if not url:
        remedy = "`docker context ls` lists them, `docker context use default` leaves this one"
        raise SlipwayError(Exit.CONFIG, f"there is no docker context {name!r}", where=str(folder), remedy=remedy)
    return Address(url, f"docker context {name!r}")


def _value(path: Path, *keys: str) -> str:
    """The text at `keys` in a JSON file; empty where there is none or, as for docker itself, the file is unreadable."""
    try:
        value: Any = json.loads(path.read_bytes())
    except OSError:
        return ""
    except ValueError as e:
        raise SlipwayError(Exit.CONFIG, f"not valid JSON: {e}", where=str(path)) from e
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()
