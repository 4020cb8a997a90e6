"""The nouns of a launch: what was asked for (LaunchSpec), seen (Probed), found wrong (Finding) and resolved (Plan)."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from images.building.identity import BaseFile, Classes
from images.locking.model import Entry, Flavour
from launcher.artifacts.detection import Artifact
from launcher.catalog.cache_location import MegatronCache
from launcher.catalog.conflicts import Conflict
from launcher.catalog.definitions import Graceful, Step
from launcher.catalog.log_lines import LogLine
from launcher.catalog.profiles import Profile, SlurmProfile
from launcher.catalog.releases import Wired
from launcher.core.arguments import Arguments
from launcher.core.asked import Former
from launcher.core.requirement import Requirement
from slipway import canonical
from slipway.findings import Finding
from slipway.resolver import Configuration
from slipway.yamldoc import Noun

RUN_ID, RUN_DIR = "${RUN_ID}", "${RUN_DIR}"  # what submit fills in; they stand literally in plans and requests
STATE = "/run/slipway"
SECRETS, SECRETS_INSIDE = ".secrets", "/run/secrets"  # in the folder of all runs, and in a container


class OriginInput(Noun, frozen=True, kw_only=True):
    """An input of the run that made what is in an output. `hub`: its name there; `run`: the one that made it."""

    path: str
    fingerprint: str
    type: str = ""
    hub: str = ""
    run: Former | None = None


class Origin(Noun, frozen=True, kw_only=True):
    """Which run made what is in an output, and of what. `config`: sha256 of its configuration as it was planned.

    `resumes`: the run that it went on from.
    """

    schema: Literal[1]
    run: str
    directory: str
    step: str
    library: str
    release: str
    flavour: str
    entry: str
    inputs: dict[str, OriginInput]
    config: str
    started: str
    image: str = ""
    type: str = ""
    resumes: Former | None = None


class OutputInfo(Noun, frozen=True, kw_only=True):
    """The output folder as it is. `free`: bytes on its filesystem; `writable`: of it or of its nearest parent.

    Of one that a run is to go on from: `checkpoint`: it has one of this step's; `near`: folders that have, where it has
    not; `origin`: of what it is made; `unread`: why that cannot be told.
    """

    path: str
    kind: Literal["missing", "folder", "other"]
    empty: bool
    writable: bool
    free: int
    nearest: str
    checkpoint: bool = True
    near: list[str] = []
    origin: Origin | None = None
    unread: str = ""


class GpuDevice(Noun, frozen=True, kw_only=True):
    """A GPU as the driver counts them, `0`, or an instance of one that is divided (MIG), `0:1`.

    `name`: of the product, as the driver has it, or of the instance's profile, `MIG 3g.20gb`; empty where unknown.
    """

    id: str
    uuid: str = ""
    name: str = ""

    @property
    def bytes(self) -> int:
        """Its memory, where the name says it; else 0. What Grace Hopper's names say is the processor's memory."""
        said = re.search(r"(?<![A-Za-z\d])(\d+) ?GB\b", self.name, re.I)
        return int(said[1]) * 2**30 if said and "GH200" not in self.name else 0


class GpuInfo(Noun, frozen=True, kw_only=True):
    """What an engine of this kind of one machine says of its GPUs.

    `driver`: who serves a request for them. `devices`: all that a container can get; empty = not known, the engine
    refuses what it has not. `only_all`: there is no choosing among them (WSL2). `held`: id -> the run that has it.
    """

    driver: Literal["nvidia", "cdi"] = "nvidia"
    devices: list[GpuDevice] = []
    only_all: bool = False
    held: dict[str, str] = {}

    @property
    def bytes(self) -> int:
        """Memory of the smallest GPU, where the names of all say it; else 0."""
        return min((gpu.bytes for gpu in self.devices), default=0)


class EngineInfo(Noun, frozen=True, kw_only=True):
    """`error`: why it cannot be used, `remedy`: what to do about that. `nodes`: it may have more than one.

    `gpus`: how many a container can get; None = only the engine or its queue knows, and refuses what it has not.
    `no_gpus`: why a container gets none here, `gpu_remedy`: what to do about that. `gpu`: which they are.
    `hard_limits`: ulimit -> the most that the engine can give (absent = any). `elsewhere`: the machine that it is on,
    where that is another one. `platform`: what containers run on, such as linux/amd64, empty = unknown; `platform_by`:
    what says so. `users`: whose a container's uids are, where they are not the machine's own. `owner`: uid of the user
    whose rootless engine it is.
    """

    kind: str
    address: str
    source: str
    version: str = ""
    error: str = ""
    remedy: str = ""
    gpus: int | None = 0
    no_gpus: str = ""
    gpu_remedy: str = ""
    gpu: GpuInfo = GpuInfo()
    nodes: bool = False
    hard_limits: dict[str, int] = {}
    elsewhere: str = ""
    platform: str = ""
    platform_by: str = ""
    users: Literal["", "rootless", "remapped"] = ""
    owner: int | None = None


class ImageInfo(Noun, frozen=True, kw_only=True):
    """`id`: the recorded image that the engine has; `source`: what it starts where that is not the id (a .sqsh …).

    `classes`: which keys its library takes, where its record says that.
    `missing`: what was looked for where no image is there, `remedy`: what makes it. `tagged`: id of what carries the
    image's tag on the engine. `drift`: what the lock pins -> what is in the image instead; `left_out`: the
    repositories it does without. `configurations`: path in the image -> what its record says of that file, which a step
    may start from. `platform`: what it was made for, empty = unknown. `unpack`: bytes that have to be
    written before it can start; `unpack_free`: that can be.
    """

    id: str = ""
    source: str = ""
    missing: str = ""
    remedy: str = ""
    recorded: int = 0
    tagged: str = ""
    drift: dict[str, str] = {}
    left_out: list[str] = []
    configurations: dict[str, BaseFile] = {}
    classes: Classes | None = None
    platform: str = ""
    unpack: int = 0
    unpack_free: int = 0


class HostInfo(Noun, frozen=True, kw_only=True):
    """`hf_home`, `runs`: folders; `runs_free`: bytes on the filesystem of `runs`.

    `hub`: whether `hf_home` has a folder of the hub's snapshots. `missing_mounts`: sources of the profile's mounts
    that are not there; `missing_secrets`: name -> why. `logins`: files of the caller's that hold tokens or passwords.
    `secrets`: the folder beside the runs in which the caller's secrets lie, `.secrets` unless that is another user's.
    `kept`: folders that no output may be, or hold -> what they are.
    """

    uid: int
    gid: int
    cpus: int
    hf_home: str
    runs: str
    runs_writable: bool
    runs_free: int
    hub: bool = False
    missing_mounts: list[str] = []
    missing_secrets: dict[str, str] = {}
    home: str = ""
    logins: list[str] = []
    secrets: str = SECRETS
    kept: dict[str, str] = {}


class Unreadable(Noun, frozen=True, kw_only=True):
    """What of an input the container cannot read. `mode`: such as 0600; `owner`: by name; `uid`: the container's.

    `top`: what is mounted of which it is a part, or is it.
    """

    path: str
    mode: str
    owner: str
    uid: int
    folder: bool
    top: str


class HubInfo(Noun, frozen=True, kw_only=True):
    """An input of the hub. `id`: at its commit, where that is known; `note`: how it is; `fetch`: a launch can bring it.

    `finding`: why it is not there.
    """

    id: str
    note: str = ""
    fetch: bool = False
    finding: Finding | None = None


class Probed(Noun, frozen=True, kw_only=True):
    """Everything that was looked at, once, before rules and plan."""

    artifacts: dict[str, Artifact]
    output: OutputInfo | None
    engine: EngineInfo
    image: ImageInfo
    host: HostInfo
    hub: dict[str, HubInfo] = {}
    unreadable: dict[str, Unreadable] = {}


class Code(Noun, frozen=True, kw_only=True):
    """A tree of the user's own, mounted at `path` over a repository of the image; it is in the run's code/NAME.

    `commit` and its `tree`; `diff`: sha256 of the difference to it, where it was packed with changes; `submodules`:
    path -> commit of those that came along; `files`: git's tree of all that was packed.
    """

    path: str
    commit: str
    tree: str
    diff: str = ""
    submodules: dict[str, str] = {}
    files: str


class LaunchSpec(Noun, frozen=True, kw_only=True):
    """What was asked for, resolved against step, profile and lock. `step`: as the entry's release takes it.

    `gpu_ids`: by which names GPUs were asked for; where they are more than `gpus`, those to choose from. `nodes`: those
    that work; see `job_nodes`. `needs`: what steps make of inputs (`--convert`); `makes`: as in Plan. `imposed`:
    configuration keys that a rehearsal sets, whatever the user says. `conflicts`: what the entry's release refuses by
    itself. `config`: the configuration that comes of all this, see configuration.resolved.
    """

    step: Step
    profile: Profile
    entry: Entry
    words: Arguments
    overlays: list[tuple[str, dict[str, Any]]]
    base: dict[str, Any]
    in_image: BaseFile | None = None
    hidden: str = ""
    program: str
    nodes: int
    gpus: int
    gpu_ids: list[str] = []
    procs: int
    env: dict[str, str]
    resume: bool
    allow_drift: bool
    lock_checksum: str
    code: dict[str, Code] = {}
    wired: Wired = Wired()
    megatron_cache: MegatronCache | None = None
    needs: list[Requirement] = []
    makes: Requirement | None = None
    imposed: dict[str, Any] = {}
    conflicts: list[Conflict] = []
    from_run: dict[str, Former] = {}
    expect: list[str] = []
    config: Configuration = msgspec.field(default_factory=Configuration)

    @property
    def dedicated_head(self) -> bool:
        """Whether Ray's head has a node of its own, beside `nodes`."""
        profile = self.profile
        return self.step.launcher == "ray" and isinstance(profile, SlurmProfile) and profile.ray_head == "dedicated"

    @property
    def job_nodes(self) -> int:
        """All that the job takes."""
        return self.nodes + self.dedicated_head


class Mount(Noun, frozen=True, kw_only=True):
    """A bind mount; `source` is a path of the host and may start with ${RUN_DIR}."""

    source: str
    target: str
    readonly: bool


class Variable(Noun, frozen=True, kw_only=True):
    value: str
    by: Literal["image", "step", "profile", "command line", "launcher"]


class PlanShape(Noun, frozen=True, kw_only=True):
    nodes: int
    gpus: int
    procs: int


class GpuRequest(Noun, frozen=True, kw_only=True):
    """The GPUs that a run gets, where the launcher chooses them. `uuids`: where known; `all`: there is no choice."""

    driver: Literal["nvidia", "cdi"]
    ids: list[str]
    uuids: list[str] = []
    all: bool = False


class Metrics(Noun, frozen=True, kw_only=True):
    """Which lines of the log tell a step's numbers, and tokens of a row, where they are known: a library that says how
    many rows a step had says tokens a second by that."""

    lines: list[LogLine] = []
    sequence_length: int | None = None


class Plan(Noun, frozen=True, kw_only=True):
    """Everything resolved. What the container reads of it is /slipway/plan.json, the same text.

    `platform`: what the image is for. `userns`: the container's user namespace, where it is not the engine's usual one.
    `needs`: what has to be there before the step starts; `makes`: what this run makes for others. `from_run`: input ->
    the run whose output it was given as.
    """

    schema: Literal[2]
    step: str
    library: str
    release: str
    flavour: Flavour
    entry: str
    lock: str
    image: str
    image_source: str
    platform: str = ""
    environments: dict[str, dict[str, Any]]
    repositories: dict[str, dict[str, Any]]
    left_out: list[str]
    code: dict[str, Code]
    allow_drift: bool
    driver: str | None
    shape: PlanShape
    gpus: GpuRequest | None = None
    user: str
    userns: Literal["", "host"] = ""
    command: list[str]
    config: dict[str, Any]
    env: dict[str, Variable]
    mounts: list[Mount]
    inputs: dict[str, Artifact]
    output: str
    output_type: str
    resume: bool
    graceful: Graceful
    launcher: str
    files: dict[str, str]
    profile: Profile
    limits: dict[str, int]
    secrets: list[str]
    needs: list[Requirement] = []
    makes: Requirement | None = None
    metrics: Metrics = Metrics()
    from_run: dict[str, Former] = {}

    @property
    def by_hand(self) -> str:
        """What its user ran in place of a step: `command` or `shell`; empty where that is a step."""
        found = re.fullmatch(r"/slipway/steps/run_(command|shell)\.py", "".join(self.command[3:4]))
        return found[1] if found else ""

    @property
    def secrets_folder(self) -> str:
        """Of `HostInfo.secrets`, by its name."""
        source = next((m.source for m in self.mounts if m.target == SECRETS_INSIDE), "")
        found = re.fullmatch(rf"{re.escape(RUN_DIR)}/\.\./(\.secrets(-\d+)?)/{re.escape(RUN_ID)}", source)
        return found[1] if found else SECRETS

    @property
    def hash(self) -> str:
        """sha256 (hex) of the canonical plan; names it. The run id is no part of a plan."""
        return canonical.sha256(self)
