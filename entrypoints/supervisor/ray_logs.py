"""Ray's logs, which it writes into its temporary directory."""

from __future__ import annotations

import glob
import os


class RayLogs:
    """Below `folder` they outlive the container. Ray cannot write there itself: it makes sockets and locks beside its
    logs, which shared storage may refuse."""

    def __init__(self, temp: str, folder: str) -> None:
        self._sessions, self._folder = f"{glob.escape(temp)}/session_2*/logs", folder
        self._copied: dict[str, int] = {}

    def carry(self) -> None:
        """Appends what Ray has written since to the same files."""
        try:
            for logs in sorted(glob.glob(self._sessions)):
                for here, _, names in os.walk(logs):
                    for name in sorted(names):
                        self._append(f"{here}/{name}", f"{self._folder}/{os.path.relpath(f'{here}/{name}', logs)}")
        except OSError:  # a file that is gone again, or a disk that is full: the next time
            pass

    def _append(self, source: str, target: str) -> None:
        if not os.path.isfile(source):
            return
        size, done = os.stat(source).st_size, self._copied.get(source, 0)
        if size < done:
            done = 0  # it was turned over
        if size == done:
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(source, "rb") as read, open(target, "ab") as write:
            read.seek(done)
            write.write(read.read(size - done))
        self._copied[source] = size


def last_line(folder: str, name: str) -> str:
    """Why a process has ended; `ray start` says it of its own before the last line."""
    try:
        with open(f"{folder}/{name}", encoding="utf-8", errors="replace") as f:
            lines = [line.rstrip("\n") for line in f if line.strip()]
    except OSError:
        lines = []
    line = next((line for line in lines if "exit code=" in line), lines[-1] if lines else "")
    return line.rpartition(" -- ")[2] or "it said nothing"
