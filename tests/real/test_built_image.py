"""The cpu image as the engine has it: what it is, and that building it again is no work."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from images.locking.model import Entry

from .support import PROJECT, Running, docker_with_memory

pytestmark = pytest.mark.real


def record_of(built: str, entry: Entry) -> dict[str, Any]:
    path = PROJECT / ".slipway" / "images" / entry.checksum / f"{built.removeprefix('sha256:')}.json"
    return dict(json.loads(path.read_text()))


@pytest.fixture(scope="module")
def record(built: str, entry: Entry) -> dict[str, Any]:
    return record_of(built, entry)


def test_the_record_names_what_the_engine_has(docker: Any, record: dict[str, Any], entry: Entry) -> None:
    image = docker.images.get(record["ids"][-1])
    assert image.id in record["ids"]
    assert image.labels["slipway.entry"] == entry.checksum == record["entry"]
    assert image.labels["slipway.flavour"] == "cpu"
    assert record["debian_packages"]["python3"].startswith(entry.python)
    assert record["layers"] and record["base_tar"]


def test_building_it_again_calls_no_buildkit(address: str, record: dict[str, Any], entry: Entry, place: Path) -> None:
    path, asked = docker_with_memory(place)
    command = [str(Path(sys.executable).parent / "images"), "build", "automodel", "--flavour", "cpu"]
    done = Running(command, PROJECT, {**os.environ, "DOCKER_HOST": address, "PATH": path}).finish()
    assert done.code == 0 and "unchanged" in done.err, done
    assert record_of(done.out.strip(), entry)["inputs"] == record["inputs"]
    assert "build" not in asked()
