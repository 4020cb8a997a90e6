"""What the tests of reinforcement learning plan with: inputs, and a launch of a step at a release, without disk."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from helpers import REPO, SpecOf, described, engine_of, output_of, seen_of

from images.locking import lock as locks
from images.locking.model import Lock
from launcher.artifacts.detection import Artifact
from launcher.artifacts.nouns import Data
from launcher.catalog import commands, conflicts, definitions, releases
from launcher.catalog.conflicts import Conflict
from launcher.catalog.definitions import Step
from launcher.core import arguments
from launcher.core.plan import LaunchSpec, Plan, Probed
from launcher.planning.checks import config_values, preflight
from launcher.planning.planner import make_plan
from slipway.findings import Finding
from slipway.project import Root

ROOT = Root(REPO)
RELEASES = ("v0.4.0", "v0.5.0", "v0.6.0", "v0.7.0")
FLAT, SECTIONS = RELEASES[:2], RELEASES[2:]
STEPS = ("grpo", "dapo", "dpo", "rm", "sft", "distillation", "rlhf")
TEXT: dict[str, str | int] = {"tokenizer": "a" * 64, "template": "b" * 64}
COLUMNS = {"prompt_jsonl": ["input", "output", "task_name"], "preference_jsonl": ["chosen", "prompt", "rejected"]}


def rows(name: str, type_: str = "prompt_jsonl", columns: list[str] | None = None) -> Artifact:
    data = Data(columns=columns or COLUMNS.get(type_))
    return Artifact(
        name=name, path=f"/data/{name}.jsonl", kind="file", type=type_, fingerprint="c" * 64, data=data,
    )  # fmt: skip


def model(name: str, type_: str = "checkpoint_hf", **facts: str | int) -> Artifact:
    return Artifact(
        name=name, path=f"/data/{name}", kind="folder", type=type_, fingerprint="d" * 64, **described(**TEXT | facts)
    )


def usual(step: str) -> list[Artifact]:
    """Every input of a step, but config."""
    data = {"sft": "chat_jsonl", "dpo": "preference_jsonl", "rm": "preference_jsonl"}.get(step, "prompt_jsonl")
    names = {"rm": ["model"], "distillation": ["student", "teacher"], "rlhf": ["policy", "reward_model"]}
    return [rows("train", data), rows("validation", data), *map(model, names.get(step, ["policy"]))]


@functools.cache
def lock() -> Lock:
    return locks.load_lock(ROOT)


@functools.cache
def step_of(name: str) -> Step:
    return definitions.find_step(ROOT, name)


@functools.cache
def all_steps() -> list[Step]:
    return definitions.all_steps(ROOT)


@functools.cache
def refused(step: str, entry: str) -> list[Conflict]:
    """What an entry's release refuses of a step by itself."""
    return conflicts.at_release(ROOT, step_of(step), lock().entries[entry])


class Launch(NamedTuple):
    spec: LaunchSpec
    seen: Probed
    plan: Plan

    @property
    def config(self) -> dict[str, Any]:
        """What the plan sets, key by key, as the step program sees it at last."""
        return dict(self.plan.config["set"])

    @property
    def findings(self) -> list[Finding]:
        """Of the rules, less what engine and image are to blame for."""
        found = preflight.check(self.spec, self.seen, all_steps())
        return [f for f in found if not f.where.startswith(("image of", "fake"))]

    @property
    def told(self) -> list[tuple[str, str, str]]:
        return [(f.severity, f.where, f.what) for f in self.findings]


def launch(
    spec_of: SpecOf, name: str, release: str, given: list[Artifact], *said: str, flavour: str = "cuda", **changes: Any
) -> Launch:
    """A launch of rl/nemo_rl/NAME on eight GPUs (one process on cpu), planned as flow.prepare does."""
    entry = lock().entries[f"nemo-rl/{release}-{flavour}"]
    step = step_of(name if "/" in name else f"rl/nemo_rl/{name}")
    program = commands.choose_command(step, entry).program
    base, over = (
        commands.base_config(step, entry),
        [(n, definitions.overlay(step, n)) for n in changes.pop("over", ["default"])],
    )
    step = releases.at_release(step, entry)
    artifacts = {a.name: a for a in given}
    asked = arguments.parse(step, (*(f"{a.name}={a.path}" for a in given), *said, "output=/data/out"))
    shape = {"gpus": 8, "procs": 8} if flavour == "cuda" else {"gpus": 0, "procs": 1}
    spec = spec_of(
        step=step, entry=entry, program=program, base=base, overlays=over, words=asked,
        wired=releases.wired(step, artifacts), conflicts=refused(step.id, entry.name),
        **(shape | changes),
    )  # fmt: skip
    spec = config_values.with_backend(spec)
    seen = seen_of(artifacts=artifacts, output=output_of(), engine=engine_of(gpus=8, nodes=True))
    return Launch(spec, seen, make_plan(spec, seen, {}))
