"""Asks the package index (through uv) and the registry (through buildx) for what the matrix leaves open."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from images.locking import own, registry, sources
from images.locking.groups import canonical_name, pins_of, without
from images.locking.model import Base, FromSource, MatrixGroup, Repository
from images.machine import mirrors, pipconf
from slipway.errors import Exit, SlipwayError, quoted
from slipway.files import sha256_file

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
HEADER = "# Made by `images lock`; do not edit.\n"
ADDED = "added"  # the group of packages that a user adds to an entry
BUILD_TOOLS = ["setuptools", "wheel"]  # for what is built from source


class Outside:
    """The resolver that `images lock` uses."""

    def __init__(self, say: Callable[[str], None], mirrored: mirrors.Mirrors = mirrors.NONE) -> None:
        self.say = say
        self._mirrors = mirrored
        self.unresolved: list[str] = []
        self._found: dict[tuple[str, ...], Any] = {}  # what was asked once: several entries may start from one image
        self._pip = pipconf.read()

    def pins(self, groups: dict[str, MatrixGroup], before: str) -> dict[str, str]:
        """See `lock.Resolver`. Groups with dependencies are resolved as one set, then split in their order.

        Raises SlipwayError 65 with uv's own words where nothing fits, 69 where uv is not installed.
        """
        together = {n: g for n, g in groups.items() if not g.no_deps}
        agreed = ""
        if together:
            self.say(f"resolving {', '.join(together)}")
            agreed = self._uv(_union(list(together.values())), "", before)
        texts: dict[str, str] = {}
        taken: set[str] = set()
        for name, group in groups.items():
            text = self._uv(group, "" if group.no_deps else agreed, before, hashes=True)
            texts[name] = HEADER + without(text, taken)
            taken |= set(pins_of(text))
        return texts

    def added(self, group: MatrixGroup, pins: dict[str, str], before: str) -> dict[str, tuple[MatrixGroup, str]]:
        """See `groups.Packages`."""
        self.say(f"resolving {' '.join(group.packages)}")
        fixed = [f"{name}=={version}" for name, version in pins.items()]
        local = [pin for pin in fixed if pin.endswith("+cpu")]  # from an index of their own
        wish, sources = msgspec.structs.replace(group, packages=[*group.packages, *local]), list[str]()
        try:
            text = self._uv(wish, "\n".join(fixed), before)
        except SlipwayError:
            sources = self._without_wheels(wish, "\n".join(fixed), before)
            if not sources:
                raise
            self.say(f"there is no wheel of {', '.join(sources)}: built from source")
            text = self._uv(wish, "\n".join(fixed), before, sources=sources)
        new = {name: f"{name}=={version}" for name, version in pins_of(text).items() if name not in pins}
        tools = MatrixGroup(packages=BUILD_TOOLS, python=group.python, platform=group.platform)
        wheels = msgspec.structs.replace(group, packages=[p for n, p in new.items() if n not in sources], no_deps=True)
        built = msgspec.structs.replace(
            group,
            packages=[p for n, p in new.items() if n in sources],
            no_deps=True,
            from_source=FromSource(tools=f"{ADDED}-tools"),
        )
        made = {ADDED: wheels} | ({f"{ADDED}-source": built, f"{ADDED}-tools": tools} if built.packages else {})
        return {n: (g, own.HEADER + self._uv(g, "", before, hashes=True)) for n, g in made.items() if g.packages}

    def base(self, base: Base) -> Base:
        """See `lock.Resolver`."""
        found = self._ask(registry.resolve, self._mirrors.of(base.reference))
        return msgspec.structs.replace(base, digest=found.digest, platforms=found.platforms) if found else base

    def repository(self, repository: Repository) -> Repository:
        """See `lock.Resolver`."""
        found = self._ask(sources.resolve, repository.url, repository.tag)
        return msgspec.structs.replace(repository, commit=found[0], tree=found[1]) if found else repository

    def _ask(self, ask: Callable[..., Any], *place: str) -> Any:
        """The answer; None, and a line for `unresolved`, where there is none. Every place is asked once."""
        if place not in self._found:
            self.say(f"asking for {' '.join(place)}")
            try:
                self._found[place] = ask(*place)
            except SlipwayError as e:
                self._found[place] = None
                self.unresolved.append(str(e))
        return self._found[place]

    def _without_wheels(self, group: MatrixGroup, constraints: str, before: str) -> list[str]:
        """Which of the packages, resolved whatever there is of them, are there as sources alone."""
        found = tomllib.loads(self._uv(group, constraints, before, every=True))["packages"]
        return sorted(canonical_name(package["name"]) for package in found if not package.get("wheels"))

    def _uv(
        self,
        group: MatrixGroup,
        constraints: str,
        before: str,
        hashes: bool = False,
        sources: Iterable[str] = (),
        every: bool = False,
    ) -> str:
        """What uv writes: requirements; or, with `every`, a pylock.toml of whatever there is, wheel or source.

        `before`: pins that it keeps where they fit. `sources`: packages that are taken as sources though others are
        wheels.
        """
        out = "pylock.toml" if every else "out"
        with tempfile.TemporaryDirectory() as tmp:
            files = {"in": group.packages, "excludes": group.excludes, "constraints": [constraints], "out": [before]}
            files["uv.toml"] = []  # else uv takes the one of the nearest parent, where anybody may write
            for name, lines in files.items():
                (Path(tmp) / name).write_text("\n".join(lines) + "\n")
            command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
            command += ["--no-emit-index-url", "--python-version", group.python, "--python-platform", group.platform]
            command += ["--excludes", "excludes", "--constraint", "constraints"]
            command += ["--output-file", out]  # what stands there already is kept where it fits
            command += ["--generate-hashes"] if hashes else []
            command += ["--no-deps"] if group.no_deps else []
            command += [] if every else ["--no-binary" if group.from_source else "--only-binary", ":all:"]
            command += [word for name in sources for word in ("--no-binary", name)]
            command += self._places([*group.packages, *constraints.splitlines()])
            done = subprocess.run([*command, "in"], cwd=tmp, capture_output=True, text=True, check=False)
            text = (Path(tmp) / out).read_text() if not done.returncode else ""
        if "No module named uv" in done.stderr:
            raise SlipwayError(Exit.UNAVAILABLE, "uv is not installed", remedy="pip install -r requirements-dev.txt")
        if done.returncode:
            raise SlipwayError(Exit.DATA, f"cannot resolve {' '.join(group.packages)}:{quoted(done.stderr)}")
        return self._hash_local(text) if hashes else text

    def _places(self, packages: list[str]) -> list[str]:
        """uv does not read pip's find-links; PyTorch's CPU builds are elsewhere where no folder has them."""
        options = [w for folder in self._pip.find_links for w in ("--find-links", str(folder))]
        local = [p for p in packages if p.endswith("+cpu") and not self._pip.wheels_for(p)]
        if local:
            options += ["--extra-index-url", TORCH_CPU_INDEX, "--index-strategy", "unsafe-best-match"]
        return options

    def _hash_local(self, text: str) -> str:
        """uv writes no hash for a wheel that it took from a folder: it is the file's own."""
        lines = []
        for line in text.splitlines():
            bare = "==" in line and not line.startswith(" ") and not line.endswith("\\")
            found = self._pip.wheels_for(line.strip()) if bare else None
            lines.append(f"{line} \\\n    --hash=sha256:{sha256_file(found[1])}" if found else line)
        return "\n".join(lines) + "\n"


def _union(groups: list[MatrixGroup]) -> MatrixGroup:
    first = groups[0]
    odd = [g for g in groups if (g.python, g.platform) != (first.python, first.platform)]
    if odd:
        raise SlipwayError(
            Exit.CONFIG, "groups that are resolved together must name one python and one platform", where="matrix"
        )
    return MatrixGroup(
        packages=[p for g in groups for p in g.packages],
        python=first.python,
        platform=first.platform,
        excludes=sorted({e for g in groups for e in g.excludes}),
    )
