"""Prints what configuration files in an image say, for the image's record; run by the image's own Python:

    python -I -B -c THIS_TEXT LOADER FILE...

LOADER is a Python file of the library whose load_config reads them, since they may inherit from one another; where it
is empty, they are plain YAML, read as step programs read it. stdout is one JSON document: file -> its `sha256`, that of
every other file that was read for it (`inherits`) and its `values`, or `why` they are not known. Only regular files of
at most 1 MiB are read, and only what JSON can say is told. The standard library, and the image's own yaml.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import signal
import stat
import sys
from typing import Any

BYTES = 1 << 20  # of one file
NODES, DEPTH = 50_000, 64  # of one configuration: aliases in YAML can make much of little
SECONDS = 300  # for all of it


class Unknown(Exception):
    """Why a file's values are not known."""


class Watch:
    """The YAML files that a loader opens: each is looked at before, and its sha256 kept."""

    def __init__(self) -> None:
        self.opened: dict[str, str] | None = None
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or self.opened is None or not isinstance(arguments[0], (str, os.PathLike)):
            return
        path = os.path.abspath(os.fspath(arguments[0]))  # noqa: PTH100 (an event of every open: nothing more than that)
        if not path.endswith((".yaml", ".yml")):
            return
        opened, self.opened = self.opened, None  # what we open ourselves is no news
        try:
            opened[path] = hashlib.sha256(content(path)).hexdigest()
        finally:
            self.opened = opened


def content(path: str) -> bytes:
    """The bytes of a regular file. Raises Unknown."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError as e:
        raise Unknown(f"{path} is not in the image") from e
    except OSError as e:
        raise Unknown(f"{path}: {e.strerror}") from e
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise Unknown(f"{path} is no regular file")
        data = file.read(BYTES + 1)
        if len(data) > BYTES:
            raise Unknown(f"{path} has more than {BYTES} bytes")
        return data


def load(loader: str, path: str) -> Any:
    """What a step program starts from: the library's loader, or YAML."""
    if not loader:
        import yaml

        return yaml.safe_load(content(path).decode())
    content(loader)
    spec = importlib.util.spec_from_file_location("slipway_loader", loader)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.load_config(path)
    from omegaconf import OmegaConf

    return OmegaConf.to_container(found, resolve=False)


def plain(value: Any, key: str, left: list[int]) -> Any:
    """A copy in JSON's types. Raises Unknown where that would say something else than the file does."""
    left[0] -= 1
    if left[0] < 0 or key.count(".") > DEPTH:
        raise Unknown(f"more than {NODES} values, or deeper than {DEPTH}")
    if isinstance(value, dict):
        return {name_of(name, key): plain(item, f"{key}.{name}", left) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item, f"{key}.{n}", left) for n, item in enumerate(value)]
    whole = isinstance(value, int) and abs(value) < 1 << 63  # bool, too
    if value is None or whole or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, str):
        value.encode()  # half a surrogate pair is no text
        return value
    raise Unknown(f"{key[1:]}: {value!r} is nothing that JSON has")


def name_of(name: object, key: str) -> str:
    if not isinstance(name, str):
        raise Unknown(f"{key[1:] or 'top'}: the key {name!r} is no text")
    return name


def look(watch: Watch, loader: str, path: str) -> dict[str, Any]:
    """One file's entry of what is printed."""
    try:
        own = hashlib.sha256(content(path)).hexdigest()
        watch.opened = {}
        try:
            values = load(loader, path)
        finally:
            opened, watch.opened = watch.opened, None
        if not isinstance(values, dict):
            raise Unknown(f"{path} is no mapping")
        inherits = {name: digest for name, digest in sorted(opened.items()) if name != path}
        return {"sha256": own, "inherits": inherits, "values": plain(values, "", [NODES])}
    except Unknown as e:
        return {"why": str(e)}
    except Exception as e:  # noqa: BLE001 - a library's own, of a file that it cannot read
        return {"why": f"{path}: {type(e).__name__}: {' '.join(str(e).split())[:300]}"}


def late(*_: Any) -> None:
    os._exit(75)  # PID 1 of a container does not end by a signal alone


def main() -> None:
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints while it is imported
    watch, loader = Watch(), sys.argv[1]
    said = {path: look(watch, loader, path) for path in sys.argv[2:]}
    with os.fdopen(out, "w", encoding="utf-8") as stream:
        json.dump(said, stream, allow_nan=False)


if __name__ == "__main__":
    main()
