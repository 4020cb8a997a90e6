"""Rows that are the same, byte for byte, in bounded memory: digests go to files by their first byte."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from typing import IO

DIGEST, NUMBER = 16, 8  # bytes
RECORD = DIGEST + NUMBER
PARTS = 256
HELD = 32 << 20  # bytes of digests in memory, before they go to files


class Duplicates:
    """Takes one row after the other, and says in the end which came before.

    Memory: HELD, and one of 256 parts of all digests at a time. Of more rows than that, 24 bytes of disk each, in files
    without a name.
    """

    def __init__(self) -> None:
        self._held = [bytearray() for _ in range(PARTS)]
        self._files: list[IO[bytes]] = []
        self._open = contextlib.ExitStack()
        self._rows = self._bytes = 0

    def __enter__(self) -> Duplicates:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, row: bytes) -> None:
        """The next row, without the end of its line."""
        digest = hashlib.blake2b(row, digest_size=DIGEST).digest()
        self._held[digest[0]] += digest + self._rows.to_bytes(NUMBER, "little")
        self._rows += 1
        self._bytes += RECORD
        if self._bytes >= HELD:
            self._spill()

    def found(self, most: int) -> tuple[int, list[tuple[int, int]]]:
        """How many rows came before, and the first `most` of them: the row, and the first that is the same."""
        count, first = 0, list[tuple[int, int]]()
        for part in range(PARTS):
            seen: dict[bytes, int] = {}
            records = self._part(part)
            for at in range(0, len(records), RECORD):
                number = int.from_bytes(records[at + DIGEST : at + RECORD], "little")
                before = seen.setdefault(records[at : at + DIGEST], number)
                if before != number:
                    count += 1
                    first.append((number, before))
            first = sorted(first)[:most]
        return count, first

    def _part(self, part: int) -> bytes:
        if not self._files:
            return bytes(self._held[part])
        self._files[part].seek(0)
        return self._files[part].read() + self._held[part]

    def _spill(self) -> None:
        if not self._files:
            self._files += [self._open.enter_context(tempfile.TemporaryFile()) for _ in range(PARTS)]  # noqa: SIM115
        for file, held in zip(self._files, self._held, strict=True):
            file.write(held)
            held.clear()
        self._bytes = 0
