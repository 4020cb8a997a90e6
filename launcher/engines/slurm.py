"""Slurm with pyxis: a plan as one sbatch script with one srun, one task per node. See slurmjobs.py for what follows.

What pyxis does with its options was seen on a real one: mounts have no escapes and go through a shell, the last of two
mount options wins, unknown mount flags pass, the image's variables hide the job's unless they are named, each line of a
named one's value is read as a variable, and the whole environment of the caller reaches the task. So everything is said
once, by name, and what cannot be said is refused here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import msgspec

from images.building import identity
from images.locking.model import Entry
from launcher.catalog.fabrics import Network
from launcher.catalog.profiles import SlurmProfile
from launcher.core.plan import RUN_DIR, SECRETS, STATE, EngineInfo, ImageInfo, Plan, Probed
from launcher.engines import Claimed, slurmwords, sqsh
from launcher.engines.shell import quote
from launcher.engines.slurmjobs import STEP, connect
from slipway import canonical
from slipway.errors import Exit, SlipwayError
from slipway.findings import Finding
from slipway.project import Root

ATTACHED, KEEPS_LOG, REQUEST = False, False, "script.sh"
BY_NAME = False
LOGS = ("job.log",)
FILES = ("batch.sh", "outside.sh", "fabric.py", "allreduce.py")
EARLY = 90  # seconds: Slurm's own signal may come up to 60 s before its time, and our own way takes some
# What batch.sh finds out in the job; the entrypoint needs it.
FOUND = ("NVIDIA_VISIBLE_DEVICES", "SLIPWAY_ATTEMPT", "SLIPWAY_DEADLINE", "SLIPWAY_HEAD", "SLIPWAY_NODE_NAMES",
         "SLIPWAY_NONCE")  # fmt: skip
LOGIN_SHELL = "ENROOT_LOGIN_SHELL"  # enroot's; else it reads /etc/profile, and ~/.profile of a home that is mounted
# Options that would make another job of it than one script, from its own directory, with one task a node.
_OURS = frozenset({"array", "chdir", "dependency", "error", "export-file", "het-group", "input", "job-name",
                   "multi-prog", "ntasks", "parsable", "test-only", "wait", "wrap"})  # fmt: skip
_NO_MOUNT = re.compile(r"[\s,:\"$`\\]")
_CANNOT = "white space, a comma, colon, quote, dollar, backquote or backslash, which pyxis cannot mount"
# What says where a folder is that every node has to see.
_NAMED_BY = {
    "image": "squash: in the profile",
    "mount /cache/datasets": "hf_home: in the profile, or HF_HOME",
    "mount /cache/hub": "hf_home: in the profile, or HF_HOME",
    "mount /cache/megatron": "megatron_cache: in the profile",
    "mount /output": "output=PATH",
    "runs directory": "runs: in the profile, or --runs-dir",
}
_BY_RANK = ("RANK", "LOCAL_RANK")  # pyxis's own hook sets them for each task

Value = str | int | bool | None


def probe(root: Root, profile: SlurmProfile) -> EngineInfo:
    """Nothing is asked: a dry run and `-o` need no cluster, and sbatch says at submission what is wrong with it.

    So how many GPUs a node has is not known here, unless the profile says it: a request that no node can fulfil is
    sbatch's to refuse. The nodes' processor is the one that the profile names.
    """
    processor, key = profile.processor
    by = (
        f"{key}, profile {profile.name}" if key else f"what nodes are where a profile does not say arch: {profile.name}"
    )
    return EngineInfo(
        kind="slurm", address="slurm", source=f"profile {profile.name}", gpus=None, nodes=True,
        platform=f"linux/{processor}", platform_by=by,
    )  # fmt: skip


def find_image(root: Root, entry: Entry, profile: SlurmProfile, found: EngineInfo) -> ImageInfo:
    """The .sqsh of `images squash`, or what `images build --push` has pushed where the profile says `registry`."""
    records = identity.records(root, entry)
    if profile.image == "squash":
        image = sqsh.find(root, entry, profile.squash, found.platform)
        layers = next((record.layers for record in records if image.id in record.ids), [])
        return msgspec.structs.replace(image, unpack=sum(layer.bytes for layer in layers))
    for record in sorted(records, key=lambda r: r.platform not in (found.platform, "")):
        for reference in record.pushed:
            registry, _, rest = reference.partition("/")
            return ImageInfo(
                id=record.ids[0], source=f"{registry}#{rest}", recorded=len(records), drift=record.drift,
                left_out=record.left_out, configurations=record.configurations, classes=record.classes,
                platform=record.platform,
            )  # fmt: skip
    remedy = f"run: {entry.build_command} --push REGISTRY/NAME:TAG"
    return ImageInfo(recorded=len(records), missing="no record says that it was pushed to a registry", remedy=remedy)


def check(plan: Plan, seen: Probed) -> Iterator[Finding]:
    """What pyxis cannot express, what other nodes will not see, and options that are the launcher's."""
    profile = _profile(plan)
    runs = [("runs directory", seen.host.runs)]
    own = profile.network.mounted if isinstance(profile.network, Network) else []  # each node has them
    sources = [(f"mount {m.target}", m.source) for m in plan.mounts if not m.source.startswith(RUN_DIR)] + runs
    for what, path in [*sources, *((f"mount {m.target}", m.target) for m in plan.mounts)]:
        if _NO_MOUNT.search(path):
            yield _error(
                Exit.CONFIG, what, f"{path!r} holds {_CANNOT}", "use a folder with another name, or a link to it"
            )
    if plan.image_source.startswith("/"):
        sources.append(("image", plan.image_source))
    for what, path in sources if profile.shared else []:
        if path not in own and not any(PurePath(path).is_relative_to(root) for root in profile.shared):
            key = _NAMED_BY.get(what, "")
            remedy = f"shared are: {', '.join(profile.shared)} ({profile.file}: shared)"
            remedy += f"; name a folder below one of them: {key}" if key else ""
            yield _error(Exit.CONFIG, what, f"{path} is under no shared folder: other nodes will not see it", remedy)
    if plan.shape.nodes > 1 and not profile.shared:
        what = "names no shared folders: whether all nodes see the same is only known when the job starts"
        yield Finding(severity="warning", where=f"{profile.file}: shared", what=what)
    for name in sorted({"ALL", "NIL", "NONE"} & plan.env.keys()):
        yield _error(Exit.CONFIG, f"variable {name}", "is no name that Slurm's --export can say")
    if profile.gpus and plan.shape.gpus > profile.gpus:
        what = f"{plan.shape.gpus} GPUs asked for on each node, which has {profile.gpus}"
        remedy = f"say --gpus {profile.gpus} or less, and more --nodes; or correct what the profile says"
        yield _error(Exit.WORDS, f"{profile.file}: gpus", what, remedy)
    if profile.gpus_by == "none" and profile.gpu_type:
        what = "says as which type GPUs are asked for, and with gpus_by: none they are not asked for"
        yield _error(Exit.CONFIG, f"{profile.file}: gpu_type", what, "leave one of the two out (gpu_type: null)")
    for key, value in directives(plan).items():
        if "\n" in str(value):
            yield _error(Exit.CONFIG, f"{profile.file}: {key}", f"{value!r} is more than one line")
    for key, ours in (("sbatch", directives(plan)), ("srun", _srun(plan))):
        for name, value in getattr(profile, key).items():
            where = f"{profile.file}: {key}.{name}"
            if name in ours or name in _OURS or re.match("(no-)?container-", name):
                yield _error(Exit.CONFIG, where, "is set by the launcher")
            elif not re.fullmatch(r"[a-z][a-z0-9-]+", name) or "\n" in str(value):
                yield _error(Exit.CONFIG, where, "is no long option of one line, without its dashes")


def directives(plan: Plan) -> dict[str, Value]:
    """What stands behind #SBATCH: long option -> value; true = without one, None and false = not said."""
    p, shape = _profile(plan), plan.shape
    gpus = f"{p.gpu_type}:{shape.gpus}" if p.gpu_type else str(shape.gpus)
    again = "resume" in plan.config and p.attempts > 1
    return {
        "account": p.account,
        "constraint": p.constraint,
        "cpus-per-task": p.cpus,
        "exclusive": p.exclusive or (p.gpus_by == "none" and shape.gpus > 0),  # else others would use its GPUs, too
        "export": "NONE",
        "gpus-per-node": gpus if shape.gpus and p.gpus_by == "gpus-per-node" else None,
        "gres": f"gpu:{gpus}" if shape.gpus and p.gpus_by == "gres" else None,
        "kill-on-invalid-dep": "yes",
        "mem": p.mem,
        "no-requeue": not again,
        "nodes": shape.nodes,
        "ntasks-per-node": 1,
        "open-mode": "append",
        "output": "logs/job.log",
        "partition": p.partition,
        "qos": p.qos,
        "requeue": again,
        "reservation": p.reservation,
        "signal": f"B:USR1@{p.stop_seconds or plan.graceful.seconds + EARLY}",
        "time": p.time,
    }


def _srun(plan: Plan) -> dict[str, Value]:
    """The options of the one srun. Its whole environment is named: srun passes on what --export names, and pyxis lets
    the image's own value win unless --container-env names the variable, too."""
    p = _profile(plan)
    names = sorted({*plan.env, *FOUND} - {*_BY_RANK, *_inside(plan)})
    mounts = [f"{m.source}:{m.target}:{'ro' if m.readonly else 'rw'}" for m in plan.mounts]
    return {
        "container-env": ",".join(names),
        "container-image": plan.image_source,
        "container-mount-home": p.mount_home,
        "container-mounts": ",".join(mounts),
        "container-remap-root": p.remap_root,
        "container-workdir": STATE,
        "container-writable": p.writable,
        "cpu-bind": "none",  # one task per node, whose processes share all its cores
        "cpus-per-task": p.cpus,  # since 22.05 srun does not take it over from sbatch
        "export": ",".join(sorted([*names, LOGIN_SHELL])),
        "job-name": STEP,
        "kill-on-bad-exit": 1,  # without it the other nodes wait in their rendezvous
        "mpi": p.mpi,
        "no-container-entrypoint": True,
        "no-container-mount-home": not p.mount_home,
        "no-container-remap-root": not p.remap_root,
        "nodes": plan.shape.nodes,
        "ntasks-per-node": 1,
        "open-mode": "append",
        "output": "logs/node-%n.log",
    }


def _inside(plan: Plan) -> dict[str, str]:
    """What env sets inside the container: values of several lines, of which pyxis would read each as a variable."""
    return {name: variable.value for name, variable in plan.env.items() if "\n" in variable.value}


def render(plan: Plan) -> dict[str, Any]:
    """`script`: what sbatch gets, from inside the run directory. Pure."""
    profile = _profile(plan)
    lines = ["#!/usr/bin/env bash"]
    lines.append(
        f"# {plan.step} with {plan.library} {plan.release}-{plan.flavour}, plan {plan.hash[:12]}; made by `launch`."
    )
    lines.append("# Submit it from inside its own directory: sbatch script.sh")
    lines += [f"#SBATCH {o}" for o in _options({**directives(plan), **profile.sbatch}, _directive)]
    lines += ["", "set -u", "RUN_DIR=$PWD", "RUN_ID=${PWD##*/}"]
    facts = {
        "IMAGE": plan.image_source,
        "NODES": plan.shape.nodes,
        "GPUS": plan.shape.gpus,
        "ATTEMPTS": profile.attempts,
        "REQUEUE": int(bool(directives(plan)["requeue"])),
        "PLAN": plan.hash,
    }
    lines += [f"{name}={quote(str(value))}" for name, value in facts.items()]
    lines.append(f"FOLDERS=({' '.join(quote(m.source) for m in plan.mounts if not m.readonly)})")
    places = {STATE, *plan.env["SLIPWAY_SHARED"].value.split()} if plan.shape.nodes > 1 else set()
    lines.append(f"SHARED=({' '.join(quote(m.source) for m in plan.mounts if m.target in places)})")
    lines.append(f"SECRETS=({' '.join(quote(name) for name in plan.secrets)})")
    made = [path for found in plan.inputs.values() if found.within for path in (found.path, found.within)]
    lines += [f"MADE=({' '.join(map(quote, made))})"] if made else []
    lines += [f"SECRETS_FOLDER={plan.secrets_folder}"] if plan.secrets_folder != SECRETS else []
    lines += _array("SETUP", [shlex.quote(line) for line in profile.setup])
    lines += [
        "",
        "# What the step is given, and this script is not: srun's --export and --container-env name every one.",
    ]
    inside = _inside(plan)
    own = [f"{name}={quote(variable.value)}" for name, variable in plan.env.items() if name not in inside]
    lines += _array("ENV", [*own, f"{LOGIN_SHELL}=n"])
    lines += ["", "# shellcheck disable=SC2054 # commas are the options' own"]
    lines += [*_array("SRUN", _options({**_srun(plan), **profile.srun}, quote)), ""]
    lost = '{ echo "slipway: refused: $PWD holds no slipway/: submit from inside the run directory" >&2; exit 78; }'
    command = [*(["env", *(f"{n}={v}" for n, v in inside.items())] if inside else []), *plan.command]
    lines += [f". slipway/batch.sh || {lost}", f"main {' '.join(quote(w) for w in command)}", ""]
    return {"script": "\n".join(lines)}


def _array(name: str, words: list[str]) -> list[str]:
    return [f"{name}=(", *(f"    {word}" for word in words), ")"] if words else [f"{name}=()"]


def _options(options: Mapping[str, Value], quoted: Any) -> list[str]:
    said = {name: value for name, value in options.items() if value is not None and value is not False}
    return [f"--{n}" if v is True else f"--{n}={quoted(str(v))}" for n, v in sorted(said.items())]


def _directive(value: str) -> str:
    """A value behind #SBATCH, where a bare # begins a comment and quotes keep words together."""
    if re.fullmatch(r"[\w./:@%,+=\[\]-]+", value):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value).replace("#", r"\#") + '"'


def fill(request: dict[str, Any], run: Claimed) -> dict[str, Any]:
    """The same: the script finds out where it is. Raises SlipwayError 78 where pyxis cannot mount that."""
    if _NO_MOUNT.search(str(run.path)):
        what = f"the path of the run directory holds {_CANNOT}"
        raise SlipwayError(Exit.CONFIG, what, where=str(run.path), remedy="name another: --runs-dir")
    return request | {"sha256": canonical.sha256(request["script"].encode())}


def request_text(request: dict[str, Any]) -> str:
    """script.sh's text."""
    return str(request["script"])


def as_text(request: dict[str, Any]) -> str:
    """What a dry run prints: the very script."""
    return str(request["script"])


def explain(log: str) -> str:
    """The one cause line out of pyxis's noise."""
    return slurmwords.cause(log)


def _profile(plan: Plan) -> SlurmProfile:
    assert isinstance(plan.profile, SlurmProfile)
    return plan.profile


def _error(code: Exit, where: str, what: str, remedy: str = "") -> Finding:
    return Finding(severity="error", where=where, what=what, remedy=remedy, code=code)


__all__ = ["ATTACHED", "BY_NAME", "FILES", "KEEPS_LOG", "LOGS", "REQUEST", "as_text", "check", "connect", "directives",
           "explain", "fill", "find_image", "probe", "render", "request_text"]  # fmt: skip
