"""What the configuration of a launch says, as far as it is known: by key, and by what a key means (a role). Pure.

A value counts where the launcher sees it: overlays, parameters, overrides, and the base: ours, or that of the image as
its record says. What a base in an image says that has no such record is unknown here and never guessed.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from launcher.catalog.definitions import Parameter, Step
from launcher.catalog.words import Role
from launcher.core.plan import LaunchSpec
from slipway.resolver import ABSENT, UNKNOWN, Configuration, Leaf, Mark, Node, Section, plain

COUNTS: tuple[Role, ...] = (
    "global_batch", "eval_batch", "micro_batch", "sequence_length", "tensor_parallel", "pipeline_parallel",
    "context_parallel", "expert_parallel", "expert_tensor_parallel", "adapter_rank", "reward_gpus", "reward_nodes",
    "generation_gpus", "generation_nodes", "prompts", "generations",
)  # fmt: skip
SIZES: tuple[Role, ...] = (*COUNTS[4:9], "sequence_parallel")
PARALLEL: tuple[Role, ...] = ("tensor_parallel", "pipeline_parallel", "context_parallel")
REFERENCE = re.compile(r"\$\{(\.*)([\w.]+)\}")
Known = dict[Role, Any]  # role -> value; absent where it is unknown


def with_backend(spec: LaunchSpec) -> LaunchSpec:
    """The spec with the roles of the one backend that is switched on, so that rules know them."""
    on = [b for b in spec.step.backends.values() if value_of(spec, b.enabled) is True]
    if len(on) != 1:
        return spec
    step = msgspec.structs.replace(spec.step, roles=spec.step.roles | on[0].roles)
    return msgspec.structs.replace(spec, step=step)


def settings(spec: LaunchSpec) -> Known:
    """The values of the step's roles. What is null, or no number where one has to be, is as good as unknown.

    A parallel size that is known not to be named is 1.
    """
    said = merged(spec)
    ones = {r: 1 for r in PARALLEL if r in spec.step.roles and said_of(spec.config, spec.step.roles[r]) is ABSENT}
    return ones | {r: v for r, v in said.items() if v is not None and (r not in COUNTS or (type(v) is int and v > 0))}


def merged(spec: LaunchSpec) -> Known:
    """The values of the step's roles, merged as the step program merges them; absent where nothing says it."""
    found = {role: value_of(spec, key) for role, key in spec.step.roles.items()}
    return {role: value for role, value in found.items() if value is not msgspec.UNSET}


def value_of(spec: LaunchSpec, key: str) -> Any:
    """What a configuration key will be, as the step program merges it; UNSET where nothing here says it.

    Where it is known that nothing at all says it, it is what the library takes then, as far as step.yaml states that.
    """
    node = said_of(spec.config, key)
    if node is ABSENT:
        return spec.step.unsaid.get(key, msgspec.UNSET)
    return msgspec.UNSET if isinstance(node, Mark) else plain(node)


def said_of(config: Configuration, key: str, hops: int = 8) -> Node:
    """What stands at a dotted key, or at that other one which it, or a mapping above it, is said to be.

    `${a.b}` is the key a.b, `${.b}` one beside it, `${..b}` one above (OmegaConf's grammar); what else is in ${} is
    unknown.
    """
    node: Node = config.root
    parts = key.split(".")
    for depth, name in enumerate(parts):
        node = node.get(name) if isinstance(node, Section) else node if isinstance(node, Mark) else ABSENT
        if isinstance(node, Leaf) and isinstance(node.value, str) and "${" in node.value:
            found = REFERENCE.fullmatch(node.value)
            if not found or not hops:
                return UNKNOWN
            above = parts[: depth + 1 - len(found[1])] if found[1] else []
            return said_of(config, ".".join([*above, found[2], *parts[depth + 1 :]]), hops - 1)
    return node


def base_unknown(spec: LaunchSpec) -> bool:
    """Whether the base is a file that is not known here."""
    return "path" in spec.base and (bool(spec.hidden) or spec.in_image is None or spec.in_image.values is None)


def word(step: Step, role: Role) -> str:
    """What sets a role on the command line: the parameter, else the key."""
    key = step.roles[role]
    return next((n for n, p in step.parameters.items() if key in p.keys), key)


def setting(spec: LaunchSpec, key: str) -> str:
    """`parameter=value` or `key=value`, whichever words say it."""
    names = [n for n, p in spec.step.parameters.items() if n in spec.words.parameters and key in {*p.keys, *_of(p)}]
    if names:
        return f"{names[0]}={str(spec.words.parameters[names[0]]).lower()}"
    return f"{key}={str(value_of(spec, key)).lower()}"


def _of(parameter: Parameter) -> set[str]:
    return {key for sets in parameter.values.values() for key in sets}


def world_size(spec: LaunchSpec) -> int:
    """Processes of the run."""
    return spec.nodes * spec.procs if spec.step.launcher != "python" else 1


def sizes(spec: LaunchSpec, known: Known) -> dict[str, int] | None:
    """Tensor, pipeline and context parallel size; 1 where the step knows no such thing, None where one is unknown."""
    found = {r.partition("_")[0]: known.get(r) if r in spec.step.roles else 1 for r in PARALLEL}
    return None if None in found.values() else found  # type: ignore[return-value]
