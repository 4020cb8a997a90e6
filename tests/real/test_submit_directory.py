"""`-o DIR`: a run that is written down, read, and submitted later, by the launcher or by hand."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from .conftest import toy
from .support import Planned, Tree

pytestmark = pytest.mark.real


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_it_runs_when_it_is_submitted(tree: Tree, place: Path) -> None:
    folder, output, before = place / "run", place / "output", tree.all_runs()
    written = tree.launch(*toy(output, "code=4"), "-o", str(folder))
    assert written.code == 0 and f"launch submit {folder}" in written.err
    assert tree.all_runs() == before and not output.exists()
    content = everything(folder)

    done = tree.launch("submit", str(folder))
    assert done.code == 4, done
    run = tree.run_of(done)
    assert run.ended == (4, "step") and run.path.parent == tree.runs
    assert everything(folder) == content, "the folder can be submitted again"
    assert {name: text for name, text in everything(run.path).items() if name in content} == content
    assert json.loads((folder / "plan.json").read_text()) == run.record["plan"]
    assert tree.container(run) is None

    again = tree.launch("submit", str(folder))
    assert again.code == 73 and f"output={output}" in again.err


def test_the_printed_command_does_the_same_by_hand(tree: Tree, place: Path) -> None:
    """The dry run's text, in a shell that has the two variables."""
    folder = place / "run"
    printed = tree.launch(*toy(place / "output", "code=4"), "--dry-run", "-o", str(folder))
    assert printed.code == 0, printed
    Planned(folder).make_folders()
    env = tree.env | {"RUN_ID": f"by-hand-{place.name}", "RUN_DIR": str(folder)}
    shell = ["bash", "-c", printed.out.replace("docker run ", "docker run --rm ", 1)]
    done = subprocess.run(shell, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done
    assert "line 3\n" in done.stdout
    assert Planned(folder).status["cause"] == "step"


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("slipway/entrypoint.sh", "PYTHON=", "PYTHON=/bin/true #"),
        ("slipway/steps/toy.py", "facts", "fakes"),
        ("request.json", '"Init": true', '"Init": false'),
        ("plan.json", '"resume": false', '"resume": true'),
    ],
)
def test_a_changed_file_is_refused(tree: Tree, place: Path, file: str, before: str, after: str) -> None:
    folder, runs = place / "run", tree.all_runs()
    assert tree.launch(*toy(place / "output"), "-o", str(folder)).code == 0
    text = (folder / file).read_text()
    (folder / file).write_text(text.replace(before, after, 1))
    done = tree.launch("submit", str(folder))
    assert done.code == 65 and str(folder) in done.err
    assert tree.all_runs() == runs and not (place / "output").exists()
