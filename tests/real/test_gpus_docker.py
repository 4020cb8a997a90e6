"""GPUs through Docker, as a user asks for them: what a container got is compared with what was asked.

The engine and the image are the tests' own: gpu_engine.py stands in for what NVIDIA would install.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from images.locking import lock as locks
from images.locking.model import Entry
from images.machine.dockerhost import Address, engine_client
from slipway.project import Root

from .conftest import TOY, facts, installed, link_tar
from .gpu_engine import UUIDS, GpuEngine
from .support import PROJECT, Planned, Proxy, Run, Tree
from .test_ssh import SSH

pytestmark = pytest.mark.real

# The toy's configuration, which is in its image, and as much of PyYAML as it needs to read and write it as JSON.
TOYS_NEEDS = (
    f"echo '{json.dumps(yaml.safe_load((TOY / 'step' / 'base.yaml').read_text()))}' >/opt/toy.yaml && "
    r"printf 'import json\nsafe_load = json.loads\ndef safe_dump(value, **_): return json.dumps(value)\n' >yaml.py"
)


@pytest.fixture(scope="module")
def cuda() -> Entry:
    return locks.select(locks.load_lock(Root(PROJECT)), "automodel", "cuda")


@pytest.fixture(scope="module")
def checkout(project: Tree, ground: Path) -> Tree:
    """A checkout of its own: what is built here, nobody else's records name."""
    shutil.copytree(project.path, ground / "docker-gpus", copy_function=link_tar)
    return dataclasses.replace(project, path=ground / "docker-gpus")


@pytest.fixture(scope="module")
def machine(checkout: Tree, ground: Path, cuda: Entry) -> Iterator[GpuEngine]:
    """A machine with eight GPUs, whose engine has a cuda image over what stands in for NVIDIA's container."""
    (ground / "machine").mkdir()
    made = GpuEngine.prepare(ground / "machine")
    try:
        made.start("bare")
        tar = Path(checkout.images("base").out.split()[1])
        base = f"{cuda.base.reference}={made.build(tar, f'{installed(cuda)} && {TOYS_NEEDS}')}"
        done = checkout.images("build", "automodel", "--flavour", "cuda", "--base", base, DOCKER_HOST=made.places.url)
        assert done.code == 0, done
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module", params=["toolkit", "cdi"])
def kind(machine: GpuEngine, request: pytest.FixtureRequest) -> str:
    machine.start(request.param)
    return str(request.param)


@pytest.fixture
def site(checkout: Tree, machine: GpuEngine) -> Iterator[Tree]:
    """The commands on that machine."""
    env = checkout.env | {"PATH": machine.path, "DOCKER_HOST": machine.places.url}
    with engine_client(Address(machine.places.url, "tests")) as client:
        made = dataclasses.replace(checkout, env=env, docker=client)
        yield made
        made.end_all()


def toy(output: Path, *more: str) -> tuple[str, ...]:
    """A launch of the tests' step; its image is none of the lock's base."""
    return ("test/toy", "--flavour", "cuda", "--allow-drift", "--procs", "1", f"output={output}", *more)


def given(run: Run) -> list[str]:
    """The UUIDs that the record has of the run's GPUs, which are those that it saw."""
    seen = facts(run.log)["gpus"]
    assert run.record["versions"]["gpus"] == seen
    return list(seen)


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        (("--gpus", "2"), [0, 1]),
        (("--gpu-ids", "2,3"), [2, 3]),
        (("--gpu-ids", f"7,{UUIDS[5]}"), [5, 7]),
        (("--gpus", "8"), list(range(8))),
    ],
)
def test_a_run_gets_what_it_has_asked_for(
    site: Tree, kind: str, place: Path, asked: tuple[str, ...], got: list[int]
) -> None:
    done = site.launch(*toy(place / "output", *asked))
    assert done.code == 0, done.out + done.err
    run = site.run_of(done)
    assert given(run) == [UUIDS[n] for n in got]
    assert sorted(run.record["plan"]["gpus"]["uuids"]) == [UUIDS[n] for n in got]
    assert run.record["plan"]["gpus"]["driver"] == {"toolkit": "nvidia", "cdi": "cdi"}[kind]
    assert facts(run.log)["nodes"] == [f"/dev/nvidia{n}" for n in got]


def test_the_printed_command_gets_the_same_by_hand(site: Tree, kind: str, place: Path) -> None:
    folder = place / "run"
    printed = site.launch(*toy(place / "output", "--gpu-ids", "6,3"), "--dry-run", "-o", str(folder))
    assert kind and printed.code == 0, printed
    Planned(folder).make_folders()
    env = site.env | {"RUN_ID": f"by-hand-{place.name}", "RUN_DIR": str(folder)}
    shell = ["bash", "-c", printed.out.replace("docker run ", "docker run --rm ", 1)]
    done = subprocess.run(shell, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert facts(done.stdout)["gpus"] == [UUIDS[3], UUIDS[6]]


def test_two_runs_of_four_have_eight_gpus_and_a_third_waits_for_its_turn(site: Tree, kind: str, place: Path) -> None:
    """What the second gets is known before: its dry run says so."""
    first = site.start("launch", *toy(place / "one", "--gpus", "4", "wait=true"))
    first.await_line("waiting")
    dry = site.launch(*toy(place / "two", "--gpus", "4", "wait=true"), "--dry-run", "--json")
    assert dry.code == 0, dry
    second = site.start("launch", *toy(place / "two", "--gpus", "4", "wait=true"))
    second.await_line("waiting")
    runs = [site.run_of(one) for one in (first, second)]
    (requested,) = json.loads(dry.out)["HostConfig"]["DeviceRequests"]
    assert [requested] == runs[1].record["request"]["HostConfig"]["DeviceRequests"]
    for words in (("--gpus", "1"), ("--gpu-ids", "0")):
        third = site.launch(*toy(place / "three", *words))
        assert third.code == 75 and f"run {runs[0].id} has 0" in third.err, third
    for folder in ("one", "two"):
        (place / folder / "go").touch()
    assert [one.finish().code for one in (first, second)] == [0, 0]
    assert [given(run) for run in runs] == [UUIDS[:4], UUIDS[4:]]
    assert kind and site.launch(*toy(place / "four", "--gpu-ids", "0")).code == 0


def test_what_was_taken_since_it_was_planned_is_refused_or_planned_anew(site: Tree, kind: str, place: Path) -> None:
    written = site.launch(*toy(place / "one", "--gpus", "8"), "-o", str(place / "run"))
    assert kind and written.code == 0, written
    other = site.start("launch", *toy(place / "two", "--gpus", "2", "wait=true"))
    other.await_line("waiting")
    before, holder = site.all_runs(), site.run_of(other)
    late = site.launch("submit", str(place / "run"))
    assert (late.code, site.all_runs()) == (75, before), late
    assert f"GPUs were taken meanwhile: run {holder.id} has 0,1" in late.err
    assert not (place / "one").exists() and len(site.docker.containers.list(all=True)) == 1
    (place / "two" / "go").touch()
    assert other.finish().code == 0
    assert site.launch("submit", str(place / "run")).code == 0


def test_of_two_planned_at_the_same_moment_one_takes_other_gpus(
    site: Tree, kind: str, machine: GpuEngine, ground: Path, place: Path
) -> None:
    """The first has its plan, and its container is about to be made, when the second starts on the same GPUs."""
    proxy = Proxy(ground / place.name[-8:], machine.places.url)
    with proxy.hold("POST", "/containers/create") as hold:
        first = site.start("launch", *toy(place / "one", "--gpus", "4"), DOCKER_HOST=proxy.url)
        hold.wait()
        second = site.start("launch", *toy(place / "two", "--gpus", "4", "wait=true"))
        second.await_line("waiting")
    assert kind and first.finish().code == 0
    holder = site.run_of(second)
    assert f"GPUs were taken meanwhile: run {holder.id} has 0,1,2,3; planned anew\n" in first.err
    (place / "two" / "go").touch()
    assert second.finish().code == 0
    assert [given(site.run_of(one)) for one in (first, second)] == [UUIDS[4:], UUIDS[:4]]
    proxy.close()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--gpus", "9"), "--gpus: 9 asked for, the machine has 8"),
        (("--gpu-ids", "8"), "--gpu-ids: the engine has no GPU 8"),
        (("--gpu-ids", "GPU-beef"), "--gpu-ids: the engine has no GPU GPU-beef"),
        (("--gpu-ids", f"0,{UUIDS[0]}"), "--gpu-ids: GPU 0 is named twice"),
        (("--gpu-ids", "0,1", "--gpus", "4"), "--gpus: 4 asked for, --gpu-ids names 2"),
        (("--gpu-ids", "one"), "--gpu-ids: 'one' names no GPU"),
    ],
)
def test_what_cannot_be_given_is_refused_before(
    site: Tree, kind: str, place: Path, asked: tuple[str, ...], said: str
) -> None:
    before = site.all_runs()
    done = site.launch(*toy(place / "output", *asked))
    assert kind and (done.code, site.all_runs()) == (64, before), done
    assert f"error: {said}" in done.err
    assert not site.docker.containers.list(all=True)


@pytest.fixture
def far(site: Tree, place: Path, machine: GpuEngine) -> Tree:
    """The commands on another machine, from which ssh leads to that one; they share all folders."""
    (place / "bin").mkdir()
    (place / "bin" / "ssh").write_text(SSH.format(machine.places.url))
    (place / "bin" / "ssh").chmod(0o755)
    (place / "slipway" / "profiles").mkdir(parents=True)
    (place / "slipway" / "profiles" / "far.yaml").write_text("schema: 1\nkind: docker\nshared: [/]\n")
    env = {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "DOCKER_HOST": "ssh://far.example"}
    return dataclasses.replace(site, env=site.env | env | {"XDG_CONFIG_HOME": str(place), "SLIPWAY_PROFILE": "far"})


def test_an_engine_elsewhere_gives_what_it_has_and_refuses_the_rest(far: Tree, kind: str, place: Path) -> None:
    """It does not tell its GPUs (Docker 28.2 does): they are counted from 0, past those that runs hold."""
    first = far.start("launch", *toy(place / "one", "--gpus", "2", "wait=true"))
    first.await_line("waiting")
    second = far.launch(*toy(place / "two", "--gpus", "2"))
    assert kind and second.code == 0, second
    (place / "one" / "go").touch()
    assert first.finish().code == 0
    assert [given(far.run_of(one)) for one in (first, second)] == [UUIDS[:2], UUIDS[2:4]]
    before = far.all_runs()
    refused = far.launch(*toy(place / "three", "--gpu-ids", "9"))
    assert (refused.code, far.all_runs()) == (69, before), refused
    assert {"toolkit": "9: unknown device", "cdi": "nvidia-ctk cdi list"}[kind] in refused.err


def test_an_engine_elsewhere_that_gives_none_refuses_with_a_remedy(far: Tree, machine: GpuEngine, place: Path) -> None:
    machine.start("bare")
    done = far.launch(*toy(place / "output", "--gpus", "1"))
    assert done.code == 69 and "could not select device driver" in done.err, done
    assert "on the engine's machine: install nvidia-container-toolkit" in done.err
    assert not (place / "output").exists() and not far.docker.containers.list(all=True)


def test_an_engine_that_gives_none_names_what_is_missing(site: Tree, machine: GpuEngine, place: Path) -> None:
    machine.start("bare")
    done = site.launch(*toy(place / "output", "--gpus", "1"))
    assert done.code == 69, done
    assert "no GPU for a container: the engine has no runtime `nvidia`, and reads no CDI specification" in done.err
    assert "nvidia-ctk runtime configure --runtime=docker" in done.err
