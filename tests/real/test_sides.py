"""`images diff` with images on a real engine: they are asked what they say of themselves, and never run."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from images.building import identity, render
from images.inspection import compare
from images.locking.model import Entry

from .support import PROJECT, Done, Running

pytestmark = pytest.mark.real


def import_image(docker: Any, tag: str, files: dict[str, str], **labels: str) -> None:
    """An image of these files without a command: there is nothing in it to run."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    changes = [f'LABEL {name}="{value}"' for name, value in labels.items()]
    repository, _, version = tag.partition(":")
    docker.api.import_image_from_data(data.getvalue(), repository, version, changes=changes)


@pytest.fixture
def tags(docker: Any, place: Path) -> Iterator[list[str]]:
    names = [f"slipway-test/{place.name.rpartition('-')[0].lower()}:{n}" for n in range(2)]
    yield names
    for name in names:
        if identity.tagged(name, docker):
            docker.images.remove(name, force=True)


def diff(address: str, *words: str) -> Done:
    command = [str(Path(sys.executable).parent / "images"), "diff", *words]
    return Running(command, PROJECT, {**os.environ, "DOCKER_HOST": address}).finish()


def containers(docker: Any, tag: str) -> list[Any]:
    return list(docker.containers.list(all=True, filters={"ancestor": docker.images.get(tag).id}))


def test_an_image_of_the_entry_and_one_of_another(docker: Any, address: str, tags: list[str], entry: Entry) -> None:
    tag, changed = tags
    import_image(docker, tag, {compare.SAID.lstrip("/"): render.entry_json(entry)})
    for word in (tag, docker.images.get(tag).id):
        done = diff(address, word, entry.name)
        assert (done.code, done.out) == (0, "no difference\n"), done
    assert containers(docker, tag) == []
    main = entry.environments["main"]
    packages = main.packages | {"torch": "0.1"}
    other = msgspec.structs.replace(entry, environments={"main": msgspec.structs.replace(main, packages=packages)})
    import_image(docker, changed, {compare.SAID.lstrip("/"): render.entry_json(other)}, **{"slipway.left-out": "boats"})
    done = diff(address, changed, "versions.lock")
    assert done.code == 1
    assert done.out.splitlines() == [
        f"{entry.name}: entry checksum: {other.checksum[:12]} -> {entry.checksum[:12]}",
        f"{entry.name}: environment main: torch: 0.1 -> {main.packages['torch']}",
        f"{entry.name}: left out: removed boats",
    ]
    assert containers(docker, changed) == []


def test_an_image_of_nobody(docker: Any, address: str, tags: list[str]) -> None:
    tag, _ = tags
    import_image(docker, tag, {"readme": "nothing"})
    done = diff(address, tag, "versions.lock")
    assert (done.code, done.out) == (65, "")
    assert f"{tag}: does not say what it is made from" in done.err
    assert containers(docker, tag) == []
