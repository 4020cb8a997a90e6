"""A hub on loopback for tests (standins/hub.py), with repositories of the tests' own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers import HERE


@dataclass(frozen=True)
class Hub:
    """`url` is its HF_ENDPOINT; `folder` says what it has, and what was asked of it."""

    url: str
    folder: Path

    def add(self, name: str, source: Path, *revisions: str, kind: str = "models") -> str:
        """A commit of `name` (org/name) with the files of `source`, which `revisions` then are; returns it."""
        commit = hashlib.sha1(f"{name} {source}".encode()).hexdigest()
        folder = self.folder / kind / name
        shutil.copytree(source, folder / commit)
        refs = folder / "refs.json"
        known = json.loads(refs.read_text()) if refs.exists() else {}
        refs.write_text(json.dumps(known | dict.fromkeys(revisions, commit)))
        return commit

    @property
    def asked(self) -> list[str]:
        """METHOD PATH STATUS RANGE BYTES of every request that has been answered."""
        log = self.folder / "asked"
        return log.read_text().splitlines() if log.exists() else []

    def bytes_of(self, name: str) -> list[int]:
        """How many bytes of a large file went out, each time it was asked for."""
        stored = [line.split() for line in self.asked if line.startswith("GET /storage/")]
        return [int(words[-1]) for words in stored if words[1].endswith(f"/{name}")]

    def forget(self) -> None:
        (self.folder / "asked").unlink(missing_ok=True)


@contextlib.contextmanager
def hub_in(folder: Path) -> Iterator[Hub]:
    """A hub that ends with the block."""
    folder.mkdir()
    command = [sys.executable, "-IS", str(HERE / "standins" / "hub.py"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            yield Hub(f"http://127.0.0.1:{int(program.stdout.readline())}", folder)
        finally:
            program.terminate()
