"""Packages of a user's own, added to an entry of the project's lock: an entry of its own, in the user's own lock.

A user's matrix.yaml gives names to lists of them (`extras:`). Read from ./slipway.d/, then from ~/.config/slipway/
(XDG_CONFIG_HOME); of one name the nearest counts.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

import msgspec

from images.locking import own, platforms
from images.locking.groups import Packages, canonical_name, pins_before, pins_of
from images.locking.model import Entry, Extends, Group, Lock, MatrixGroup, named
from slipway import canonical, yamldoc
from slipway.errors import Exit, SlipwayError, nearest, quoted
from slipway.files import sha256_file
from slipway.project import Root, user_dirs
from slipway.trust import trusted
from slipway.yamldoc import Noun

FILE = "matrix.yaml"
_NAME = "[a-z0-9]+([-_.][a-z0-9]+)*"  # what may stand behind the + of a version
_LONGEST = 64  # of what is added to a release: an image's tag has at most 128 letters
_EXPECTED = "expected NAME==VERSION, or other specifiers of PEP 440"


class OwnMatrix(Noun, frozen=True, kw_only=True):
    """matrix.yaml of a user. `extras`: library -> name -> packages, each with specifiers."""

    schema: Literal[1]
    extras: dict[str, dict[str, list[str]]] = {}


@dataclass(frozen=True)
class Wish:
    """What is to be added to an entry: `words` as they were said, the `packages` that they mean."""

    words: tuple[str, ...]
    packages: tuple[str, ...]

    @property
    def label(self) -> str:
        """What the release is called behind its +: the names of the extras, and of packages that were said by word."""
        return ".".join(sorted({canonical_name(re.split(r"[^\w.-]", word)[0]) for word in self.words}))


def wished(root: Root, lock: Lock, library: str, words: tuple[str, ...]) -> Wish:
    """What `--with` means: a name of `extras:`, or a package with specifiers.

    Raises SlipwayError 64, or 77 and 78 for a user's matrix.
    """
    known = _extras(root, lock).get(library, {})
    packages: list[str] = []
    for word in words:
        if word in known:
            packages += known[word]
        elif why := _wrong(word):
            remedy = nearest(word, known) if known and re.fullmatch(_NAME, word) else _EXPECTED
            what = f"{why}, and is no name of `extras:` of {library} in a {FILE} of yours"
            raise SlipwayError(Exit.WORDS, what, where=f"--with {word}", remedy=remedy)
        else:
            packages.append(word)
    wish = Wish(tuple(dict.fromkeys(words)), tuple(sorted(set(packages))))
    if len(wish.label) > _LONGEST:
        what = f"{wish.label} is too long for the name of a release: more than {_LONGEST} letters"
        remedy = f"give these packages one name: `extras:` of {library} in slipway.d/{FILE}"
        raise SlipwayError(Exit.WORDS, what, where="--with", remedy=remedy)
    return wish


def derive(root: Root, lock: Lock, base: Entry, wish: Wish, resolver: Packages, platform: str = "") -> tuple[Lock, str]:
    """The project's `lock` with the entry that `wish` makes of its entry `base`, and the release of that.

    It is in the user's own lock afterwards; and what it is on `platform` (linux/arm64) and on this machine's processor,
    where those have packages of their own. What has been derived before and is still what is wanted is not asked for
    again. Raises SlipwayError 64 (nothing to add, or not to this flavour) or 65 (a pin of `base` would have to change;
    in uv's words, that name both).
    """
    release, known = f"{base.release}+{wish.label}", own.load(root)
    same = [e for e in known.values() if (e.library, e.release, e.flavour) == (base.library, release, base.flavour)]
    wanted = {"", platform, platforms.named(os.uname().machine), *(e.platform for e in same)}
    rows = {e.platform: e for e in (lock.on(p, base) for p in wanted)}
    entries, texts = dict[str, Entry](), dict[str, str]()
    for row in rows.values():
        key = named(row.library, release, row.flavour, row.platform)
        before = known.get(key)
        if before and before.extends == _extends(row, wish) and _intact(root, before):
            continue
        entries[key], files = _derived(row, wish, release, pins_before(root, before), resolver)
        texts |= files
    if entries:
        own.keep(root, entries, texts)
    return msgspec.structs.replace(lock, entries=lock.entries | known | entries), release


def _extras(root: Root, lock: Lock) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {}
    for folder in user_dirs(root)[:-1]:  # the last is the project's own
        path = trusted(folder / FILE, folder)
        if not path.is_file():
            continue
        for library, extras in yamldoc.load(path, OwnMatrix).extras.items():
            at: tuple[str | int, ...] = ("extras", library)
            wrong = [(at, f"unknown library {library!r}", nearest(library, lock.libraries))]
            wrong = [] if library in lock.libraries else wrong
            for name, packages in extras.items():
                if not re.fullmatch(_NAME, name):
                    wrong.append(((*at, name), "expected small letters and digits, with . - _ between them", ""))
                bad = [(n, why) for n, package in enumerate(packages) if (why := _wrong(package))]
                wrong += [((*at, name, n), why, _EXPECTED) for n, why in bad]
                wrong += [] if packages else [((*at, name), "has no package", _EXPECTED)]
            for keys, what, remedy in wrong:
                where = f"{path}:{yamldoc.line_of(path, *keys)}"
                raise SlipwayError(Exit.CONFIG, f"{'.'.join(map(str, keys))}: {what}", where=where, remedy=remedy)
            found[library] = extras | found.get(library, {})
    return found


def _wrong(package: str) -> str:
    """Why a word is no package that can be pinned; empty where it is one."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        said = Requirement(package)
    except InvalidRequirement:
        return f"{package!r} is no package"
    if said.url:
        return f"{said.name} is named by a URL, which the package index has no hash of"
    return "" if said.specifier else f"{package!r} says no version"


def _extends(base: Entry, wish: Wish) -> Extends:
    return Extends(release=base.release, entry=base.checksum, words=list(wish.words), packages=list(wish.packages))


def _intact(root: Root, entry: Entry) -> bool:
    paths = {own.file_of(root, group): group.sha256 for group in entry.groups.values()}
    return all(path.is_file() and sha256_file(path) == sha256 for path, sha256 in paths.items())


def _derived(base: Entry, wish: Wish, release: str, before: str, resolver: Packages) -> tuple[Entry, dict[str, str]]:
    """`base` with one more layer (or two: what has no wheel is built), and the files of that (`file` -> text)."""
    where = f"--with {' '.join(wish.words)}"
    if not base.layers:
        what = f"{base.name} is an official container, of which nobody has recorded all packages: what would change"
        remedy = "packages are added to the flavour cpu: --flavour cpu"
        raise SlipwayError(Exit.WORDS, f"{what} of them is not known", where=where, remedy=remedy)
    main, first = base.environments["main"], base.groups[base.layers[0]]
    group = MatrixGroup(
        packages=list(wish.packages),
        python=base.python,
        platform=first.platform,
        excludes=sorted({name for g in base.groups.values() for name in g.excludes}),
    )
    try:
        added = resolver.added(group, main.packages, before)
    except SlipwayError as e:
        what = f"cannot be added to {base.name}, of which no pin may change:{quoted(e.what)}"
        remedy = "name other versions; or change images/matrix.yaml, for everybody"
        raise SlipwayError(e.code, what, where=where, remedy=e.remedy or remedy) from e
    if not added:
        raise SlipwayError(Exit.WORDS, f"{base.name} has it already", where=where, remedy="launch that release")
    key = named(base.library, release, base.flavour, base.platform)
    texts = {own.named(key, name): text for name, (_, text) in added.items()}
    new = {
        name: Group(**msgspec.structs.asdict(g), file=own.named(key, name), sha256=canonical.sha256(text.encode()))
        for name, (g, text) in added.items()
    }
    tools = {g.from_source.tools for g in new.values() if g.from_source}
    installed = [name for name in new if name not in tools]
    packages = main.packages | {p: v for name in installed for p, v in pins_of(added[name][1]).items()}
    main = msgspec.structs.replace(main, packages=packages, groups=[*main.groups, *installed])
    return msgspec.structs.replace(
        base,
        release=release,
        extends=_extends(base, wish),
        environments=base.environments | {"main": main},
        groups=base.groups | new,
        image=[],
        tested=[],
    ), texts
