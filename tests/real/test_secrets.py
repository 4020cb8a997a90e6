"""Secrets of a profile, in a real container: files and variables of the step, and written nowhere else."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from .conftest import facts, toy
from .support import Run, Tree, until

pytestmark = pytest.mark.real


def test_a_secret_reaches_the_step_and_nothing_else(copy: Tree, place: Path) -> None:
    canaries = {"TOKEN": "canary-6b1f", "KEY": "canary-93c2 'of two words'"}
    source, output = place / "source", place / "output"
    source.write_text(canaries["KEY"] + "\n")
    profile = copy.path / "slipway.d" / "profiles" / "secretive.yaml"
    profile.parent.mkdir(parents=True, exist_ok=True)
    secrets = f"{{TOKEN: env, KEY: 'file:{source}'}}"
    profile.write_text(f"schema: 1\nkind: docker\nextends: docker\nsecrets: {secrets}\n")
    words = ("--profile", "secretive", *toy(output, "wait=true"))
    missing = copy.launch(*words)
    assert missing.code == 66 and "secrets.TOKEN" in missing.err

    planned = copy.launch(*words, "--dry-run", "--json", TOKEN=canaries["TOKEN"])
    done = copy.launch(*words, "--detach", TOKEN=canaries["TOKEN"])
    assert (planned.code, done.code) == (0, 0), (planned, done)
    run = Run(copy.runs / done.out.strip())
    until("a step that waits", (output / "waiting").exists)
    held = copy.runs / ".secrets" / run.id
    files = {path.name: path for path in held.iterdir()}
    assert {name: path.read_text() for name, path in files.items()} == canaries
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    assert {folder.stat().st_mode & 0o777 for folder in (held, held.parent)} == {0o700}
    inspected = json.dumps(copy.container(run).attrs)

    (output / "go").touch()
    copy.await_exit(run)
    shown = copy.show(run)
    assert shown.code == 0 and run.ended == (0, "step"), shown
    assert not held.exists()
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in canaries.items()}
    assert facts(run.log)["secrets"] == {
        name: {"file": digest, "variable": digest, "mode": "600"} for name, digest in digests.items()
    }

    source.unlink()
    said = [planned.out, planned.err, done.err, inspected, shown.out, copy.launch("show", run.id, "--json").out]
    assert not [text for text in said if "canary-" in text]
    found = subprocess.run(["grep", "-rlE", "canary-(6b1f|93c2)", run.path, place], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (1, "")
    assert {"plan.json", "request.json", "record.json"} <= {path.name for path in run.path.iterdir()}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hold a folder by a mount")
def test_secrets_that_cannot_be_removed_are_an_error_that_is_said_until_they_are(copy: Tree, place: Path) -> None:
    profile = copy.path / "slipway.d" / "profiles" / "secretive.yaml"
    profile.parent.mkdir(parents=True, exist_ok=True)
    profile.write_text("schema: 1\nkind: docker\nextends: docker\nsecrets: {TOKEN: env}\n")
    words = ("--profile", "secretive", *toy(place / "output", "wait=true"))
    launched = copy.start("launch", *words, TOKEN="canary")
    launched.await_line("waiting")
    run = copy.run_of(launched)
    held = copy.runs / ".secrets" / run.id
    subprocess.run(["mount", "--bind", held, held], check=True)
    try:
        (place / "output" / "go").touch()
        for done in (launched.finish(), copy.show(run)):
            assert done.code == 73 and f"{held}: this run's secrets cannot be removed" in done.err, done
    finally:
        subprocess.run(["umount", held], check=True)
    assert copy.show(run).code == 0 and not held.exists()
    assert run.ended == (0, "step") and copy.container(run) is None
