"""images/locking/registry.py: rows and exit codes; git's part with repositories of this machine.

What needs a server is in real/test_registry.py.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from helpers import entry_of

from images.locking import registry
from images.locking.model import Base, Lock, Repository
from images.locking.registry import Checked
from slipway.errors import Exit, SlipwayError

A, B, C = (f"sha256:{c * 64}" for c in "abc")


PROBLEM = SlipwayError(Exit.NOT_PERMITTED, "no")
SAME, MOVED, NEW = Checked("e", "base", A, A), Checked("e", "base", A, B), Checked("e", "base", "", B)
CLOSED = Checked("e", "base", A, "", PROBLEM)


def test_rows_in_words() -> None:
    assert [str(r) for r in (SAME, MOVED, NEW, CLOSED)] == [
        "e: base: same", f"e: base: {A} -> {B}", f"e: base: unresolved -> {B}", "e: base: no"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "code"),
    [([], 0), ([SAME], 0), ([SAME, MOVED], 1), ([NEW], 1), ([SAME, CLOSED], 77), ([CLOSED, MOVED], 1)],
)
def test_exit_codes(rows: list[Checked], code: int) -> None:
    assert registry.exit_code(rows) == code


def git(folder: Path, *words: str) -> str:
    who = [
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@example.org",
        "-c",
        "tag.gpgSign=false",
        "-c",
        "commit.gpgSign=false",
    ]
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits: `v1` is an annotated tag of the first, `v2` a light one of the second."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "one")
    git(folder, "tag", "--annotate", "--message", "one", "v1")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "two")
    git(folder, "tag", "v2")
    git(folder, "tag", "v2-later")
    return folder


def test_a_tag_is_its_commit(repository: Path) -> None:
    assert registry.git_tag(str(repository), "v1") == git(repository, "rev-parse", "HEAD~1")
    assert registry.git_tag(f"file://{repository}", "v2") == git(repository, "rev-parse", "HEAD")


@pytest.mark.parametrize("tag", ["v3", "v", "v*", "HEAD"])
def test_a_tag_that_is_not_there(repository: Path, tag: str) -> None:
    with pytest.raises(SlipwayError, match="there is no tag") as e:
        registry.git_tag(str(repository), tag)
    assert (e.value.code, e.value.where) == (Exit.NO_INPUT, str(repository))


def test_what_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(SlipwayError, match="does not appear to be a git repository") as e:
        registry.git_tag(str(tmp_path), "v1")
    assert e.value.code == Exit.NO_INPUT
    with pytest.raises(SlipwayError):
        registry.git_tag(f"--upload-pack=touch {tmp_path}/made; git-upload-pack", "v1")
    assert not (tmp_path / "made").exists(), "a URL is no option"


def test_a_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for ask, client in (
        (lambda: registry.resolve("r.example/x:1"), "skopeo"),
        (lambda: registry.git_tag("x", "v1"), "git"),
    ):
        with pytest.raises(SlipwayError, match=f"there is no {client} command") as e:
            ask()
        assert e.value.code == Exit.UNAVAILABLE


def test_commits_are_checked_beside_bases(repository: Path) -> None:
    one, two = git(repository, "rev-parse", "HEAD~1"), git(repository, "rev-parse", "HEAD")
    pinned = {"v1": one, "v2": one}
    repositories = {
        tag: Repository(url=str(repository), tag=tag, path="/opt/x", commit=commit) for tag, commit in pinned.items()
    }
    open_one = {"open": Repository(url=str(repository), tag="v1", path="/opt/x")}
    first = entry_of(repositories=repositories)
    second = entry_of(library="other", repositories=open_one)
    lock = Lock(schema=1, matrix="", libraries={}, entries={e.name: e for e in (first, second)})
    assert registry.check(lock) == [
        (first.name, "v1", one, one, None), (first.name, "v2", one, two, None), (second.name, "open", "", one, None)
    ]  # fmt: skip
    assert registry.check(lock, ["other"]) == [(second.name, "open", "", one, None)]


def test_a_bootstrapped_base_has_nobody_to_ask() -> None:
    entry = entry_of("cpu")
    assert entry.base.bootstrap and not Base(bootstrap=entry.base.bootstrap).image
    assert registry.check(Lock(schema=1, matrix="", libraries={}, entries={entry.name: entry})) == []
