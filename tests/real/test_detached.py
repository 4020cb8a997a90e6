"""--detach, and what other processes can do with the run: list, follow, look, cancel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Work, toy
from .support import ENDLESS, Done, Proxy, Run, Tree, until

pytestmark = pytest.mark.real


def test_follow_and_cancel_from_other_processes(tree: Tree, work: Work, place: Path) -> None:
    output = place / "output"
    words = work.words(output, f"max_steps={ENDLESS}", f"checkpoint_every={ENDLESS}")
    planned = tree.launch(*words, "--dry-run", "--json")
    detached = tree.launch(*words, "--detach")
    assert detached.code == 0, detached
    run = Run(tree.runs / detached.out.strip())
    assert " running" in next(line for line in tree.launch("runs").out.splitlines() if line.startswith(run.id))
    assert run.outcome == {}
    assert_same(tree, run, planned.out)

    following = tree.start("launch", "logs", "-f", run.id)
    following.await_line(rf"step 2/{ENDLESS} .*loss")
    cancelled = tree.launch("cancel", run.id)
    assert cancelled.code == 0, cancelled
    assert f"run        {run.id}: cancelled\n" in cancelled.err
    followed = following.finish()
    assert followed.code == 0 and "Saving checkpoint" in followed.out
    assert followed.out == run.log == tree.launch("logs", run.id).out

    assert run.ended == (143, "cancelled")
    shown = tree.show(run)
    assert "state      cancelled\n" in shown.out and "exit 143 (cancelled: " in shown.out
    assert Path(run.outcome["checkpoint"]).is_dir(), "it was asked, not killed"
    assert tree.container(run) is None
    assert tree.launch("cancel", run.id).code == 0, "and that is all there is to cancel"
    assert run.ended == (143, "cancelled")


def test_others_wait_for_a_run(tree: Tree, place: Path) -> None:
    """Two at once, both of which hear how it has ended."""
    detached = tree.launch(*toy(place / "output", "wait=true", "code=7"), "--detach")
    run = detached.out.strip()
    waiting = [tree.start("launch", "wait", run) for _ in range(2)]
    until("the step", (place / "output" / "waiting").exists)
    (place / "output" / "go").touch()
    for each in waiting:
        done = each.finish()
        assert (done.code, done.out) == (7, f"{run} failed\n"), done


def assert_same(tree: Tree, run: Run, planned: str) -> None:
    """The engine has made just what the dry run of the same words printed."""
    request = json.loads(planned.replace("${RUN_ID}", run.id).replace("${RUN_DIR}", str(run.path)))
    facts = tree.container(run).attrs
    config, host = facts["Config"], facts["HostConfig"]
    assert facts["Name"] == f"/slipway-{run.id}"
    for key in ("Cmd", "Entrypoint", "Image", "User", "WorkingDir"):
        assert config[key] == request[key]
    assert set(request["Env"]) <= set(config["Env"])
    assert request["Labels"].items() <= config["Labels"].items()
    for key in ("Init", "IpcMode", "NetworkMode", "ShmSize", "Ulimits"):
        assert host[key] == request["HostConfig"][key]
    mounts = {m["Destination"]: (m["Source"], m["RW"]) for m in facts["Mounts"]}
    assert mounts == {m["Target"]: (m["Source"], not m["ReadOnly"]) for m in request["HostConfig"]["Mounts"]}


def test_a_detached_run_ends_by_itself(tree: Tree, place: Path) -> None:
    """Whoever looks next brings it home."""
    run = Run(tree.runs / tree.launch(*toy(place / "output", "code=5"), "--detach").out.strip())
    tree.await_exit(run)
    assert run.outcome == {}
    assert "exit 5 (step: " in tree.show(run).out
    assert run.ended == (5, "step")
    assert "line 3\n" in run.log
    assert tree.container(run) is None


def test_following_a_run_to_its_end_collects_it(tree: Tree, place: Path) -> None:
    run = Run(tree.runs / tree.launch(*toy(place / "output", "wait=true"), "--detach").out.strip())
    following = tree.start("launch", "logs", "-f", run.id)
    following.await_line("waiting")
    (place / "output" / "go").touch()
    done = following.finish()
    assert done.code == 0 and done.out.endswith("line 3\n")
    assert run.ended == (0, "step")
    assert tree.container(run) is None


@pytest.mark.parametrize("stage", ["/containers/create", "/start$"])
@pytest.mark.parametrize("detach", [["--detach"], []], ids=["detached", "foreground"])
def test_cancel_while_it_is_being_started(tree: Tree, place: Path, proxy: Proxy, stage: str, detach: list[str]) -> None:
    """A run that is asked to stop before its container is there still stops, and does so at once."""
    before = tree.all_runs()
    with proxy.hold("POST", stage) as hold:
        launched = tree.start("launch", *toy(place / "output", "wait=true"), *detach, DOCKER_HOST=proxy.url)
        hold.wait()
        (run,) = (r for r in tree.all_runs() if r not in before)
        assert "state      starting\n" in tree.show(run).out
        assert tree.launch("logs", run.id) == Done(0, "", ""), "there is nothing to print yet"
        following = tree.start("launch", "logs", "-f", run.id)
        cancelling = tree.start("launch", "cancel", run.id)
        with proxy.hold("GET", "/containers/slipway-[^/]+/json", skip=2) as looked:
            looked.wait()  # both have looked, and found that they have to wait
    assert cancelling.finish().code == 0
    assert run.ended == (143, "cancelled")
    assert launched.finish().code == (0 if detach else 143)
    assert following.finish().out == run.log
    assert tree.container(run) is None
