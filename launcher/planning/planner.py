"""The pure function that makes a plan of what was asked for and what was seen."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Mapping
from pathlib import Path

from launcher.artifacts import hub_cache
from launcher.artifacts.detection import Artifact
from launcher.catalog import cache_location
from launcher.catalog.profiles import DockerProfile, Profile, SlurmProfile
from launcher.core import gpus
from launcher.core.plan import (
    RUN_DIR,
    RUN_ID,
    SECRETS_INSIDE,
    STATE,
    EngineInfo,
    HostInfo,
    LaunchSpec,
    Metrics,
    Mount,
    Plan,
    PlanShape,
    Probed,
    Variable,
)
from launcher.core.requirement import Requirement
from launcher.planning import configuration
from launcher.planning.checks import config_values, network

UNRESOLVED = "UNRESOLVED"
REPOSITORY = "repository"  # of a snapshot, beside the blobs that it shares
ENTRYPOINT = "/slipway/entrypoint.sh"
# One thread, and instructions that every x86-64 processor since 2013 has: another machine then adds in the same order.
THREADS = {"OMP_NUM_THREADS": "1"}
INSTRUCTIONS = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "AVX2"}
HF_HOME, HUB, DATASETS = "/cache/hf", "/cache/hub", "/cache/datasets"


def make_plan(spec: LaunchSpec, seen: Probed, files: dict[str, str]) -> Plan:
    """The plan; pure. `files`: what goes into the run's slipway/ folder -> sha256."""
    entry, step, needed = spec.entry, spec.step, [*spec.needs, *cached(spec, seen)]
    output = spec.words.output
    return Plan(
        schema=2,
        step=step.id,
        library=entry.library,
        release=entry.release,
        flavour=entry.flavour,
        entry=entry.checksum,
        lock=spec.lock_checksum,
        image=seen.image.id or UNRESOLVED,
        image_source=seen.image.source or seen.image.id or UNRESOLVED,
        platform=seen.image.platform,
        environments={
            n: {"python": e.python, "version": entry.python, "packages": e.packages}
            for n, e in entry.environments.items()
        },
        repositories={n: {"path": r.path, "commit": r.commit} for n, r in entry.repositories.items()},
        left_out=seen.image.left_out,
        code=spec.code,
        allow_drift=spec.allow_drift,
        driver=None if entry.driver == "unknown" else entry.driver,
        shape=PlanShape(nodes=spec.job_nodes, gpus=spec.gpus, procs=spec.procs),
        gpus=gpus.choose(spec, seen.engine.gpu),
        user="0:0" if seen.engine.users == "rootless" else f"{seen.host.uid}:{seen.host.gid}",
        userns="host" if seen.engine.users == "remapped" else "",
        command=["bash", ENTRYPOINT, "python", f"/slipway/steps/{spec.program}"],
        config=configuration.planned(spec, container_paths(seen.artifacts)),
        env=dict(sorted(_environment(spec, seen, needed).items())),
        mounts=_mounts(spec, seen),
        inputs=seen.artifacts,
        output=output_path(seen) if output else f"{RUN_DIR}/output",
        output_type=step.output.type,
        resume=spec.resume,
        graceful=step.graceful,
        launcher=step.launcher,
        files=files,
        profile=spec.profile,
        limits=limits(spec.profile, seen.engine),
        secrets=sorted(spec.profile.secrets),
        needs=needed,
        makes=spec.makes,
        metrics=_metrics(spec),
        from_run=spec.from_run,
    )


def cached(spec: LaunchSpec, seen: Probed) -> list[Requirement]:
    """The models of Hugging Face that the backend which is on reads from the library's own cache."""
    found = []
    for name, cache in spec.step.caches.items() if spec.megatron_cache else ():
        backend = spec.step.backends.get(name)
        if backend and config_values.value_of(spec, backend.enabled) is not True:
            continue
        given = (seen.artifacts[i] for i in cache.inputs if i in seen.artifacts)
        by = cache.by[spec.entry.flavour]
        found += [_cached(spec, by, artifact) for artifact in given if artifact.type == "checkpoint_hf"]
    return found


def _cached(spec: LaunchSpec, by: str, model: Artifact) -> Requirement:
    """On as many processes as share the model in training, where it fits."""
    assert spec.megatron_cache is not None
    known = config_values.settings(spec) if spec.gpus else {}
    parts = {r: known[r] for r in ("tensor_parallel", "pipeline_parallel", "expert_parallel") if known.get(r, 1) > 1}
    shared = parts.get("pipeline_parallel", 1) * max(parts.get("tensor_parallel", 1), parts.get("expert_parallel", 1))
    nodes = math.ceil(shared / spec.gpus) if spec.gpus else 1
    return Requirement(
        input=model.name,
        type="checkpoint_megatron",
        source=model.path,
        fingerprint=model.fingerprint,
        by=by,
        place=posixpath.join(spec.megatron_cache.path, cache_location.folder(container_path(model))),
        words=[f"model={model.path}", *(f"{name}={size}" for name, size in parts.items())],
        nodes=nodes,
        gpus=shared // nodes if spec.gpus else 0,
        procs=shared // nodes,
    )


def _inside(need: Requirement, spec: LaunchSpec, seen: Probed) -> str:
    """Where the container finds what was made for it."""
    if need in spec.needs:
        return container_path(seen.artifacts[need.input])
    return posixpath.join(cache_location.TARGET, posixpath.basename(need.place))


def _metrics(spec: LaunchSpec) -> Metrics:
    length = config_values.settings(spec).get("sequence_length") if spec.step.metrics else None
    return Metrics(lines=spec.step.metrics, sequence_length=length)


def limits(profile: Profile, engine: EngineInfo) -> dict[str, int]:
    """The profile's ulimits, lowered to what the engine can give; -1 is unlimited."""
    result: dict[str, int] = {}
    for name, wanted in (profile.ulimits if isinstance(profile, DockerProfile) else {}).items():
        most = engine.hard_limits.get(name, -1)
        too_much = most >= 0 and (wanted < 0 or wanted > most)
        result[name] = most if too_much else wanted
    return result


def output_path(seen: Probed) -> str:
    """The output folder on the host."""
    return seen.output.path if seen.output else f"{RUN_DIR}/output"


def container_path(artifact: Artifact) -> str:
    """Where an input stands in the container: `/inputs/<name>-<key>`, a file under its own name inside.

    Several files stand side by side, under the pattern that named them; a .bin and its .idx under what both begin with,
    as Megatron names them, and several such pairs under their folder. Of a snapshot the repository is mounted, since
    its files are links into blobs/, and the path goes on inside; where those lead to the cache's shared store,
    repository and store are mounted side by side, as they lie in the cache.
    """
    path, place = f"/inputs/{artifact.name}-{artifact.fingerprint[:8]}", hub_cache.place(artifact.path)
    if place:
        below = REPOSITORY if artifact.blobs else ""
        path = posixpath.join(path, below, Path(artifact.path).relative_to(place.repository))
    elif artifact.kind != "folder":
        path = posixpath.join(path, Path(artifact.path).name)
    if artifact.type != "binidx" or artifact.kind == "folder":
        return path
    stems = {Path(file).stem for file in artifact.files or [artifact.path]}
    return posixpath.join(posixpath.dirname(path), *(stems if len(stems) == 1 else ()))


def container_paths(artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    """Input -> where it stands in the container."""
    return {name: container_path(found) for name, found in artifacts.items()}


def _input_mounts(artifact: Artifact) -> list[Mount]:
    folder, place = f"/inputs/{artifact.name}-{artifact.fingerprint[:8]}", hub_cache.place(artifact.path)
    if place and (store := artifact.blobs):  # its links lead to ../../blobs
        both = {REPOSITORY: str(place.repository), "blobs": str(store)}
        return [Mount(source=s, target=posixpath.join(folder, n), readonly=True) for n, s in both.items()]
    if place:
        return [Mount(source=str(place.repository), target=folder, readonly=True)]
    if not artifact.files:
        return [Mount(source=artifact.path, target=container_path(artifact), readonly=True)]
    return [Mount(source=f, target=posixpath.join(folder, Path(f).name), readonly=True) for f in artifact.files]


def _environment(spec: LaunchSpec, seen: Probed, needed: list[Requirement]) -> dict[str, Variable]:
    """Lowest to highest: image, step, profile, command line, launcher."""
    result = {"HF_DATASETS_CACHE": Variable(value=DATASETS, by="launcher")}  # a site may have a faster place
    result |= {k: Variable(value=v, by="launcher") for k, v in _same_numbers(spec, seen).items()}
    result |= {k: Variable(value=v, by="step") for k, v in spec.step.env.items()}
    result |= {k: Variable(value=v, by="profile") for k, v in network.variables(spec).items()}
    result |= {k: Variable(value=v, by="profile") for k, v in spec.profile.env.items()}
    result |= {k: Variable(value=v, by="command line") for k, v in spec.env.items()}
    graceful = spec.step.graceful
    if isinstance(spec.profile, SlurmProfile):
        result["SLIPWAY_MOUNT_WAIT"] = Variable(value=str(spec.profile.mount_wait), by="launcher")
        on_gpus = spec.gpus and spec.entry.flavour == "cuda" and not spec.dedicated_head
        if spec.profile.check_nodes and spec.job_nodes > 1 and on_gpus:
            result["SLIPWAY_ALL_REDUCE"] = Variable(value="1", by="launcher")
    if spec.profile.stall:
        result["SLIPWAY_STALL_SECONDS"] = Variable(value=f"{spec.profile.stall * 60:g}", by="profile")
    if spec.step.launcher == "ray":
        result["SLIPWAY_RAY_WAIT"] = Variable(value=str(spec.profile.ray_wait), by="launcher")
    if spec.dedicated_head:
        result["SLIPWAY_RAY_HEAD"] = Variable(value="dedicated", by="launcher")
    ours = {
        "HF_HOME": HF_HOME,
        "HF_HUB_CACHE": HUB if seen.host.hub else f"{HF_HOME}/hub",
        "HF_HUB_OFFLINE": "1",  # every input is mounted: a missing file must not become a request to the hub
        "HF_TOKEN_PATH": "/run/secrets/HF_TOKEN",  # a declared one; none of a login is mounted
        "SLIPWAY_LAUNCHER": launcher(spec),
        "SLIPWAY_NODES": str(spec.job_nodes),
        "SLIPWAY_PROCS": str(spec.procs),
        "SLIPWAY_RUN": RUN_ID,
        "SLIPWAY_SECRETS": " ".join(sorted(spec.profile.secrets)),
        "SLIPWAY_SHARED": " ".join(_shared(spec)) if spec.job_nodes > 1 else "",
        "SLIPWAY_STEP": spec.step.id,
        "SLIPWAY_STOP_SECONDS": str(graceful.seconds),
        "SLIPWAY_STOP_SIGNAL": graceful.signal,
        "SLIPWAY_STOP_TO": graceful.to,
    }
    if isinstance(spec.profile, DockerProfile) and not (spec.gpus and spec.entry.flavour == "cuda"):
        ours["NVIDIA_VISIBLE_DEVICES"] = "void"  # an image says `all`, which NVIDIA's runtime obeys as the default one
    if spec.megatron_cache:  # the lock of its configurations ignores HF_HOME
        ours |= {cache_location.NAME: cache_location.TARGET, "MEGATRON_CONFIG_LOCK_DIR": cache_location.TARGET}
    if spec.expect:
        ours["SLIPWAY_EXPECT"] = "\n".join(spec.expect)
    if needed:
        ours["SLIPWAY_CONVERTED"] = "\n".join(_inside(need, spec, seen) for need in needed)
    return result | {k: Variable(value=v, by="launcher") for k, v in sorted(ours.items())}


def _same_numbers(spec: LaunchSpec, seen: Probed) -> dict[str, str]:
    """What lets a run without GPUs give the same bytes again; anybody's word counts more. Ray sets threads itself."""
    if spec.entry.flavour != "cpu":
        return {}
    of_x86 = INSTRUCTIONS if not seen.image.platform.endswith("arm64") else {}
    return of_x86 | (THREADS if spec.step.launcher != "ray" else {})


def _shared(spec: LaunchSpec) -> list[str]:
    """Mounts below which every node must see what another writes."""
    return ["/output", HF_HOME, DATASETS, *([cache_location.TARGET] if spec.megatron_cache else [])]


def launcher(spec: LaunchSpec) -> str:
    """What starts the step program: torchrun only for more than one process, Ray always."""
    one = spec.procs * spec.nodes == 1 and spec.step.launcher != "ray"
    return "python" if one else spec.step.launcher


def _mounts(spec: LaunchSpec, seen: Probed) -> list[Mount]:
    """Sorted by target, so that a parent is mounted before what lies below it."""
    mounts = [Mount(source=m.source, target=m.target, readonly=m.readonly) for m in spec.profile.mounts]
    mounts += [Mount(source=folder, target=folder, readonly=True) for folder in network.folders(spec)]
    mounts += [m for a in seen.artifacts.values() for m in _input_mounts(a)]
    mounts += [Mount(source=f"{RUN_DIR}/code/{n}", target=c.path, readonly=True) for n, c in spec.code.items()]
    mounts += [
        Mount(source=output_path(seen), target="/output", readonly=False),
        Mount(source=f"{RUN_DIR}/slipway", target="/slipway", readonly=True),
        Mount(source=f"{RUN_DIR}/container", target=STATE, readonly=False),
        *_caches(spec, seen.host),
    ]
    if spec.profile.secrets:
        beside = f"{RUN_DIR}/../{seen.host.secrets}/{RUN_ID}"  # a run directory is for showing around
        mounts.append(Mount(source=beside, target=SECRETS_INSIDE, readonly=True))
    return sorted(mounts, key=lambda m: m.target)


def _caches(spec: LaunchSpec, host: HostInfo) -> list[Mount]:
    """Of the caller's HF_HOME what a step needs: snapshots that it cannot change, and what `datasets` has prepared.

    Never all of it: there lie a login's tokens, and code that the caller's own programs would run. HF_HOME itself is
    the run's.
    """
    caches = [
        Mount(source=f"{RUN_DIR}/hf", target=HF_HOME, readonly=False),
        Mount(source=f"{host.hf_home}/datasets", target=DATASETS, readonly=False),
    ]
    if host.hub:
        caches.append(Mount(source=f"{host.hf_home}/hub", target=HUB, readonly=True))
    if spec.megatron_cache:
        caches.append(Mount(source=spec.megatron_cache.path, target=cache_location.TARGET, readonly=False))
    return caches
