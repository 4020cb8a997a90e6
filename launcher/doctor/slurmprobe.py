"""The doctor's probe job: what each node of a Slurm site sees."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from images.locking import platforms
from launcher.catalog.profiles import SlurmProfile
from launcher.doctor import Answer, Result, Site, failed, ok, unknown, warning
from launcher.doctor.machine import Facts, facts, places
from launcher.engines import slurmwords
from slipway.errors import Exit

QUEUE = 60  # seconds that the probe job may wait for nodes


def _options(profile: SlurmProfile) -> list[str]:
    """What the profile asks of every job, but for GPUs."""
    named = ("account", "partition", "qos", "reservation", "constraint")
    return [f"--{key}={getattr(profile, key)}" for key in named if getattr(profile, key)]


def probe(site: Site) -> Iterator[Result]:
    """One task on each of the nodes asked for: what is written here is read there, and the other way round."""
    profile, nodes, nonce = site.profile, site.nodes, secrets.token_hex(8)
    wanted = [*profile.shared, *([profile.squash] if profile.squash else []), str(site.runs)]
    roots = [r for r in dict.fromkeys(wanted) if os.access(r, os.W_OK)]
    patience, script = profile.mount_wait, site.probe
    task = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--immediate={QUEUE}"]
    task += ["--job-name=slipway-doctor", f"--time={patience // 60 + 2}", "--mpi=none", *_options(profile)]
    try:
        for root in roots:
            Path(root, f".slipway-doctor-{nonce}").write_text(nonce)
        words = ("srun", *task, "bash", "-c", script, "probe.sh", nonce, str(patience), *roots)
        said = site.ask(*words, seconds=QUEUE + patience + 30)
        found = facts(said.out)
        yield _nodes(found, said, nodes)
        end = time.monotonic() + patience
        for root in roots:
            yield _seen(root, found, nonce, end)
        yield from _node_facts(found, profile)
    finally:
        for file in (f for root in roots for f in Path(root).glob(f".slipway-doctor-{nonce}*")):
            with contextlib.suppress(OSError):
                file.unlink()


def _nodes(found: Facts, said: Answer, nodes: int) -> Result:
    seen = f"{', '.join(sorted(found)) or 'no node'} answered, of {nodes}"
    if len(found) == nodes:
        return ok(seen)
    why = slurmwords.refusal(said.err)
    return failed(f"{seen}: {said.why if said.code == 124 else why.what}", why.remedy or "sinfo says which are free")


def _seen(root: str, found: Facts, nonce: str, end: float) -> Result:
    """Whether each node saw our file below `root`, and we see theirs."""
    said = {n: f.get(f"root {root}", ["is not spoken of"])[0] for n, f in found.items()}
    wrong = {n: text for n, text in said.items() if text != "ok"}
    wrote = [n for n in found if n not in wrong]
    while missing := [n for n in wrote if not _reads(Path(root, f".slipway-doctor-{nonce}-{n}"), nonce)]:
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    wrong |= dict.fromkeys(missing, "wrote what is not seen here")
    if not wrong:
        return ok(f"{root}: the same here and on {', '.join(sorted(found)) or 'no node'}") if found else unknown(root)
    what = "; ".join(f"on {n} it {w}" for n, w in sorted(wrong.items()))
    return failed(f"{root}: {what}", "name folders that every node sees", Exit.CONFIG)


def _reads(file: Path, text: str) -> bool:
    with contextlib.suppress(OSError):
        os.listdir(file.parent)  # noqa: PTH208 - refreshes what a network filesystem remembers
        return file.read_text() == text
    return False


def _as_said(found: Facts, profile: SlurmProfile) -> Iterator[Result]:
    """The nodes' processor, and where Slurm does not count them their GPUs, beside what the profile says."""
    wanted, key = profile.processor
    machines = {n: seen["arch"][0] for n, seen in sorted(found.items()) if "arch" in seen}
    if wrong := {n: m for n, m in machines.items() if platforms.named(m) != f"linux/{wanted}"}:
        what = ", ".join(f"{n} is {m}" for n, m in wrong.items())
        what = f"{what}; the profile's nodes are {wanted} ({key or 'default'})"
        right = platforms.named(next(iter(wrong.values()))).removeprefix("linux/")
        yield failed(what, f"arch: {right}", Exit.CONFIG)
    elif machines:
        yield ok(f"{wanted} on {', '.join(machines)}")
    for node, seen in sorted(found.items()) if profile.gpus and profile.gpus_by == "none" else ():
        has = sum(int(count) for count in re.findall(r"^(\d+) x ", "\n".join(seen.get("gpus", [])), re.M))
        if has and has != profile.gpus:
            yield failed(f"{node} has {has} GPUs, the profile says gpus: {profile.gpus}", f"gpus: {has}", Exit.CONFIG)


def _node_facts(found: Facts, profile: SlurmProfile) -> Iterator[Result]:
    """Per kind of answer, the nodes that gave it: GPUs and driver, enroot, room."""
    for key, missing in (("gpus", "no driver"), ("enroot", "no enroot")):
        answers: dict[str, list[str]] = {}
        for node, seen in sorted(found.items()):
            answers.setdefault(", ".join(seen.get(key, [])) or missing, []).append(node)
        text = "; ".join(f"{a} on {', '.join(n)}" for a, n in answers.items())
        if missing in answers and (key == "enroot" or profile.flavour == "cuda"):
            yield warning(text, "pyxis needs it" if key == "enroot" else "flavour: cuda needs one")
        elif answers:
            yield ok(text) if len(answers) == 1 else warning(text, "the nodes differ")
    yield from _as_said(found, profile)
    unfit = [(node, place) for node, seen in sorted(found.items()) for place in places(seen) if place.problem]
    for node, place in unfit:
        remedy = "enroot.conf: one of each user's own" if place.closed else "enroot.conf: a local disk with room"
        yield warning(f"{node}: enroot's {place.name} {place.problem}", remedy)
    if found and not unfit:
        yield ok("room in enroot's folders")
