"""Files that are whole or absent: written beside their place, synced, renamed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from slipway.errors import Exit, SlipwayError


@contextlib.contextmanager
def cannot_write(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into the error with exit code 73 that names `path`."""
    try:
        yield
    except OSError as e:
        raise SlipwayError(Exit.CANNOT_WRITE, f"cannot write: {e.strerror or e}", where=str(path)) from e


@contextlib.contextmanager
def cannot_read(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into the error with exit code 66 that names `path`."""
    try:
        yield
    except OSError as e:
        raise SlipwayError(Exit.NO_INPUT, f"cannot read: {e.strerror or e}", where=str(path)) from e


def write_atomic(path: Path, data: str | bytes, mode: int = 0o644) -> None:
    """Writes `path` whole or not at all, also across a crash; makes missing parents. Raises SlipwayError 73."""
    blob = data.encode() if isinstance(data, str) else data
    with cannot_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as f:
                f.write(blob)
                f.flush()
                os.fsync(f.fileno())
            Path(name).chmod(mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def read_text(path: Path) -> str:
    """The text of `path`. Raises SlipwayError 66 where it is missing or is no UTF-8 file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "not UTF-8"
        raise SlipwayError(Exit.NO_INPUT, f"cannot read: {why}", where=str(path)) from e


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
