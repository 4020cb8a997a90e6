"""launcher/records/store.py: one lease at a time, only its holder gives it back, and what is not whole goes aside."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from launcher.artifacts import marker
from launcher.artifacts.marker import MARKER
from launcher.core.requirement import Requirement
from launcher.records import store
from launcher.records.leases import Taken
from launcher.records.run_directory import Run
from launcher.runs import lifecycle
from slipway.errors import Exit, SlipwayError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "libraries" / "model_a"


def run_of(tmp_path: Path, name: str) -> Run:
    path = tmp_path / "runs" / name
    path.mkdir(parents=True, exist_ok=True)
    return Run(path)


def whole(folder: Path, **files: str) -> Path:
    """As a run leaves it."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    made = {"folder": folder.name, "input": "policy", "model": "/m", "fingerprint": "f", "by": "convert/x", "parts": {}}
    sizes = {name: len(text) for name, text in files.items()}
    made |= {"schema": 1, "run": "r", "finished": "2026-11-22T00:00:00Z", "files": sizes}
    (folder / MARKER).write_text(json.dumps(made))
    return folder


def test_one_run_has_the_lease_until_it_gives_it_back(tmp_path: Path, folder: Path) -> None:
    one, two = run_of(tmp_path, "one"), run_of(tmp_path, "two")
    assert store.holder(folder) is None
    assert store.take(folder, one, "docker") is None
    found = store.holder(folder)
    assert found and (found.run, found.directory, found.kind) == ("one", str(one.path), "docker")
    assert found.host == os.uname().nodename
    with pytest.raises(Taken):
        store.take(folder, two, "docker")
    store.release(folder, "two")  # is not his
    with pytest.raises(Taken):
        store.take(folder, two, "docker")
    store.release(folder, "one")
    store.take(folder, two, "docker")
    store.release(folder, "one")  # who saw it before, and thinks that it is dead
    found = store.holder(folder)
    assert found and found.run == "two"
    store.release(folder, "two")
    assert list(folder.parent.rglob("*")) == [folder.parent / ".leases"]


@pytest.mark.parametrize("number", range(5))
def test_of_many_at_once_one_gets_it(tmp_path: Path, folder: Path, number: int) -> None:
    def take(run: Run) -> str:
        try:
            store.take(folder, run, "docker")
        except Taken:
            return ""
        return run.id

    runs = [run_of(tmp_path, f"{number}-{n}") for n in range(16)]
    with ThreadPoolExecutor(16) as pool:
        got = [name for name in pool.map(take, runs) if name]
    found = store.holder(folder)
    assert found and got == [found.run]
    assert [p.name for p in (folder.parent / ".leases").iterdir()] == ["model_a"]


def test_what_is_left_of_another_goes_aside(tmp_path: Path, folder: Path) -> None:
    (folder / "iter_0000000").mkdir(parents=True)
    aside = store.take(folder, run_of(tmp_path, "one"), "docker")
    assert aside and (aside / "iter_0000000").is_dir() and aside.parent.name == ".quarantine"
    assert not folder.exists()


def test_what_was_made_meanwhile_is_not_made_again(tmp_path: Path, folder: Path) -> None:
    whole(folder, a="1")
    with pytest.raises(Taken, match="made meanwhile"):
        store.take(folder, run_of(tmp_path, "one"), "docker")
    assert store.holder(folder) is None and marker.read(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "folder": "model_a"}'])
def test_a_broken_marker_is_none(folder: Path, text: str) -> None:
    (whole(folder) / MARKER).write_text(text)
    assert marker.read(folder) is None


def test_a_broken_lease_is_said(folder: Path) -> None:
    lease = folder.parent / ".leases" / folder.name
    lease.mkdir(parents=True)
    (lease / "x.json").write_text("{")
    with pytest.raises(SlipwayError) as e:
        store.holder(folder)
    assert e.value.code == Exit.DATA and str(lease) in e.value.where


def test_a_cache_that_cannot_be_written(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SlipwayError) as e:
        store.take(folder, run_of(tmp_path, "one"), "docker")
    assert e.value.code == Exit.CANNOT_WRITE


def test_faults_are_files_that_are_not_as_the_marker_says(folder: Path) -> None:
    made = marker.read(whole(folder, a="1", b="22", c="333"))
    assert made and list(marker.faults(folder, made)) == []
    (folder / "a").unlink()
    (folder / "b").write_text("2")
    assert list(marker.faults(folder, made)) == [
        f"{folder / 'a'}: is gone", f"{folder / 'b'}: has 1 bytes, not 2",
    ]  # fmt: skip


def test_adopting_links_and_marks(tmp_path: Path, folder: Path) -> None:
    source = tmp_path / "old"
    (source / "iter_0000000").mkdir(parents=True)
    (source / "iter_0000000" / "w").write_text("weights")
    new = Requirement(input="policy", type="t", source="/m", fingerprint="f", by="adopted", place=str(folder))
    folder.parent.mkdir(parents=True)
    store.adopt(source, new)
    made = marker.read(folder)
    assert made and made.files == {"iter_0000000/w": 7} and (made.run, made.source) == ("", "/m")
    assert (folder / "iter_0000000" / "w").samefile(source / "iter_0000000" / "w")
    assert not (source / MARKER).exists()
    with pytest.raises(SlipwayError) as e:
        store.adopt(source, new)
    assert e.value.code == Exit.CANNOT_WRITE
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model_a"]


def test_a_marker_that_cannot_be_read_is_no_reason_to_put_its_folder_aside(tmp_path: Path, folder: Path) -> None:
    (whole(folder) / MARKER).unlink()
    (folder / MARKER).mkdir()  # as unreadable for root as another user's file is for others
    with pytest.raises(SlipwayError):
        store.take(folder, run_of(tmp_path, "one"), "docker")
    assert folder.is_dir() and not (folder.parent / ".quarantine").exists()


@pytest.mark.parametrize(
    ("make", "why"),
    [(os.mkfifo, "is no regular file"), (lambda path: path.symlink_to("/dev/zero"), f"{MARKER} is a link")],
)
def test_a_marker_that_is_no_file_keeps_nobody_waiting(folder: Path, make: Callable[[Path], None], why: str) -> None:
    (whole(folder) / MARKER).unlink()
    make(folder / MARKER)
    with pytest.raises(SlipwayError) as e:
        marker.read(folder)
    assert (e.value.code, e.value.what, e.value.where) == (Exit.DATA, why, str(folder / MARKER))


@pytest.mark.parametrize("change", [{"kind": "shell"}, {"run": 5}, {"more": 1}])
def test_a_lease_of_no_engine_is_none(tmp_path: Path, folder: Path, change: dict[str, Any]) -> None:
    store.take(folder, run_of(tmp_path, "one"), "docker")
    (lease,) = (folder.parent / ".leases").rglob("*.json")
    lease.write_text(json.dumps(json.loads(lease.read_text()) | change))
    with pytest.raises(SlipwayError, match="is no lease") as e:
        store.holder(folder)
    assert (e.value.code, e.value.where) == (Exit.DATA, str(lease))


def test_another_users_run_that_has_no_end_may_live(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its engine is not asked: what is written in its directory is that user's word."""
    store.take(folder, run_of(tmp_path, "one"), "docker")
    held = store.holder(folder)
    assert held
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(SlipwayError, match="of another user makes it") as e:
        lifecycle.lives(held, store.UNSEEN)
    assert (e.value.code, str(tmp_path / "runs" / "one") in e.value.remedy) == (Exit.TRY_AGAIN, True)
