"""slipway/files.py: files that are whole or absent."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.errors import Exit, SlipwayError
from slipway.files import (
    PRIVATE,
    cannot_write,
    keep_private,
    make_folders,
    make_private,
    own_folder,
    private,
    read_text,
    sha256_file,
    write_atomic,
    written,
)


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


MASKS = [0o000, 0o002, 0o022, 0o077]


@pytest.fixture(params=MASKS, ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.usefixtures("umask")
def test_modes_are_those_that_are_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    write_atomic(tmp_path / "all may read", "")
    write_atomic(tmp_path / "private", "", PRIVATE)
    make_private(tmp_path / "folder")
    open(tmp_path / "log", "ab", opener=private).close()
    modes = {path.name: mode(path) for path in tmp_path.iterdir()}
    assert modes == {"all may read": 0o644, "private": 0o600, "folder": 0o700, "log": 0o600}


def test_folders_can_be_written_by_others_only_where_somebody_made_them_so(tmp_path: Path, umask: int) -> None:
    make_folders(tmp_path / "a" / "b")
    assert [mode(tmp_path / "a"), mode(tmp_path / "a" / "b")] == [0o755 & ~umask] * 2


def test_a_file_is_nobody_elses_while_it_is_written(tmp_path: Path) -> None:
    with written(tmp_path / "file") as f:
        f.write(b"half")
        (part,) = tmp_path.iterdir()
        assert mode(part) == 0o600
    assert mode(tmp_path / "file") == 0o644


def test_a_tree_is_kept_private_with_its_programs_its_group_and_its_links(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    (folder / "below").mkdir(parents=True)
    outside.touch()
    for name in ("program", "below/text"):
        (folder / name).touch()
    (folder / "link").symlink_to(outside)
    for path, bits in ((folder, 0o2777), (folder / "program", 0o775), (folder / "below/text", 0o664), (outside, 0o644)):
        path.chmod(bits)
    keep_private(folder)
    assert (mode(folder), mode(folder / "below"), mode(outside)) == (0o2700, mode(folder / "below") & 0o7700, 0o644)
    assert (mode(folder / "program"), mode(folder / "below" / "text")) == (0o700, 0o600)


@pytest.mark.usefixtures("umask")
def test_a_folder_of_ones_own_is_made_or_closed(tmp_path: Path) -> None:
    own_folder(tmp_path / "new")
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o777)
    own_folder(tmp_path / "there")
    assert (mode(tmp_path / "new"), mode(tmp_path / "there")) == (0o700, 0o700)


def test_a_folder_that_is_somebody_elses_or_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(SlipwayError, match="is no folder; expected a folder of your own") as e:
            own_folder(tmp_path / name)
        assert (e.value.code, e.value.where) == (Exit.NOT_PERMITTED, str(tmp_path / name))
    if os.geteuid() == 0:
        os.chown(tmp_path / "mine", 65534, 65534)
        with pytest.raises(SlipwayError, match="belongs to nobody; expected a folder of your own"):
            own_folder(tmp_path / "mine")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes into the folders of others")
def test_what_root_writes_into_a_users_folder_can_be_read_by_that_user(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 23456)
    write_atomic(tmp_path / "record.json", "", PRIVATE)
    found = (tmp_path / "record.json").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 23456, 0o600)
