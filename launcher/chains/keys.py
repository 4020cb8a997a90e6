"""What decides what a step of a pipeline makes: by it a run of before stands for a step, or does not, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from launcher.artifacts.detection import Artifact
from launcher.core.plan import Plan
from launcher.planning.planner import container_paths
from launcher.prerequisites.requirements import OWN
from slipway import canonical

SHOWN = 40  # characters of a value


def parts(plan: Plan) -> dict[str, str]:
    """What decides what comes out, in words and values; where it runs, and on how many GPUs, is none of it.

    Inputs that steps make have those steps' keys for fingerprints, so that a chain is compared before it is there.
    """
    paths = {path: f"{name}=" for name, path in container_paths(plan.inputs).items()}
    config = plan.config
    found = {
        "step": plan.step,
        "image": f"{plan.library}/{plan.release}-{plan.flavour} {plan.entry[:12]}",
        "program": canonical.sha256({n: sha for n, sha in plan.files.items() if n.startswith("steps/")}),
        "command": " ".join([*plan.command, config.get("script", "")]),
        "base configuration": canonical.sha256(config["base"]),
        "removal of keys": canonical.sha256(config["remove"]),
    }
    found |= {"drifted image": plan.image} if plan.allow_drift else {}
    found |= {f"input {name}": artifact.fingerprint for name, artifact in plan.inputs.items()}
    found |= {f"configuration {x['name']}": canonical.sha256(x["values"]) for x in config["layers"] if x["values"]}
    found |= {key: _text(paths.get(value, value) if isinstance(value, str) else value) for key, value in config["set"]}
    found |= {f"variable {name}": v.value for name, v in plan.env.items() if v.by == "command line"}
    return found | {f"code {name}": f"{code.commit}{code.diff or ''}" for name, code in plan.code.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def key(of: Mapping[str, str]) -> str:
    """sha256 (hex) of the parts."""
    return canonical.sha256(dict(of))


def changes(before: Mapping[str, str], now: Mapping[str, str], steps: Mapping[str, str]) -> Iterator[str]:
    """What has changed, in words. `steps`: input -> the step that makes it."""
    for name in [*now, *(n for n in before if n not in now)]:
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        input_ = name.removeprefix("input ")
        if name != input_ and input_ in steps:
            yield f"{name}: steps.{steps[input_]} makes another"
        elif name != input_ or _is_hash(old) or _is_hash(new):
            yield f"{name} {'has changed' if old and new else 'is new' if new else 'is gone'}"
        else:
            yield f"{name}: {_short(old)} -> {_short(new)}"


def _is_hash(text: str | None) -> bool:
    return text is not None and len(text) == 64 and set(text) <= set("0123456789abcdef")


def _short(text: str | None) -> str:
    return "nothing" if text is None else text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def predicted(name: str, plan: Plan, of_key: str, path: str, below: str) -> Artifact:
    """What a step will have made, as an input of that name: of the sizes, and with the tokenizer, of its own model.

    `below`: what of it is named. Its fingerprint is the step's key.
    """
    none = Artifact(name="", path="", kind="missing")
    given = plan.inputs.values() if plan.output_type.startswith("checkpoint_") else ()
    like = next((a for a in given if a.sizes.architecture), none)
    whole = plan.output_type != "checkpoint_lora" and not like.weights.quantized
    return Artifact(
        name=name, path=path, kind="file" if "." in below.rpartition("/")[2] else "folder", type=plan.output_type,
        fingerprint=canonical.sha256([of_key, below]) if below else of_key,
        expected=like.path or path, tokenizer=like.tokenizer, sizes=msgspec.structs.replace(like.sizes, **OWN),
        bytes=like.bytes if whole else 0, parameters=like.parameters if whole else 0,
    )  # fmt: skip
