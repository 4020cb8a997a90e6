"""Logs that lie in the run directory, one file a node, as engines that write them there need to follow them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from slipway import inbox

POLL = 0.3  # seconds between two looks at files that grow


def read(folder: Path, over: Callable[[], bool] | None) -> Iterator[bytes]:
    """What the *.log files in `folder` hold; then what is added to them until `over()`, where that is given.

    With logs of several nodes, every line begins with the name of its file. A line comes when it is whole, or last.
    """
    places: dict[Path, int] = {}
    while True:
        last = over is None or over()  # asked before the files are read: what was written until then is told
        files = sorted(folder.glob("*.log"), key=lambda path: (len(path.name), path.name))
        many = sum(path.name.startswith("node-") for path in files) > 1
        for path in files:
            text = _since(path, places.get(path, 0))
            whole = text if last else text[: text.rfind(b"\n") + 1]
            places[path] = places.get(path, 0) + len(whole)
            if whole:
                yield _marked(path.stem, whole) if many else whole
        if last:
            return
        time.sleep(POLL)


def tail(folder: Path, size: int = 65536) -> str:
    """The ends of all logs, for what an engine says in them."""
    return "".join(_since(path, -size).decode(errors="replace") for path in sorted(folder.glob("*.log")))


def _since(path: Path, place: int) -> bytes:
    """A log from a place on; from its end where that is negative. Raises SlipwayError 65 where it is no plain file."""
    file = inbox.opened(path.parent.parent, f"{path.parent.name}/{path.name}")
    if file is None:
        return b""
    with file:
        file.seek(place if place >= 0 else max(0, os.fstat(file.fileno()).st_size + place))
        return file.read()


def _marked(name: str, text: bytes) -> bytes:
    return b"".join(name.encode() + b"| " + line for line in text.splitlines(keepends=True))
