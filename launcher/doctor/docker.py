"""The doctor's checks of a Docker engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from images.machine import dockerhost
from launcher.doctor import Check, Result, Site, failed, ok, unknown, warning
from launcher.doctor.machine import folder, runs
from launcher.engines import docker
from launcher.planning import planner


def _engine(site: Site) -> Iterator[Result]:
    """The engine, and what of the profile it can give."""
    seen = docker.probe(site.root, site.profile)
    where = f"{seen.address} (from {seen.source})"
    if seen.error:
        site.down = f"{where}: {seen.error}"
        yield failed(site.down, seen.remedy)
        return
    yield ok(f"Docker {seen.version} at {where}")
    if seen.gpus == 0 and site.profile.flavour == "cuda":
        yield failed(f"flavour: cuda, but no GPU for a container: {seen.no_gpus}", seen.gpu_remedy)
    elif seen.gpus is None:
        yield unknown("whether it has GPUs: only its own refusal tells; a launch takes the cpu flavour unless told")
    elif seen.gpus == 0:
        yield ok(f"no GPUs: launches take the cpu flavour ({seen.no_gpus})")
    else:
        taken = [f"{i} held by run {run}" for i, run in seen.gpu.held.items()]
        yield ok("; ".join([f"{seen.gpus} GPUs, served by {seen.gpu.driver}", *taken]))
    if seen.elsewhere and not site.profile.shared:
        yield failed(f"it is on {seen.elsewhere}, and `shared:` names no folder that both see", "launch there")
    for name, most in planner.limits(site.profile, seen).items():
        if most != (value := site.profile.ulimits[name]):
            yield warning(f"ulimit {name}: {value} asked for, {most} can be given", "it is lowered at launch")


def _store(site: Site) -> Iterator[Result]:
    if site.down:
        yield unknown(site.down)
        return
    with dockerhost.engine_client(dockerhost.find(site.root, site.profile.engine)) as client:
        info = client.info()
    if any("containerd.snapshotter" in str(row) for row in info.get("DriverStatus") or []):
        yield ok("images are in containerd's store")
    else:
        yield warning("images are not in containerd's store", "two builds there do not give one digest")
    place = Path(info.get("DockerRootDir", ""))
    yield folder(place, "the engine's data-root") if place.is_dir() else unknown(f"{place} is not on this machine")


CHECKS: dict[str, Check] = {"engine": _engine, "images": _store, "runs": runs}
