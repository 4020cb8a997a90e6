"""The cpu images of every library, really built: what is in them, twice the same digest, and what stops a build."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from images.building import identity
from images.locking import lock as locks
from images.locking.model import Entry
from slipway import canonical
from slipway.project import Root

from .conftest import link_tar
from .support import PROJECT, Tree

pytestmark = pytest.mark.real
HERE = Path(__file__).parent
ROOT = Root(PROJECT)
Build = Callable[..., identity.ImageRecord]


@pytest.fixture(scope="module")
def build(address: str) -> Build:
    """`images build LIBRARY --flavour cpu WORD…` in the project itself; returns the record of what it names."""

    def run(library: str, *words: str) -> identity.ImageRecord:
        command = [str(Path(sys.executable).parent / "images"), "build", library, "--flavour", "cpu", *words]
        env = {**os.environ, "DOCKER_HOST": address}
        done = subprocess.run(command, cwd=PROJECT, env=env, stdout=subprocess.PIPE, text=True, check=True)
        return next(r for r in identity.records(ROOT, entry_of(library)) if r.ids[0] == done.stdout.strip())

    return run


def entry_of(library: str) -> Entry:
    return locks.select(locks.load_lock(ROOT), library, "cpu")


def inside(docker: Any, image: str, *command: str, **more: Any) -> str:
    """What a command prints in a container without a network, on a read-only root, as somebody without a name."""
    arguments = {"user": "12345:12345", "read_only": True, "network_mode": "none", "tmpfs": {"/tmp": ""}} | more
    env = {"HOME": "/tmp"}
    return bytes(docker.containers.run(image, list(command), remove=True, environment=env, **arguments)).decode()


def test_modelopt_quantizes(docker: Any, build: Build) -> None:
    program = (
        "import torch, modelopt.torch.quantization as mtq; torch.manual_seed(0); m = torch.nn.Linear(32, 32);"
        "mtq.quantize(m, mtq.FP8_DEFAULT_CFG, lambda m: m(torch.ones(2, 32)));"
        "print('amax', float(m.weight_quantizer.amax) == float(m.weight.abs().max()))"
    )
    assert "amax True" in inside(docker, build("modelopt").ids[-1], "python", "-c", program)


def test_megatron_has_its_compiled_helpers_and_no_compiler(docker: Any, build: Build) -> None:
    record = build("megatron-bridge")
    find = "ls /opt/venv/lib/python3.11/site-packages/megatron/core/datasets/helpers_cpp*.so; command -v g++ make; true"
    said = inside(docker, record.ids[-1], "sh", "-c", find).split()
    assert len(said) == 1 and said[0].endswith(".so")
    assert record.debian_packages["bash"] and sum(layer.bytes for layer in record.layers) > 1_000_000_000


def test_two_builds_from_no_cache_have_one_digest(build: Build) -> None:
    """Of the image that compiles something; those of the others: test_every_cpu_image_is_reproducible."""
    once = build("megatron-bridge")
    again = build("megatron-bridge", "--no-cache")
    assert again.built > once.built and again.reproducible
    assert again.ids == once.ids


@pytest.mark.long
@pytest.mark.parametrize("words", [("automodel",), ("modelopt",), ("nemo-rl", "--source", "nemo-rl=none")])
def test_every_cpu_image_is_reproducible(build: Build, words: tuple[str, ...]) -> None:
    assert build(*words, "--no-cache").ids == build(*words, "--no-cache").ids


@pytest.fixture(scope="module")
def without(build: Build) -> identity.ImageRecord:
    """NeMo RL's image without NeMo RL: all that the package index has of it."""
    return build("nemo-rl", "--source", "nemo-rl=none")


@pytest.fixture(scope="module")
def harbour(project: Tree, ground: Path, without: identity.ImageRecord) -> Tree:
    """A project with two steps of NeMo RL's library: one drives Ray alone, one needs the repository."""
    shutil.copytree(project.path, ground / "harbour", copy_function=link_tar)
    tree = dataclasses.replace(project, path=ground / "harbour")
    for name, extra in (("ray", ""), ("needs", "repositories: [nemo-rl]\n")):
        folder = tree.path / "launcher" / "steps" / "test" / name
        shutil.copytree(HERE / "ray" / "step", folder)
        (folder / "step.yaml").write_text((folder / "step.yaml").read_text() + extra)
    shutil.copy(HERE / "ray" / "ray_driver.py", tree.path / "entrypoints" / "steps")
    identity.save(Root(tree.path), without)
    return tree


def test_what_is_left_out_is_on_the_label_and_verify_skips_exactly_that(
    docker: Any, without: identity.ImageRecord
) -> None:
    image = docker.images.get(without.ids[-1])
    assert image.labels["slipway.left-out"] == "nemo-rl"
    verify = {str(PROJECT / "entrypoints" / "verify.py"): {"bind": "/verify.py", "mode": "ro"}}
    said = inside(docker, image.id, "python", "-B", "/verify.py", "image", volumes=verify)
    assert re.search(r"^  nemo-rl +81aa43dda476 +left out$", said, re.M), said[-3000:]


def test_its_ray_runs_and_the_plan_says_what_is_missing(harbour: Tree, place: Path) -> None:
    done = harbour.launch("test/ray", "--flavour", "cpu", f"output={place / 'output'}")
    assert done.code == 0, done
    assert "warning: image of nemo-rl/v0.7.0-cpu: was built without nemo-rl (--source nemo-rl=none)" in done.err
    plan = json.loads((harbour.run_of(done).path / "plan.json").read_text())
    assert plan["left_out"] == ["nemo-rl"]
    actors = json.loads((place / "output" / "actors.json").read_text())
    assert [a["torch"] for a in actors] == ["2.13.0+cpu"] * 2 and len({a["pid"] for a in actors}) == 2
    assert sorted(a["gpu"] for a in actors) == [["0"], ["1"]]
    assert {a["uid"] for a in actors} == {os.getuid()}


def test_a_step_that_runs_the_repository_is_refused(harbour: Tree, place: Path) -> None:
    done = harbour.launch("test/needs", "--flavour", "cpu", f"output={place / 'output'}")
    assert done.code == 77
    assert "was built without nemo-rl (--source nemo-rl=none), which test/needs runs" in done.err
    assert not harbour.all_runs() or not (place / "output").exists()


def test_a_wheel_with_another_hash_stops_the_build_and_nothing_is_tagged(copy: Tree, docker: Any) -> None:
    lock = locks.load_lock(Root(copy.path))
    entry = locks.select(lock, "modelopt", "cpu")
    file = copy.path / entry.groups["torch"].file
    text = re.sub(
        r"(filelock==\S+ \\\n)(    --hash=\S+( \\)?\n)+", rf"\g<1>    --hash=sha256:{'0' * 64}\n", file.read_text()
    )
    file.write_text(text)
    group = msgspec.structs.replace(entry.groups["torch"], sha256=canonical.sha256(text.encode()))
    forged = msgspec.structs.replace(entry, groups={**entry.groups, "torch": group})
    lock = locks.sealed(msgspec.structs.replace(lock, entries={**lock.entries, entry.name: forged}))
    (copy.path / "versions.lock").write_text(locks.lock_text(lock))
    before = {t for i in docker.images.list() for t in i.tags if "modelopt" in t}
    done = copy.images("build", "modelopt", "--flavour", "cpu")
    assert done.code == 69, done
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.err
    assert {t for i in docker.images.list() for t in i.tags if "modelopt" in t} == before
    assert not identity.records(Root(copy.path), forged)


@pytest.fixture(scope="module")
def foreign(docker: Any, address: str, ground: Path) -> Iterator[str]:
    """An image for another architecture."""
    (ground / "empty").mkdir()
    tar = subprocess.run(["tar", "-C", str(ground / "empty"), "-c", "."], stdout=subprocess.PIPE, check=True).stdout
    command = ["docker", "import", "--platform", "linux/arm64", "-", "slipway-test/foreign:1"]
    subprocess.run(command, input=tar, env=os.environ | {"DOCKER_HOST": address}, check=True, stdout=subprocess.DEVNULL)
    yield "slipway-test/foreign:1"
    docker.images.remove("slipway-test/foreign:1")


def test_a_base_for_another_architecture_is_refused(copy: Tree, foreign: str) -> None:
    base = locks.select(locks.load_lock(Root(copy.path)), "automodel", "cuda").base.reference
    done = copy.images("build", "automodel", "--base", f"{base}={foreign}")
    assert done.code == 65
    assert "the image is for arm64, what is built is for amd64" in done.err


def test_a_build_without_room_says_which_folder(copy: Tree, place: Path) -> None:
    folder = place / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], check=True)
    try:
        done = copy.images("build", "modelopt", "--flavour", "cpu", TMPDIR=str(folder))
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert done.code == 73
    assert f"{folder}: an image of about" in done.err and "16 MiB are free" in done.err and "set TMPDIR" in done.err
