"""The cuda Dockerfile, built over what stands in for its base: over the right versions only, and never unnoticed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from images import identity
from images import lock as locks
from images.model import Entry
from slipway.project import Root

from .conftest import Variant, installed, link_tar, toy
from .registry import registry
from .support import PROJECT, Done, Tree, docker_with_memory

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def cuda() -> Entry:
    """The default release of the cuda flavour, whose base is resolved."""
    found = locks.select(locks.load_lock(Root(PROJECT)), "automodel", "cuda")
    assert found.base.digest
    return found


@pytest.fixture(scope="module")
def stand_in(variant: Variant, debian: str, cuda: Entry) -> str:
    return variant(debian, installed(cuda))


@pytest.fixture(scope="module")
def wrong(variant: Variant, debian: str, cuda: Entry) -> str:
    """One component is older, one is not there."""
    return variant(debian, installed(cuda, {"torch": "2.9.1", "transformer-engine": None}))


def tags(docker: Any, cuda: Entry) -> dict[str, str]:
    """Every tag that building this entry may have made -> the image's id."""
    name = cuda.tag
    images = docker.images.list(name.partition(":")[0])
    return {tag: image.id for image in images for tag in image.tags if tag.startswith(name)}


@pytest.fixture(scope="module")
def tag(docker: Any, cuda: Entry) -> Iterator[str]:
    """The image's tag. Tags are left as they were: somebody may have built the real one."""
    before = tags(docker, cuda)
    yield cuda.tag
    for name, image in before.items():
        docker.images.get(image).tag(*name.split(":"))
    for name in tags(docker, cuda).keys() - before.keys():
        docker.images.remove(name)


@pytest.fixture(scope="module")
def checkout(project: Tree, ground: Path) -> Tree:
    """A checkout of its own: what is built here, nobody else's records name."""
    shutil.copytree(project.path, ground / "substitution", copy_function=link_tar)
    return dataclasses.replace(project, path=ground / "substitution")


@dataclass(frozen=True)
class Built:
    words: tuple[str, ...]
    done: Done


@pytest.fixture(scope="module")
def substituted(checkout: Tree, cuda: Entry, stand_in: str, tag: str) -> Built:  # noqa: ARG001  (`tag` is restored)
    words = ("build", "automodel", "--flavour", "cuda", "--base", f"{cuda.base.reference}={stand_in}")
    return Built(words, checkout.images(*words))


def test_it_builds_over_the_expected_versions(
    docker: Any, substituted: Built, cuda: Entry, stand_in: str, tag: str
) -> None:
    assert substituted.done.code == 0, substituted.done
    image = docker.images.get(tag)
    assert image.labels["slipway.entry"] == cuda.checksum
    assert image.labels["slipway.substituted"] == f"{cuda.base.reference}={docker.images.get(stand_in).id}"
    assert any(variable.startswith("PATH=/opt/venv/bin:") for variable in image.attrs["Config"]["Env"])


def test_a_launch_refuses_it(checkout: Tree, substituted: Built, place: Path, cuda: Entry, stand_in: str) -> None:
    """Without asking for GPUs, which engines of test machines do not have."""
    assert substituted.done.code == 0
    over = checkout.docker.images.get(stand_in).id
    words = ["cuda" if word == "cpu" else word for word in toy(place / "output", "--gpus", "0")]
    runs = checkout.all_runs()
    refused = checkout.launch(*words)
    assert refused.code == 65, refused
    assert f"image of {cuda.name}: has {over} in place of {cuda.base.reference}" in refused.err
    assert "--allow-drift" in refused.err
    assert checkout.all_runs() == runs and not (place / "output").exists()

    accepted = checkout.launch(*words, "--allow-drift", "-o", str(place / "run"))
    assert accepted.code == 0, accepted
    assert f"warning: image of {cuda.name}: has {over}" in accepted.err
    assert json.loads((place / "run" / "plan.json").read_text())["allow_drift"] is True


def test_what_is_pushed_is_dockers_v2_schema_2_and_known_by_the_digests_it_has_there(
    checkout: Tree, substituted: Built, cuda: Entry, place: Path, docker: Any
) -> None:
    assert substituted.done.code == 0
    with registry(place) as port:
        reference = f"127.0.0.1:{port}/slipway/automodel:1"
        done = checkout.images(*substituted.words, "--push", reference)
        assert done.code == 0, done
        url = f"http://127.0.0.1:{port}/v2/slipway/automodel/manifests/1"
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD")).close()  # enroot asks so first: no 404
        accepted = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=accepted)) as answer:
            manifest, digest = json.loads(answer.read()), answer.headers["Docker-Content-Digest"]
        assert manifest["mediaType"] == accepted["Accept"]
        ids = identity.records(Root(checkout.path), cuda)[0].ids
        assert {manifest["config"]["digest"], digest} <= set(ids)
        by_digest = f"127.0.0.1:{port}/slipway/automodel@{digest}"
        pulled = docker.images.pull(by_digest)
        assert pulled.id in ids
        docker.images.remove(by_digest)
    refused = checkout.images(*substituted.words, "--push", "127.0.0.1:9/nothing/here:1")
    assert refused.code == 69 and "127.0.0.1:9 cannot be reached" in refused.err


def test_nothing_changed_nothing_built(checkout: Tree, substituted: Built, place: Path) -> None:
    path, asked = docker_with_memory(place)
    done = checkout.images(*substituted.words, PATH=path)
    assert done.code == 0 and "unchanged" in done.err, done
    assert "build" not in asked()
    assert done.out == substituted.done.out


def test_without_its_record_it_is_built_again(checkout: Tree, substituted: Built, cuda: Entry, place: Path) -> None:
    assert substituted.done.code == 0
    shutil.rmtree(checkout.path / ".slipway" / "images" / cuda.checksum)
    path, asked = docker_with_memory(place)
    done = checkout.images(*substituted.words, PATH=path)
    assert done.code == 0 and ": built in " in done.err, done
    assert "buildx build" in asked()


def test_another_stand_in_is_another_image(checkout: Tree, substituted: Built, cuda: Entry, wrong: str) -> None:
    """What was built over one image says nothing of another one; this one lacks what the entry expects."""
    assert substituted.done.code == 0
    folder = checkout.path / ".slipway" / "images" / cuda.checksum
    before = sorted(folder.iterdir())
    expected = cuda.environments["main"].packages
    done = checkout.images(*substituted.words[:-1], f"{cuda.base.reference}={wrong}")
    assert done.code == 69, done
    assert f"environment main: torch: found 2.9.1, expected {expected['torch']}" in done.err
    absent = f"environment main: transformer-engine: not installed, expected {expected['transformer-engine']}"
    assert absent in done.err
    assert sorted(folder.iterdir()) == before


def test_an_unresolved_base_names_who_could_resolve_it(checkout: Tree) -> None:
    done = checkout.images("build", "automodel", "--flavour", "cuda", "--release", "26.06")
    assert done.code == 78 and done.out == ""
    assert "nvcr.io/nvidia/nemo-automodel:26.06 is unresolved" in done.err
    assert "where nvcr.io is reachable, run: images lock automodel" in done.err
