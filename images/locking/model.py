"""The nouns of versions.lock and images/matrix.yaml, and the entry checksum.

Both files become these frozen Structs in one place (`slipway.yamldoc`); unknown keys are refused there.
"""

from __future__ import annotations

import shlex
from typing import Any, Literal

import msgspec

from slipway import canonical
from slipway.yamldoc import Noun

Flavour = Literal["cpu", "cuda"]


class Struct(Noun, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the lock's nouns: what has its default is not written, so that a new field leaves old checksums alone."""


class Bootstrap(Struct, frozen=True, kw_only=True):
    """A base made from Debian's packages by mmdebstrap; its tar is never pinned by digest, since the archive moves."""

    suite: str
    variant: str
    packages: list[str]
    source_date_epoch: int


class MatrixBase(Struct, frozen=True, kw_only=True):
    """Where an image starts: `bootstrap` (a name from the matrix) or an `image` with its tag."""

    bootstrap: str | None = None
    image: str | None = None
    tag: str | None = None
    digest: str | None = None
    reported: str | None = None  # who says so, where the digest was not read from the registry


class Base(Struct, frozen=True, kw_only=True):
    """A resolved base. `digest` is that of the index; None = unresolved. `platforms`: platform -> manifest digest."""

    bootstrap: Bootstrap | None = None
    image: str | None = None
    tag: str | None = None
    digest: str | None = None
    platforms: dict[str, str] = {}
    reported: str | None = None

    @property
    def reference(self) -> str:
        """`image:tag@digest` as FROM writes it (`image:tag` while unresolved); empty for a bootstrapped base."""
        if not self.image:
            return ""
        return f"{self.image}:{self.tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def registry(self) -> str:
        """The host that serves the image."""
        return (self.image or "").partition("/")[0]


class FromSource(Struct, frozen=True, kw_only=True):
    """How a group is built from its source distributions, in a stage of its own that the image does not keep.

    `tools`: the group with the build backend; `debian`: packages of compilers and headers; `env`: for the build;
    `expects`: beginnings of paths that the wheel must hold, since some packages forgive a compiler that fails.
    """

    tools: str
    debian: list[str] = []
    env: dict[str, str] = {}
    expects: list[str] = []


class MatrixGroup(Struct, frozen=True, kw_only=True):
    """Python packages that are resolved together and installed in one layer.

    `python`, `platform`: what they are resolved for; `no_deps`: they alone, whatever they ask for; `excludes`: packages
    that are left out though something asks for them; `flags`: pip's, for the installation.
    """

    packages: list[str]
    python: str
    platform: str
    no_deps: bool = False
    excludes: list[str] = []
    flags: list[Literal["--ignore-requires-python"]] = []
    from_source: FromSource | None = None


class Group(MatrixGroup, frozen=True, kw_only=True):
    """A resolved group: `file` (relative to the project) holds hashed requirements, `sha256` is the file's."""

    file: str
    sha256: str


class MatrixRepository(Struct, frozen=True, kw_only=True):
    """A git repository that the build puts at `path`: the tree of `tag`'s commit.

    `importable`: its root is on the main environment's path. `commit` and `tree` (40 hex digits) are given by hand only
    where `reported` says from where they are known.
    """

    url: str
    tag: str
    path: str
    importable: bool = False
    commit: str | None = None
    tree: str | None = None
    reported: str | None = None


class Repository(MatrixRepository, frozen=True, kw_only=True):
    """As in the matrix, with `commit` and `tree` where its server has been asked; None = unresolved."""


class MatrixEnvironment(Struct, frozen=True, kw_only=True):
    """A Python environment in the image. `packages`: name -> version or PEP 440 specifiers; unknown ones are absent.

    `imports`: what any user has to be able to import there; `required`: False where the base may come without it.
    """

    python: str
    groups: list[str] = []
    packages: dict[str, str] = {}
    imports: list[str] = []
    required: bool = True


class Environment(Struct, frozen=True, kw_only=True):
    """As in the matrix, with the versions of every installed group filled in."""

    python: str
    packages: dict[str, str]
    groups: list[str] = []
    imports: list[str] = []
    required: bool = True


class Repair(Struct, frozen=True, kw_only=True):
    """What an official base has that only root, or only a writable root, can live with; changed when it is built over.

    `why` stands in the Dockerfile. `passable`: folders that everybody may pass through; `readable`: trees whose folders
    everybody may enter; `made`: what `make` in a folder makes (pattern -> its source), which has to be newer than its
    source; `program`: of entrypoints/repair/, run by the Python of the environment `environment`.
    """

    why: str
    passable: list[str] = []
    readable: list[str] = []
    made: dict[str, str] = {}
    program: str = ""
    environment: str = "main"


class Configurations(Struct, frozen=True, kw_only=True):
    """Configuration files in the image that steps start from, and classes of the library that take a configuration's
    keys; what they say goes into the image record.

    `loader`: a Python file of the library whose load_config reads the files, where they inherit from one another.
    `classes`: section of a configuration -> the class that the library makes of it, whatever `_target_` it names;
    `also`: keys that it takes out of it before. `targets`: classes and functions that configurations name as
    `_target_`, or that hold such. `types`: classes whose fields a whole configuration has (TypedDicts, pydantic
    models), of sources below `tree`, which are parsed and not imported.
    """

    paths: list[str] = []
    loader: str = ""
    classes: dict[str, str] = {}
    also: dict[str, list[str]] = {}
    targets: list[str] = []
    tree: str = ""
    types: list[str] = []


class MatrixEntry(Struct, frozen=True, kw_only=True):
    """One release. `env`: set in an image of ours, expected of an official base.

    `known_as`: component -> version for `when:`, where what is installed gives another, or none. `holds`: folders where
    users mount things, and where this base has what it runs with: no mount may hide them. `platforms`: other processors
    (linux/arm64) that get an entry of their own: the packages of each group that has others there.
    """

    base: MatrixBase
    python: str
    environments: dict[str, MatrixEnvironment]
    groups: dict[str, MatrixGroup] = {}
    platforms: dict[str, dict[str, list[str]]] = {}
    repositories: dict[str, MatrixRepository] = {}
    env: dict[str, str] = {}
    repair: list[Repair] = []
    known_as: dict[str, str] = {}
    holds: list[str] = []
    configurations: Configurations | None = None
    user: str = "root"
    workdir: str = "/"
    driver: str = "unknown"
    sources: list[str] = []
    notes: list[str] = []


class Library(Struct, frozen=True, kw_only=True):
    title: str
    homepage: str
    default: dict[Flavour, str]
    cpu: dict[str, MatrixEntry] = {}
    cuda: dict[str, MatrixEntry] = {}


class Matrix(Struct, frozen=True, kw_only=True):
    schema: Literal[1]
    bootstrap: dict[str, Bootstrap]
    libraries: dict[str, Library]


class Identity(Struct, frozen=True, kw_only=True):
    """Digests under which a built image was stored or pushed (config and manifest, OCI and Docker)."""

    ids: list[str]


class Tested(Struct, frozen=True, kw_only=True):
    """That somebody has run an entry's steps, in their `tiny` configuration, by `launch selftest`.

    `image`: its id; `hardware`: GPUs, or the processor, of the machine or first node; `driver`: NVIDIA's there, empty
    without GPUs; `engine`: the profile's kind; `date`: when the last step ended (ISO 8601, UTC); `slipway`: version;
    `commit`: of the project, whose steps these were, empty where it is no git tree. `steps`: those that ended well;
    `skipped`: step -> why that machine could not hold it.
    """

    image: str
    hardware: str
    driver: str = ""
    engine: str
    date: str
    slipway: str
    commit: str = ""
    steps: list[str]
    skipped: dict[str, str] = {}


class Extends(Struct, frozen=True, kw_only=True):
    """What an entry of the user's own lock derives from: `release` of the project's lock, whose checksum was `entry`.

    `words`: what `--with` said; `packages`: what that meant.
    """

    release: str
    entry: str
    words: list[str]
    packages: list[str]


class Entry(Struct, frozen=True, kw_only=True):
    """One row of the lock: everything that an image of `library`, `release` and `flavour` is made from.

    `platform`: the processor (linux/arm64) whose own entry this is; empty in the one that all others take.
    """

    library: str
    release: str
    flavour: Flavour
    platform: str = ""
    extends: Extends | None = None
    base: Base
    python: str
    environments: dict[str, Environment]
    groups: dict[str, Group] = {}
    repositories: dict[str, Repository] = {}
    env: dict[str, str] = {}
    repair: list[Repair] = []
    known_as: dict[str, str] = {}
    holds: list[str] = []
    configurations: Configurations | None = None
    user: str = "root"
    workdir: str = "/"
    driver: str = "unknown"
    image: list[Identity] = []
    tested: list[Tested] = []
    sources: list[str] = []
    notes: list[str] = []

    @property
    def name(self) -> str:
        """`automodel/0.7.0-cpu`, or `automodel/0.7.0-cpu-arm64`: the key in the lock, and the folder of its files."""
        return named(self.library, self.release, self.flavour, self.platform)

    @property
    def tag(self) -> str:
        """The image's name on an engine, for people; nothing is ever run by it."""
        return "slipway/" + self.name.replace("/", ":").replace("+", "-with-")

    @property
    def build_command(self) -> str:
        """What builds the image; for remedies."""
        platform = f" --platform {self.platform}" if self.platform else ""
        release = self.extends.release if self.extends else self.release
        added = "".join(f" --with {shlex.quote(word)}" for word in self.extends.words) if self.extends else ""
        return f"images build {self.library} --release {release} --flavour {self.flavour}{platform}{added}"

    @property
    def layers(self) -> list[str]:
        """The groups in the order in which they are installed: what changes least comes first."""
        return list(dict.fromkeys(g for e in self.environments.values() for g in e.groups))

    @property
    def components(self) -> dict[str, str]:
        """Package -> version or specifiers, the main environment's first; and every repository's, by its tag.

        What the release is known as comes before both: a container may hold a package built before its own tag.
        """
        found = {name: r.tag.removeprefix("v") for name, r in self.repositories.items()}
        for environment in reversed(self.environments.values()):
            found |= environment.packages
        return found | self.environments["main"].packages | self.known_as

    @property
    def checksum(self) -> str:
        """sha256 (hex) of what the image is made from: neither where claims come from, nor what was seen since, nor
        what of it is read."""
        body: dict[str, Any] = msgspec.to_builtins(self)
        for key in ("image", "tested", "sources", "notes", "known_as", "holds", "configurations", "extends"):
            body.pop(key, None)
        for repair in body.get("repair", []):
            repair.pop("why")
        for claim in (body["base"], *body.get("repositories", {}).values()):
            claim.pop("reported", None)
        return canonical.sha256(body)


def named(library: str, release: str, flavour: Flavour, platform: str = "") -> str:
    """The name of an entry."""
    own = "-" + platform.removeprefix("linux/") if platform else ""
    return f"{library}/{release}-{flavour}{own}"


class LockedLibrary(Struct, frozen=True, kw_only=True):
    title: str
    homepage: str
    default: dict[Flavour, str]


class Lock(Struct, frozen=True, kw_only=True):
    """versions.lock. `matrix` is the checksum of the matrix it was made from; `entries` are keyed by `Entry.name`.

    `checksum` is that of all the rest: a lock that was edited by hand does not have it.
    """

    schema: Literal[1]
    matrix: str
    libraries: dict[str, LockedLibrary]
    entries: dict[str, Entry]
    checksum: str = ""

    def on(self, platform: str, entry: Entry) -> Entry:
        """The entry of the same release for `platform`: its own, else the one that all others take."""
        return self.entries.get(named(entry.library, entry.release, entry.flavour, platform)) or entry

    @property
    def contents(self) -> str:
        """sha256 (hex) of everything but `checksum`."""
        body: dict[str, Any] = msgspec.to_builtins(self)
        body.pop("checksum", None)
        return canonical.sha256(body)
