"""The cpu image as the engine has it: what it is, and that building it again is no work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from images.model import Entry

from .support import PROJECT

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def record(built: str, entry: Entry) -> dict[str, Any]:
    path = PROJECT / ".slipway" / "images" / entry.checksum / f"{built.removeprefix('sha256:')}.json"
    return dict(json.loads(path.read_text()))


def test_the_record_names_what_the_engine_has(docker: Any, record: dict[str, Any], entry: Entry) -> None:
    image = docker.images.get(record["ids"][-1])
    assert image.id in record["ids"]
    assert image.labels["slipway.entry"] == entry.checksum == record["entry"]
    assert image.labels["slipway.flavour"] == "cpu"
    assert record["debian_packages"]["python3"].startswith(entry.python)
    assert record["layers"] and record["base_tar"]


def test_building_it_again_calls_no_docker(address: str, built: str, place: Path) -> None:
    broken = place / "docker"
    broken.write_text("#!/bin/sh\necho docker was called >&2; exit 1\n")
    broken.chmod(0o755)
    env = {**os.environ, "DOCKER_HOST": address, "PATH": f"{place}:{os.environ['PATH']}"}
    command = [str(Path(sys.executable).parent / "images"), "build", "automodel", "--flavour", "cpu"]
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert done.stdout.strip() == built
    assert "unchanged" in done.stderr and "called" not in done.stderr
