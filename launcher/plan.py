"""The nouns of a launch (Observed, Finding, Plan) and the pure function that makes a plan of them."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any, Literal

from images.model import Entry, Flavour
from launcher import hubcache, megatroncache
from launcher.artifacts import Artifact
from launcher.catalogue import Graceful, Step
from launcher.megatroncache import MegatronCache
from launcher.profiles import DockerProfile, Profile, SlurmProfile
from launcher.releases import Wired
from launcher.words import Words
from slipway import canonical
from slipway.errors import Exit
from slipway.yamldoc import Noun

RUN_ID, RUN_DIR = "${RUN_ID}", "${RUN_DIR}"  # what submit fills in; they stand literally in plans and requests
SECRETS = f"{RUN_DIR}/../.secrets/{RUN_ID}"  # beside the runs: a run directory is for showing around
UNRESOLVED = "UNRESOLVED"
ENTRYPOINT = "/slipway/entrypoint.sh"
STATE = "/run/slipway"


class Finding(Noun, frozen=True, kw_only=True):
    """One thing that a rule found. An error stops the launch with its exit code, a warning is printed."""

    severity: Literal["error", "warning"]
    where: str
    what: str
    remedy: str = ""
    code: int = int(Exit.OK)

    def __str__(self) -> str:
        tail = f"\n  {self.remedy}" if self.remedy else ""
        return f"{self.severity}: {self.where}: {self.what}{tail}"


class OutputSeen(Noun, frozen=True, kw_only=True):
    """The output folder as it is. `free`: bytes on its filesystem; `writable`: of it or of its nearest parent."""

    path: str
    kind: Literal["missing", "folder", "other"]
    empty: bool
    writable: bool
    free: int
    nearest: str


class EngineSeen(Noun, frozen=True, kw_only=True):
    """`error`: why it cannot be used. `nodes`: it may have more than one.

    `hard_limits`: ulimit -> the most that the engine can give (absent = any). `remedy`: what to do about an error.
    """

    kind: str
    address: str
    source: str
    version: str = ""
    error: str = ""
    remedy: str = ""
    gpus: int = 0
    gpu_support: bool = False
    nodes: bool = False
    hard_limits: dict[str, int] = {}


class ImageSeen(Noun, frozen=True, kw_only=True):
    """`id`: the recorded image that the engine has; `source`: what it starts where that is not the id (a .sqsh …).

    `missing`: what was looked for where no image is there, `remedy`: what makes it. `tagged`: id of what carries the
    image's tag on the engine. `drift`: what the lock pins -> what is in the image instead; `left_out`: the
    repositories it does without. `unpack`: bytes that have to be written before it can start; `unpack_free`: that can
    be.
    """

    id: str = ""
    source: str = ""
    missing: str = ""
    remedy: str = ""
    recorded: int = 0
    tagged: str = ""
    drift: dict[str, str] = {}
    left_out: list[str] = []
    unpack: int = 0
    unpack_free: int = 0


class HostSeen(Noun, frozen=True, kw_only=True):
    """`hf_home`, `runs`: folders; `runs_free`: bytes on the filesystem of `runs`.

    `missing_mounts`: sources of the profile's mounts that are not there; `missing_secrets`: name -> why.
    """

    uid: int
    gid: int
    cpus: int
    hf_home: str
    runs: str
    runs_writable: bool
    runs_free: int
    missing_mounts: list[str] = []
    missing_secrets: dict[str, str] = {}


class HubSeen(Noun, frozen=True, kw_only=True):
    """An input of the hub. `id`: at its commit, where that is known; `note`: how it is; `fetch`: a launch can bring it.

    `finding`: why it is not there.
    """

    id: str
    note: str = ""
    fetch: bool = False
    finding: Finding | None = None


class Observed(Noun, frozen=True, kw_only=True):
    """Everything that was looked at, once, before rules and plan."""

    artifacts: dict[str, Artifact]
    output: OutputSeen | None
    engine: EngineSeen
    image: ImageSeen
    host: HostSeen
    hub: dict[str, HubSeen] = {}


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


class Wish(Noun, frozen=True, kw_only=True):
    """What was asked for, resolved against step, profile and lock. `step`: as the entry's release takes it."""

    step: Step
    profile: Profile
    entry: Entry
    words: Words
    overlays: list[tuple[str, dict[str, Any]]]
    base: dict[str, Any]
    program: str
    nodes: int
    gpus: int
    procs: int
    env: dict[str, str]
    resume: bool
    allow_drift: bool
    lock_checksum: str
    code: dict[str, Code] = {}
    wired: Wired = Wired()
    megatron_cache: MegatronCache | None = None


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


class Plan(Noun, frozen=True, kw_only=True):
    """Everything resolved. What the container reads of it is /slipway/plan.json, the same text."""

    schema: Literal[1]
    step: str
    library: str
    release: str
    flavour: Flavour
    entry: str
    lock: str
    image: str
    image_source: str
    environments: dict[str, dict[str, Any]]
    repositories: dict[str, dict[str, Any]]
    left_out: list[str]
    code: dict[str, Code]
    allow_drift: bool
    driver: str | None
    shape: PlanShape
    user: str
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

    @property
    def hash(self) -> str:
        """sha256 (hex) of the canonical plan; names it. The run id is no part of a plan."""
        return canonical.sha256(self)


def make_plan(wish: Wish, seen: Observed, files: dict[str, str]) -> Plan:
    """The plan; pure. `files`: what goes into the run's slipway/ folder -> sha256."""
    entry, step = wish.entry, wish.step
    output = wish.words.output
    return Plan(
        schema=1,
        step=step.id,
        library=entry.library,
        release=entry.release,
        flavour=entry.flavour,
        entry=entry.checksum,
        lock=wish.lock_checksum,
        image=seen.image.id or UNRESOLVED,
        image_source=seen.image.source or seen.image.id or UNRESOLVED,
        environments={
            n: {"python": e.python, "version": entry.python, "packages": e.packages}
            for n, e in entry.environments.items()
        },
        repositories={n: {"path": r.path, "commit": r.commit} for n, r in entry.repositories.items()},
        left_out=seen.image.left_out,
        code=wish.code,
        allow_drift=wish.allow_drift,
        driver=None if entry.driver == "unknown" else entry.driver,
        shape=PlanShape(nodes=wish.nodes, gpus=wish.gpus, procs=wish.procs),
        user=f"{seen.host.uid}:{seen.host.gid}",
        command=["bash", ENTRYPOINT, "python", f"/slipway/steps/{wish.program}"],
        config=_config(wish, seen),
        env=dict(sorted(_environment(wish).items())),
        mounts=_mounts(wish, seen),
        inputs=seen.artifacts,
        output=output_path(seen) if output else f"{RUN_DIR}/output",
        output_type=step.output.type,
        resume=wish.resume,
        graceful=step.graceful,
        launcher=step.launcher,
        files=files,
        profile=wish.profile,
        limits=limits(wish.profile, seen.engine),
        secrets=sorted(wish.profile.secrets),
    )


def limits(profile: Profile, engine: EngineSeen) -> dict[str, int]:
    """The profile's ulimits, lowered to what the engine can give; -1 is unlimited."""
    result: dict[str, int] = {}
    for name, wanted in (profile.ulimits if isinstance(profile, DockerProfile) else {}).items():
        most = engine.hard_limits.get(name, -1)
        too_much = most >= 0 and (wanted < 0 or wanted > most)
        result[name] = most if too_much else wanted
    return result


def output_path(seen: Observed) -> str:
    """The output folder on the host."""
    return seen.output.path if seen.output else f"{RUN_DIR}/output"


def container_path(artifact: Artifact) -> str:
    """Where an input stands in the container: `/inputs/<name>-<key>`, a file under its own name inside.

    Several files stand side by side, under the pattern that named them; a .bin and its .idx under what both begin with,
    as Megatron names them, and several such pairs under their folder. Of a snapshot the repository is mounted, since
    its files are links into blobs/, and the path goes on inside.
    """
    path, place = f"/inputs/{artifact.name}-{artifact.fingerprint[:8]}", hubcache.place(artifact.path)
    if place:
        path = posixpath.join(path, Path(artifact.path).relative_to(place.repository))
    elif artifact.kind != "folder":
        path = posixpath.join(path, Path(artifact.path).name)
    if artifact.type != "binidx" or artifact.kind == "folder":
        return path
    stems = {Path(file).stem for file in artifact.files or [artifact.path]}
    return posixpath.join(posixpath.dirname(path), *(stems if len(stems) == 1 else ()))


def _input_mounts(artifact: Artifact) -> list[Mount]:
    folder, place = f"/inputs/{artifact.name}-{artifact.fingerprint[:8]}", hubcache.place(artifact.path)
    if place:
        return [Mount(source=str(place.repository), target=folder, readonly=True)]
    if not artifact.files:
        return [Mount(source=artifact.path, target=container_path(artifact), readonly=True)]
    return [Mount(source=f, target=posixpath.join(folder, Path(f).name), readonly=True) for f in artifact.files]


def _config(wish: Wish, seen: Observed) -> dict[str, Any]:
    """What the step program merges: base, layers, then what goes, then what is set (parameters, overrides, wiring)."""
    step, words, wired = wish.step, wish.words, wish.wired
    remove = [k for n, i in step.inputs.items() if n not in words.inputs for k in i.without] + wired.remove
    gone = [f"{k}." for k in remove]
    assign: list[list[Any]] = [[k, v] for k, v in wired.set.items()]
    for name, value in words.parameters.items():
        sets = step.parameters[name].sets(value)
        assign += [[k, v] for k, v in sets.items() if not k.startswith(tuple(gone))]
    assign += [[k, v] for k, v in words.overrides.items()]
    assign += [[step.inputs[n].key, container_path(a)] for n, a in seen.artifacts.items() if step.inputs[n].key]
    assign += [[k, container_path(seen.artifacts[n])] for k, n in wired.paths.items()]
    shape = {"nodes": wish.nodes, "gpus": wish.procs}
    assign += [[key, shape[name]] for name, key in step.shape.keys.items()]
    assign.append([step.output.key, "/output"])
    layers = [{"name": n, "values": v} for n, v in wish.overlays]
    config: dict[str, Any] = {"base": wish.base, "layers": layers, "remove": remove, "set": assign}
    if step.script:
        config["script"] = step.script
    if step.resume:  # of a run that goes on: before what is set, where an override may name another checkpoint
        config["resume"] = {
            "where": f"/output/{step.resume.where}",
            "set": [[k, v] for k, v in step.resume.set.items()],
        }
    return config


def _environment(wish: Wish) -> dict[str, Variable]:
    """Lowest to highest: image, step, profile, command line, launcher."""
    result = {k: Variable(value=v, by="step") for k, v in wish.step.env.items()}
    if isinstance(wish.profile, SlurmProfile) and wish.profile.network:
        names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
        result |= {k: Variable(value=wish.profile.network, by="profile") for k in names}
    result |= {k: Variable(value=v, by="profile") for k, v in wish.profile.env.items()}
    result |= {k: Variable(value=v, by="command line") for k, v in wish.env.items()}
    graceful = wish.step.graceful
    if isinstance(wish.profile, SlurmProfile):
        result["SLIPWAY_MOUNT_WAIT"] = Variable(value=str(wish.profile.mount_wait), by="launcher")
    if wish.step.launcher == "ray":
        result["SLIPWAY_RAY_WAIT"] = Variable(value=str(wish.profile.ray_wait), by="launcher")
    ours = {
        "HF_HOME": "/cache/hf",
        "HF_HUB_OFFLINE": "1",  # every input is mounted: a missing file must not become a request to the hub
        "HF_TOKEN_PATH": "/run/secrets/HF_TOKEN",  # away from a token that a mounted HF_HOME would expose
        "SLIPWAY_LAUNCHER": launcher(wish),
        "SLIPWAY_NODES": str(wish.nodes),
        "SLIPWAY_PROCS": str(wish.procs),
        "SLIPWAY_RUN": RUN_ID,
        "SLIPWAY_SECRETS": " ".join(sorted(wish.profile.secrets)),
        "SLIPWAY_SHARED": " ".join(_shared(wish)) if wish.nodes > 1 else "",
        "SLIPWAY_STEP": wish.step.id,
        "SLIPWAY_STOP_SECONDS": str(graceful.seconds),
        "SLIPWAY_STOP_SIGNAL": graceful.signal,
        "SLIPWAY_STOP_TO": graceful.to,
    }
    if wish.megatron_cache:  # the lock of its configurations ignores HF_HOME
        ours |= {megatroncache.NAME: megatroncache.TARGET, "MEGATRON_CONFIG_LOCK_DIR": megatroncache.TARGET}
    return result | {k: Variable(value=v, by="launcher") for k, v in sorted(ours.items())}


def _shared(wish: Wish) -> list[str]:
    """Mounts below which every node must see what another writes."""
    return ["/output", "/cache/hf", *([megatroncache.TARGET] if wish.megatron_cache else [])]


def launcher(wish: Wish) -> str:
    """What starts the step program: torchrun only for more than one process, Ray always."""
    one = wish.procs * wish.nodes == 1 and wish.step.launcher != "ray"
    return "python" if one else wish.step.launcher


def _mounts(wish: Wish, seen: Observed) -> list[Mount]:
    """Sorted by target, so that a parent is mounted before what lies below it."""
    mounts = [Mount(source=m.source, target=m.target, readonly=m.readonly) for m in wish.profile.mounts]
    mounts += [m for a in seen.artifacts.values() for m in _input_mounts(a)]
    mounts += [Mount(source=f"{RUN_DIR}/code/{n}", target=c.path, readonly=True) for n, c in wish.code.items()]
    mounts += [
        Mount(source=output_path(seen), target="/output", readonly=False),
        Mount(source=seen.host.hf_home, target="/cache/hf", readonly=False),
        Mount(source=f"{RUN_DIR}/slipway", target="/slipway", readonly=True),
        Mount(source=f"{RUN_DIR}/container", target=STATE, readonly=False),
    ]
    if wish.megatron_cache:
        mounts.append(Mount(source=wish.megatron_cache.path, target=megatroncache.TARGET, readonly=False))
    if wish.profile.secrets:
        mounts.append(Mount(source=SECRETS, target="/run/secrets", readonly=True))
    return sorted(mounts, key=lambda m: m.target)
