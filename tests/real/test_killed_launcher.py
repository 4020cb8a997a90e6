"""kill -9 of the launcher, at moments that are met exactly: whoever looks next tells the truth and cleans up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import toy
from .support import Done, Proxy, Run, Tree, until

pytestmark = pytest.mark.real
LINES = 5000


def new_run(tree: Tree, before: list[Run]) -> Run | None:
    return next((run for run in tree.all_runs() if run not in before), None)


def test_while_the_step_runs(tree: Tree, place: Path) -> None:
    """The run goes on; its log is whole although nobody was there to read it."""
    output = place / "output"
    launched = tree.start("launch", *toy(output, "wait=true", f"lines={LINES}", "code=3"))
    launched.await_line("waiting")
    run = tree.run_of(launched)
    launched.kill()
    assert "state      running\n" in tree.show(run).out
    (output / "go").touch()
    tree.await_exit(run)
    assert "exit 3 (step: " in tree.show(run).out
    assert run.ended == (3, "step")
    lines = run.log.splitlines()
    assert [line for line in lines if line.startswith("line ")] == [f"line {n}" for n in range(1, LINES + 1)]
    assert run.record["versions"]["environments"] and "wait: true" in run.record["config"]
    assert tree.container(run) is None


# What is held: a request on its way to the engine, or (True) the engine's answer; and whether the step ever starts.
INSPECT = r"/containers/slipway-[^/]+/json"
MOMENTS = {
    "before the engine hears of the container": ("POST", "/containers/create", False, 0, False),
    "when the container is made": ("POST", "/containers/create", True, 0, False),
    "before the container is started": ("POST", "/start$", False, 0, False),
    "when the container is started": ("POST", "/start$", True, 0, True),
    "before the log is followed": ("GET", "/logs.*follow=1", False, 0, True),
    "when the container has ended": ("POST", "/wait", True, 0, True),
    "before it is looked at": ("GET", INSPECT, False, 1, True),
    "before its log is collected": ("GET", "/logs.*follow=0", False, 0, True),
    "when the record is written": ("DELETE", "/containers/", False, 0, True),
    "when the container is removed": ("DELETE", "/containers/", True, 0, True),
}


@pytest.mark.parametrize(("method", "path", "answered", "skip", "starts"), MOMENTS.values(), ids=MOMENTS)
def test_at_this_moment(
    tree: Tree, place: Path, proxy: Proxy, method: str, path: str, answered: bool, skip: int, starts: bool
) -> None:
    before = tree.all_runs()
    with proxy.hold(method, path, answered, skip) as hold:
        launched = tree.start("launch", *toy(place / "output", "code=3"), DOCKER_HOST=proxy.url)
        hold.wait()
        launched.kill()
        hold.drop()
    run = new_run(tree, before)
    assert run
    if starts:
        tree.await_exit(run)
    shown = tree.show(run)
    assert_settled(tree, run, shown)
    assert run.ended == ((3, "step") if starts else (70, "launcher"))
    assert ("line 3\n" in run.log) if starts else not (place / "output" / "written").exists()


def assert_settled(tree: Tree, run: Run, shown: Done) -> None:
    """The first look has told the end, left nothing, and a second one says the same."""
    code, cause = run.ended
    assert shown.code == 0 and f"exit {code} ({cause}: " in shown.out
    assert f"state      {'never started' if cause == 'launcher' else 'failed'}\n" in shown.out
    assert tree.container(run) is None
    assert tree.show(run).out == shown.out


def recorded(run: Run) -> bool:
    return (run.path / "record.json").exists()


def prepared(run: Run) -> bool:
    return (run.path / "events.jsonl").exists()


@pytest.mark.parametrize("come", [Path.exists, recorded, prepared], ids=["claimed", "recorded", "prepared"])
def test_as_soon_as_there_is_something(tree: Tree, place: Path, come: Callable[[Run], bool]) -> None:
    """Moments that are not met exactly: whatever the kill cuts off, the end is a true one."""
    before = tree.all_runs()
    launched = tree.start("launch", *toy(place / "output", "code=3"))
    run = until("a run directory", lambda: new_run(tree, before))
    until("what is waited for", lambda: come(run.path if come is Path.exists else run))  # type: ignore[arg-type]
    launched.kill()
    tree.await_exit(run)
    shown = tree.show(run)
    if recorded(run):
        assert run.ended in ((3, "step"), (70, "launcher"))
        assert_settled(tree, run, shown)
    else:
        assert shown.code == 0 and "state      never submitted\n" in shown.out
        assert tree.container(run) is None


def test_many_collectors_at_once(tree: Tree, place: Path) -> None:
    """One of them brings the run home; none is disturbed, and none tells anything but the truth."""
    run = detached(tree, place, f"lines={LINES}", "code=3")
    tree.await_exit(run)
    shows = [tree.start("launch", "show", run.id) for _ in range(3)]
    reader, canceller = tree.start("launch", "logs", run.id), tree.start("launch", "cancel", run.id)
    told = [show.finish() for show in shows]
    assert canceller.finish().code == 0
    assert reader.finish().out == run.log
    assert run.ended == (3, "step") and f"line {LINES}\n" in run.log
    for done in told:
        assert done.code == 0 and ("state      ending\n" in done.out or "exit 3 (step: " in done.out), done
    assert tree.container(run) is None


@pytest.mark.parametrize(
    ("method", "path", "answered", "known"),
    [
        ("GET", "/logs.*follow=0", False, False),
        ("DELETE", "/containers/", False, True),
        ("DELETE", "/containers/", True, True),
    ],
    ids=["while the log is collected", "before the container is removed", "after that"],
)
def test_a_second_look_meets_a_collector(
    tree: Tree, place: Path, proxy: Proxy, method: str, path: str, answered: bool, known: bool
) -> None:
    """The first look stands still in the middle of its collecting; the second neither waits for it nor lies."""
    run = detached(tree, place, "code=3", DOCKER_HOST=proxy.url)
    tree.await_exit(run)
    with proxy.hold(method, path, answered) as hold:
        first = tree.start("launch", "show", run.id)
        hold.wait()
        second = tree.show(run)
        log = tree.launch("logs", run.id)
    assert "exit 3 (step: " in first.finish().out
    assert ("exit 3 (step: " if known else "state      ending\n") in second.out
    assert log.out == run.log
    assert tree.container(run) is None


@pytest.mark.parametrize(
    ("path", "skip"), [(INSPECT, 1), (r"/logs.*follow=0", 0)], ids=["before it is found", "before it is read"]
)
def test_a_log_that_is_read_while_the_container_is_removed(
    tree: Tree, place: Path, proxy: Proxy, path: str, skip: int
) -> None:
    """The reader has seen the container, which is gone when it asks for the log: all of it is told from the file."""
    run = detached(tree, place, f"lines={LINES}", "code=3", DOCKER_HOST=proxy.url)
    tree.await_exit(run)
    with proxy.hold("GET", r"/logs.*follow=0") as collecting:
        collector = tree.start("launch", "show", run.id)
        collecting.wait()
        with proxy.hold("GET", path, skip=skip) as reading:
            reader = tree.start("launch", "logs", run.id)
            reading.wait()
            collecting.release()
            assert "exit 3 (step: " in collector.finish().out
            assert tree.container(run) is None
    done = reader.finish()
    assert (done.code, done.err) == (0, "") and done.out == run.log
    assert f"line {LINES}\n" in run.log


def detached(tree: Tree, place: Path, *words: str, **env: str) -> Run:
    done = tree.launch(*toy(place / "output", *words), "--detach", **env)
    assert done.code == 0, done
    return Run(tree.runs / done.out.strip())
