"""versions.lock: read, find an entry, make it from the matrix. Resolution that asks others is in resolve.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from images.locking import groups, own
from images.locking.model import (
    Base,
    Entry,
    Environment,
    Extends,
    Flavour,
    Group,
    Identity,
    Library,
    Lock,
    LockedLibrary,
    Matrix,
    MatrixBase,
    MatrixEntry,
    MatrixRepository,
    Repair,
    Repository,
    named,
)
from images.locking.platforms import OTHERS
from slipway import canonical, yamldoc
from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import read_text
from slipway.project import Root

REPAIRS = "entrypoints/repair"
HEADER = "# Made by `images lock` from images/matrix.yaml; do not edit.\n"


class Resolver(groups.Packages, Protocol):
    """What asks the outside world; see resolve.py."""

    def base(self, base: Base) -> Base:
        """`base` with the digests that its registry gives; unchanged (unresolved) where it does not answer."""

    def repository(self, repository: Repository) -> Repository:
        """`repository` with the commit of its tag and that commit's tree; unchanged where its server is silent."""


def load_matrix(root: Root) -> Matrix:
    """Raises SlipwayError 66 or 78."""
    matrix = yamldoc.load(root.matrix, Matrix)
    for name, library in matrix.libraries.items():
        for flavour, release in library.default.items():
            releases = library.cpu if flavour == "cpu" else library.cuda
            if release not in releases:
                at, what = ("libraries", name, "default", flavour), f"there is no release {release!r}"
                raise _wrong(root, at, what, nearest(release, releases))
        for flavour, release, wish in _releases(library):
            _check_release(root, ("libraries", name, flavour, release), release)
            _check_row(root, matrix, ("libraries", name, flavour, release), wish)
    return matrix


def _check_release(root: Root, at: tuple[str, ...], release: str) -> None:
    from packaging.version import InvalidVersion, Version

    try:
        local = Version(release).local
    except InvalidVersion as e:
        what = "is no version (PEP 440), by which releases are ordered"
        raise _wrong(root, at, what, "name it by its tag's version, such as 0.7.0 or 26.08.01") from e
    if local:
        what = "a local part (+) of a version names packages of one's own"
        raise _wrong(root, at, what, "leave it out; packages are added by: images build --with")


def _check_row(root: Root, matrix: Matrix, at: tuple[str, ...], wish: MatrixEntry) -> None:
    """One base, which is there; every group is installed in some environment, and every environment's is there."""
    base, used = wish.base, {g: name for name, e in wish.environments.items() for g in e.groups}
    tools = {g.from_source.tools: name for name, g in wish.groups.items() if g.from_source}
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
    for group in sorted(set(tools) - set(wish.groups)):
        at_tools = (*at, "groups", tools[group], "from_source", "tools")
        raise _wrong(root, at_tools, f"unknown group {group!r}", nearest(group, wish.groups))
    for group in sorted(set(wish.groups) - set(used) - set(tools)):
        raise _wrong(root, (*at, "groups", group), "is in no environment, and builds nothing")
    for platform, packages in wish.platforms.items():
        if platform not in OTHERS:
            raise _wrong(root, (*at, "platforms", platform), "unknown platform", f"expected {', '.join(OTHERS)}")
        for group in sorted(set(packages) - set(wish.groups)):
            raise _wrong(root, (*at, "platforms", platform, group), "unknown group", nearest(group, wish.groups))
    for name, repository in wish.repositories.items():
        _check_repository(root, (*at, "repositories", name), repository)
    for number, repair in enumerate(wish.repair):
        _check_repair(root, (*at, "repair", number), repair, wish)
    said = wish.configurations
    for path in (*said.paths, *filter(None, [said.loader])) if said else ():
        if not path.startswith("/"):
            raise _wrong(root, (*at, "configurations"), f"{path!r} is no absolute path")


def _check_repair(root: Root, at: tuple[str | int, ...], repair: Repair, wish: MatrixEntry) -> None:
    if wish.base.bootstrap:
        raise _wrong(root, at, "a base made from packages needs none")
    if repair.environment not in wish.environments:
        remedy = nearest(repair.environment, wish.environments)
        raise _wrong(root, (*at, "environment"), f"unknown environment {repair.environment!r}", remedy)
    if repair.program and not (root.path / REPAIRS / repair.program).is_file():
        raise _wrong(root, (*at, "program"), f"there is no {REPAIRS}/{repair.program}")


def _check_repository(root: Root, at: tuple[str, ...], wish: MatrixRepository) -> None:
    if bool(wish.commit) != bool(wish.tree):
        raise _wrong(root, at, "`commit` and `tree` belong together: one is there without the other")
    for key in ("commit", "tree"):
        value = getattr(wish, key)
        if value and not re.fullmatch(r"[0-9a-f]{40}", value):
            raise _wrong(root, (*at, key), f"{value!r} is no git object (40 hex digits)")
    if not wish.path.startswith("/"):
        raise _wrong(root, (*at, "path"), f"{wish.path!r} is no absolute path")


def _wrong(root: Root, at: tuple[str | int, ...], what: str, remedy: str = "") -> SlipwayError:
    position = yamldoc.line_of(root.matrix, *at)
    return SlipwayError(
        Exit.CONFIG, f"{'.'.join(map(str, at))}: {what}", where=f"{root.matrix}:{position}", remedy=remedy
    )


def check_libraries(matrix: Matrix, names: tuple[str, ...]) -> None:
    """Raises SlipwayError 64 for a name that the matrix does not have."""
    for name in names:
        if name not in matrix.libraries:
            raise SlipwayError(Exit.WORDS, f"unknown library {name!r}", remedy=nearest(name, matrix.libraries))


def matrix_checksum(matrix: Matrix) -> str:
    """What the lock carries of the matrix; comments and layout do not count."""
    return canonical.sha256(matrix)


def load_lock(root: Root) -> Lock:
    """The project's lock, as `tracked`, with the entries of the user's own beside it."""
    lock = tracked(root)
    return msgspec.structs.replace(lock, entries=lock.entries | own.load(root))


def tracked(root: Root) -> Lock:
    """The project's lock, refused (65) where it was edited by hand or not made from the matrix beside it."""
    lock = yamldoc.load(root.lock, Lock)
    if lock.checksum != lock.contents:
        what = "its contents are not those that it was written with: it was edited by hand, or merged"
        raise SlipwayError(Exit.DATA, what, where=str(root.lock), remedy="edit images/matrix.yaml and run: images lock")
    if lock.matrix != matrix_checksum(load_matrix(root)):
        raise SlipwayError(
            Exit.DATA, "the lock was made from another matrix", where=str(root.lock), remedy="run: images lock"
        )
    return lock


def previous(root: Root, say: Callable[[str], None]) -> Lock | None:
    """The lock as it stands, for what can be carried over; None where there is none, or somebody edited it."""
    if not root.lock.is_file() or not root.lock.stat().st_size:
        return None
    lock = yamldoc.load(root.lock, Lock)
    if lock.checksum == lock.contents:
        return lock
    say(f"{root.lock} was edited by hand, or merged: nothing of it is carried over")
    return None


def select(lock: Lock, library: str, flavour: Flavour, release: str | None = None) -> Entry:
    """The entry of `library`; its default release for `flavour` unless named. Raises SlipwayError 64.

    A processor's own entry is asked for by `Lock.on`. Raises SlipwayError 65 for one of the user's own, where the
    entry that it derives from has moved.
    """
    if library not in lock.libraries:
        raise SlipwayError(Exit.WORDS, f"unknown library {library!r}", remedy=nearest(library, lock.libraries))
    wanted = release or lock.libraries[library].default.get(flavour)
    usual = [e for e in lock.entries.values() if e.library == library and not e.platform]
    releases = {e.release: e for e in usual if e.flavour == flavour}
    if wanted not in releases:
        what = f"release {wanted!r}" if wanted else "default release"
        raise SlipwayError(
            Exit.WORDS, f"{library} has no {what} for flavour {flavour}", remedy=nearest(wanted or "", releases)
        )
    for entry in lock.entries.values():
        if (entry.library, entry.flavour, entry.release) == (library, flavour, wanted) and entry.extends:
            _check_moved(lock, entry, entry.extends)
    return releases[wanted]


def _check_moved(lock: Lock, entry: Entry, extends: Extends) -> None:
    name = named(entry.library, extends.release, entry.flavour, entry.platform)
    now = lock.entries[name].checksum if name in lock.entries else ""
    if now != extends.entry:
        has = f"its entry is {now[:12]} now" if now else "which the lock has no more"
        what = f"derives from {name} as it was (entry {extends.entry[:12]}): {has}"
        raise SlipwayError(Exit.DATA, what, where=entry.name, remedy=f"add the packages again: {entry.build_command}")


def build_lock(
    root: Root,
    matrix: Matrix,
    old: Lock | None,
    resolver: Resolver,
    ask: tuple[str, ...] = (),
    upgrade: tuple[str, ...] = (),
    moving: tuple[str, ...] = (),
) -> tuple[Lock, dict[Path, str]]:
    """The lock for `matrix`, and the requirements files (path -> text) that it names; writes nothing.

    `ask`: the libraries whose open digests are asked for; all of them where it is empty. `upgrade`: the libraries for
    which everything is asked anew, whatever `old` says. `moving`: packages that are. Raises SlipwayError 64 for one
    that nobody has pinned.

    What has not changed is carried over from `old`: groups whose wishes are the same and whose file is intact, digests,
    commits, and, while an entry's checksum is the same, its recorded images and tests. Where a wish has changed, the
    pins that still fit stay.
    """
    groups.check_moving(root, old, ask, moving)
    entries: dict[str, Entry] = {}
    files: dict[Path, str] = {}
    for name, library in sorted(matrix.libraries.items()):
        for flavour, release, platform, wish in _rows(library):
            key = named(name, release, flavour, platform)
            before = old.entries.get(key) if old else None
            kept = None if name in upgrade else before
            asked = resolver if not ask or name in ask else None
            pinned, texts = groups.lock_groups(root, key, wish, kept, resolver, moving if asked else ())
            files |= texts
            entry = Entry(
                library=name,
                release=release,
                flavour=flavour,
                platform=platform,
                base=_base(matrix, wish.base, before, asked, anew=kept is None),
                python=wish.python,
                environments=_environments(root, wish, pinned, texts),
                groups=pinned,
                repositories={
                    n: _repository(r, before.repositories.get(n) if before else None, asked, anew=kept is None)
                    for n, r in wish.repositories.items()
                },
                env=wish.env,
                repair=wish.repair,
                known_as=wish.known_as,
                holds=wish.holds,
                configurations=wish.configurations,
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
    lock = Lock(schema=1, matrix=matrix_checksum(matrix), libraries=libraries, entries=entries)
    return sealed(lock), files


def sealed(lock: Lock) -> Lock:
    """`lock` with the checksum of its contents."""
    return msgspec.structs.replace(lock, checksum=lock.contents)


def with_image(lock: Lock, name: str, ids: list[str], drift: dict[str, str]) -> Lock:
    """`lock` with an image's identity in the entry `name`.

    Raises SlipwayError 65 for an image with anything in it that the lock does not pin.
    """
    for what, other in drift.items():
        remedy = "build it from what the lock pins"
        raise SlipwayError(Exit.DATA, f"the image has {other} in place of {what}", where=name, remedy=remedy)
    entry = lock.entries[name]
    others = [i for i in entry.image if not set(i.ids) & set(ids)]
    entry = msgspec.structs.replace(entry, image=[*others, Identity(ids=ids)])
    return sealed(msgspec.structs.replace(lock, entries={**lock.entries, name: entry}))


def lock_text(lock: Lock) -> str:
    """The file's text: header, then sorted YAML."""
    return HEADER + yamldoc.dump(msgspec.to_builtins(lock))


def _releases(library: Library) -> list[tuple[Flavour, str, MatrixEntry]]:
    rows: list[tuple[Flavour, str, MatrixEntry]] = [("cpu", r, e) for r, e in sorted(library.cpu.items())]
    return rows + [("cuda", r, e) for r, e in sorted(library.cuda.items())]


def _rows(library: Library) -> Iterator[tuple[Flavour, str, str, MatrixEntry]]:
    """What gets an entry: every release, and every release on each processor that has packages of its own."""
    for flavour, release, wish in _releases(library):
        yield flavour, release, "", wish
        for platform, packages in sorted(wish.platforms.items()):
            groups = {
                name: msgspec.structs.replace(
                    group,
                    packages=packages.get(name, group.packages),
                    platform=f"{OTHERS[platform]}-{group.platform.partition('-')[2]}",
                )
                for name, group in wish.groups.items()
            }
            yield flavour, release, platform, msgspec.structs.replace(wish, groups=groups)


def _base(matrix: Matrix, wish: MatrixBase, before: Entry | None, resolver: Resolver | None, anew: bool) -> Base:
    if wish.bootstrap:
        return Base(bootstrap=matrix.bootstrap[wish.bootstrap])
    base = Base(image=wish.image, tag=wish.tag, digest=wish.digest, reported=wish.reported)
    if base.digest:
        return base
    known = before.base if before and (before.base.image, before.base.tag) == (base.image, base.tag) else base
    if resolver is None or (known.digest and not anew):
        return known
    found = resolver.base(base)
    return found if found.digest else known


def _repository(wish: MatrixRepository, before: Repository | None, resolver: Resolver | None, anew: bool) -> Repository:
    repository = Repository(**msgspec.structs.asdict(wish))
    if repository.commit:
        return repository
    known = repository
    if before and (before.url, before.tag) == (wish.url, wish.tag):
        known = msgspec.structs.replace(repository, commit=before.commit, tree=before.tree)
    if resolver is None or (known.commit and not anew):
        return known
    found = resolver.repository(repository)
    return found if found.commit else known


def _environments(
    root: Root, wish: MatrixEntry, pinned: dict[str, Group], texts: dict[Path, str]
) -> dict[str, Environment]:
    def text_of(group: str) -> str:
        path = root.path / pinned[group].file
        return texts.get(path) or read_text(path)

    result = {}
    for name, env in wish.environments.items():
        packages = dict(env.packages)
        for group in env.groups:
            packages |= groups.pins_of(text_of(group))
        result[name] = Environment(**msgspec.structs.asdict(env) | {"packages": packages})
    return result


def _carry(entry: Entry, before: Entry | None) -> Entry:
    if before is None or before.checksum != entry.checksum:
        return entry
    return msgspec.structs.replace(entry, image=before.image, tested=before.tested)
