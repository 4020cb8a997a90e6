"""enroot on one machine: a plan as one script that starts one container. See enrootruns.py for what follows.

What enroot does with its words was read in its sources (4.1): a mount is a line of fstab with colons for blanks and has
no escapes, a variable is one line that loses quotes around it, and the last word about NVIDIA's devices is the host's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import msgspec

from images.building import identity
from images.locking import platforms
from images.locking.model import Entry
from launcher.catalog.profiles import EnrootProfile
from launcher.core.plan import RUN_DIR, SECRETS, STATE, EngineInfo, ImageInfo, Plan, Probed
from launcher.engines import Claimed, sqsh
from launcher.engines.enrootruns import connect as connect
from launcher.engines.shell import quote
from slipway import canonical
from slipway.errors import Exit
from slipway.findings import Finding
from slipway.project import Root

ATTACHED, KEEPS_LOG, REQUEST = True, False, "script.sh"
BY_NAME = False
LOGS: tuple[str, ...] = ()
FILES = ("enroot.sh", "outside.sh")
PATIENCE = 10  # seconds that `enroot version` may take
_NO_MOUNT = re.compile(r"[\s:,\\]")
_NO_ENV = re.compile(r"ENROOT_.*|.*\n.*|\w+=[\"'].*[\"']\s*", re.S)
_CAUSE = re.compile(r"^(?:\[ERROR\]|enroot-\w+:).*", re.M)
NAMESPACES = Path("/proc/sys/user/max_user_namespaces")
DRIVER = Path("/proc/driver/nvidia/gpus")


def _gpus() -> tuple[int, str, str]:
    """How many GPUs enroot's hook can give; where none, why, and what to do about that."""
    if not shutil.which("nvidia-container-cli"):
        what = "enroot's NVIDIA hook needs nvidia-container-cli, which is not here"
        return 0, what, "install libnvidia-container-tools"
    if not (gpus := len(list(DRIVER.glob("*")))):
        return 0, f"the NVIDIA driver lists none in {DRIVER}", "load the driver (nvidia-smi has to list the GPUs)"
    return gpus, "", ""


def probe(root: Root, profile: EnrootProfile) -> EngineInfo:
    """Whether enroot is here and may make namespaces; its version. GPUs need NVIDIA's container tools beside it."""
    gpus, why, remedy = _gpus()
    source = f"profile {profile.name}"
    seen = EngineInfo(
        kind="enroot", address="enroot", source=source, gpus=gpus, no_gpus=why, gpu_remedy=remedy,
        platform=platforms.named(os.uname().machine), platform_by="uname -m",
    )  # fmt: skip
    try:
        done = subprocess.run(["enroot", "version"], capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError) as e:
        error = "there is no enroot here" if isinstance(e, FileNotFoundError) else str(e)
        return msgspec.structs.replace(seen, error=error, remedy="install enroot, or name another --profile")
    if os.geteuid() and NAMESPACES.is_file() and NAMESPACES.read_text() == "0\n":
        remedy = "as root: sysctl -w user.max_user_namespaces=15000"
        return msgspec.structs.replace(seen, error="users may not make namespaces here", remedy=remedy)
    return msgspec.structs.replace(seen, version=done.stdout.strip())


def find_image(root: Root, entry: Entry, profile: EnrootProfile, found: EngineInfo) -> ImageInfo:
    """The .sqsh of `images squash`; and what it takes to unpack it, where nobody has or the run wants its own."""
    image, data = sqsh.find(root, entry, profile.squash, found.platform), Path(profile.data or "")
    if image.missing or ((data / PurePath(image.source).stem).is_dir() and not profile.writable):
        return image
    layers = next((r.layers for r in identity.records(root, entry) if image.id in r.ids), [])
    need = sum(layer.bytes for layer in layers) or 4 * Path(image.source).stat().st_size
    nearest = next(p for p in (data, *data.parents) if p.exists())
    free = shutil.disk_usage(nearest).free if os.access(nearest, os.W_OK | os.X_OK) else 0
    return msgspec.structs.replace(image, unpack=need, unpack_free=free)


def check(plan: Plan, seen: Probed) -> Iterator[Finding]:
    """What enroot cannot express, and room for the image's root file system."""
    profile = plan.profile
    assert isinstance(profile, EnrootProfile)
    where = f"{profile.file}: data"
    paths = [(f"mount {m.target}", path) for m in plan.mounts for path in (m.source.removeprefix(RUN_DIR), m.target)]
    for what, path in [*paths, ("runs directory", seen.host.runs), (where, str(profile.data))]:
        if _NO_MOUNT.search(path):
            why = f"{path!r} holds white space, a comma, colon or backslash, which enroot's mounts cannot express"
            yield Finding(severity="error", where=what, what=why, code=Exit.CONFIG)
    if seen.image.unpack > seen.image.unpack_free:
        need, room = (f"{n / 1e9:.2f} GB" for n in (seen.image.unpack, seen.image.unpack_free))
        what = f"the image takes about {need} in {profile.data}, where {room} can be written"
        remedy = "free space there, or name another folder in the profile (data)"
        yield Finding(severity="error", where=where, what=what, remedy=remedy, code=Exit.CANNOT_WRITE)


def render(plan: Plan) -> dict[str, Any]:
    """`script`: what is run, from inside the run directory. Pure."""
    profile, devices = plan.profile, _devices(plan)
    assert isinstance(profile, EnrootProfile)
    variables = dict(sorted({**devices, **{name: v.value for name, v in plan.env.items()}}.items()))
    words = [f"{name}={value}" for name, value in variables.items()]
    # What enroot would cut or drop, and the working directory, is set by env, inside the container.
    inside = ["env", f"--chdir={STATE}", *(w for w in words if _NO_ENV.fullmatch(w))]
    # With all that is mounted below the source, as a user namespace wants it; a folder or a file, as the source is.
    mounts = [f"{m.source}:{m.target}:none:x-create=auto,rbind,{'ro' if m.readonly else 'rw'}:0:0" for m in plan.mounts]
    facts = {"PLAN": plan.hash, "IMAGE": plan.image_source, "NAME": PurePath(plan.image_source).stem}
    facts |= {"DATA": str(profile.data), "WRITABLE": str(int(profile.writable))}
    what = f"{plan.step} with {plan.library} {plan.release}-{plan.flavour}, plan {plan.hash[:12]}; made by `launch`."
    lines = ["#!/usr/bin/env bash", f"# {what}", "# Run it from inside its own directory: bash script.sh", "", "set -u"]
    lines += ["RUN_DIR=$PWD", "RUN_ID=${PWD##*/}", *(f"{name}={quote(value)}" for name, value in facts.items())]
    lines.append(f"FOLDERS=({' '.join(quote(m.source) for m in plan.mounts if not m.readonly)})")
    lines.append(f"SECRETS=({' '.join(quote(name) for name in plan.secrets)})")
    lines += [f"SECRETS_FOLDER={plan.secrets_folder}"] if plan.secrets_folder != SECRETS else []
    lines += [f"export {name}={quote(variables[name])}" for name in devices]
    lines += ["", "START=(", *(["    --rw"] if profile.writable else [])]
    lines += [f"    --mount {quote(m)}" for m in mounts]
    lines += [f"    --env {quote(w)}" for w in words if not _NO_ENV.fullmatch(w)]
    lines += [")", "", ". slipway/enroot.sh", f"main {' '.join(quote(w) for w in [*inside, *plan.command])}", ""]
    return {"script": "\n".join(lines)}


def _devices(plan: Plan) -> dict[str, str]:
    """What enroot's hooks look at, in the host's environment first: an image's `all` fails where there is no driver."""
    devices = {"MELLANOX_VISIBLE_DEVICES": "void", "NVIDIA_VISIBLE_DEVICES": "void"}
    if plan.shape.gpus:
        devices["NVIDIA_DRIVER_CAPABILITIES"] = "compute,utility"  # of itself, it is utility alone
        devices["NVIDIA_VISIBLE_DEVICES"] = ",".join(str(n) for n in range(plan.shape.gpus))
    return devices


def fill(request: dict[str, Any], run: Claimed) -> dict[str, Any]:
    """The same: the script finds out where it is."""
    return request | {"sha256": canonical.sha256(request["script"].encode())}


def request_text(request: dict[str, Any]) -> str:
    """script.sh's text, which is also what a dry run prints."""
    return str(request["script"])


as_text = request_text


def explain(log: str) -> str:
    """The first line in which enroot says what is wrong; what the script around it says is in `ended`."""
    found = _CAUSE.search(log)
    return found[0].strip() if found else ""
