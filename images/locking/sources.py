"""The git repositories that go into images: which tree a build is given, and that tree as a folder.

A repository is taken at its pinned commit from its server, or as it stands in a checkout (`--source NAME=DIR`), or is
left out (`--source NAME=none`). In every case the tree's hash says what was built.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from images.locking.model import Entry, Repository
from images.machine import clients
from slipway import canonical
from slipway.errors import Exit, SlipwayError, nearest, quoted
from slipway.files import cannot_write, make_folders
from slipway.project import Root
from slipway.yamldoc import Noun

LEFT_OUT = "none"
_FETCH_SECONDS = 600


class Brought(Noun, frozen=True, kw_only=True):
    """What a build was given of a repository. `clean`: its tree is the pinned one; `left_out`: it was given nothing.

    `commit` is the one that was checked out; with `clean` false it may be another, or have changes on top.
    """

    commit: str | None
    tree: str | None
    clean: bool
    left_out: bool = False


@dataclass(frozen=True)
class Source:
    """A repository for one build: what is brought, and the checkout it comes from (None: its server, or nothing)."""

    repository: Repository
    brought: Brought
    checkout: Path | None = None


def choose(entry: Entry, words: tuple[str, ...]) -> dict[str, Source]:
    """Every repository of `entry`, with `NAME=DIR` or `NAME=none` from `words` in place of its server.

    Looks into the checkouts and asks no server. Raises SlipwayError 64 for an unknown name, 66 for what is no checkout,
    78 for an unresolved commit.
    """
    given = named("--source", words, entry, entry.repositories, f"{{}}=DIR or {{}}={LEFT_OUT}")
    return {name: _choose(entry, name, given.get(name)) for name in entry.repositories}


def named(option: str, words: tuple[str, ...], entry: Entry, names: Collection[str], forms: str) -> dict[str, str]:
    """What the words `NAME=VALUE` of a repeatable option give each of `names`. Raises SlipwayError 64.

    `forms`: what is expected, with {} for the name.
    """
    given: dict[str, str] = {}
    for word in words:
        where = f"{option} {word}"
        name, _, value = word.partition("=")
        if name not in names:
            remedy = nearest(name, names) if names else "its image has none"
            raise SlipwayError(Exit.WORDS, f"{entry.name} has no repository {name!r}", where=where, remedy=remedy)
        if not value or name in given:
            what = "stands twice" if value else f"not of the form {forms.format(name, name)}"
            raise SlipwayError(Exit.WORDS, what, where=where)
        given[name] = value
    return given


def _choose(entry: Entry, name: str, given: str | None) -> Source:
    repository = entry.repositories[name]
    if given == LEFT_OUT:
        return Source(repository, Brought(commit=None, tree=None, clean=False, left_out=True))
    if given:
        folder = Path(given).expanduser().resolve()
        check_top(folder, f"--source {name}={given}")
        with _index_of(folder) as (git, tree):
            commit = git("rev-parse", "HEAD")
        return Source(repository, Brought(commit=commit, tree=tree, clean=tree == repository.tree), folder)
    if not repository.commit:
        raise SlipwayError(
            Exit.CONFIG,
            f"the commit of {name} {repository.tag} is unresolved: nobody has asked {repository.url}",
            where=f"versions.lock, {entry.name}",
            remedy=f"images lock {entry.library}; or name a checkout: --source {name}=DIR",
        )
    return Source(repository, Brought(commit=repository.commit, tree=repository.tree, clean=True))


def export(root: Root, source: Source, folder: Path, say: Callable[[str], None]) -> None:
    """Writes the source's tree into `folder`, which it makes; an empty folder where it is left out.

    Files have the modes that git knows, whatever the umask. Submodules stay empty folders. Raises SlipwayError 66,
    69 or 77 where the server does not give the commit, 65 where its tree is not the pinned one, 73.
    """
    with cannot_write(folder):
        folder.mkdir(parents=True)
    if source.brought.left_out:
        return
    if source.checkout:
        with _index_of(source.checkout) as (git, tree):
            if tree != source.brought.tree:
                raise SlipwayError(Exit.TRY_AGAIN, "changed while it was being read", where=str(source.checkout))
            write_out(git, folder)
        return
    store = _fetched(root, source.repository, say)
    with tempfile.TemporaryDirectory(prefix="slipway-git-") as tmp:
        places = {"GIT_INDEX_FILE": f"{tmp}/index", "GIT_DIR": str(store), "GIT_WORK_TREE": str(folder)}
        git = Git(folder, places)
        git("read-tree", str(source.repository.commit))
        write_out(git, folder)


def resolve(url: str, tag: str) -> tuple[str, str]:
    """The commit of `tag` in the repository at `url`, and that commit's tree. Raises what registry.git_tag does."""
    with tempfile.TemporaryDirectory(prefix="slipway-git-") as tmp:
        git = Git(Path(tmp), {"GIT_DIR": tmp})
        git("init", "--quiet", "--bare")
        if not git.fetch(url, f"refs/tags/{tag}", where=f"{url} {tag}"):
            raise clients.no_tag(url, tag)
        return git("rev-parse", "FETCH_HEAD^{commit}"), git("rev-parse", "FETCH_HEAD^{tree}")


def _fetched(root: Root, repository: Repository, say: Callable[[str], None]) -> Path:
    """A bare repository that has the pinned commit and, checked, its pinned tree."""
    store = root.kept(Path("sources", canonical.sha256(repository.url.encode())[:12]))
    root.kept(store / "config")  # git runs what that names
    commit = str(repository.commit)
    with cannot_write(store):
        make_folders(store)
    git = Git(store, {"GIT_DIR": str(store)})
    git("init", "--quiet", "--bare")
    if not git.has(commit):
        say(f"fetching {repository.url} at {commit[:12]} ({repository.tag})")
        _fetch(git, repository.url, commit)
    tree = git("rev-parse", f"{commit}^{{tree}}")
    if tree != repository.tree:
        raise SlipwayError(
            Exit.DATA, f"{commit} has the tree {tree}, the lock says {repository.tree}", where=repository.url
        )
    return store


def _fetch(git: Git, url: str, commit: str) -> None:
    way_out = "or name a checkout: --source NAME=DIR"
    try:
        there = git.fetch(url, commit, where=url)
    except SlipwayError as e:
        raise SlipwayError(e.code, e.what, where=e.where, remedy=f"{e.remedy}; {way_out}") from e
    if not there:
        raise SlipwayError(Exit.NO_INPUT, f"there is no commit {commit}", where=url, remedy=way_out)


def check_top(folder: Path, where: str) -> None:
    """Raises SlipwayError 66 for what is not the top of a git checkout."""
    if not folder.is_dir():
        raise SlipwayError(Exit.NO_INPUT, "there is no such folder", where=where)
    if not (folder / ".git").exists():
        raise SlipwayError(Exit.NO_INPUT, "is not the top of a git checkout", where=where)


@contextmanager
def _index_of(folder: Path) -> Iterator[tuple[Git, str]]:
    """An index of a checkout's files as they stand, and its tree; the checkout itself is not written to.

    Changes and new files count, ignored ones do not.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-git-") as tmp:
        Path(tmp, "objects").mkdir()
        variables = {
            "GIT_INDEX_FILE": f"{tmp}/index",
            "GIT_OBJECT_DIRECTORY": f"{tmp}/objects",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": Git(folder).place("objects"),
        }
        git = Git(folder, variables)
        git("read-tree", "HEAD")  # so that submodules that are not checked out stay what they are
        git("add", "--all")
        yield git, git("write-tree")


class Git:
    """The git command in one repository, with variables of ours and none of the caller's."""

    def __init__(self, folder: Path, variables: dict[str, str] | None = None) -> None:
        self.folder = folder
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith("GIT_SSL")}
        # Checkouts of other users, as in containers; no filter of ours may change a file; no question is answered.
        fixed = {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "LC_ALL": "C"}
        self.env = inherited | fixed | (variables or {})

    def __call__(self, *words: str) -> str:
        done = self._run(*words)
        if done.returncode:
            what = f"git {words[0]} failed:{quoted(done.stderr.strip()[-400:])}"
            raise SlipwayError(Exit.DATA, what, where=str(self.folder))
        return done.stdout.strip()

    def place(self, name: str) -> str:
        """The path of a file or folder of the repository itself (index, objects)."""
        return str(self.folder / self("rev-parse", "--git-path", name))

    def has(self, commit: str) -> bool:
        return self._run("cat-file", "-e", f"{commit}^{{tree}}").returncode == 0

    def fetch(self, url: str, what: str, where: str) -> bool:
        """One commit without its history; whether the server has it. Raises what clients.trouble makes of it."""
        try:
            done = self._run("fetch", "--quiet", "--depth=1", "--no-tags", url, what, seconds=_FETCH_SECONDS)
            errors = (done.stderr or f"git ended with {done.returncode}") if done.returncode else ""
        except subprocess.TimeoutExpired:
            errors = f"timed out after {_FETCH_SECONDS} s"
        if errors and "couldn't find remote ref" not in errors and "not our ref" not in errors:
            raise clients.trouble(clients.GIT, errors, where, clients.git_host(url))
        return not errors

    def _run(self, *words: str, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
        command = ["git", "-c", f"safe.directory={self.folder}", "-c", "core.autocrlf=false", "-C", str(self.folder)]
        try:
            return subprocess.run(
                [*command, *words],
                env=self.env,
                capture_output=True,
                text=True,
                errors="surrogateescape",
                check=False,
                timeout=seconds,
            )
        except FileNotFoundError as e:
            raise SlipwayError(Exit.UNAVAILABLE, "there is no git command", remedy=clients.GIT.install) from e


def write_out(git: Git, folder: Path) -> None:
    git("checkout-index", "--all", "--force", f"--prefix={folder}/")
    for path in folder.rglob("*"):
        if path.is_symlink():
            continue
        executable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if executable else 0o644)
