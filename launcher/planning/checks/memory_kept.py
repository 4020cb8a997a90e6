"""What a run keeps of the estimate of its GPUs' memory, for when that runs out after all. Pure."""

from __future__ import annotations

from launcher.core.plan import LaunchSpec, Probed
from launcher.planning.checks import memory, memory_rl


def of(spec: LaunchSpec, seen: Probed) -> dict[str, str]:
    """`estimate`: in a line; `smaller`: the next shape that takes less than that one. Empty where nothing is known."""
    if found := memory.sized(spec, seen):
        model, layout, size = found
        used = sum(memory.estimate(model, layout).values())
        other = memory.next_fit(model, layout, int(min(used, size)))
        return _kept(memory.line(*found), " ".join(memory.words(spec, layout, other)) if other else "")
    if (size := memory_rl.size_of(spec, seen)) and (run := memory_rl.run_of(spec, seen)):
        used = memory_rl.most(run, run.layout)
        other = memory.next_fit(run.model, run.layout, int(min(used, size)), lambda o: memory_rl.most(run, o))
        return _kept(memory_rl.line(run, size), memory_rl.remedy(spec, run, other) if other else "")
    return {}


def _kept(estimate: str, smaller: str) -> dict[str, str]:
    return {"estimate": estimate} | ({"smaller": smaller} if smaller else {})
