"""images/inspection/sides.py and `images diff`: which word is what. Images on an engine are in real/test_sides.py."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import MATRIX_FILE, Engine, Known, Project, relock

MOVED = "boats/1.0-cpu: group boats: packages: boats==1.0, oars==13.0 -> boats==1.0, oars==14.0"


def git(project: Project, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgSign=false"]
    subprocess.run(["git", *who, *words], cwd=project.path, check=True, capture_output=True)


@pytest.fixture
def moved(boats: Project, tmp_path: Path) -> Project:
    """The project with a commit, and a pin that has moved since; git is on PATH, `before.lock` is that commit's."""
    (tmp_path / "bin" / "git").symlink_to(shutil.which("git") or "")
    git(boats, "init", "--quiet", "--initial-branch=main")
    git(boats, "add", "versions.lock")
    git(boats, "commit", "--quiet", "--message", "one")
    shutil.copy(boats.root.lock, boats.path / "before.lock")
    boats.edit(MATRIX_FILE, "oars==13.0", "oars==14.0")
    relock(boats.root, Known())
    return boats


@pytest.mark.parametrize("word", ["HEAD", "main", "before.lock"])
def test_a_revision_and_a_file_are_locks(moved: Project, word: str) -> None:
    done = moved.images("diff", word, "versions.lock")
    assert (done.code, done.stderr) == (1, "")
    assert done.stdout.splitlines()[0] == MOVED
    done = moved.images("diff", word, "boats/1.0-cpu")
    assert (done.code, done.stdout.splitlines()[0]) == (1, MOVED)


def test_nothing_moved(moved: Project) -> None:
    done = moved.images("diff", "HEAD", "before.lock")
    assert (done.code, done.stdout, done.stderr) == (0, "no difference\n", "")
    done = moved.images("diff", "HEAD", "HEAD", "--json")
    assert (done.code, json.loads(done.stdout)) == (0, [])


def test_two_entries_as_json(moved: Project) -> None:
    done = moved.images("diff", "boats/26.06-cuda", "boats/26.08-cuda", "--json")
    name = "boats/26.06-cuda -> boats/26.08-cuda"
    assert done.code == 1
    assert json.loads(done.stdout) == [
        {"entry": name, "what": "base digest", "from": None, "to": f"sha256:{'8' * 64}"},
        {"entry": name, "what": "base tag", "from": "26.06", "to": "26.08"},
        {"entry": name, "what": "environment main: torch", "from": "2.12.0", "to": "==2.13.0a0"},
    ]


def test_the_words_of_an_unknown_side_say_what_it_could_be(moved: Project, engine: Engine) -> None:
    done = moved.images("diff", "boats/1.0-cpv", "HEAD")
    assert (done.code, done.stdout) == (64, "")
    assert done.stderr == (
        "error: 'boats/1.0-cpv' is no lock file, no entry of the lock, no git revision with a lock and no image on "
        f"{engine.address}\n  entries: did you mean 'boats/1.0-cpu'?\n"
    )


def test_a_dead_engine_is_named(moved: Project, tmp_path: Path) -> None:
    done = moved.images("diff", "nothing", "HEAD")
    assert done.code == 64
    assert f"no image on the engine (unix://{tmp_path}/dead does not answer)" in done.stderr


def test_without_git_there_are_no_revisions(boats: Project) -> None:
    done = boats.images("diff", "HEAD", "versions.lock")
    assert (done.code, done.stdout) == (64, "")
    assert "'HEAD' is no lock file" in done.stderr


def test_a_lock_that_is_none_is_shown_where(moved: Project) -> None:
    moved.write("other.lock", "schema: 2\n")
    done = moved.images("diff", "other.lock", "HEAD")
    assert (done.code, done.stdout) == (78, "")
    assert done.stderr.startswith("error: other.lock:1:1: schema")
