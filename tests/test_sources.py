"""images/locking/sources.py with the real git: checkouts, a server of this machine, and what is left out."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import msgspec
import pytest
from helpers import entry_of

from images.locking import registry, sources
from images.locking.model import Entry, Repository
from images.locking.sources import Brought, Source
from slipway.errors import Exit, SlipwayError
from slipway.project import Root

NAME = "boats"


def git(folder: Path, *words: str) -> str:
    who = {f"GIT_{role}_{what}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, env=clean | who, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a file, a program, a link, something ignored, and the tag v1."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "hull.py").write_text("print('hull')\n")
    (folder / "bin").mkdir()
    (folder / "bin" / "sail").write_text("#!/bin/sh\n")
    (folder / "bin" / "sail").chmod(0o755)
    (folder / "link").symlink_to("hull.py")
    (folder / ".gitignore").write_text("*.log\n.dockerignore\n")
    (folder / "a.log").write_text("ignored")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=one")
    git(folder, "tag", "--annotate", "--message=one", "v1")
    return folder


@pytest.fixture
def entry(checkout: Path) -> Entry:
    """An entry that pins v1."""
    commit, tree = git(checkout, "rev-parse", "v1^{commit}"), git(checkout, "rev-parse", "v1^{tree}")
    return entry_of(
        repositories={NAME: Repository(url=f"file://{checkout}", tag="v1", path="/opt/boats", commit=commit, tree=tree)}
    )


def chosen(entry: Entry, *words: str) -> Source:
    return sources.choose(entry, words)[NAME]


def export(tmp_path: Path, source: Source) -> dict[str, tuple[int, str]]:
    """Path -> (mode, content or target) of what is exported."""
    folder = tmp_path / "out" / "tree"
    sources.export(Root(tmp_path), source, folder, lambda _: None)
    return {
        str(p.relative_to(folder)): (
            stat.S_IMODE(p.lstat().st_mode) if not p.is_symlink() else 0,
            str(p.readlink()) if p.is_symlink() else p.read_text(),
        )
        for p in sorted(folder.rglob("*"))
        if not p.is_dir() or p.is_symlink()
    }


WHOLE = {
    ".gitignore": (0o644, "*.log\n.dockerignore\n"),
    "bin/sail": (0o755, "#!/bin/sh\n"),
    "hull.py": (0o644, "print('hull')\n"),
    "link": (0, "hull.py"),
}


def test_the_pinned_tree_comes_from_its_server(entry: Entry, tmp_path: Path) -> None:
    pinned = entry.repositories[NAME]
    source = chosen(entry)
    assert source.brought == Brought(commit=pinned.commit, tree=pinned.tree, clean=True)
    umask = os.umask(0o077)
    try:
        assert export(tmp_path, source) == WHOLE
    finally:
        os.umask(umask)


def test_what_was_fetched_once_is_not_fetched_again(entry: Entry, checkout: Path, tmp_path: Path) -> None:
    export(tmp_path, chosen(entry))
    checkout.rename(tmp_path / "gone")
    (tmp_path / "out" / "tree").rename(tmp_path / "first")
    assert export(tmp_path, chosen(entry)) == WHOLE


def test_a_server_that_is_not_there_is_named_with_the_way_out(entry: Entry, checkout: Path, tmp_path: Path) -> None:
    checkout.rename(tmp_path / "gone")
    with pytest.raises(SlipwayError) as e:
        export(tmp_path, chosen(entry))
    assert (e.value.code, e.value.where) == (Exit.NO_INPUT, f"file://{checkout}")
    assert e.value.remedy.endswith("; or name a checkout: --source NAME=DIR")


def test_a_commit_that_its_server_does_not_have(entry: Entry, checkout: Path, tmp_path: Path) -> None:
    source = chosen(entry)
    gone = msgspec.structs.replace(source.repository, commit="1" * 40)
    with pytest.raises(SlipwayError, match=f"there is no commit {'1' * 40}") as e:
        export(tmp_path, Source(gone, source.brought))
    assert (e.value.code, e.value.where) == (Exit.NO_INPUT, f"file://{checkout}")


def test_a_commit_with_another_tree_than_the_pinned_one_is_refused(entry: Entry, tmp_path: Path) -> None:
    source = chosen(entry)
    wrong = msgspec.structs.replace(source.repository, tree="0" * 40)
    with pytest.raises(SlipwayError, match=f"the lock says {'0' * 40}") as e:
        export(tmp_path, Source(wrong, source.brought))
    assert e.value.code == Exit.DATA


def test_a_checkout_of_the_pinned_tree_is_as_good_as_its_server(entry: Entry, checkout: Path, tmp_path: Path) -> None:
    source = chosen(entry, f"{NAME}={checkout}")
    assert source.brought == chosen(entry).brought
    assert export(tmp_path, source) == WHOLE


def test_a_checkout_is_taken_as_it_stands_and_stays_as_it_is(entry: Entry, checkout: Path, tmp_path: Path) -> None:
    (checkout / "hull.py").write_text("print('changed')\n")
    (checkout / "new.py").write_text("")
    before = {p: p.read_bytes() for p in checkout.rglob("*") if p.is_file()}
    source = chosen(entry, f"{NAME}={checkout}")
    assert source.brought.commit == entry.repositories[NAME].commit
    assert not source.brought.clean and source.brought.tree != entry.repositories[NAME].tree
    changed = {"hull.py": (0o644, "print('changed')\n"), "new.py": (0o644, "")}
    assert export(tmp_path, source) == WHOLE | changed
    assert {p: p.read_bytes() for p in checkout.rglob("*") if p.is_file()} == before
    assert git(checkout, "status", "--porcelain") == "M hull.py\n?? new.py"


def test_a_checkout_that_changes_while_it_is_read_is_refused(entry: Entry, checkout: Path, tmp_path: Path) -> None:
    source = chosen(entry, f"{NAME}={checkout}")
    (checkout / "hull.py").write_text("print('later')\n")
    with pytest.raises(SlipwayError, match="changed while it was being read") as e:
        export(tmp_path, source)
    assert e.value.code == Exit.TRY_AGAIN


def test_an_uninitialised_submodule_stays_what_it_is(entry: Entry, checkout: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    git(other, "commit", "--quiet", "--allow-empty", "--message=one")
    git(checkout, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "third")
    git(checkout, "commit", "--quiet", "--message=two")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(checkout), str(clone)], check=True)
    assert chosen(entry, f"{NAME}={clone}").brought.tree == git(checkout, "rev-parse", "HEAD^{tree}")


def test_what_is_left_out_is_an_empty_folder(entry: Entry, tmp_path: Path) -> None:
    source = chosen(entry, f"{NAME}=none")
    assert source.brought == Brought(commit=None, tree=None, clean=False, left_out=True)
    assert export(tmp_path, source) == {}
    assert (tmp_path / "out" / "tree").is_dir()


@pytest.mark.parametrize(
    ("word", "code", "what"),
    [
        ("boat=none", Exit.WORDS, "has no repository 'boat'"),
        ("boats", Exit.WORDS, "not of the form boats=DIR or boats=none"),
        ("boats=", Exit.WORDS, "not of the form boats=DIR or boats=none"),
        ("boats=/nowhere/at/all", Exit.NO_INPUT, "there is no such folder"),
        ("boats=/", Exit.NO_INPUT, "is not the top of a git checkout"),
    ],
)
def test_a_word_that_names_no_source(entry: Entry, word: str, code: Exit, what: str) -> None:
    with pytest.raises(SlipwayError) as e:
        sources.choose(entry, (word,))
    assert (e.value.code, e.value.what.removeprefix(f"{entry.name} "), e.value.where) == (
        code,
        what,
        f"--source {word}",
    )


def test_a_name_that_stands_twice(entry: Entry) -> None:
    with pytest.raises(SlipwayError, match="stands twice") as e:
        sources.choose(entry, ("boats=none", "boats=none"))
    assert e.value.code == Exit.WORDS


def test_an_unresolved_commit_stops_unless_a_checkout_stands_in(checkout: Path) -> None:
    entry = entry_of(repositories={NAME: Repository(url="https://example.org/boats", tag="v1", path="/opt/boats")})
    with pytest.raises(SlipwayError, match="the commit of boats v1 is unresolved") as e:
        sources.choose(entry, ())
    assert e.value.code == Exit.CONFIG and "images lock automodel" in e.value.remedy
    assert not chosen(entry, f"{NAME}={checkout}").brought.clean


def test_a_tag_is_resolved_to_commit_and_tree(checkout: Path) -> None:
    expected = git(checkout, "rev-parse", "v1^{commit}"), git(checkout, "rev-parse", "v1^{tree}")
    assert sources.resolve(f"file://{checkout}", "v1") == expected


@pytest.mark.parametrize(("there", "what"), [(True, "there is no tag 'v2'"), (False, "has no such image, tag or repo")])
def test_lock_and_its_check_say_the_same_of_the_same_trouble(checkout: Path, there: bool, what: str) -> None:
    url = f"file://{checkout}" if there else f"file://{checkout}/none"
    with pytest.raises(SlipwayError) as fetched:
        sources.resolve(url, "v2")
    with pytest.raises(SlipwayError) as asked:
        registry.git_tag(url, "v2")
    assert str(fetched.value) == str(asked.value) and what in fetched.value.what
    assert fetched.value.code == asked.value.code == Exit.NO_INPUT


def test_the_callers_own_git_variables_reach_no_checkout(
    entry: Entry, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert chosen(entry, f"{NAME}={checkout}").brought.clean
