"""A disk that is too small, or fills while the step runs: said, and the launcher hears what it is told to the end."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Work, toy
from .support import Run, Running, Tree, until

pytestmark = [pytest.mark.real, pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")]
PROGRAM = str(Path(sys.executable).parent / "launch")
LINES = 20_000  # more than a page of a copy that is there already, and than a pipe holds


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """A filesystem of 1 MiB."""
    disk = place / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_no_space_for_a_checkpoint(tree: Tree, work: Work, small_disk: Path) -> None:
    before = tree.all_runs(), tree.docker.containers.list(all=True)
    output = small_disk / "deep" / "output"
    done = tree.launch(*work.words(output))
    assert done.code == 73
    assert f"output={output}: one checkpoint needs about " in done.err
    assert ", 1 MiB are free there\n" in done.err
    assert list(small_disk.iterdir()) == []
    assert (tree.all_runs(), tree.docker.containers.list(all=True)) == before


def fill(disk: Path) -> Path:
    """Leaves no byte on a disk."""
    with (disk / "filler").open("wb", buffering=0) as f:
        while True:
            try:
                f.write(bytes(65536))
            except OSError:
                return disk / "filler"


def alone(tree: Tree, runs: Path) -> Iterator[Tree]:
    """The project with runs of one test alone, which end with it."""
    made = dataclasses.replace(tree, runs=runs, env=tree.env | {"SLIPWAY_RUNS": str(runs)}, prefix=[], _started=[])
    yield made
    made.end_all()


@pytest.fixture
def lone(tree: Tree, place: Path) -> Iterator[Tree]:
    yield from alone(tree, place / "runs")


@pytest.fixture
def cramped(tree: Tree, small_disk: Path) -> Iterator[Tree]:
    """Its runs are on the small disk."""
    yield from alone(tree, small_disk)


def waiting(tree: Tree, place: Path, *words: str) -> tuple[Running, Run]:
    """A launch whose step waits, and its run."""
    launched = tree.start("launch", *toy(place / "output", "wait=true", *words))
    until("a step that waits", (place / "output" / "waiting").exists)
    (run,) = tree.all_runs()
    return launched, run


@pytest.mark.parametrize(("name", "code"), [("INT", 130), ("TERM", 143)])
def test_a_disk_that_fills_while_the_step_runs(cramped: Tree, place: Path, name: str, code: int) -> None:
    """It costs the log's copy: output goes on, a signal is passed on; what is not recorded is said, and can be."""
    launched, run = waiting(cramped, place, "deaf=true", f"lines={LINES}")
    launched.await_line("waiting")
    filler = fill(cramped.runs)
    launched.signal(signal.Signals[f"SIG{name}"])
    launched.await_told(f"{name}: asked to stop")
    launched.await_line(f"slipway: {name}: TERM to 1 rank")  # the container has heard it
    (place / "output" / "go").touch()
    launched.await_line(f"line {LINES}")
    done = launched.finish()
    copied = "the log's copy in the run directory stopped: No space left on device; the run goes on"
    assert done.err.count(copied) == 1, done
    assert done.code == 73 and "the run has ended, which is not recorded yet: cannot write: No space" in done.err, done
    assert f"launch show {run.path}" in done.err
    assert cramped.container(run) is not None

    filler.unlink()
    shown = cramped.launch("show", str(run.path))
    assert shown.code == 0 and run.outcome["exit_code"] == code, shown
    assert f"line {LINES}\n" in run.log and cramped.container(run) is None


def test_a_run_on_a_full_disk_is_cancelled(cramped: Tree, place: Path) -> None:
    done = cramped.launch(*toy(place / "output", "wait=true"), "--detach")
    (run,) = cramped.all_runs()
    until("a step that waits", (place / "output" / "waiting").exists)
    filler = fill(cramped.runs)
    done = cramped.launch("cancel", run.id)
    assert (place / "output" / "saved").exists(), "the step was told, and saved"
    assert done.code == 73 and f"launch show {run.path}" in done.err, done
    filler.unlink()
    assert cramped.show(run).code == 0 and run.outcome["exit_code"] == 143
    assert cramped.container(run) is None


def test_a_disk_with_room_again_costs_nothing(cramped: Tree, place: Path) -> None:
    """By the end of the run its log is fetched anew. (The container may have failed to leave its result there.)"""
    launched, run = waiting(cramped, place, "lines=3000")
    filler = fill(cramped.runs)
    (place / "output" / "go").touch()
    launched.await_told("the log's copy in the run directory stopped: No space")
    filler.unlink()
    done = launched.finish()
    assert done.code in (0, 1) and run.ended in ((done.code, "step"), (done.code, "engine")), done
    assert run.log == done.out and "line 3000\n" in run.log


def test_logs_that_somebody_removes(lone: Tree, place: Path) -> None:
    launched, run = waiting(lone, place)
    launched.await_line("waiting")
    shutil.rmtree(run.path / "logs")
    launched.signal(signal.SIGINT)
    done = launched.finish()
    assert done.code == 130 and run.ended == (130, "signal"), done
    assert done.err.count("the log's copy in the run directory stopped: No such file or directory") == 1
    assert run.log == done.out
    assert lone.container(run) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_reader_that_stops_reading(lone: Tree, place: Path, number: signal.Signals) -> None:
    """Both streams are one pipe that is full: whoever asks the launcher to leave is heard, and the run is recorded."""
    reader, writer = os.pipe()
    words = toy(place / "output", "wait=true", f"lines={LINES}")
    with subprocess.Popen([PROGRAM, *words], cwd=lone.path, env=lone.env, stdout=writer, stderr=writer) as launched:
        os.close(writer)
        try:
            until("a step that waits", (place / "output" / "waiting").exists)
            (place / "output" / "go").touch()
            (run,) = lone.all_runs()
            lone.await_exit(run)

            def has_left() -> bool:
                launched.send_signal(number)
                return launched.poll() is not None

            until("the launcher's end", has_left)
        finally:
            launched.kill()
            os.close(reader)
    assert run.ended == (0, "step") and f"line {LINES}\n" in run.log
    assert lone.container(run) is None


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", ">/dev/full", ">/dev/full 2>&1"])
def test_streams_that_cannot_be_written(lone: Tree, place: Path, closed: str) -> None:
    lone.prefix[:] = ["bash", "-c", f'exec "$@" {closed}', "-"]
    launched, run = waiting(lone, place)
    launched.signal(signal.SIGINT)
    done = launched.finish()
    assert done.code == 130 and run.ended == (130, "signal"), done
    assert lone.container(run) is None
