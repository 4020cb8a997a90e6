"""Profiles: one per machine or site; what a launch needs to know of it. One noun per kind of engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from slipway import yamldoc
from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import read_text
from slipway.project import Root, user_dirs
from slipway.trust import trusted
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


class _Common(Noun, frozen=True, kw_only=True, tag_field="kind"):
    """`extends`: a profile whose keys count where this one has none. `runs`, `hf_home`, `megatron_cache`:
    folders of the host.

    `offline`: the hub is not asked, its inputs are those in `hf_home`. `secrets`: name -> `env` (this shell's variable)
    or `file:PATH`; they reach the container as files. `ray_wait`: seconds that a step with Ray waits for its nodes.
    """

    schema: Literal[1]
    extends: str | None = None
    flavour: Literal["auto", "cpu", "cuda"] = "auto"
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}
    mounts: list[ExtraMount] = []
    runs: str | None = None
    hf_home: str | None = None
    megatron_cache: str | None = None
    offline: bool = False
    gpu: Gpu | None = None
    ray_wait: Annotated[int, msgspec.Meta(ge=1)] = 300
    name: str = ""
    file: str = ""

    @property
    def kind(self) -> str:
        """The engine."""
        return str(self.__struct_config__.tag)


class DockerProfile(_Common, frozen=True, kw_only=True, tag="docker"):
    """`engine`: the engine's address where it is not the usual one. Sizes as Docker writes them (`8g`).

    `ulimits`: name -> limit, -1 = unlimited.
    """

    engine: str | None = None
    network: Literal["host", "bridge", "none"] = "host"
    ipc: Literal["private", "host", "shareable"] = "private"
    shm_size: str = "8g"
    ulimits: dict[Limit, int] = {}

    @property
    def shm_bytes(self) -> int:
        """`shm_size` in bytes."""
        return parse_size(self.shm_size)


class EnrootProfile(_Common, frozen=True, kw_only=True, tag="enroot"):
    """`squash`: folder of the .sqsh files; `data`: where their root file systems are. None: in the project's state.

    `writable`: every run gets a root file system of its own, which ends with it.
    """

    squash: str | None = None
    data: str | None = None
    writable: bool = False


class SlurmProfile(_Common, frozen=True, kw_only=True, tag="slurm"):
    """Slurm with pyxis. What is None is not asked for, so that the site's default counts.

    `shared`: folders that every node sees; `squash`: folder of the .sqsh files, below one of them. `image`: by that
    file, or pulled by every node from the registry that the image was pushed to. `gpus_by`: how GPUs are asked for,
    and as which `gpu_type` the site knows them. `mpi`: srun's --mpi. `network`: interface that NCCL and Gloo use.
    `setup`: lines of bash before srun. `sbatch`, `srun`: further long options, without dashes; true = without a value.
    `stop_seconds`: how long before the time limit the step is told; by the step's own need where None. `attempts`: how
    often one job may start. `mount_wait`: seconds that nodes wait to see each other's files.
    """

    flavour: Literal["cpu", "cuda"] = "cuda"
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    reservation: str | None = None
    constraint: str | None = None
    time: str | None = None
    mem: str | None = None
    cpus: Annotated[int, msgspec.Meta(ge=1)] | None = None
    gpus_by: Literal["gpus-per-node", "gres"] = "gpus-per-node"
    gpu_type: Annotated[str, msgspec.Meta(pattern=r"^[\w.-]+$")] | None = None
    exclusive: bool = False
    mpi: str = "none"
    network: str | None = None
    image: Literal["squash", "registry"] = "squash"
    squash: str | None = None
    shared: list[str] = []
    mount_home: bool = False
    writable: bool = False
    remap_root: bool = False
    setup: list[str] = []
    sbatch: dict[str, str | int | bool] = {}
    srun: dict[str, str | int | bool] = {}
    stop_seconds: Annotated[int, msgspec.Meta(ge=1)] | None = None
    attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    mount_wait: Annotated[int, msgspec.Meta(ge=1)] = 90


Profile = DockerProfile | EnrootProfile | SlurmProfile
KINDS: dict[str, type[Profile]] = {"docker": DockerProfile, "enroot": EnrootProfile, "slurm": SlurmProfile}
_MERGED = ("env", "secrets", "ulimits", "sbatch", "srun")  # mappings that `extends` joins key by key


def parse_size(text: str) -> int:
    """`8g`, `512m`, `80GiB`, `1024` in bytes (powers of 1024). Raises ValueError."""
    match = re.fullmatch(r"(\d+)([kmgt]?)(?:i?b)?", text.lower())
    if not match:
        raise ValueError(f"{text!r} is no size; expected such as 8g or 512m")
    return int(match[1]) * int(1024 ** " kmgt".index(match[2] or " "))


def find_profile(root: Root, name: str) -> Profile:
    """The profile `name`, with what it extends. Raises SlipwayError 64 (unknown, with the nearest) or 78 (wrong)."""
    profile = with_origins(root, name)[0]
    if isinstance(profile, EnrootProfile):
        data = Path(profile.data).expanduser() if profile.data else root.kept("enroot")
        return msgspec.structs.replace(profile, data=str(data.absolute()))
    return profile


def with_origins(root: Root, name: str) -> tuple[Profile, dict[str, Path]]:
    """The profile, and for each key (`sbatch.comment` for one in a mapping) the file that it came from."""
    merged: dict[str, Any] = {}
    origins: dict[str, Path] = {}
    files = _chain(root, name)
    for path, _ in reversed(files):  # the farthest first: what is nearer goes over it
        value = yamldoc.parse(read_text(path), str(path))
        for key, item in value.items():
            joined = key in _MERGED and isinstance(merged.get(key), dict)
            merged[key] = merged[key] | item if joined else item
            if isinstance(item, dict):
                origins |= {f"{key}.{k}": path for k in item}
            else:
                origins[key] = path
    path, type_ = files[0]
    return msgspec.structs.replace(msgspec.convert(merged, type_), name=name, file=str(path)), origins


def _chain(root: Root, name: str) -> list[tuple[Path, type[Profile]]]:
    """The files of a profile, the nearest first, each found right on its own; all of one kind."""
    known = profile_files(root)
    found: list[tuple[Path, type[Profile]]] = []
    wanted: str | None = name
    while wanted is not None:
        used = [path for path, _ in found]
        path = next((p for p in known.get(wanted, []) if p not in used), None)
        if path is None and not found:
            raise SlipwayError(Exit.WORDS, f"unknown profile {name!r}", remedy=nearest(name, known))
        if path is None:
            where = f"{used[-1]}:{yamldoc.line_of(used[-1], 'extends')}"
            what = "extends itself" if wanted in known else f"extends the unknown profile {wanted!r}"
            raise SlipwayError(Exit.CONFIG, what, where=where, remedy=nearest(wanted, set(known) - {name}))
        profile = _read(path)
        if found and found[0][1] is not type(profile):
            where = f"{used[-1]}:{yamldoc.line_of(used[-1], 'extends')}"
            what = f"extends {wanted!r}, a profile of another kind ({profile.kind})"
            raise SlipwayError(Exit.CONFIG, what, where=where)
        found.append((path, type(profile)))
        wanted = profile.extends
    return found


def _read(path: Path) -> Profile:
    """One file, checked. Raises SlipwayError 78 with file and line, 77 for one that others may write."""
    text = read_text(trusted(path, path.parents[1]))
    value = yamldoc.parse(text, str(path))
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in KINDS:
        where, remedy = f"{path}:{yamldoc.line_of(path, 'kind')}", nearest(str(kind), KINDS)
        raise SlipwayError(Exit.CONFIG, f"kind: {kind!r} is not allowed", where=where, remedy=remedy)
    profile: Profile = yamldoc.convert(text, KINDS[kind], str(path))
    for field in ("name", "file"):
        if getattr(profile, field):
            raise SlipwayError(Exit.CONFIG, f"unknown key {field!r}", where=f"{path}:{yamldoc.line_of(path, field)}")
    shm = profile.shm_size if isinstance(profile, DockerProfile) else ""
    for keys, size in ((("shm_size",), shm), (("gpu", "memory"), profile.gpu and profile.gpu.memory)):
        try:
            parse_size(size or "0")
        except ValueError as e:
            where = f"{path}:{yamldoc.line_of(path, *keys)}"
            raise SlipwayError(Exit.CONFIG, f"{'.'.join(keys)}: {e}", where=where) from e
    for mount in profile.mounts:
        _check_mount(path, mount)
    for name, value in profile.secrets.items():
        _check_text(path, ("secrets", name), value, r"env|file:/.+", "`env`, or file: and an absolute path")
    if isinstance(profile, SlurmProfile) and profile.time is not None:
        shape = r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}"
        _check_text(path, ("time",), profile.time, shape, "such as 30 (minutes), 4:00:00 or 1-12")
    return profile


def _check_text(path: Path, keys: tuple[str, ...], value: str, pattern: str, expected: str) -> None:
    if not re.fullmatch(pattern, value):
        where = f"{path}:{yamldoc.line_of(path, *keys)}"
        raise SlipwayError(Exit.CONFIG, f"{'.'.join(keys)}: {value!r}; expected {expected}", where=where)


def _check_mount(path: Path, mount: ExtraMount) -> None:
    where = f"{path}:{yamldoc.line_of(path, 'mounts')}"
    for side, value in (("source", mount.source), ("target", mount.target)):
        if not Path(value).is_absolute():
            raise SlipwayError(Exit.CONFIG, f"mounts: {side} {value!r} is no absolute path", where=where)
    taken = next((t for t in OUR_TARGETS if Path(mount.target) == Path(t) or Path(t) in Path(mount.target).parents), "")
    if taken:
        raise SlipwayError(Exit.CONFIG, f"mounts: target {mount.target!r}: {taken} is the launcher's own", where=where)


def profile_files(root: Root) -> dict[str, list[Path]]:
    """Name -> its files, the nearest first: a user's own profile hides, or extends, one of the project's."""
    found: dict[str, list[Path]] = {}
    for base in user_dirs(root):
        for path in sorted((base / "profiles").glob("*.yaml")):
            if path not in found.setdefault(path.stem, []):
                found[path.stem].append(path)
    return found
