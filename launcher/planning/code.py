"""`--code NAME=DIR[@REV]`: a git tree of the user's own, packed into the run directory, over a repository of the image.

A commit is taken as it is, whatever the checkout holds; without @REV that is HEAD, and then there must be no changes,
or `--allow-dirty` takes the tracked files as they stand. A submodule comes along at the commit that the tree names,
where it is checked out and has that commit; else its folder stays empty. Files are the tree's very blobs: no attribute
(end of line, filter, export-ignore) changes one or leaves it out.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from images.locking.model import Entry, Flavour
from images.locking.sources import Git, check_top, named, write_out
from launcher.catalog.commands import matches
from launcher.core.plan import Code, LaunchSpec
from slipway import yamldoc
from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import cannot_write, sha256_file
from slipway.findings import Finding
from slipway.project import Root
from slipway.yamldoc import Noun

_NO_ATTRIBUTES = "* -text -ident -filter -working-tree-encoding\n"


class Hidden(Noun, frozen=True, kw_only=True):
    """A row of launcher/steps/code.yaml: what to know where another tree is mounted over a repository of an image.

    `path`: where the official image has it; `when`: component versions, as in a step's commands; `says`: the warning;
    `silenced_by`: the variable that makes the image say nothing; `source`: where this was read.
    """

    library: str
    flavour: Flavour
    name: str
    path: str
    when: dict[str, str] = {}
    says: str
    remedy: str = ""
    silenced_by: str = ""
    source: str


class _Table(Noun, frozen=True, kw_only=True):
    schema: Literal[1]
    hidden: list[Hidden]


@dataclass(frozen=True)
class Checkout:
    """What is packed, and from where. `untracked` stays behind; `empty`: submodules without files."""

    code: Code
    folder: Path
    untracked: list[str]
    empty: list[str]

    def has(self, path: str) -> bool:
        """Whether a file of the image's repository is in what is packed; one of a submodule is not looked for."""
        inside = path.removeprefix(f"{self.code.path}/")
        if any(inside.startswith(f"{s}/") for s in self.code.submodules):
            return True
        if self.code.diff and not (self.folder / inside).is_file():
            return False
        return bool(self.code.diff or Git(self.folder)("ls-tree", "--name-only", self.code.commit, "--", inside))

    def write(self, folder: Path) -> None:
        """Packs into `folder`, the diff beside it as .diff. Raises SlipwayError 73, 75 (changed meanwhile)."""
        with cannot_write(folder), _packed(self.folder, self.code.commit, bool(self.code.diff)) as packed:
            folder.mkdir(parents=True)
            if self.code.diff:
                shutil.copyfile(packed.diff, f"{folder}.diff")
            write_out(packed.git, folder)
            for path in self.empty:
                (folder / path).mkdir(parents=True, exist_ok=True)
            known = packed.git.env["GIT_ALTERNATE_OBJECT_DIRECTORIES"]
            check_written(self.code, folder, Exit.TRY_AGAIN, "changed while it was being packed", known)


def commit_of(root: Root) -> str:
    """The commit that the project stands at; empty where git knows none, or does not trust it."""
    try:
        return Git(root.path)("rev-parse", "--verify", "--quiet", "HEAD")
    except SlipwayError:
        return ""


def known(root: Root, entry: Entry) -> list[Hidden]:
    """The rows that are about this entry."""
    from packaging.specifiers import SpecifierSet

    rows = yamldoc.load(root.file("launcher/steps/code.yaml"), _Table).hidden
    has = entry.components
    return [
        r for r in rows
        if (r.library, r.flavour) == (entry.library, entry.flavour)
        and all(matches(has.get(n), SpecifierSet(s)) for n, s in r.when.items())
    ]  # fmt: skip


def choose(rows: list[Hidden], entry: Entry, words: tuple[str, ...], allow_dirty: bool) -> dict[str, Checkout]:
    """What `words` name, by repository; looks only. Raises SlipwayError 64 (unknown), 65 (changes), 66."""
    paths = {r.name: r.path for r in rows} | {n: r.path for n, r in entry.repositories.items()}
    given = named("--code", words, entry, paths, "{}=DIR or {}=DIR@REV")
    return {name: _look(paths[name], value, allow_dirty, f"--code {name}={value}") for name, value in given.items()}


def _look(path: str, value: str, allow_dirty: bool, where: str) -> Checkout:
    ends = [*(m.start() for m in re.finditer("@", value)), len(value)]
    end = next((e for e in ends if Path(value[:e]).expanduser().is_dir()), len(value))  # a name may have an @
    folder, revision = Path(value[:end]).expanduser().resolve(), value[end + 1 :]
    check_top(folder, where)
    commit = _commit(Git(folder), revision, where)
    changed, untracked = ([], []) if revision else _changes(Git(folder), where)
    if (changed or untracked) and not allow_dirty:
        what = "; ".join(f"{t}: {_some(f)}" for t, f in (("changed", changed), ("untracked", untracked)) if f)
        remedy = (
            f"commit, or take the commit alone ({value[:end]}@HEAD), or what is tracked as it stands: --allow-dirty"
        )
        raise SlipwayError(Exit.DATA, f"has changes ({what})", where=where, remedy=remedy)
    with _packed(folder, commit, bool(changed)) as packed:
        tree, diff = packed.git("rev-parse", f"{commit}^{{tree}}"), sha256_file(packed.diff) if changed else ""
        files, submodules = packed.git("write-tree"), packed.submodules
        code = Code(path=path, commit=commit, tree=tree, diff=diff, submodules=submodules, files=files)
    return Checkout(code, folder, untracked, packed.empty)


def _commit(git: Git, revision: str, where: str) -> str:
    try:
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision or 'HEAD'}^{{commit}}")
    except SlipwayError as e:
        names = git("for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags").split()
        remedy = nearest(revision, names) if revision else "commit something first"
        raise SlipwayError(Exit.WORDS, f"there is no commit {revision or 'HEAD'}", where=where, remedy=remedy) from e


def _changes(git: Git, where: str) -> tuple[list[str], list[str]]:
    """Paths of changed and of untracked files. Raises SlipwayError 65: a submodule's own changes cannot be packed."""
    changed, untracked = list[str](), list[str]()
    entries = iter(git("--no-optional-locks", "status", "--porcelain=v2", "-z").split("\0"))
    for entry in entries:
        kind, _, rest = entry.partition(" ")
        words = rest.split(" ", {"1": 7, "2": 8, "u": 9}.get(kind, 0))
        if kind == "?":
            untracked.append(rest)
        elif len(words) > 1:
            changed.append(words[-1])
            if words[1][0] == "S" and "M" in words[1]:
                what = f"the submodule {words[-1]} has changes of its own"
                raise SlipwayError(Exit.DATA, what, where=where, remedy="commit them there")
        if kind == "2":
            next(entries)  # its old name
    return changed, untracked


@dataclass(frozen=True)
class _Packed:
    """`git`: a repository of ours whose index is what is packed; `diff`: to the commit, where there are changes."""

    git: Git
    diff: Path
    submodules: dict[str, str]
    empty: list[str]


@contextmanager
def _packed(folder: Path, commit: str, dirty: bool) -> Iterator[_Packed]:
    with tempfile.TemporaryDirectory(prefix="slipway-git-") as tmp:
        git = _repository(Path(tmp), Path(tmp), [f"{tmp}/changed", Git(folder).place("objects")])
        if dirty:
            tree = _as_it_stands(folder, Path(tmp))
            plain = ("--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color")
            git("diff-tree", "-r", "-p", *plain, f"--output={tmp}/diff", commit, tree)
        git("read-tree", tree if dirty else commit)
        submodules, empty = _take_submodules(git, folder)
        yield _Packed(git, Path(tmp, "diff"), submodules, empty)


def _repository(folder: Path, work_tree: Path, objects: list[str]) -> Git:
    """A repository in `folder`, with those objects as well as its own, and no attributes."""
    place = {"GIT_DIR": f"{folder}/git"}
    Git(folder, place)("init", "--quiet", "--bare", "--template=")
    (folder / "git" / "info").mkdir()
    (folder / "git" / "info" / "attributes").write_text(_NO_ATTRIBUTES)
    variables = {"GIT_WORK_TREE": str(work_tree), "GIT_ALTERNATE_OBJECT_DIRECTORIES": os.pathsep.join(objects)}
    return Git(work_tree, place | variables)


def _as_it_stands(folder: Path, tmp: Path) -> str:
    """The tree of what is tracked, staged or not, with the checkout's own attributes; its new objects are in `tmp`."""
    # With its time, by which git knows which files it has to read.
    shutil.copy2(Git(folder).place("index"), tmp / "staged")
    (tmp / "changed").mkdir()
    variables = {"GIT_INDEX_FILE": f"{tmp}/staged", "GIT_OBJECT_DIRECTORY": f"{tmp}/changed"}
    git = Git(folder, variables | {"GIT_ALTERNATE_OBJECT_DIRECTORIES": Git(folder).place("objects")})
    git("add", "--update", ".")
    return git("write-tree")


def _take_submodules(git: Git, folder: Path) -> tuple[dict[str, str], list[str]]:
    """Puts submodules, and theirs, into the index: path -> commit of those, and the paths of what is not there."""
    taken, empty = dict[str, str](), list[str]()
    while links := re.findall(r"160000 (\w+) \d\t([^\0]*)\0", git("ls-files", "--stage", "-z")):
        for commit, path in links:
            git("update-index", "--force-remove", "--", path)
            if not (folder / path / ".git").exists() or not Git(folder / path).has(commit):
                empty.append(path)
                continue
            taken[path] = commit
            git.env["GIT_ALTERNATE_OBJECT_DIRECTORIES"] += os.pathsep + Git(folder / path).place("objects")
            git("read-tree", f"--prefix={path}/", commit)
    return taken, empty


def check_written(code: Code, folder: Path, error: Exit, what: str, known: str = "") -> None:
    """Raises SlipwayError `error`, saying `what`, unless `folder` holds what was planned, and its diff beside it.

    `known`: where git has objects already, which it then need not make again.
    """
    diff = Path(f"{folder}.diff")
    same = folder.is_dir() and (not code.diff or (diff.is_file() and sha256_file(diff) == code.diff))
    with tempfile.TemporaryDirectory(prefix="slipway-git-") as tmp:
        git = _repository(Path(tmp), folder, [known]) if same else None
        if not git or git("add", "--all", "--force", ".") or git("write-tree") != code.files:
            raise SlipwayError(error, what, where=str(folder))


def copy(code: Code, source: Path, folder: Path) -> None:
    """What `write` wrote, from one run directory into another. Raises SlipwayError 73."""
    with cannot_write(folder):
        shutil.copytree(source, folder, symlinks=True)
        if code.diff:
            shutil.copyfile(f"{source}.diff", f"{folder}.diff")


def check(spec: LaunchSpec, checkouts: dict[str, Checkout], rows: list[Hidden]) -> Iterator[Finding]:
    """What does not come along, what the step misses, and what in the image notices or misses something."""
    variables = {**spec.entry.env, **spec.step.env, **spec.profile.env, **spec.env}
    for name, found in checkouts.items():
        yield from _without(spec, name, found)
        said = [(f"untracked, left behind: {_some(found.untracked)}", "")] if found.untracked else []
        if found.code.diff:
            said.append((f"packed with its changes (sha256 of the diff {found.code.diff[:12]})", ""))
        if found.empty:
            remedy = f"git -C {found.folder} submodule update --init --recursive"
            said.append((f"submodules that are not checked out stay empty: {_some(found.empty)}", remedy))
        said += [(r.says, r.remedy) for r in rows if r.name == name and not variables.get(r.silenced_by)]
        for what, remedy in said:
            yield Finding(severity="warning", where=f"--code {name}={found.folder}", what=what, remedy=remedy)


def _without(spec: LaunchSpec, name: str, found: Checkout) -> Iterator[Finding]:
    """The files of the repository that the step runs or starts its configuration from, and that are not in the tree."""
    named = {"runs": [spec.step.script], "starts from": [spec.base.get("path", "")]}
    values = spec.base.get("values", {}).get("scripts")
    named["runs"] += [str(v) for v in values.values()] if isinstance(values, dict) else []
    for why, paths in named.items():
        for path in (p for p in paths if p.startswith(f"{found.code.path}/") and not found.has(p)):
            what = f"has no {path.removeprefix(found.code.path + '/')}, which {spec.step.id} {why} at {spec.entry.name}"
            remedy = f"name a tree that is made of {spec.entry.name}'s, or a --release that this one is made of"
            where = f"--code {name}={found.folder}"
            yield Finding(severity="error", where=where, what=what, remedy=remedy, code=int(Exit.DATA))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
