"""What an input holds against what the step, at its release, can take of it: quantized weights, adapters. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import UNSET

from launcher.artifacts.detection import Artifact
from launcher.catalog.definitions import Input
from launcher.core.plan import LaunchSpec, Probed
from launcher.planning.checks import config_values, parallelism
from launcher.planning.checks.config_values import Known
from slipway.errors import Exit
from slipway.findings import Finding, error, warning
from slipway.resolver import ABSENT, Leaf

# The least that a library takes; NeMo RL and Megatron-Bridge never validate with 0.
ONE = ("max_steps", "epochs", "checkpoint_every", "lora_rank", "pack_size", "calibration_samples", "max_tokens",
       "shard_tokens", "workers")  # fmt: skip
LEAST = dict.fromkeys(ONE, 1)
LEAST["validate_every"] = 0
RENDERED = ("chat_jsonl", "prompt_jsonl", "preference_jsonl")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check(spec: LaunchSpec, seen: Probed) -> list[Finding]:
    """Every finding."""
    known = config_values.settings(spec)
    found = [*_quantized(spec, seen), *_adapters(spec, seen), *_templates(spec, seen)]
    return [*found, *_packed(spec, seen), *_numbers(spec, seen, known)]


def loads_weights(name: str, asked: Input) -> bool:
    """Whether the step loads the weights of an input, and not its configuration and tokenizer alone."""
    return name != "config" and "tokenizer_hf" not in asked.types


def _quantized(spec: LaunchSpec, seen: Probed) -> Iterator[Finding]:
    for found in (a for a in seen.artifacts.values() if a.weights.quantized and a.name in spec.step.inputs):
        asked, method = spec.step.inputs[found.name], found.weights.quantized
        where = f"{found.name}={found.path}"
        if "tokenizer_hf" in asked.types:
            continue
        if not loads_weights(found.name, asked):
            what = f"its config.json says that weights are quantized ({method}); those that are written are not"
            yield warning(where, what, "name the unquantized model, or take quantization_config out of what is written")
        elif method in asked.quantized:
            yield warning(where, f"its weights are quantized ({method}): {asked.quantized[method]}")
        else:
            what = f"its weights are quantized ({method}), which {spec.step.id} cannot start from"
            yield error(Exit.DATA, where, what, "name the model that it was made of, in bfloat16 or float32")


def _packed(spec: LaunchSpec, seen: Probed) -> Iterator[Finding]:
    """Most step programs unpack gzip alone: Python in the images has no module for zstd (slipway_inputs)."""
    for found in (a for a in seen.artifacts.values() if a.data.zstd):
        if found.name in spec.step.inputs and spec.step.inputs[found.name].zstd:
            continue
        what = f"is packed with zstd, which {spec.step.id} does not read"
        yield error(Exit.DATA, f"{found.name}={found.path}", what, "unpack it (zstd -d), or pack it with gzip")


def _templates(spec: LaunchSpec, seen: Probed) -> Iterator[Finding]:
    """Rows are rendered by the tokenizer's chat template; Mistral's own tokenizer (tekken.json) has none."""
    chats = [a for a in seen.artifacts.values() if a.type in RENDERED]
    by_name = any(p.instead_of for p in spec.step.parameters.values())  # rows of a data set that the library knows
    named = spec.wired.paths.get(spec.step.template, spec.step.template)
    found = seen.artifacts.get(named)
    if not found or found.type not in ("checkpoint_hf", "tokenizer_hf") or found.tokenizer.tekken:
        return
    if not chats and not by_name:
        return
    where = f"{named}={found.path}"
    said = [config_values.value_of(spec, key) for key in spec.step.template_keys]
    if any(value is not None and value is not ABSENT and value not in (UNSET, "default") for value in said):
        return
    if found.tokenizer.vocabulary and not found.tokenizer.template:
        what = f"has no chat template, by which {spec.step.id} renders {_rendered(chats)}: a base model has none"
        more = f", or say {spec.step.template_keys[0]}=TEMPLATE" if spec.step.template_keys else ""
        yield error(Exit.DATA, where, what, f"name an instruct model, put a chat_template.jinja into its folder{more}")
    for rows in chats:
        if found.tokenizer.template and rows.data.tools and not found.tokenizer.renders_tools:
            what = f"its chat template does not name `tools`, which {rows.name}={rows.path} has: they are left out"
            yield warning(where, what, "take a model for tool calls, or a template that renders them")


def _rendered(rows: list[Artifact]) -> str:
    kinds = {"prompt_jsonl": "prompts", "preference_jsonl": "preferences"}
    return next((kinds[a.type] for a in rows if a.type in kinds), "conversations" if rows else "rows")


def _numbers(spec: LaunchSpec, seen: Probed, known: Known) -> Iterator[Finding]:
    """What was asked for against what there is."""
    start = parallelism.model(spec, seen)
    length, most = known.get("sequence_length"), start.sizes.positions if start else 0
    if start and length and most and length > most:
        what = f"is beyond the {most} positions of {start.name}={start.path} (max_position_embeddings)"
        word = config_values.word(spec.step, "sequence_length")
        remedy = f"{word}={most}, or a model for longer texts"
        if _asked_for(spec, spec.step.roles["sequence_length"]):
            yield error(Exit.DATA, f"{word}={length}", what, remedy)
        else:  # texts may be as short as the model
            yield warning(f"{word}={length}", f"{what}, and is the step's own default", remedy)
    yield from _signs(spec)
    yield from _rows(spec, seen, known)


def _asked_for(spec: LaunchSpec, key: str) -> bool:
    """Whether a word or a `-c` of this launch has set the key, and not the step's default or its base."""
    node = spec.config.at(key)
    return isinstance(node, Leaf) and (node.by.startswith("-c ") or node.by.endswith("="))


def _signs(spec: LaunchSpec) -> Iterator[Finding]:
    """Numbers that no step takes, and a learning rate that nobody has meant."""
    for name, value in spec.words.parameters.items():
        if type(value) is int and value < LEAST.get(name, value):
            yield error(Exit.WORDS, f"{name}={value}", f"is no whole number from {LEAST[name]} on")
        if name == "learning_rate" and isinstance(value, int | float):
            if value < 0:
                yield error(Exit.WORDS, f"{name}={value}", "is below 0")
            elif value == 0:  # as a check that nothing else changes weights
                yield warning(f"{name}={value}", "nothing is learned with it")
            elif value >= 1:
                what = "is 1 or more: usual are 1e-6 to 1e-3, and nothing is learned with this"
                yield error(Exit.WORDS, f"{name}={value}", what, f"such as {name}=1e-5")


def _rows(spec: LaunchSpec, seen: Probed, known: Known) -> Iterator[Finding]:
    """Rows of the training data against batch and steps, where all of them were counted."""
    rows = seen.artifacts.get("train")
    batch = known.get("global_batch")
    if not rows or not batch or not rows.data.rows:
        return
    count, where = rows.data.rows, f"{rows.name}={rows.path}"
    word = config_values.word(spec.step, "global_batch")
    if batch > count:
        what = f"has {count:,} rows, fewer than one batch of {batch:,}, which is never full: {word}={count} at most"
        yield warning(where, what)
        return
    steps, epochs = spec.words.parameters.get("max_steps"), _epochs(spec)
    if isinstance(steps, int) and epochs and steps > (possible := epochs * -(-count // batch)):
        what = f"{steps:,} steps asked for, {possible:,} possible: {epochs} x {count:,} rows / {batch:,} a batch"
        yield warning(where, f"{what}; epochs={-(-steps * batch // count)} for as many")


def _epochs(spec: LaunchSpec) -> int:
    """Passes over the data after which the step ends whatever max_steps says; 0 where nothing says so."""
    if "epochs" not in spec.step.parameters:
        return 0
    said = [config_values.value_of(spec, key) for key in spec.step.parameters["epochs"].keys]
    return next((v for v in said if type(v) is int and v > 0), 0)


def _adapters(spec: LaunchSpec, seen: Probed) -> Iterator[Finding]:
    base = seen.artifacts.get("base")
    for adapter in (a for a in seen.artifacts.values() if a.type == "checkpoint_lora" and a.name in spec.step.inputs):
        where = f"{adapter.name}={adapter.path}"
        if spec.step.inputs[adapter.name].plain and (more := adapter.adapter.beyond):
            what = f"is more than a plain LoRA: {more}; {spec.step.id} merges nothing else"
            yield error(Exit.DATA, where, what, "merge it with the program that trained it: merge_and_unload()")
        yield from _other_base(where, adapter, base)


def _other_base(where: str, adapter: Artifact, base: Artifact | None) -> Iterator[Finding]:
    """Of two names on the hub; fingerprints are compared in parallelism.py."""
    named = adapter.adapter.base
    given = base.hub.removeprefix("hf://").partition("@")[0] if base else ""
    if given and HUB_NAME.fullmatch(named) and named.lower() != given.lower():
        yield warning(where, f"names {named} as the model that it was trained on; base= is {given}")
