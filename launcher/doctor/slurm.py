"""The doctor's checks of a Slurm site: what its commands say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from launcher.catalog.profiles import WHOLE_NODE, SlurmProfile
from launcher.doctor import Check, Result, Site, endings, failed, ok, pyxis, run, scontrol, unknown, warning
from launcher.doctor.machine import credentials, readable, runs
from launcher.doctor.slurmprobe import probe
from slipway.errors import Exit, nearest

OLDEST = (22, 5)
_GRES = re.compile(r"\bgpu:(?:([A-Za-z_][\w.-]*):)?(\d+)")


def _sbatch(site: Site) -> Iterator[Result]:
    said = site.ask("sbatch", "--version")
    version = re.search(r"(\d+)\.(\d+)", said.out)
    if said.code or not version:
        site.down = said.why
        yield failed(said.why, "run this where jobs are submitted from")
    elif (int(version[1]), int(version[2])) < OLDEST:
        yield warning(said.out.strip(), "older than 22.05, the oldest that this was made for")
    else:
        yield ok(said.out.strip())


def _slurmctld(site: Site) -> Iterator[Result]:
    said = site.ask("scontrol", "ping")
    if " is UP" in said.out:
        yield ok(said.out.strip().splitlines()[0])
    elif site.down:
        yield unknown(site.down)
    else:
        site.down = "the controller does not answer"
        yield failed(said.why, "ask the site's administrators")


def _partitions(site: Site) -> Iterator[Result]:
    profile, found = site.profile, scontrol.partition(site)
    known = site.ask("sinfo", "--noheader", "--format=%R")
    if known.code:
        yield unknown(known.why)
    elif not found and profile.partition:
        what = f"there is no partition {profile.partition!r}"
        yield failed(what, nearest(profile.partition, known.out.split()), Exit.CONFIG)
    elif not found:
        yield failed("the site has no default partition", f"partition: {' | '.join(known.out.split())}", Exit.CONFIG)
    else:
        seen = f"{found['PartitionName']}, {found.get('TotalNodes', '?')} nodes, {found.get('State', '?')}"
        yield ok(seen) if found.get("State") == "UP" else warning(seen, "jobs wait until it is up")
        for kind, name in (("Accounts", profile.account), ("Qos", profile.qos)):
            allowed = found.get(f"Allow{kind}", "ALL").split(",")
            if name and "ALL" not in allowed and name not in allowed:
                what = f"takes no {kind.lower().removesuffix('s')} {name!r}"
                yield failed(f"{found['PartitionName']} {what}", nearest(name, allowed), Exit.CONFIG)


def _time(site: Site) -> Iterator[Result]:
    wanted, found = site.profile.time, scontrol.partition(site)
    most = found.get("MaxTime", "UNLIMITED")
    if not found:
        yield unknown("no partition to compare with")
    elif wanted and scontrol.minutes(wanted) > scontrol.minutes(most):
        what = f"{wanted} asked for, {found['PartitionName']} allows {most}: jobs would wait for ever"
        yield failed(what, f"time: {most}, or another partition", Exit.CONFIG)
    elif wanted:
        yield ok(f"{wanted} of at most {most}")
    else:
        yield ok(f"the partition's default, {found.get('DefaultTime', '?').replace('NONE', most)}")


def _names(site: Site) -> Iterator[Result]:
    """Account, qos and reservation, as far as the site's database and controller know them."""
    profile = site.profile
    user = os.environ.get("USER", "") or str(os.getuid())
    words = ("sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}", "format=account,qos")
    said = site.ask(*words)
    rows = [line.split("|") for line in said.out.splitlines()]
    known = {"account": {r[0] for r in rows}, "qos": {q for r in rows for q in r[-1].split(",")}}
    for key, names in known.items():
        name = getattr(profile, key)
        if not name:
            continue
        if said.code or not rows:
            yield unknown(f"{key} {name}: {said.why if said.code else f'no association of {user} is known'}")
        elif name in names:
            yield ok(f"{key} {name}")
        else:
            yield failed(f"{key} {name!r} is none of {user}'s", nearest(name, names), Exit.CONFIG)
    if profile.reservation:
        said = site.ask("scontrol", "--oneliner", "show", "reservation", profile.reservation)
        name = f"reservation {profile.reservation}"
        yield failed(f"{name}: {said.why}", "", Exit.CONFIG) if said.code else ok(name)


def _accounting(site: Site) -> Iterator[Result]:
    config = scontrol.config(site)
    kept = config.get("AccountingStorageType", "")
    if not kept:
        yield unknown("scontrol show config says nothing of it")
    elif kept.endswith("none"):
        age = config.get("MinJobAge", "?")
        yield warning(
            f"none: sacct knows nothing, an ended job is forgotten after {age}", "launch collects what it can"
        )
    else:
        said = site.ask("sacct", "--noheader", "--allocations", "--starttime=now")
        yield failed(f"{kept}, but sacct: {said.why}") if said.code else ok(f"{kept}, sacct answers")


def _mpi(site: Site) -> Iterator[Result]:
    mpi, said = site.profile.mpi, site.ask("srun", "--mpi=list")
    listed = re.findall(
        r"[\w-]+", re.sub(r"(?i)mpi plugin types are.*|specific pmix plugin.*:", "", said.out + said.err)
    )
    default = f"the site's default is {scontrol.config(site).get('MpiDefault', 'unknown')}"
    if said.code or not listed:
        yield unknown(said.why)
    elif mpi in listed:
        yield ok(f"{mpi}; {default}")
    else:
        yield failed(f"srun knows no --mpi={mpi}; {default}", nearest(mpi, listed), Exit.CONFIG)


def _enroot(_: Site) -> Iterator[Result]:
    said = run(("enroot", "version"))
    here = ok(f"enroot {said.out.strip()}")
    yield warning(f"{said.why}: images cannot be imported here", "the nodes' own: --probe") if said.code else here


def _squash(site: Site) -> Iterator[Result]:
    profile = site.profile
    if profile.image == "registry":
        yield ok("not used: image: registry")
    elif not profile.squash:
        yield warning("the profile names no folder for .sqsh files", "squash: a folder that every node sees")
    else:
        yield readable(Path(profile.squash), "squash: in the profile")
        yield from _below(profile, Path(profile.squash), "squash")


def _runs(site: Site) -> Iterator[Result]:
    yield from runs(site)
    yield from _below(site.profile, site.runs, "runs")


def _below(profile: SlurmProfile, path: Path, key: str) -> Iterator[Result]:
    if profile.shared and not any(Path(s) in (path, *path.parents) for s in profile.shared):
        what = f"{path} is below none of the profile's shared folders"
        yield failed(what, f"{key}: a folder below {' or '.join(profile.shared)}", Exit.CONFIG)


def _shared(site: Site) -> Iterator[Result]:
    if not site.profile.shared:
        yield warning("the profile names none", "shared: the folders that every node sees")
    for name in site.profile.shared:
        yield (
            readable(Path(name), "shared: in the profile")
            if Path(name).is_dir()
            else failed(f"{name} is not there", "shared: the folders that every node sees", Exit.CONFIG)
        )


def _gpus(site: Site) -> Iterator[Result]:
    """What Slurm itself says of the nodes, beside what the profile does; drivers are seen by the probe job."""
    profile = site.profile
    words = [f"--partition={profile.partition}"] if profile.partition else []
    said = site.ask("sinfo", "--noheader", "--format=%D %G", *words)
    with_gpus = [line for line in said.out.splitlines() if "gpu" in line]
    seen = "; ".join(f"{n} nodes with {g}" for n, g in (line.split() for line in with_gpus))
    if said.code:
        yield unknown(said.why)
    elif profile.gpus_by == "none" and with_gpus:
        yield warning(f"{seen}, and gpus_by: none takes whole nodes", "gpus_by: gpus-per-node, or gres")
    elif profile.gpus_by == "none":
        yield ok("no resource of Slurm's, as the profile says (gpus_by: none)")
    elif with_gpus or profile.flavour == "cpu":
        yield ok(seen or "none needed")
        yield from _as_said(profile, {(t, int(n)) for line in with_gpus for t, n in _GRES.findall(line)})
    else:
        remedy = "gpus_by: none where its nodes have GPUs all the same, or another partition"
        yield failed("no node of the partition has GPUs that Slurm knows of", remedy)


def _as_said(profile: SlurmProfile, known: set[tuple[str, int]]) -> Iterator[Result]:
    """The profile's `gpus` and `gpu_type` beside what nodes have. `known`: type (or empty) and number."""
    numbers, types = sorted({n for _, n in known}), sorted({t for t, _ in known} - {""})
    have = f"nodes have {' or '.join(map(str, numbers))} GPUs"
    if profile.gpus and numbers and profile.gpus not in numbers:
        yield failed(f"gpus: {profile.gpus}, and {have}", f"gpus: {numbers[-1]}", Exit.CONFIG)
    elif profile.flavour == "cuda" and not profile.gpus and numbers not in ([], [WHOLE_NODE]):
        yield warning(f"{have}, and who wants a whole node asks for {WHOLE_NODE}", f"gpus: {numbers[-1]}")
    if profile.gpu_type and numbers and profile.gpu_type not in types:
        what = f"gpu_type: {profile.gpu_type}, and Slurm knows {' and '.join(types) or 'no types'}"
        yield failed(what, nearest(profile.gpu_type, types) if types else "leave gpu_type out", Exit.CONFIG)


def _probe(site: Site) -> Iterator[Result]:
    most = int(scontrol.partition(site).get("TotalNodes", site.nodes))
    if site.nodes > most:
        yield failed(f"{site.nodes} nodes asked for, the partition has {most}", f"--probe {most}", Exit.WORDS)
    elif site.nodes:
        yield from probe(site)


CHECKS: dict[str, Check] = {
    "sbatch": _sbatch,
    "slurmctld": _slurmctld,
    "pyxis": pyxis.check,
    "partition": _partitions,
    "time": _time,
    "account": _names,
    "accounting": _accounting,
    "mpi": _mpi,
    "saving": endings.saving,
    "requeue": endings.requeue,
    "TaskProlog": endings.task_prolog,
    "GPUs": _gpus,
    "enroot": _enroot,
    "credentials": credentials,
    "squash": _squash,
    "runs": _runs,
    "shared": _shared,
    "probe": _probe,
}
