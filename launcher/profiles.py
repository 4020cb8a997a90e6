"""Profiles: one per machine or site; what a launch needs to know of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec

from slipway import yamldoc
from slipway.errors import Exit, SlipwayError, nearest
from slipway.project import Root, user_dirs
from slipway.yamldoc import Noun

Limit = Literal["core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss",
                "rtprio", "rttime", "sigpending", "stack"]  # fmt: skip

OUR_TARGETS = ("/inputs", "/output", "/cache", "/slipway", "/run/slipway", "/run/secrets")


GpuModel = Literal["A10", "A100", "A30", "A40", "B200", "B300", "GB200", "GB300", "GH200", "H100", "H20", "H200", "L4",
                   "L40", "L40S", "RTX PRO 6000", "V100"]  # fmt: skip


class Gpu(Noun, frozen=True, kw_only=True):
    """What a run gets of: one model in every machine. `memory`: of one, such as 80GiB; empty where it is not known."""

    model: GpuModel
    memory: str = ""

    @property
    def bytes(self) -> int:
        """`memory` in bytes; 0 where it is not known."""
        return parse_size(self.memory) if self.memory else 0


class ExtraMount(Noun, frozen=True, kw_only=True):
    """A folder of the host that every container of this profile gets."""

    source: str
    target: str
    readonly: bool = True


class Profile(Noun, frozen=True, kw_only=True):
    """`engine`: the engine's address where it is not the usual one. Sizes as Docker writes them (`8g`).

    `ulimits`: name -> limit, -1 = unlimited. `runs`, `hf_home`: folders of the host.
    """

    schema: Literal[1]
    kind: Literal["docker"]
    engine: str | None = None
    flavour: Literal["auto", "cpu", "cuda"] = "auto"
    network: Literal["host", "bridge", "none"] = "host"
    ipc: Literal["private", "host", "shareable"] = "private"
    shm_size: str = "8g"
    ulimits: dict[Limit, int] = {}
    env: dict[str, str] = {}
    mounts: list[ExtraMount] = []
    runs: str | None = None
    hf_home: str | None = None
    gpu: Gpu | None = None
    name: str = ""
    file: str = ""

    @property
    def shm_bytes(self) -> int:
        """`shm_size` in bytes."""
        return parse_size(self.shm_size)


def parse_size(text: str) -> int:
    """`8g`, `512m`, `80GiB`, `1024` in bytes (powers of 1024). Raises ValueError."""
    match = re.fullmatch(r"(\d+)([kmgt]?)(?:i?b)?", text.lower())
    if not match:
        raise ValueError(f"{text!r} is no size; expected such as 8g or 512m")
    return int(match[1]) * int(1024 ** " kmgt".index(match[2] or " "))


def find_profile(root: Root, name: str) -> Profile:
    """The profile `name`. Raises SlipwayError 64 (unknown, with the nearest) or 78 (its file is wrong)."""
    known = profile_files(root)
    if name not in known:
        raise SlipwayError(Exit.WORDS, f"unknown profile {name!r}", remedy=nearest(name, known))
    path = known[name]
    profile = yamldoc.load(path, Profile)
    for field in ("name", "file"):
        if getattr(profile, field):
            raise SlipwayError(Exit.CONFIG, f"unknown key {field!r}", where=f"{path}:{yamldoc.line_of(path, field)}")
    for keys, size in ((("shm_size",), profile.shm_size), (("gpu", "memory"), profile.gpu and profile.gpu.memory)):
        try:
            parse_size(size or "0")
        except ValueError as e:
            where = f"{path}:{yamldoc.line_of(path, *keys)}"
            raise SlipwayError(Exit.CONFIG, f"{'.'.join(keys)}: {e}", where=where) from e
    for mount in profile.mounts:
        _check_mount(path, mount)
    return msgspec.structs.replace(profile, name=name, file=str(path))


def _check_mount(path: Path, mount: ExtraMount) -> None:
    where = f"{path}:{yamldoc.line_of(path, 'mounts')}"
    for side, value in (("source", mount.source), ("target", mount.target)):
        if not Path(value).is_absolute():
            raise SlipwayError(Exit.CONFIG, f"mounts: {side} {value!r} is no absolute path", where=where)
    taken = next((t for t in OUR_TARGETS if Path(mount.target) == Path(t) or Path(t) in Path(mount.target).parents), "")
    if taken:
        raise SlipwayError(Exit.CONFIG, f"mounts: target {mount.target!r}: {taken} is the launcher's own", where=where)


def profile_files(root: Root) -> dict[str, Path]:
    """Name -> file; a user's own profile wins over one of the project's."""
    found: dict[str, Path] = {}
    for base in reversed(user_dirs(root)):
        found |= {p.stem: p for p in sorted((base / "profiles").glob("*.yaml"))}
    return found
