"""The way to an engine on another machine, through the `ssh` command, as docker's own: docker system dial-stdio there.

The SDK has a way of its own, which wants paramiko even where it calls that same command. Here it talks to a socket of
ours, and each of its connections is given to a process of ssh as stdin and stdout.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

PATIENCE = 5.0  # seconds that ssh has to leave once its connection is closed


@contextlib.contextmanager
def reached(url: str) -> Iterator[str]:
    """The URL to talk to: a socket that leads to an ssh:// engine, any other as it is."""
    if not url.startswith("ssh://"):
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="slipway-ssh-") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder) / "socket"
        listener.bind(str(path))
        listener.listen()
        started: list[subprocess.Popen[bytes]] = []
        thread = threading.Thread(target=_serve, args=(listener, command(url), started), daemon=True)
        thread.start()
        try:
            yield f"unix://{path}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # ends accept
            thread.join()
            for process in started:
                _end(process)


def command(url: str) -> list[str]:
    """The words for ssh://[USER@]HOST[:PORT][/PATH]; a path is that of the engine's socket there."""
    parts = urlsplit(url)
    user = ["-l", parts.username] if parts.username else []
    port = ["-p", str(parts.port)] if parts.port else []
    there = ["--host", f"unix://{parts.path}"] if parts.path.strip("/") else []
    options = [*user, *port, "-o", "ConnectTimeout=30", "-T"]
    return ["ssh", *options, "--", parts.hostname or "", "docker", *there, "system", "dial-stdio"]


def remedy(url: str) -> str:
    """What shows why an ssh:// engine does not answer; empty for others."""
    return f"see what this says: {' '.join(command(url)[:-2])} version" if url.startswith("ssh://") else ""


def _serve(listener: socket.socket, words: list[str], started: list[subprocess.Popen[bytes]]) -> None:
    """A process a connection, until the listener is shut down. In a session of its own: Ctrl-C is for the run."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, contextlib.suppress(FileNotFoundError):  # without ssh the connection ends, which is said
            started.append(
                subprocess.Popen(words, stdin=connection.fileno(), stdout=connection.fileno(), start_new_session=True)
            )


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
