"""slipway/inbox.py: what is opened of files that somebody else may have written, and what is made of their JSON."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slipway import inbox
from slipway.errors import Exit, SlipwayError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder, and a secret beside it."""
    (tmp_path / "secret").write_text("the secret")
    (tmp_path / "run" / "below").mkdir(parents=True)
    return tmp_path / "run"


def test_a_file_is_read_and_a_missing_one_is_none(folder: Path) -> None:
    (folder / "below" / "a").write_bytes(b"text\xff")
    assert inbox.read(folder, "below/a") == b"text\xff"
    assert inbox.read_text(folder, "below/a") == "text\ufffd"
    for name in ("b", "below/b", "nowhere/b"):
        assert inbox.read(folder, name) is None
    assert inbox.read(folder / "nowhere", "b") is None


def endless(path: Path) -> None:
    with path.open("w") as f:
        os.truncate(f.fileno(), 2**30)


def bound(path: Path) -> None:
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path.name)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda p: p.symlink_to("../secret"), "a is a link"),
        (lambda p: p.symlink_to("/dev/zero"), "a is a link"),
        (lambda p: p.symlink_to("nowhere"), "a is a link"),
        (os.mkfifo, "is no regular file"),
        (Path.mkdir, "is no regular file"),
        (bound, "cannot be read: No such device or address"),
        (endless, f"is longer than {inbox.LIMIT} bytes"),
    ],
    ids=["link", "device", "dangling", "FIFO", "folder", "socket", "endless"],
)
def test_only_a_regular_file_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], why: str
) -> None:
    """At once: none of them keeps the reader waiting, or fills its memory."""
    monkeypatch.chdir(folder)  # a socket's name is short
    make(folder / "a")
    with pytest.raises(inbox.Damaged) as e:
        inbox.read(folder, "a")
    assert (e.value.code, e.value.where, e.value.what) == (Exit.DATA, str(folder / "a"), why)


def test_no_part_of_a_name_is_a_link_but_the_folder_may_be(folder: Path, tmp_path: Path) -> None:
    (folder / "link").symlink_to("..")
    with pytest.raises(inbox.Damaged, match="link is a link"):
        inbox.read(folder, "link/secret")
    (tmp_path / "other").symlink_to("run")
    (folder / "a").write_text("b")
    assert inbox.read(tmp_path / "other", "a") == b"b"


def test_a_file_of_another_user_is_refused_unless_it_is_shared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's owner is another one here, since only root can give a file away."""
    (folder / "a").write_text("b")
    real = os.fstat(os.open(folder / "a", os.O_RDONLY))
    if real.st_uid == 0:  # root's own files are read wherever they are
        os.chown(folder / "a", 54321, -1)
    else:
        answer = os.fstat
        monkeypatch.setattr(os, "fstat", lambda fd: _given_away(answer(fd)))
    with pytest.raises(inbox.Damaged, match=r"belongs to uid \d+, its folder to uid \d+"):
        inbox.read(folder, "a")
    assert inbox.read(folder, "a", shared=True) == b"b"


def _given_away(found: os.stat_result) -> os.stat_result:
    folder = os.path.stat.S_ISDIR(found.st_mode)  # type: ignore[attr-defined]
    return os.stat_result((*found[:4], 54321 if folder else found.st_uid, *found[5:]))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no JSON"),
        ('{"a": ', "is no JSON"),
        ("[]", "is no JSON object"),
        ("NaN", "is no JSON object"),
        ("[" * 200_000, "is nested too deep"),
        ('{"a":' * 200_000, "is nested too deep"),
        ('{"a":' * 70 + "1" + "}" * 70, "is nested deeper than 64"),
        ('{"a": ' + "1" * 5000 + "}", "is no JSON: Exceeds the limit"),
    ],
)
def test_what_is_no_object_is_refused(text: str, why: str) -> None:
    with pytest.raises(inbox.Damaged) as e:
        inbox.plain(text.encode(), "f")
    assert e.value.what.startswith(why)


def test_numbers_that_are_not_finite_become_null_and_are_named() -> None:
    found = inbox.plain(b'{"a": NaN, "b": [1.5, {"c": -Infinity}], "d": 1e999, "e": 2}', "f")
    assert found == {
        "a": None, "b": [1.5, {"c": None}], "d": None, "e": 2,
        "not_finite": {"a": "NaN", "b.1.c": "-Infinity", "d": "Infinity"},
    }  # fmt: skip


def test_half_a_character_becomes_a_whole_one() -> None:
    assert inbox.plain(rb'{"a\ud800": ["\udfff!", "\ud83d\udea2"]}', "f") == {"a\ufffd": ["\ufffd!", "\U0001f6a2"]}


def values() -> list[Any]:
    return [0, -1, 2**70, 1.5, "text\n\x1b", None, True, [], {}, [[1, [None]]], {"a": {"b": "\ud800"}}]


@pytest.mark.parametrize("value", values())
def test_what_comes_out_can_be_written_and_is_the_same_again(value: Any) -> None:
    once = inbox.plain(json.dumps({"v": value}).encode(), "f")
    assert inbox.plain(json.dumps(once, ensure_ascii=False, allow_nan=False).encode(), "f") == once


def test_a_file_that_may_not_be_read_is_77(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SlipwayError) as e:
        inbox.read(folder, "a")
    assert (e.value.code, e.value.where) == (Exit.NOT_PERMITTED, str(folder / "a"))
