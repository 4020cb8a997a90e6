"""What `launch runs` knows of runs that have ended, so that it need not read all their records again.

It is the user's own, in the cache folder, one file for each folder of runs; without it everything is read anew. A row
counts while the run's record is the very file that it was made of.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from slipway import inbox
from slipway.errors import SlipwayError
from slipway.files import PRIVATE, check_own, make_folders, own_folder, write_atomic

SCHEMA = 1  # of the rows: those of another are forgotten
LIMIT = 512 * 2**20
MANY = 100  # runs: fewer are read as fast
Stamp = tuple[int, int, int]


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run in the list; JSON has all of it. `steps_done` of `steps`, where they are known; `loss` of the last step.

    `seconds_left`: of one that goes on. A `loss` that is no number is the text NaN, Infinity or -Infinity.
    """

    run: str
    state: str
    step: str | None = None
    name: str = ""
    tags: dict[str, str] = {}
    profile: str | None = None
    exit_code: int | None = None
    cause: str | None = None
    reason: str | None = None
    submitted: str | None = None
    steps_done: int | None = None
    steps: int | None = None
    loss: float | str | None = None
    tokens_per_s: float | None = None
    seconds_left: float | None = None
    directory: str
    damaged: list[str] = []


class _File(msgspec.Struct, frozen=True):
    schema: int
    rows: dict[str, tuple[Stamp, Row]]


def stamp(folder: str, run_id: str) -> Stamp | None:
    """Which file a run's record is; None where there is none."""
    try:
        found = os.lstat(f"{folder}/{run_id}/record.json")
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


class Index:
    """Of a folder of runs. What cannot be read or kept is done without."""

    def __init__(self, runs: Path, environment: Mapping[str, str]) -> None:
        self.folder = str(runs)
        home = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or "/nonexistent", ".cache")
        self._place = Path(home, "slipway", "runs")
        self._file = f"{sha256(self.folder.encode()).hexdigest()[:24]}.json"
        self._rows = self._read()
        self._new = False

    def _read(self) -> dict[str, tuple[Stamp, Row]]:
        with contextlib.suppress(SlipwayError, msgspec.DecodeError, OSError):
            check_own(self._place)
            found = msgspec.json.decode(inbox.read(self._place, self._file, LIMIT) or b"", type=_File)
            return found.rows if found.schema == SCHEMA else {}
        return {}

    def get(self, run_id: str) -> Row | None:
        """What is known of a run that has ended."""
        known = self._rows.get(run_id)
        return known[1] if known and known[0] == stamp(self.folder, run_id) else None

    def put(self, made_of: Stamp | None, row: Row) -> None:
        """Keeps the row of a run that has ended. `made_of`: its record, before that was read."""
        if made_of:
            self._rows[row.run] = (made_of, row)
            self._new = True

    def save(self, there: set[str]) -> None:
        """Writes what is new; runs that are not `there` any more are forgotten."""
        if not self._new or len(self._rows) < MANY:
            return
        kept = {run_id: row for run_id, row in self._rows.items() if run_id in there}
        with contextlib.suppress(SlipwayError, OSError):
            make_folders(self._place.parent)
            own_folder(self._place)
            data: Any = msgspec.json.encode(_File(SCHEMA, kept))
            write_atomic(self._place / self._file, data, PRIVATE)
