"""The doctor's checks of a machine with enroot."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from launcher.doctor import Check, Result, Site, failed, ok, warning
from launcher.doctor.machine import credentials, facts, folder, places, readable, runs, size

_ELSEWHERE = "ENROOT_DATA_PATH, ENROOT_CACHE_PATH and ENROOT_TEMP_PATH in enroot.conf: a local disk with room"


def _enroot(site: Site) -> Iterator[Result]:
    said = site.ask("enroot", "version")
    if said.code:
        yield failed(said.why, "install enroot")
    else:
        yield ok(f"enroot {said.out.strip()}")


def _namespaces(site: Site) -> Iterator[Result]:
    said = site.ask("unshare", "--user", "--map-root-user", "true")
    remedy = "sysctl user.max_user_namespaces; kernel.unprivileged_userns_clone on Debian"
    yield failed(f"no user namespaces for us: {said.why}", remedy) if said.code else ok("user namespaces")


def _squashfuse(_: Site) -> Iterator[Result]:
    usable = os.access("/dev/fuse", os.R_OK | os.W_OK)
    if shutil.which("squashfuse") and usable:
        yield ok("squashfuse and /dev/fuse")
    else:
        what = "/dev/fuse may not be opened" if shutil.which("squashfuse") else "there is no squashfuse"
        yield warning(what, "images are unpacked before they start, which takes time and room")


def _folders(site: Site) -> Iterator[Result]:
    for node in facts(site.ask("bash", "-c", site.probe, "probe.sh", "none", "0").out).values():
        for place in places(node):
            seen = f"enroot's {place.name}, {size(place.free)} free"
            yield warning(f"{seen}: it {place.problem}", _ELSEWHERE) if place.problem else ok(seen)
    for key in ("squash", "data"):
        if path := getattr(site.profile, key):
            yield (readable if key == "squash" else folder)(Path(path), f"{key}: in the profile")


CHECKS: dict[str, Check] = {
    "enroot": _enroot,
    "namespaces": _namespaces,
    "squashfuse": _squashfuse,
    "credentials": credentials,
    "folders": _folders,
    "runs": runs,
}
