"""`launch selftest` over Docker, and what the lock and `launch steps` make of its attestations.

What its steps have made is looked at by the tests of each library, which take it from there.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.catalog import definitions
from slipway.project import Root

from .conftest import link_tar
from .support import PROJECT, Tree
from .tried import Tried

pytestmark = pytest.mark.real
LIBRARIES = ("automodel", "megatron-bridge", "modelopt")


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_step_of_a_library_runs_to_its_end(tried: Callable[[str], Tried], library: str) -> None:
    found = tried(library)
    steps = [step.id for step in definitions.all_steps(Root(PROJECT)) if step.library == library]
    ours = {name: tested for name, tested in found.steps.items() if not name.startswith("test/")}
    assert sorted(ours) == steps and {tested["result"] for tested in ours.values()} == {"ok"}
    assert all(tested["seconds"] > 0 for tested in ours.values())
    assert {t["why"] for n, t in found.steps.items() if n not in ours} <= {"its step.yaml has no `selftest:`"}
    for step in steps:
        record = found.run(step).record
        assert record["tags"] == {"selftest": ""} and record["plan"]["step"] == step
    # The order of the runs is that of what they take of one another, which their records name.
    run = found.run("convert/megatron_to_hf") if library == "megatron-bridge" else None
    if run:
        former = run.record["plan"]["from_run"]["model"]["run"]
        assert former == found.steps["convert/hf_to_megatron"]["run"] < run.id


def test_the_lock_takes_what_was_attested_and_the_steps_say_it(
    dock: Tree, tried: Callable[[str], Tried], place: Path
) -> None:
    files = [file for library in LIBRARIES for file in tried(library).told["attestations"]]
    assert [Path(file).name for file in files] == [
        "automodel-0.7.0-cpu.json", "megatron-bridge-0.6.2-cpu.json", "modelopt-0.47.0-cpu.json"
    ]  # fmt: skip
    shutil.copytree(dock.path, place / "project", copy_function=link_tar)
    copy = dataclasses.replace(dock, path=place / "project")
    done = copy.images("lock", *(word for file in files for word in ("--attest", file)), DOCKER_HOST="unix:///dead")
    assert done.code == 0 and done.err.count("-cpu is tested: ") == 3, done
    steps = {step["id"]: step["tested"] for step in json.loads(copy.launch("steps", "--json").out)}
    ours = [step.id for step in definitions.all_steps(Root(PROJECT)) if step.library in LIBRARIES]
    assert all(steps[name] for name in ours) and not steps["test/toy"]
    told, *_ = steps["sft/automodel"]["automodel/0.7.0-cpu"]
    run = tried("automodel").run("sft/automodel")
    assert told["image"] == run.record["plan"]["image"] and told["engine"] == "docker"
    assert told["hardware"].endswith(" processors") and "driver" not in told
    # A launch from that lock is as it was: no entry has another checksum.
    model, chats = tried("automodel").material("model"), tried("automodel").material("chats")
    again = copy.launch("sft/automodel", "--flavour", "cpu", f"model={model}", f"train={chats}", "--dry-run")
    assert again.code == 0, again


def test_ctrl_c_ends_it_and_attests_nothing(dock: Tree, place: Path) -> None:
    """It goes to the step that runs; no other one is begun."""
    before = dock.all_runs()
    started = dock.start("launch", "selftest", "--flavour", "cpu", "--library", "modelopt", "-o", str(place / "made"))
    run = dock.run_of(started)
    dock.await_running(run)
    started.signal(signal.SIGINT)
    done = started.finish()
    assert done.code == 130 and "stopped; 2 more were not run, and nothing is attested\n" in done.err, done
    assert done.out.startswith("stopped  optimize/modelopt/prune ") and not (place / "made").exists()
    assert dock.since(before) == [run] and dock.container(run) is None
