"""launcher/engines/logfiles.py: the logs of a run directory, as they are and as they grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.engines import logfiles


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfiles, "POLL", 0)


def write(folder: Path, **logs: str) -> None:
    for name, text in logs.items():
        with (folder / f"{name.replace('_', '-')}.log").open("a") as f:
            f.write(text)


def acts(*actions: Callable[[], object]) -> Callable[[], bool]:
    """An `over` that does the next of `actions` each time it is asked, and says yes with the last."""
    left: Iterator[Callable[[], object]] = iter(actions)
    count = len(actions)

    def over() -> bool:
        nonlocal count
        next(left)()
        count -= 1
        return count == 0

    return over


def test_a_folder_without_logs(tmp_path: Path) -> None:
    assert list(logfiles.read(tmp_path, None)) == []
    assert list(logfiles.read(tmp_path / "none", None)) == []


def test_one_node_is_told_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, job="slipway: queue\n", node_0="a\n\nb")
    (tmp_path / "other.txt").write_text("no log")
    assert b"".join(logfiles.read(tmp_path, None)) == b"slipway: queue\na\n\nb"


def test_lines_of_several_nodes_are_told_apart_and_nodes_are_in_order(tmp_path: Path) -> None:
    write(tmp_path, job="j\n", node_10="ten\n", node_2="two\ntwo again\n", node_0="zero\n\nend")
    assert b"".join(logfiles.read(tmp_path, None)) == (
        b"job| j\nnode-0| zero\nnode-0| \nnode-0| endnode-2| two\nnode-2| two again\nnode-10| ten\n"
    )


def test_what_is_no_text_passes_through(tmp_path: Path) -> None:
    (tmp_path / "node-0.log").write_bytes(b"\xff\x00 50%\r 100%\r\n")
    assert b"".join(logfiles.read(tmp_path, None)) == b"\xff\x00 50%\r 100%\r\n"


def test_what_is_added_comes_once_and_whole(tmp_path: Path) -> None:
    over = acts(
        lambda: write(tmp_path, node_0="one\ntw"),
        lambda: write(tmp_path, node_0="o\nthree"),
        lambda: None,
        lambda: write(tmp_path, node_0="!"),
    )
    assert list(logfiles.read(tmp_path, over)) == [b"one\n", b"two\n", b"three!"]


def test_what_was_written_until_the_end_is_told(tmp_path: Path) -> None:
    """The end is asked for before the files are read."""
    over = acts(lambda: None, lambda: write(tmp_path, node_0="the last words"))
    assert list(logfiles.read(tmp_path, over)) == [b"the last words"]


def test_a_node_that_comes_later_is_followed_too(tmp_path: Path) -> None:
    over = acts(lambda: write(tmp_path, node_0="a\n"), lambda: write(tmp_path, node_0="b\n", node_1="c\n"))
    assert list(logfiles.read(tmp_path, over)) == [b"a\n", b"node-0| b\n", b"node-1| c\n"]
