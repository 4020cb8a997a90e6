"""The cuda Dockerfile, built over what stands in for its base: over the right versions only, and never unnoticed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from images.building import identity
from images.locking import lock as locks
from images.locking.model import Entry
from slipway.project import Root

from .conftest import Variant, installed, link_tar, toy
from .registry import registry
from .support import PROJECT, Done, Tree, docker_with_memory, until

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


@pytest.mark.parametrize("named", ["tagged", "nameless"])
def test_a_stand_in_may_be_named_by_its_id(
    docker: Any, address: str, checkout: Tree, substituted: Built, cuda: Entry, stand_in: str, place: Path, named: str
) -> None:
    """Of which BuildKit knows no name. The engine has it afterwards, too, where nothing else names it."""
    assert substituted.done.code == 0
    shutil.copytree(checkout.path, place / "project", copy_function=link_tar)
    tree = dataclasses.replace(checkout, path=place / "project")
    digest = docker.images.get(stand_in).id if named == "tagged" else without_name(docker, address, place, stand_in)
    before = all_tags(docker)
    try:
        for _ in range(2):
            shutil.rmtree(tree.path / ".slipway" / "images" / cuda.checksum, ignore_errors=True)
            done = tree.images("build", "automodel", "--flavour", "cuda", "--base", f"{cuda.base.reference}={digest}")
            assert done.code == 0 and ": built in " in done.err, done
            assert docker.images.get(digest).id == digest
        (record,) = identity.records(Root(tree.path), cuda)
        assert record.substitutions == {cuda.base.reference: digest}
        added = {t for t in all_tags(docker) - before if not t.startswith(cuda.tag)}
        called = f"slipway/stand-in:{digest.removeprefix('sha256:')[:12]}"
        assert added == ({called} if named == "nameless" else set())
    finally:
        if named == "nameless":
            docker.images.remove(digest, force=True)


def without_name(docker: Any, address: str, place: Path, image: str) -> str:
    """An image like this one, as a build without a tag leaves it."""
    (place / "context").mkdir()
    (place / "context" / "Dockerfile").write_text(f"FROM {image}\nRUN touch /nameless\n")
    build = [
        "docker",
        "buildx",
        "build",
        "--quiet",
        "--load",
        "--network=host",
        "--provenance=false",
        str(place / "context"),
    ]
    before = {image.id for image in docker.images.list()}
    subprocess.run(build, env=os.environ | {"DOCKER_HOST": address}, check=True)
    (made,) = {image.id for image in docker.images.list() if not image.tags} - before
    return str(made)


def all_tags(docker: Any) -> set[str]:
    return {tag for image in docker.images.list() for tag in image.tags}


def test_a_stand_in_may_be_named_by_what_images_build_has_printed(
    docker: Any, checkout: Tree, substituted: Built, cuda: Entry
) -> None:
    """The digest of the configuration, by which an engine with the containerd image store does not know it."""
    printed = substituted.done.out.strip()
    words = ("build", "automodel", "--flavour", "cuda", "--base", f"{cuda.base.reference}={printed}")
    before = identity.records(Root(checkout.path), cuda)
    done = checkout.images(*words)
    assert done.code == 0, done
    new = next(r for r in identity.records(Root(checkout.path), cuda) if r not in before)
    assert new.substitutions[cuda.base.reference] in before[0].ids
    identity.folder(Root(checkout.path), cuda.checksum).joinpath(f"{done.out.strip()[7:]}.json").unlink()
    for tag in docker.images.get(new.ids[-1]).tags:
        if tag != cuda.tag:
            docker.images.remove(tag)


def hangs_at(place: Path, words: str) -> tuple[str, Path]:
    """A PATH whose docker hangs when these are its first words, and the file that then has its process's id."""
    pid = place / "pid"
    (place / "programs").mkdir()
    program = place / "programs" / "docker"
    hang = f'case "$*" in "{words}"*) echo $$ >{pid}.part; mv {pid}.part {pid}; exec sleep 1000000 ;; esac'
    program.write_text(f'#!/bin/sh\n{hang}\nexec {shutil.which("docker")} "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}", pid


def test_what_a_killed_build_has_left_goes_with_the_next_command(
    checkout: Tree, substituted: Built, place: Path
) -> None:
    """Once its programs have ended, too, which still read there."""
    path, pid = hangs_at(place, "buildx build")
    running = checkout.start("images", *substituted.words, "--no-cache", PATH=path)
    program = int(until("the build", lambda: pid.read_text() if pid.exists() else ""))
    (left,) = (checkout.path / ".slipway" / "tmp").iterdir()
    assert (left / "context" / "Dockerfile").is_file()
    running.kill()
    assert checkout.images(*substituted.words).code == 0
    assert left.is_dir()
    os.kill(program, signal.SIGKILL)
    until("its end", lambda: checkout.images(*substituted.words).code == 0 and not left.exists())
    assert not any(left.parent.iterdir())


def test_what_a_killed_verify_has_left_goes_with_the_next_command(
    checkout: Tree, substituted: Built, place: Path, cuda: Entry
) -> None:
    assert substituted.done.code == 0
    path, pid = hangs_at(place, "run --rm")
    temporary = place / "temporary"
    temporary.mkdir()
    running = checkout.start("images", "verify", cuda.name, PATH=path, TMPDIR=str(temporary))
    program = int(until("the run", lambda: pid.read_text() if pid.exists() else ""))
    (left,) = temporary.iterdir()
    running.kill()
    os.kill(program, signal.SIGKILL)
    done = checkout.images("verify", cuda.name, TMPDIR=str(temporary))
    assert (done.code, [*temporary.iterdir()]) == (0, []), (done, left)


def test_an_unresolved_base_names_who_could_resolve_it(checkout: Tree) -> None:
    done = checkout.images("build", "automodel", "--flavour", "cuda", "--release", "26.06")
    assert done.code == 78 and done.out == ""
    assert "nvcr.io/nvidia/nemo-automodel:26.06 is unresolved" in done.err
    assert "where nvcr.io is reachable, run: images lock automodel" in done.err
