"""Profiles: one per machine or site; what a launch needs to know of it. One noun per kind of engine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from launcher.catalog import cache_location
from launcher.catalog.fabrics import Network, refuse_former
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
_ON_ARM = ("GB200", "GB300", "GH200")  # beside NVIDIA's own processor, Grace
WHOLE_NODE = 8  # GPUs: a step that asks for as many asks for all of a node's


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
    folders of the host. In paths `~` and $VARIABLEs are put in; a relative one begins at the file that says it.

    `offline`: the hub is not asked, its inputs are those in `hf_home`. `secrets`: name -> `env` (this shell's variable)
    or `file:PATH`; they reach the container as files. `ray_wait`: seconds that a step with Ray waits for its nodes.
    `stall`: minutes after which a run in which nothing moves is ended; where None, never.
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
    stall: Annotated[float, msgspec.Meta(gt=0)] | None = None
    name: str = ""
    file: str = ""

    @property
    def kind(self) -> str:
        """The engine."""
        return str(self.__struct_config__.tag)

    def gpus_for(self, shape: int) -> int:
        """How many GPUs of a node a step gets that asks for `shape`."""
        return shape


GPU_ID = r"^(\d+(:\d+)?|(GPU|MIG)-[0-9A-Za-z/-]+)$"  # an index, GPU:INSTANCE, or a UUID
GpuId = Annotated[int, msgspec.Meta(ge=0)] | Annotated[str, msgspec.Meta(pattern=GPU_ID)]


class DockerProfile(_Common, frozen=True, kw_only=True, tag="docker"):
    """`engine`: the engine's address where it is not the usual one. Sizes as Docker writes them (`8g`).

    `gpu_ids`: the GPUs that runs get, by index, GPU:INSTANCE or UUID. `shared`: folders that this machine and an
    engine on another one see at the same path. `ulimits`: name -> limit, -1 = unlimited.
    """

    engine: str | None = None
    gpu_ids: list[GpuId] = []
    shared: list[str] = []
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
    file, or pulled by every node from the registry that the image was pushed to. `gpus`: how many a node has;
    `arch`: its processor, by the GPUs' model where None. `gpus_by`: how GPUs are asked for, and as which `gpu_type` the
    site knows them; none = they are no resource of the site's: a job with GPUs gets its nodes for itself. `mpi`: srun's
    --mpi. `network`: what NCCL has to use between nodes; a name alone only in records from before it was a mapping.
    `setup`: lines of bash before srun. `sbatch`, `srun`: further long options, without dashes; true = without a value.
    `stop_seconds`: how long before the time limit the step is told; by the step's own need where None. `attempts`: how
    often one job may start. `check_nodes`: one that is not fit ends an attempt, and the next does without it; else
    that is only told. `mount_wait`: seconds that nodes wait to see each other's files. `ray_head`: dedicated = a step
    with Ray gets one node more than --nodes says, for Ray's head and the driver; its GPUs are idle.
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
    gpus: Annotated[int, msgspec.Meta(ge=1)] | None = None
    arch: Literal["amd64", "arm64"] | None = None
    gpus_by: Literal["gpus-per-node", "gres", "none"] = "gpus-per-node"
    gpu_type: Annotated[str, msgspec.Meta(pattern=r"^[\w.-]+$")] | None = None
    exclusive: bool = False
    mpi: str = "none"
    network: Network | str | None = None
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
    check_nodes: bool = True
    mount_wait: Annotated[int, msgspec.Meta(ge=1)] = 90
    ray_head: Literal["shared", "dedicated"] = "shared"

    def gpus_for(self, shape: int) -> int:
        """All of a node for a step that wants a whole one, never more than a node has."""
        if self.gpus is None:
            return shape
        return self.gpus if shape >= WHOLE_NODE else min(shape, self.gpus)

    @property
    def processor(self) -> tuple[str, str]:
        """Of the nodes, as Docker names it; and which key says so, empty where none does."""
        if self.arch:
            return self.arch, "arch"
        if self.gpu and self.gpu.model in _ON_ARM:
            return "arm64", "gpu.model"
        return "amd64", "gpu.model" if self.gpu else ""


Profile = DockerProfile | EnrootProfile | SlurmProfile
KINDS: dict[str, type[Profile]] = {"docker": DockerProfile, "enroot": EnrootProfile, "slurm": SlurmProfile}
_MERGED = ("env", "secrets", "ulimits", "sbatch", "srun")  # mappings that `extends` joins key by key
_PATHS = ("runs", "hf_home", "megatron_cache", "squash", "data", "shared", "mounts", "secrets", "engine")
Keys = tuple[str | int, ...]

# What the launcher sets in a container.
RESERVED_ENV = frozenset({"HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH", "RANK", "LOCAL_RANK",
                          "WORLD_SIZE", cache_location.NAME})  # fmt: skip
# What would change which programs and libraries are loaded, what shells run, or what the launcher and Slurm say.
_NO_SECRET = re.compile(
    r"(PYTHON|BASH|PERL5|(LD|GLIBC|MALLOC|SLIPWAY|SLURM|SBATCH|SRUN|PMIX?|OMPI|ENROOT|PYXIS|CUDA|XDG)_)\w*"
    r"|NVIDIA_(VISIBLE_DEVICES|DRIVER_CAPABILITIES|REQUIRE_\w*|DISABLE_REQUIRE)"
    r"|PATH|ENV|IFS|PS4|CDPATH|SHELL|SHELLOPTS|PROMPT_COMMAND|GLOBIGNORE|GCONV_PATH|LOCPATH|NODE_OPTIONS"
    r"|HOME|USER|LOGNAME|UID|EUID|PPID|TMPDIR|PWD|MEGATRON_CONFIG_LOCK_DIR|MASTER_ADDR|MASTER_PORT|RAY_ADDRESS"
)
# Names of what opens something. Such a variable is no part of a plan, which is written down and shown around.
_KEY_TO = re.compile(
    r"\w*(SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|APIKEY|API_KEY|PRIVATE_KEY|ACCESS_KEY|CONNECTION_STRING)\w*"
    r"|(\w+_)?(PASS|CREDS|JWT|PAT|BEARER|COOKIE|AUTH)|\w+_(KEY|PWD)|\w*TOKEN|AWS_\w+"
)
# The rest of those: places, switches, words of a vocabulary, and what AWS's tools are told beside keys.
_NO_KEY = re.compile(
    r"\w+_(FILE|PATH|DIR|FOLDER|URL)|GOOGLE_APPLICATION_CREDENTIALS|(\w+_)?(DISABLE|ENABLE|USE|SKIP|NO)_\w+"
    r"|(\w+_)?(PAD|EOS|BOS|UNK|MASK|SEP|CLS|STOP|IMAGE|VIDEO|AUDIO)_TOKEN"
    r"|AWS_(DEFAULT_REGION|REGION|PROFILE|CA_BUNDLE|ENDPOINT_URL\w*|MAX_ATTEMPTS|RETRY_MODE|EC2_METADATA_DISABLED)"
)


def looks_secret(name: str) -> bool:
    """Whether a variable of that name is likely to hold a password, a token or a key."""
    upper = name.upper()
    return bool(_KEY_TO.fullmatch(upper)) and not _NO_KEY.fullmatch(upper)


def refuse_secrets(names: Iterable[str], where: str, remedy: str) -> None:
    """Raises SlipwayError 77 for the name of a secret among those of variables. `{}` in `remedy` is its name."""
    for name in names:
        if looks_secret(name):
            what = "looks like a secret, and what is said here is written into plan, request and record"
            raise SlipwayError(Exit.NOT_PERMITTED, f"{name} {what}", where=where, remedy=remedy.format(name.upper()))


def parse_size(text: str) -> int:
    """`8g`, `512m`, `80GiB`, `1024` in bytes (powers of 1024). Raises ValueError."""
    match = re.fullmatch(r"(\d+)([kmgt]?)(?:i?b)?", text.lower())
    if not match:
        raise ValueError(f"{text!r} is no size; expected such as 8g or 512m")
    return int(match[1]) * int(1024 ** " kmgt".index(match[2] or " "))


def find_profile(root: Root, name: str) -> Profile:
    """The profile `name`, with what it extends. Raises SlipwayError 64 (unknown, with the nearest) or 78 (wrong)."""
    profile = with_origins(root, name)[0]
    if isinstance(profile, EnrootProfile) and not profile.data:
        return msgspec.structs.replace(profile, data=str(root.kept("enroot").absolute()))
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
    merged |= {k: _with_paths(merged[k], (k,), origins) for k in _PATHS if k in merged}
    path, type_ = files[0]
    return msgspec.structs.replace(msgspec.convert(merged, type_), name=name, file=str(path)), origins


def place(origins: Mapping[str, Path], key: str) -> str:
    """file:line:column that says a key; empty for a default."""
    file = origins.get(key)
    return f"{file}:{yamldoc.line_of(file, *key.split('.', 1))}" if file else ""


def _with_paths(value: Any, keys: Keys, origins: Mapping[str, Path]) -> Any:
    """`value`, which `keys` lead to, with every path in it whole."""
    if isinstance(value, list):
        return [_with_paths(item, (*keys, n), origins) for n, item in enumerate(value)]
    if isinstance(value, dict):
        other = {"target", "readonly"} if keys[0] == "mounts" else set()
        return {k: v if k in other else _with_paths(v, (*keys, k), origins) for k, v in value.items()}
    before = {"secrets": "file:", "engine": "unix://"}.get(str(keys[0]), "")
    if value is None or not value.startswith(before):
        return value
    file = origins.get(".".join(str(k) for k in keys[:2])) or origins[str(keys[0])]
    return before + _whole(value.removeprefix(before), file, keys)


def _whole(text: str, file: Path, keys: Keys) -> str:
    """A path of a profile, absolute. Raises SlipwayError 78 with its place."""

    def wrong(what: str, remedy: str) -> SlipwayError:
        where, name = f"{file}:{yamldoc.line_of(file, *keys)}", ".".join(str(k) for k in keys)
        return SlipwayError(Exit.CONFIG, f"{name}: {text!r}: {what}", where=where, remedy=remedy)

    def variable(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if value := os.environ.get(name, "").strip():
            return value
        raise wrong(f"the variable {name} is not set here", f"export {name}=…, or write the path itself")

    if not text:
        raise wrong("expected a path", "leave the key out, or write null")
    said = re.sub(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", variable, text)
    try:
        return os.path.normpath(file.parent.absolute() / Path(said).expanduser())
    except RuntimeError as e:
        raise wrong(f"{said.partition('/')[0]} is nobody's home here", "write the path itself") from e


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
    if kind == "slurm" and isinstance(value.get("network"), str):
        refuse_former(value["network"], f"{path}:{yamldoc.line_of(path, 'network')}")
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
        if why := mount_fault(mount):
            raise SlipwayError(Exit.CONFIG, f"mounts: {why}", where=f"{path}:{yamldoc.line_of(path, 'mounts')}")
    for name in filter(looks_secret, profile.env):
        where = f"{path}:{yamldoc.line_of(path, 'env', name)}"
        refuse_secrets([name], where, "declare it in place of that: `secrets: {{{0}: env}}`, or `file:PATH`")
    for name, value in profile.secrets.items():
        if why := secret_fault(name):
            where = f"{path}:{yamldoc.line_of(path, 'secrets', name)}"
            raise SlipwayError(Exit.CONFIG, f"secrets: {name!r}: {why}", where=where)
        _check_text(path, ("secrets", name), value, r"env|file:.+", "`env`, or file: and a path")
    if isinstance(profile, SlurmProfile) and profile.time is not None:
        shape = r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}|UNLIMITED"
        _check_text(path, ("time",), profile.time, shape, "such as 30 (minutes), 4:00:00, 1-12 or UNLIMITED")
    return profile


def _check_text(path: Path, keys: tuple[str, ...], value: str, pattern: str, expected: str) -> None:
    if not re.fullmatch(pattern, value):
        where = f"{path}:{yamldoc.line_of(path, *keys)}"
        raise SlipwayError(Exit.CONFIG, f"{'.'.join(keys)}: {value!r}; expected {expected}", where=where)


def secret_fault(name: str) -> str:
    """Why a secret may not have that name; empty where it may.

    It is a file and a variable: no path, and nothing by which programs find their parts or us.
    """
    if not re.fullmatch("[A-Z_][A-Z0-9_]*", name):
        return "expected the name of a variable, such as HF_TOKEN (A to Z, digits, _)"
    if name in RESERVED_ENV or _NO_SECRET.fullmatch(name):
        return "the launcher or the container's programs set it, or load others by it; expected the name of a secret"
    return ""


def mount_fault(mount: ExtraMount) -> str:
    """Why nothing can be mounted at its target; empty where it can."""
    if not Path(mount.target).is_absolute():
        return f"target {mount.target!r} is no absolute path"
    taken = next((t for t in OUR_TARGETS if Path(mount.target) == Path(t) or Path(t) in Path(mount.target).parents), "")
    return f"target {mount.target!r}: {taken} is the launcher's own" if taken else ""


def profile_files(root: Root) -> dict[str, list[Path]]:
    """Name -> its files, the nearest first: a user's own profile hides, or extends, one of the project's."""
    found: dict[str, list[Path]] = {}
    for base in user_dirs(root):
        for path in sorted((base / "profiles").glob("*.yaml")):
            if path not in found.setdefault(path.stem, []):
                found[path.stem].append(path)
    return found
