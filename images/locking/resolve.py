"""Asks the package index (through uv) and the registry (through buildx) for what the matrix leaves open."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from images.locking import registry, sources
from images.locking.lock import pins_of
from images.locking.model import Base, MatrixGroup, Repository
from images.machine import mirrors, pipconf
from slipway.errors import Exit, SlipwayError, quoted
from slipway.files import sha256_file

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
HEADER = "# Made by `images lock`; do not edit.\n"


class Outside:
    """The resolver that `images lock` uses."""

    def __init__(self, say: Callable[[str], None], mirrored: mirrors.Mirrors = mirrors.NONE) -> None:
        self.say = say
        self._mirrors = mirrored
        self.unresolved: list[str] = []
        self._found: dict[tuple[str, ...], Any] = {}  # what was asked once: several entries may start from one image
        self._pip = pipconf.read()

    def pins(self, groups: dict[str, MatrixGroup]) -> dict[str, str]:
        """See `lock.Resolver`. Groups with dependencies are resolved as one set, then split in their order.

        Raises SlipwayError 65 with uv's own words where nothing fits, 69 where uv is not installed.
        """
        together = {n: g for n, g in groups.items() if not g.no_deps}
        agreed = ""
        if together:
            self.say(f"resolving {', '.join(together)}")
            agreed = self._uv(_union(list(together.values())), constraints="")
        texts: dict[str, str] = {}
        taken: set[str] = set()
        for name, group in groups.items():
            text = self._uv(group, constraints="" if group.no_deps else agreed, hashes=True)
            texts[name] = HEADER + _without(text, taken)
            taken |= set(pins_of(text))
        return texts

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

    def _uv(self, group: MatrixGroup, constraints: str, hashes: bool = False) -> str:
        with tempfile.TemporaryDirectory() as tmp:
            files = {"in": group.packages, "excludes": group.excludes, "constraints": [constraints]}
            files["uv.toml"] = []  # else uv takes the one of the nearest parent, where anybody may write
            for name, lines in files.items():
                (Path(tmp) / name).write_text("\n".join(lines) + "\n")
            command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
            command += ["--no-emit-index-url", "--python-version", group.python, "--python-platform", group.platform]
            command += ["--excludes", "excludes", "--constraint", "constraints"]
            command += ["--generate-hashes"] if hashes else []
            command += ["--no-deps"] if group.no_deps else []
            command += ["--no-binary" if group.from_source else "--only-binary", ":all:"]
            command += self._places(group)
            done = subprocess.run([*command, "in"], cwd=tmp, capture_output=True, text=True, check=False)
        if "No module named uv" in done.stderr:
            raise SlipwayError(Exit.UNAVAILABLE, "uv is not installed", remedy="pip install -r requirements-dev.txt")
        if done.returncode:
            raise SlipwayError(Exit.DATA, f"cannot resolve {' '.join(group.packages)}:{quoted(done.stderr)}")
        return self._hash_local(done.stdout) if hashes else done.stdout

    def _places(self, group: MatrixGroup) -> list[str]:
        """uv does not read pip's find-links; PyTorch's CPU builds are elsewhere where no folder has them."""
        options = [w for folder in self._pip.find_links for w in ("--find-links", str(folder))]
        local = [p for p in group.packages if p.endswith("+cpu") and not self._pip.wheels_for(p)]
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


def _without(text: str, names: set[str]) -> str:
    """The requirements text less the packages of an earlier group (a requirement and its hash lines are one block)."""
    blocks: list[list[str]] = []
    for line in text.splitlines(keepends=True):
        if line.startswith(" ") and blocks:
            blocks[-1].append(line)
        else:
            blocks.append([line])
    return "".join("".join(b) for b in blocks if not set(pins_of(b[0])) & names)
