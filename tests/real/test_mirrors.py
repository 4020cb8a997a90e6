"""A site behind a mirror: lock, build and squash by commands, of a matrix that names a registry nobody here reaches."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.building import identity
from images.locking import lock as locks
from images.locking.model import Base
from slipway.project import Root

from .official import REGISTRY, RELEASES, Shelf, build, checkout
from .support import Tree

pytestmark = pytest.mark.real
NAME = f"automodel/{RELEASES['automodel']}-cuda"


@pytest.fixture(scope="module")
def site(ground: Path, official: Shelf, locked: Tree) -> Iterator[Tree]:
    """The project as it is, whose registry's name leads nowhere, and a user's configuration that leads to another."""
    path = ground / "mirrored"
    checkout(path, official, registry=REGISTRY)
    (path / "slipway.d").mkdir()
    text = f"schema: 1\nregistries:\n  {REGISTRY}: 127.0.0.1:{official.port}\n"
    (path / "slipway.d" / "config.yaml").write_text(text)
    unreachable = {"https_proxy": "http://127.0.0.1:1", "no_proxy": "127.0.0.1"}
    yield dataclasses.replace(locked, path=path, env=locked.env | unreachable)


def base_of(tree: Tree) -> Base:
    return locks.load_lock(Root(tree.path)).entries[NAME].base


def test_digests_come_from_the_mirror_and_the_lock_does_not_know(site: Tree, locked: Tree, no_docker: Path) -> None:
    done = site.images("lock")
    assert done.code == 0, done
    base = base_of(site)
    assert (base.digest, base.platforms) == (base_of(locked).digest, base_of(locked).platforms)
    assert base.image == f"{REGISTRY}/nvidia/nemo-automodel"
    assert "127.0.0.1" not in (site.path / "versions.lock").read_text()
    for more in ({}, {"PATH": str(no_docker)}):
        done = site.images("lock", "--check", "automodel", **more)
        assert (done.code, done.out.count(": base: same\n")) == (0, 1), done


def test_a_build_starts_from_the_mirror_and_is_the_same_build(site: Tree) -> None:
    build(site, "automodel")
    record = identity.records(Root(site.path), locks.load_lock(Root(site.path)).entries[NAME])[0]
    assert record.drift == {}
    labels = site.docker.images.get(record.ids[-1]).labels
    assert labels["org.opencontainers.image.base.name"] == f"{REGISTRY}/nvidia/nemo-automodel:{RELEASES['automodel']}"
    config = site.path / "slipway.d" / "config.yaml"
    aside = config.rename(config.with_suffix(".aside"))
    done = site.images("build", "automodel")
    aside.rename(config)
    assert done.code == 0 and "unchanged" in done.err, done


def test_a_file_without_docker_comes_from_the_mirror(site: Tree, no_docker: Path, place: Path) -> None:
    away = {"PATH": str(no_docker), "DOCKER_HOST": f"unix://{place}/none"}
    done = site.images("squash", NAME, "--dir", str(place), **away)
    assert done.code == 0, done
    port = (site.path / "slipway.d" / "config.yaml").read_text().split(":")[-1].strip()
    said = json.loads(Path(f"{done.out.strip()}.json").read_text())
    assert said["source"] == f"docker://127.0.0.1:{port}/nvidia/nemo-automodel@{base_of(site).digest}"
