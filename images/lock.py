"""versions.lock: read, find an entry, make it from the matrix. Resolution that asks others is in resolve.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

import msgspec

from images.model import (
    Base,
    Entry,
    Environment,
    Flavour,
    Group,
    Library,
    Lock,
    LockedLibrary,
    Matrix,
    MatrixBase,
    MatrixEntry,
    MatrixGroup,
)
from slipway import canonical, yamldoc
from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import read_text, sha256_file
from slipway.project import Root

HEADER = "# Made by `images lock` from images/matrix.yaml; do not edit.\n"


class Resolver(Protocol):
    """What asks the outside world; see resolve.py."""

    def pins(self, groups: dict[str, MatrixGroup]) -> dict[str, str]:
        """The hashed requirements text of every group of one environment, resolved together."""

    def base(self, base: Base) -> Base:
        """`base` with the digests that its registry gives; unchanged (unresolved) where it does not answer."""


def load_matrix(root: Root) -> Matrix:
    """Raises SlipwayError 66 or 78."""
    matrix = yamldoc.load(root.matrix, Matrix)
    for name, library in matrix.libraries.items():
        for flavour, release in library.default.items():
            releases = library.cpu if flavour == "cpu" else library.cuda
            if release not in releases:
                at, what = ("libraries", name, "default", flavour), f"there is no release {release!r}"
                raise _wrong(root, at, what, nearest(release, releases))
        for flavour, release, wish in _rows(library):
            _check_row(root, matrix, ("libraries", name, flavour, release), wish)
    return matrix


def _check_row(root: Root, matrix: Matrix, at: tuple[str, ...], wish: MatrixEntry) -> None:
    """One base, which is there; every group is installed in some environment, and every environment's is there."""
    base, used = wish.base, {g: name for name, e in wish.environments.items() for g in e.groups}
    if bool(base.bootstrap) == bool(base.image) or bool(base.image) != bool(base.tag):
        raise _wrong(root, (*at, "base"), "expected either `bootstrap`, or `image` and `tag`")
    if base.bootstrap and base.bootstrap not in matrix.bootstrap:
        remedy = nearest(base.bootstrap, matrix.bootstrap)
        raise _wrong(root, (*at, "base", "bootstrap"), f"unknown bootstrap {base.bootstrap!r}", remedy)
    if base.digest and not re.fullmatch(r"sha256:[0-9a-f]{64}", base.digest):
        raise _wrong(root, (*at, "base", "digest"), f"{base.digest!r} is no digest (sha256: and 64 hex digits)")
    if "main" not in wish.environments:
        raise _wrong(root, (*at, "environments"), "there is no environment `main`")
    for group in sorted(set(used) - set(wish.groups)):
        at_groups = (*at, "environments", used[group], "groups")
        raise _wrong(root, at_groups, f"unknown group {group!r}", nearest(group, wish.groups))
    for group in sorted(set(wish.groups) - set(used)):
        raise _wrong(root, (*at, "groups", group), "is in no environment")


def _wrong(root: Root, at: tuple[str, ...], what: str, remedy: str = "") -> SlipwayError:
    position = yamldoc.line_of(root.matrix, *at)
    return SlipwayError(Exit.CONFIG, f"{'.'.join(at)}: {what}", where=f"{root.matrix}:{position}", remedy=remedy)


def check_libraries(matrix: Matrix, names: tuple[str, ...]) -> None:
    """Raises SlipwayError 64 for a name that the matrix does not have."""
    for name in names:
        if name not in matrix.libraries:
            raise SlipwayError(Exit.WORDS, f"unknown library {name!r}", remedy=nearest(name, matrix.libraries))


def matrix_checksum(matrix: Matrix) -> str:
    """What the lock carries of the matrix; comments and layout do not count."""
    return canonical.sha256(matrix)


def load_lock(root: Root) -> Lock:
    """The lock, refused (65) where it was not made from the matrix beside it."""
    lock = yamldoc.load(root.lock, Lock)
    if lock.matrix != matrix_checksum(load_matrix(root)):
        raise SlipwayError(
            Exit.DATA, "the lock was made from another matrix", where=str(root.lock), remedy="run: images lock"
        )
    return lock


def select(lock: Lock, library: str, flavour: Flavour, release: str | None = None) -> Entry:
    """The entry of `library`; its default release for `flavour` unless named. Raises SlipwayError 64."""
    if library not in lock.libraries:
        raise SlipwayError(Exit.WORDS, f"unknown library {library!r}", remedy=nearest(library, lock.libraries))
    wanted = release or lock.libraries[library].default.get(flavour)
    releases = {e.release: e for e in lock.entries.values() if e.library == library and e.flavour == flavour}
    if wanted not in releases:
        what = f"release {wanted!r}" if wanted else "default release"
        raise SlipwayError(
            Exit.WORDS, f"{library} has no {what} for flavour {flavour}", remedy=nearest(wanted or "", releases)
        )
    return releases[wanted]


def build_lock(
    root: Root, matrix: Matrix, old: Lock | None, resolver: Resolver, ask: tuple[str, ...] = ()
) -> tuple[Lock, dict[Path, str]]:
    """The lock for `matrix`, and the requirements files (path -> text) that it names; writes nothing.

    `ask`: the libraries whose open digests are asked for; all of them where it is empty.

    What has not changed is carried over from `old`: groups whose wishes are the same and whose file is intact, digests,
    and, while an entry's checksum is the same, its recorded images and tests.
    """
    entries: dict[str, Entry] = {}
    files: dict[Path, str] = {}
    for name, library in sorted(matrix.libraries.items()):
        for flavour, release, wish in _rows(library):
            key = f"{name}/{release}-{flavour}"
            before = old.entries.get(key) if old else None
            groups, texts = _groups(root, key, wish, before, resolver)
            files |= texts
            entry = Entry(
                library=name,
                release=release,
                flavour=flavour,
                base=_base(matrix, wish.base, before, resolver if not ask or name in ask else None),
                python=wish.python,
                environments=_environments(root, wish, groups, texts),
                groups=groups,
                env=wish.env,
                user=wish.user,
                workdir=wish.workdir,
                driver=wish.driver,
                sources=wish.sources,
                notes=wish.notes,
            )
            entries[key] = _carry(entry, before)
    libraries = {
        n: LockedLibrary(title=v.title, homepage=v.homepage, default=v.default) for n, v in matrix.libraries.items()
    }
    return Lock(schema=1, matrix=matrix_checksum(matrix), libraries=libraries, entries=entries), files


def lock_text(lock: Lock) -> str:
    """The file's text: header, then sorted YAML."""
    return HEADER + yamldoc.dump(msgspec.to_builtins(lock))


def pins_of(text: str) -> dict[str, str]:
    """name -> version of a requirements text, names normalised as PEP 503 does."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def _rows(library: Library) -> list[tuple[Flavour, str, MatrixEntry]]:
    rows: list[tuple[Flavour, str, MatrixEntry]] = [("cpu", r, e) for r, e in sorted(library.cpu.items())]
    return rows + [("cuda", r, e) for r, e in sorted(library.cuda.items())]


def _base(matrix: Matrix, wish: MatrixBase, before: Entry | None, resolver: Resolver | None) -> Base:
    if wish.bootstrap:
        return Base(bootstrap=matrix.bootstrap[wish.bootstrap])
    base = Base(image=wish.image, tag=wish.tag, digest=wish.digest, reported=wish.reported)
    if base.digest:
        return base
    if before and before.base.digest and (before.base.image, before.base.tag) == (base.image, base.tag):
        return before.base
    return resolver.base(base) if resolver else base


def _groups(
    root: Root, key: str, wish: MatrixEntry, before: Entry | None, resolver: Resolver
) -> tuple[dict[str, Group], dict[Path, str]]:
    kept = _intact_groups(root, wish, before)
    if kept is not None:
        return kept, {}
    groups, files = {}, {}
    ordered = {g: wish.groups[g] for e in wish.environments.values() for g in e.groups}
    for name, text in (resolver.pins(ordered) if ordered else {}).items():
        g = wish.groups[name]
        file = f"images/{key}/requirements-{name}.txt"
        groups[name] = Group(
            packages=g.packages,
            python=g.python,
            platform=g.platform,
            no_deps=g.no_deps,
            excludes=g.excludes,
            file=file,
            sha256=canonical.sha256(text.encode()),
        )
        files[root.path / file] = text
    return groups, files


def _intact_groups(root: Root, wish: MatrixEntry, before: Entry | None) -> dict[str, Group] | None:
    """The old groups where all of them are still what is wanted; one environment is resolved as a whole."""
    if before is None or set(before.groups) != set(wish.groups):
        return None
    for name, group in before.groups.items():
        path = root.path / group.file
        same = all(getattr(group, f) == getattr(wish.groups[name], f) for f in MatrixGroup.__struct_fields__)
        if not same or not path.is_file() or sha256_file(path) != group.sha256:
            return None
    return before.groups


def _environments(
    root: Root, wish: MatrixEntry, groups: dict[str, Group], texts: dict[Path, str]
) -> dict[str, Environment]:
    def text_of(group: str) -> str:
        path = root.path / groups[group].file
        return texts.get(path) or read_text(path)

    result = {}
    for name, env in wish.environments.items():
        packages = dict(env.packages)
        for group in env.groups:
            packages |= pins_of(text_of(group))
        result[name] = Environment(python=env.python, packages=packages, groups=env.groups)
    return result


def _carry(entry: Entry, before: Entry | None) -> Entry:
    if before is None or before.checksum != entry.checksum:
        return entry
    return msgspec.structs.replace(entry, image=before.image, tested=before.tested)
