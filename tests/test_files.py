"""slipway/files.py: files that are whole or absent."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from slipway.errors import Exit, SlipwayError
from slipway.files import cannot_write, read_text, sha256_file, write_atomic


def test_a_file_is_written_with_its_parents_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "script.sh"
    write_atomic(path, "échó\n", mode=0o755)
    assert path.read_text(encoding="utf-8") == "échó\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert list(path.parent.iterdir()) == [path]


def test_what_is_there_is_replaced_as_a_whole_not_written_into(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other name of the old file"
    path.write_text("old")
    os.link(path, other)
    write_atomic(path, b"new")
    assert (path.read_text(), other.read_text()) == ("new", "old")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(SlipwayError, match="cannot write") as e:
        write_atomic(path, "a file cannot take a folder's place")
    assert (e.value.code, e.value.where) == (Exit.CANNOT_WRITE, str(path))
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_cannot_be_a_parent(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SlipwayError) as e:
        write_atomic(tmp_path / "file" / "below", "")
    assert e.value.code == Exit.CANNOT_WRITE


def test_a_full_disk_is_said_with_the_place() -> None:
    with (
        pytest.raises(SlipwayError, match="No space left on device") as e,
        cannot_write(Path("/out")),
        open("/dev/full", "w") as full,  # noqa: PTH123
    ):
        full.write("x")
        full.flush()
    assert (e.value.code, e.value.where) == (Exit.CANNOT_WRITE, "/out")


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file or directory"), (b"\xff\xfe", "not UTF-8"), ("folder", "Is a directory")]
)
def test_what_cannot_be_read_is_a_missing_input(tmp_path: Path, content: bytes | str | None, why: str) -> None:
    path = tmp_path / "file"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.mkdir()
    with pytest.raises(SlipwayError, match=f"cannot read: {why}") as e:
        read_text(path)
    assert (e.value.code, e.value.where) == (Exit.NO_INPUT, str(path))


def test_the_checksum_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()
