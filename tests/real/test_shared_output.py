"""Two launches and one output folder; run directories that are removed; who cancels twice. All on the real engine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .conftest import Work, toy
from .support import ENDLESS, Proxy, Run, Tree, until

pytestmark = pytest.mark.real
CREATE = r"/containers/create"


def test_of_two_launches_into_one_output_the_second_is_refused(tree: Tree, place: Path, proxy: Proxy) -> None:
    """Both were planned while it was empty; the first has not even a container yet."""
    output, before = place / "output", tree.all_runs()
    with proxy.hold("POST", CREATE) as creating:
        first = tree.start("launch", *toy(output), DOCKER_HOST=proxy.url)
        creating.wait()
        (run,) = tree.since(before)
        second = tree.launch(*toy(output))
        assert second.code == 75 and f"output={output}: run {run.id} writes there\n" in second.err, second
        assert f"launch logs -f {run.path}" in second.err and tree.since(before) == [run]
    assert first.finish().code == 0 and run.ended == (0, "step")
    assert (output / "written").exists() and not (output / ".slipway-run" / "lease").exists()
    again = tree.launch(*toy(output))
    assert again.code == 73 and "is not empty" in again.err


def test_a_launcher_that_is_killed_while_it_prepares_keeps_no_output(tree: Tree, place: Path, proxy: Proxy) -> None:
    profile = tree.path / "slipway.d" / "profiles" / "withkey.yaml"
    profile.parent.mkdir(parents=True, exist_ok=True)
    profile.write_text("schema: 1\nkind: docker\nextends: docker\nsecrets: {MY_KEY: env}\n")
    output, before, words = place / "output", tree.all_runs(), ("--profile", "withkey", *toy(place / "output"))
    with proxy.hold("POST", CREATE) as creating:
        first = tree.start("launch", *words, DOCKER_HOST=proxy.url, MY_KEY="canary")
        creating.wait()
        (run,) = tree.since(before)
        held = tree.runs / ".secrets" / run.id
        assert (held / "MY_KEY").read_text() == "canary"
        first.kill()
        creating.drop()
    second = tree.launch(*words, MY_KEY="canary")
    assert second.code == 0 and (output / "written").exists(), second
    shown = tree.show(run)
    assert shown.code == 0 and "state      never started\n" in shown.out, shown
    assert not held.exists() and tree.container(run) is None and not list(output.glob(".slipway-run/lease*"))


@pytest.mark.parametrize("where", ["foreground", "detached"])
def test_a_run_directory_that_is_removed_while_it_runs_leaves_no_container(tree: Tree, place: Path, where: str) -> None:
    output, words = place / "output", toy(place / "output", "wait=true", "code=3")
    if where == "foreground":
        launched = tree.start("launch", *words)
        launched.await_line("waiting")
        run = tree.run_of(launched)
    else:
        run = Run(tree.runs / tree.launch(*words, "--detach").out.strip())
        until("a step that waits", (output / "waiting").exists)
    shutil.rmtree(run.path)
    if where == "foreground":
        (output / "go").touch()
        done = launched.finish()
        assert done.code == 66, done
        assert "the run directory was removed while the run went on: there is no record; the run has ended" in done.err
    else:
        assert tree.launch("show", run.id).code == 66
        done = tree.launch("cancel", run.id)
        assert done.code == 0 and f"run {run.id} is ended with " in done.err, done
        assert tree.launch("cancel", run.id).code == 66
    assert tree.container(run) is None and not run.path.exists()


def test_an_output_whose_run_has_lost_its_directory_is_still_taken(tree: Tree, place: Path) -> None:
    output = place / "output"
    words = toy(output, "wait=true")
    run = Run(tree.runs / tree.launch(*words, "--detach").out.strip())
    until("a step that waits", (output / "waiting").exists)
    for path in (output / "waiting", output / "written", run.path):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    refused = tree.launch(*words, "code=3")  # of another plan: in the same second it would get the same id
    assert refused.code == 75 and f"end it: launch cancel {run.id}" in refused.err, refused
    assert tree.launch("cancel", run.id).code == 0
    for path in (p for p in output.iterdir() if p.is_file()):
        path.unlink()  # what the step has left
    assert tree.launch(*toy(output)).code == 0


def test_two_who_cancel_at_once_let_it_save(tree: Tree, work: Work, place: Path) -> None:
    """A step that is told twice leaves without its checkpoint."""
    words = work.words(place / "output", f"max_steps={ENDLESS}", f"checkpoint_every={ENDLESS}")
    run = Run(tree.runs / tree.launch(*words, "--detach").out.strip())
    following = tree.start("launch", "logs", "-f", run.id)
    following.await_line(rf"step 2/{ENDLESS} .*loss")
    both = [tree.start("launch", "cancel", run.id) for _ in range(2)]
    done = [cancelling.finish() for cancelling in both]
    assert [d.code for d in done] == [0, 0] and all(f"run        {run.id}: cancelled\n" in d.err for d in done), done
    assert run.events.count("told") == 1 and run.ended == (143, "cancelled")
    assert Path(run.outcome["checkpoint"]).is_dir() and "told again" not in following.finish().out
