"""`--code` in a container on the real engine: the toy says what it finds where the image has something else."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from .conftest import facts, toy
from .support import Tree

pytestmark = pytest.mark.real
PLACE = "/usr/share/base-files"  # Debian's image has files of its own there
ROW = f"""
  - library: automodel
    flavour: cpu
    name: boats
    path: {PLACE}
    says: something in the image notices
    silenced_by: QUIET
    source: this test
"""


def git(folder: Path, *words: str) -> str:
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {"PATH": os.environ["PATH"], "HOME": str(folder)} | identity
    return subprocess.run(["git", *words], cwd=folder, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.fixture
def boats(copy: Tree, place: Path) -> Path:
    """A checkout on a branch; in the project, the image's base-files count as a repository of that name."""
    table = copy.path / "launcher" / "steps" / "code.yaml"
    table.write_text(table.read_text() + ROW)
    folder = place / "boats"
    (folder / "a").mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "a" / "hull.py").write_text("HULL = 1\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("a/hull.py")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=1")
    return folder


def test_the_step_sees_the_commit_and_nothing_of_the_image_there(copy: Tree, boats: Path, place: Path) -> None:
    (boats / "a" / "hull.py").write_text("HULL = 2\n")
    done = copy.launch(*toy(place / "out"), "--code", f"boats={boats}@main")
    assert done.code == 0, done
    seen = facts(done.out)["code"]["boats"]
    assert seen["files"] == {"a/": "", "a/hull.py": "HULL = 1\n", "run.sh*": "#!/bin/sh\n", "link": "-> a/hull.py"}
    run = copy.run_of(done)
    assert run.record["plan"]["code"]["boats"]["commit"] == git(boats, "rev-parse", "HEAD").strip()
    assert f"warning: --code boats={boats}: something in the image notices" in done.err


def test_the_mount_is_read_only(copy: Tree, boats: Path, place: Path) -> None:
    done = copy.launch(*toy(place / "out"), "--code", f"boats={boats}", "--env", "QUIET=1")
    assert done.code == 0 and "notices" not in done.err, done
    assert facts(done.out)["code"]["boats"]["writable"] is False


def test_changes_are_refused_and_then_packed_with_their_diff_in_the_run(copy: Tree, boats: Path, place: Path) -> None:
    (boats / "a" / "hull.py").write_text("HULL = 2\n")
    words = (*toy(place / "out"), "--code", f"boats={boats}")
    before = copy.all_runs()
    done = copy.launch(*words)
    assert (done.code, done.out) == (65, "") and "has changes (changed: a/hull.py)" in done.err
    assert [r.id for r in copy.all_runs()] == [r.id for r in before]
    done = copy.launch(*words, "--allow-dirty")
    assert done.code == 0, done
    assert facts(done.out)["code"]["boats"]["files"]["a/hull.py"] == "HULL = 2\n"
    run = copy.run_of(done)
    diff = (run.path / "code" / "boats.diff").read_text()
    assert "-HULL = 1\n+HULL = 2\n" in diff
    shown = copy.show(run).out
    assert f"code       boats = {git(boats, 'rev-parse', 'HEAD').strip()[:12]} with changes, at {PLACE}" in shown


def test_a_written_directory_is_submitted_with_its_tree(copy: Tree, boats: Path, place: Path) -> None:
    done = copy.launch(*toy(place / "out"), "--code", f"boats={boats}", "-o", str(place / "written"))
    assert done.code == 0, done
    git(boats, "rm", "--quiet", "-r", ".")
    done = copy.launch("submit", str(place / "written"))
    assert done.code == 0, done
    assert "a/hull.py" in facts(done.out)["code"]["boats"]["files"]
    plan = json.loads((copy.run_of(done).path / "plan.json").read_text())
    assert plan["repositories"] == {} and list(plan["code"]) == ["boats"]
