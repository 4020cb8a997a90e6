"""Which GPUs of a machine a run gets: chosen when it is planned, among those that no other run holds. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from launcher.catalog.profiles import GPU_ID, DockerProfile
from launcher.core.plan import EngineInfo, GpuDevice, GpuInfo, GpuRequest, LaunchSpec
from slipway.errors import Exit, SlipwayError
from slipway.findings import Finding, error

WHERE = "--gpu-ids"


class Taken(SlipwayError):
    """Another run got a GPU between the plan and the start."""


def parse(text: str) -> list[str]:
    """`2,3`: indices, GPU:INSTANCE or UUIDs, with commas. Raises SlipwayError 64."""
    names = text.split(",")
    for name in names:
        if not re.fullmatch(GPU_ID, name):
            expected = "expected indices (2), instances (2:0) or UUIDs (GPU-…, MIG-…), with commas between"
            raise SlipwayError(Exit.WORDS, f"{name!r} names no GPU; {expected}", where=WHERE)
    return names


def choose(spec: LaunchSpec, seen: GpuInfo) -> GpuRequest | None:
    """The GPUs of a run; None where it gets none, or where the launcher has no say in it.

    Where too few are free the others fill up: `check` refuses that, and a dry run still has something to show.
    """
    if not spec.gpus or not isinstance(spec.profile, DockerProfile) or spec.entry.flavour == "cpu":
        return None
    pool = _pool(spec, seen)
    ids = sorted(pool, key=lambda i: holder(i, seen.held) != "")[: spec.gpus]
    ids.sort(key=pool.index)
    uuids = [uuid for i in ids if (uuid := _uuid(i, seen))]
    return GpuRequest(driver=seen.driver, ids=ids, uuids=uuids if len(uuids) == len(ids) else [], all=seen.only_all)


def check(spec: LaunchSpec, engine: EngineInfo) -> Iterator[Finding]:
    """Names that cannot be, more than there are, and GPUs that other runs hold."""
    if not spec.gpus or engine.gpus == 0 or engine.error:
        return
    where = WHERE if spec.gpu_ids and not _of_profile(spec) else "--gpus"
    if spec.gpu_ids and not isinstance(spec.profile, DockerProfile):
        what = f"a {spec.profile.kind} profile does not choose among GPUs"
        yield error(Exit.WORDS, where, what, "say how many: --gpus N")
        return
    if not isinstance(spec.profile, DockerProfile) or spec.entry.flavour == "cpu":
        return
    wrong = [*_names(spec, engine.gpu), *_number(spec, engine, where)]
    yield from wrong or _held(spec, engine.gpu, where)


def overlap(one: str, other: str) -> bool:
    """Whether two ids are of one GPU: the same, or one an instance of the other."""
    return one == other or one.startswith(f"{other}:") or other.startswith(f"{one}:")


def holder(name: str, held: dict[str, str]) -> str:
    """The run that holds a GPU; empty where none does."""
    return next((run for other, run in held.items() if overlap(name, other)), "")


def _pool(spec: LaunchSpec, seen: GpuInfo) -> list[str]:
    """The ids to choose from. Where the engine does not tell its GPUs, they are counted from 0, past those held."""
    if spec.gpu_ids:
        return [_canonical(name, seen.devices) for name in spec.gpu_ids]
    if seen.devices:
        return [gpu.id for gpu in seen.devices]
    return [str(n) for n in range(spec.gpus + len(seen.held))]


def _canonical(name: str, devices: list[GpuDevice]) -> str:
    """The id of what is named by id or UUID; the name itself where it is not known."""
    return next((gpu.id for gpu in devices if name in (gpu.id, gpu.uuid)), name)


def _uuid(name: str, seen: GpuInfo) -> str:
    known = {gpu.id: gpu.uuid for gpu in seen.devices}
    return known.get(name, "") or (name if "-" in name else "")


def _of_profile(spec: LaunchSpec) -> bool:
    ours = spec.profile.gpu_ids if isinstance(spec.profile, DockerProfile) else []
    return spec.gpu_ids == [str(i) for i in ours]


def _names(spec: LaunchSpec, seen: GpuInfo) -> Iterator[Finding]:
    ours = _of_profile(spec)
    code, where = (Exit.CONFIG, f"{spec.profile.file}: gpu_ids") if ours else (Exit.WORDS, WHERE)
    pool = _pool(spec, seen) if spec.gpu_ids else []
    for name, found in zip(spec.gpu_ids, pool, strict=True):
        if seen.devices and found not in {gpu.id for gpu in seen.devices}:
            known = ", ".join(f"{g.id} ({g.uuid})" if g.uuid else g.id for g in seen.devices)
            yield error(code, where, f"the engine has no GPU {name}", f"it has: {known}")
    for name in dict.fromkeys(p for p in pool if sum(overlap(p, other) for other in pool) > 1):
        yield error(code, where, f"GPU {name} is named twice")


def _number(spec: LaunchSpec, engine: EngineInfo, where: str) -> Iterator[Finding]:
    named = len(spec.gpu_ids)
    if named and (spec.gpus > named or (spec.gpus < named and not _of_profile(spec))):
        whose = f"{spec.profile.file} names" if _of_profile(spec) else f"{WHERE} names"
        yield error(Exit.WORDS, "--gpus", f"{spec.gpus} asked for, {whose} {named}", "leave one of the two out")
    elif engine.gpu.only_all and engine.gpus is not None and spec.gpus != engine.gpus:
        what = f"{spec.gpus} asked for, this engine gives a container all {engine.gpus} GPUs or none (WSL2)"
        yield error(Exit.WORDS, where, what, f"say --gpus {engine.gpus}")


def _held(spec: LaunchSpec, seen: GpuInfo, where: str) -> Iterator[Finding]:
    chosen, pool = choose(spec, seen), _pool(spec, seen)
    if chosen and (runs := holders(chosen.ids, seen.held)):
        free = sum(not holder(i, seen.held) for i in pool)
        what = f"{spec.gpus} asked for, {free} of {len(pool)} free: {told(runs)}"
        remedy = f"wait until it has ended, or end it: launch cancel {next(iter(runs))}"
        yield error(Exit.TRY_AGAIN, where, what, remedy)


def holders(ids: list[str], held: dict[str, str]) -> dict[str, list[str]]:
    """Run -> which of `ids` it holds."""
    found: dict[str, list[str]] = {}
    for name in ids:
        if run := holder(name, held):
            found.setdefault(run, []).append(name)
    return found


def told(runs: dict[str, list[str]]) -> str:
    """`holders` in words."""
    return "; ".join(f"run {run} has {','.join(ids)}" for run, ids in runs.items())
