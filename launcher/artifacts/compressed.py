"""Files as their bytes, unpacked where they are gzip's or zstd's."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import cast

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BufferedIOBase]:
    """The file's bytes, unpacked where they are gzip's or zstd's (by magic). Raises OSError for broken packing.

    zstd is the program: Python 3.11 has no module of it, and its pipe unpacks on another core meanwhile.
    """
    with path.open("rb") as f:
        magic = f.read(4)
        f.seek(0)
        if magic.startswith(GZIP):
            with gzip.open(f) as unpacked, _broken(path):
                yield unpacked
        elif magic == ZSTD:
            yield from _zstd(path)
        else:
            yield f


def packed(path: Path) -> bool:
    """Whether the file is gzip's or zstd's: it can be read from its beginning only."""
    with path.open("rb") as f:
        return f.read(4).startswith((GZIP, ZSTD))


def zstd(path: Path) -> bool:
    """Whether the file is zstd's, which no image can unpack."""
    with path.open("rb") as f:
        return f.read(4) == ZSTD


@contextlib.contextmanager
def _broken(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise OSError(0, f"the gzip data is broken: {e}", str(path)) from e


def _zstd(path: Path) -> Iterator[BufferedIOBase]:
    if not shutil.which("zstd"):
        what = "it is packed with zstd, and there is no zstd program to unpack it; unpack it, or pack it with gzip"
        raise OSError(0, what, str(path))
    command = ["zstd", "-dcq", "--", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None and program.stderr is not None
        try:
            yield cast(BufferedIOBase, program.stdout)
            if not program.stdout.read(1) and program.wait():
                why = program.stderr.read(1000).decode(errors="replace").strip().rpartition(": ")[2]
                raise OSError(0, f"the zstd data is broken: {why}", str(path))
        finally:
            program.kill()  # where the reader has seen enough
