"""Whether inputs, configuration and shape fit each other, before anything runs. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from launcher.artifacts.detection import Artifact
from launcher.catalog.commands import matches
from launcher.catalog.definitions import Step
from launcher.catalog.words import ArtifactType, Role
from launcher.core.plan import LaunchSpec, Probed
from launcher.planning.checks.config_values import (
    COUNTS,
    SIZES,
    Known,
    base_unknown,
    merged,
    settings,
    sizes,
    word,
    world_size,
)
from slipway.errors import Exit
from slipway.findings import Finding, error, warning

# https://developer.nvidia.com/cuda-gpus
CAPABILITY = {
    "A10": 8.6, "A100": 8.0, "A30": 8.0, "A40": 8.6, "B200": 10.0, "B300": 10.3, "GB200": 10.0, "GB300": 10.3,
    "GH200": 9.0, "H100": 9.0, "H20": 9.0, "H200": 9.0, "L4": 8.9, "L40": 8.9, "L40S": 8.9, "RTX PRO 6000": 12.0,
    "V100": 7.0,
}  # fmt: skip
# What Transformer Engine asks of the GPU, the narrowest format first: a word in the configuration -> capability.
FORMATS = {"mxfp8": (10.0, "Blackwell"), "fp4": (10.0, "Blackwell"), "fp8": (8.9, "Ada, Hopper or newer")}
LAYOUT_OF = {"checkpoint_hf": "hf_peft", "checkpoint_megatron": "megatron_bridge"}
# How an adapter names its base: by the mount, whose name ends in the fingerprint, or by the whole fingerprint.
BASE = re.compile(r"(?:/inputs/[^/]+-(?=[0-9a-f]{8}(?:/|$))|(?=(?:[0-9a-f]{40}|[0-9a-f]{64})$))([0-9a-f]{8})")


def check(spec: LaunchSpec, seen: Probed) -> list[Finding]:
    """Every finding: numbers that are none, tokenizers, adapters, packing, shape, batches, hardware."""
    known, start = settings(spec), model(spec, seen)
    findings = [
        *_counts(spec, known),
        *_tokenizers(seen),
        *_old_transformers(spec, seen),
        *_adapters(spec, seen),
        *_packing(spec, seen, known),
    ]
    findings += [] if spec.step.launcher == "ray" else _shape(spec, known)
    findings += [*_sequence(spec, known), *_shared_rows(spec, seen, known, start)]
    if start:
        findings += _parts(spec, known, start)
    findings += [] if spec.step.launcher == "ray" else _batches(spec, known)
    return [*findings, *_hardware(spec, known)]


def notes(spec: LaunchSpec) -> list[str]:
    """What became of the shape, and what could not be looked at: it stands in a base configuration in the image."""
    known = settings(spec)
    said = [_shape_note(spec, known)] if world_size(spec) > 1 else []
    unknown = [key for role, key in spec.step.roles.items() if role in COUNTS and role not in known]
    if base_unknown(spec) and unknown:
        where = spec.hidden or f"the image's {spec.base['path']}"
        said.append(f"note: not checked, only {where} may say it: {', '.join(unknown)}")
    return said


def taken(seen: Probed) -> list[str]:
    """Which checkpoint stands for an output that was named."""
    found = [a for a in seen.artifacts.values() if a.taken]
    return [f"note: {a.name}: the last checkpoint is taken: {a.taken}{_real(a)}" for a in found]


def expected(spec: LaunchSpec, seen: Probed) -> list[str]:
    """What an input that a step makes first is taken to be."""
    made = [(need, seen.artifacts[need.input].expected) for need in spec.needs]
    known = "makes it first; sizes and tokenizer are taken to be those of"
    return [f"note: {need.input}: {need.by} {known} {path}" for need, path in made if path]


def _real(found: Artifact) -> str:
    return f" ({found.path})" if found.path != found.taken else ""


def _shape_note(spec: LaunchSpec, known: Known) -> str:
    """The shape as torchrun's arguments and as the library's keys, and what is left for data parallelism."""
    world, shape = world_size(spec), sizes(spec, known)
    text = f"shape: torchrun --nnodes={spec.nodes} --nproc-per-node={spec.procs}: {world} processes"
    if spec.step.launcher == "ray":
        head = ", and a node for its head" if spec.dedicated_head else ""
        text = f"shape: Ray with {spec.nodes} x {spec.procs} workers{head}"
    keys = [f"{key}={known[role]}" for role, key in spec.step.roles.items() if role in known and role in SIZES]
    text += f"; {', '.join(keys)}" if keys else ""
    if shape and "micro_batch" in spec.step.roles and world % math.prod(shape.values()) == 0:
        data = world // math.prod(shape.values())
        text += f"; data parallel {data}"
        batch, micro = known.get("global_batch"), known.get("micro_batch")
        if batch and micro and batch % (data * micro) == 0:
            text += f"; a batch of {batch} is {data} x {micro} x {batch // (data * micro)} accumulated"
    return text


def converting(steps: Sequence[Step], found: Artifact, wanted: Sequence[str]) -> tuple[Step, str] | None:
    """The step that makes one of the `wanted` types of what was found, and its input for that; None if no step does.

    A step converts where its first input takes the found type, and its output is of the same family: a checkpoint of a
    checkpoint, data of data. Training, which may go on from what it has saved, is no conversion; nor is what gives the
    type that it is given.
    """
    for step in (s for s in steps if s.inputs and not s.resume):
        name, first = next(iter(step.inputs.items()))
        families = {t.startswith("checkpoint_") for t in (found.type, step.output.type)}
        layout = found.adapter.layout
        other = step.output.type in first.types or (layout and first.layouts and layout not in first.layouts)
        if found.type in first.types and step.output.type in wanted and len(families) == 1 and not other:
            return step, name
    return None


def says_all(step: Step) -> bool:
    """Whether `--convert` may run it: how data are packed is a choice, which the launch that needs them cannot say."""
    return step.output.type.startswith("checkpoint_")


def converter(steps: Sequence[Step], found: Artifact, wanted: Sequence[str]) -> str:
    """The command that makes one of the `wanted` types of what was found; empty if no step does."""
    if (pair := converting(steps, found, wanted)) is None:
        return ""
    step, name = pair
    more = "".join(f" {n}=PATH" for n, i in step.inputs.items() if n != name and not i.optional)
    first = f"run first: launch {step.id} {name}={found.path}{more} output=NEW; then say {found.name}=NEW"
    return f"say --convert, or {first}" if says_all(step) else first


def model(spec: LaunchSpec, seen: Probed) -> Artifact | None:
    """The checkpoint that the step starts from, where its sizes are known; a teacher's or a tokenizer's is none."""
    own = [n for n, i in spec.step.inputs.items() if not i.frozen and n != "tokenizer"]
    given = [seen.artifacts[n] for n in own if n in seen.artifacts]
    return next((a for a in given if a.sizes.layers), None)


def _counts(spec: LaunchSpec, known: Known) -> Iterator[Finding]:
    for role, value in merged(spec).items():
        if role not in known and value is not None:
            yield _wrong(spec, role, value, "is no whole number from 1 on")


def _wrong(spec: LaunchSpec, role: Role, value: Any, what: str, remedy: str = "", code: Exit = Exit.WORDS) -> Finding:
    return error(code, f"{word(spec.step, role)}={str(value).lower()}", what, remedy)


def _of_type(seen: Probed, type_: ArtifactType) -> list[Artifact]:
    return [a for a in seen.artifacts.values() if a.type == type_]


def _tokenizers(seen: Probed) -> Iterator[Finding]:
    given = seen.artifacts.get("tokenizer") or seen.artifacts.get("model")
    for rows in _of_type(seen, "packed_parquet"):
        if given is None or not given.tokenizer.vocabulary:
            continue
        for packed, named, other in (
            (rows.packing.tokenizer, given.tokenizer.vocabulary, "another tokenizer"),
            (rows.packing.template, given.tokenizer.template or "none", "another chat template"),
        ):
            if packed and packed != named:
                what = f"{rows.name}={rows.path} was packed with {other}: sha256 {packed[:12]}, here {named[:12]}"
                remedy = f"name the one it was packed with: {given.name}=PATH, or pack again: data_prep/sft_packing"
                yield error(Exit.DATA, f"{given.name}={given.path}", what, remedy)


def _old_transformers(spec: LaunchSpec, seen: Probed) -> Iterator[Finding]:
    """A tokenizer whose class the image's transformers does not know, which is a ValueError once it is loaded."""
    from packaging.specifiers import SpecifierSet

    newer = [a for a in seen.artifacts.values() if a.tokenizer.needs_class]
    claim = spec.entry.components.get("transformers")
    if newer and matches(claim, SpecifierSet("<5")):
        for found in newer:
            named = found.tokenizer.needs_class
            what = f"its tokenizer was saved by transformers 5 (tokenizer_class {named}), {spec.entry.name} has {claim}"
            remedy = "say PreTrainedTokenizerFast in a copy's tokenizer_config.json, or take a newer --release"
            yield error(Exit.DATA, f"{found.name}={found.path}", what, remedy)


def _adapters(spec: LaunchSpec, seen: Probed) -> Iterator[Finding]:
    base = seen.artifacts.get("base")
    for adapter in _of_type(seen, "checkpoint_lora"):
        where, layout = f"{adapter.name}={adapter.path}", adapter.adapter.layout
        reads = spec.step.inputs[adapter.name].layouts if adapter.name in spec.step.inputs else []
        if layout and reads and layout not in reads:
            yield error(Exit.DATA, where, f"is an adapter of layout {layout}; {spec.step.id} reads {', '.join(reads)}")
        trained = BASE.match(adapter.adapter.base)
        # The base in another format has another fingerprint anyway, which says nothing.
        if base and trained and LAYOUT_OF.get(base.type) == layout and trained[1] != base.fingerprint[:8]:
            what = f"was trained on the model {trained[1]}, base={base.path} is {base.fingerprint[:8]}"
            yield error(Exit.DATA, where, what, "name the model that it was trained on: base=PATH")


def _packing(spec: LaunchSpec, seen: Probed, known: Known) -> Iterator[Finding]:
    length, micro = known.get("sequence_length"), known.get("micro_batch", 1)
    for rows in _of_type(seen, "packed_parquet"):
        size, where = rows.packing.size or length, f"{rows.name}={rows.path}"
        if length and size != length:
            remedy = f"{word(spec.step, 'sequence_length')}={size}, or pack again with pack_size={length}"
            what = f"{where} was packed with {size} tokens a row"
            yield _wrong(spec, "sequence_length", length, what, remedy, Exit.DATA)
        if micro != 1:
            remedy = f"{word(spec.step, 'micro_batch')}=1"
            yield _wrong(spec, "micro_batch", micro, f"{where}: packed rows are trained one by one", remedy, Exit.DATA)


def _shape(spec: LaunchSpec, known: Known) -> Iterator[Finding]:
    world, shape = world_size(spec), sizes(spec, known)
    if not shape:
        return
    processes, names = f"{world} process{'es' if world > 1 else ''}", " x ".join(f"{n} {s}" for n, s in shape.items())
    if world % (share := math.prod(shape.values())):
        remedy = "choose sizes whose product divides the processes, or other processes: --gpus, --procs"
        yield error(Exit.WORDS, "shape", f"{processes} cannot be shared by {names} = {share}", remedy)
    experts = known.get("expert_parallel", 1) * known.get("expert_tensor_parallel", 1)
    if experts > 1 and world % (share := experts * shape["pipeline"]):
        what = f"{processes} cannot be shared by expert {experts} x pipeline {shape['pipeline']} = {share}"
        yield _wrong(spec, "expert_parallel", known.get("expert_parallel", 1), what)


def _sequence(spec: LaunchSpec, known: Known) -> Iterator[Finding]:
    context, length = known.get("context_parallel", 1), known.get("sequence_length", 0)
    if known.get("sequence_parallel") is True and known.get("tensor_parallel") == 1:
        remedy = f"{word(spec.step, 'sequence_parallel')}=false, or {word(spec.step, 'tensor_parallel')}=2"
        yield _wrong(spec, "sequence_parallel", True, "needs a tensor parallel size above 1", remedy)
    if context > 1 and length % (2 * context):
        yield _wrong(
            spec, "sequence_length", length, f"is no multiple of 2 x the context parallel size = {2 * context}"
        )


def _shared_rows(spec: LaunchSpec, seen: Probed, known: Known, start: Artifact | None) -> Iterator[Finding]:
    """What Megatron-Bridge asserts, beside the length, of rows that several processes share (context parallelism).

    Read in its ConfigContainer.validate() and _validate_cp_comm_type() at v0.4.0, v0.5.1 and v0.6.0, where fine-tuning
    has the first two alone; and of packed rows in _partition_packed_batch_for_cp (gpt_step.py), which cuts each of
    their conversations into twice as many parts as there are processes. Of a loss per token the checkpoint knows, too.
    """
    context, roles = known.get("context_parallel", 1), spec.step.roles
    if context > 1 and (key := roles.get("per_token_loss")):
        named = known.get("per_token_loss", start.sizes.per_token_loss if start else None)
        if named is False:
            what = f"needs {key}=true in fine-tuning: a process's part of a row may have no token to learn"
            yield _wrong(spec, "context_parallel", context, what, f"{key}=true")
        if known.get("averaged_gradients") is True:
            what = f"cannot be with {roles['averaged_gradients']}=true, a mean over processes, in fine-tuning"
            yield _wrong(spec, "context_parallel", context, what, f"{roles['averaged_gradients']}=false")
    for rows in _of_type(seen, "packed_parquet"):
        if context > 1 and (padded := rows.packing.multiple) % (2 * context):
            where = f"{rows.name}={rows.path}"
            what = f"{where} was packed with conversations of a multiple of {padded} tokens, expected {2 * context}"
            remedy = f"pack again with pad_to_multiple_of={2 * context}"
            yield _wrong(spec, "context_parallel", context, what, remedy, Exit.DATA)
    exchange, levels = known.get("context_exchange"), known.get("context_levels")
    layers = start.sizes.layers if start else None
    if context > 1 and isinstance(exchange, list) and layers and len(exchange) != layers:
        remedy = f"one for all: {roles['context_exchange']}={exchange[0] if exchange else 'p2p'}"
        yield _wrong(
            spec, "context_exchange", exchange, f"names {len(exchange)} of the model's {layers} layers", remedy
        )
    if "a2a+p2p" in (exchange if isinstance(exchange, list) else [exchange]) and levels is None:
        remedy = f"such as {roles['context_levels']}=[{context},1]"
        yield _wrong(spec, "context_exchange", exchange, f"needs {roles['context_levels']}, sizes of both", remedy)
    if isinstance(levels, list) and all(type(n) is int for n in levels) and math.prod(levels) != context:
        what = f"has the product {math.prod(levels)}, expected the context parallel size = {context}"
        yield _wrong(spec, "context_levels", levels, what, f"such as {roles['context_levels']}=[{context},1]")


def _parts(spec: LaunchSpec, known: Known, start: Artifact) -> Iterator[Finding]:
    """What of the model has to be shared evenly."""
    heads, experts = start.sizes.heads, start.sizes.experts
    tensor, expert = known.get("tensor_parallel", 1), known.get("expert_parallel", 1)
    if heads % tensor:
        yield _wrong(spec, "tensor_parallel", tensor, f"does not divide the model's {heads} attention heads")
    if experts % expert:
        yield _wrong(spec, "expert_parallel", expert, f"does not divide the model's {experts} experts")
    if expert > 1 and not experts and start.type == "checkpoint_megatron":
        yield _wrong(spec, "expert_parallel", expert, f"{start.name}={start.path} has no experts")
    if experts and tensor > 1 and known.get("sequence_parallel") is False:
        what = "cannot be for a model with experts and a tensor parallel size above 1"
        yield _wrong(spec, "sequence_parallel", False, what, f"{word(spec.step, 'sequence_parallel')}=true")


def _batches(spec: LaunchSpec, known: Known) -> Iterator[Finding]:
    shape, micro = sizes(spec, known), known.get("micro_batch")
    if not shape or not micro or world_size(spec) % math.prod(shape.values()):
        return
    data = world_size(spec) // math.prod(shape.values())
    unit, roles = micro * data, list[Role](["global_batch", "eval_batch"])
    if "validation" in spec.step.inputs and "validation" not in spec.words.inputs:
        roles.pop()
    for role in roles:
        if (batch := known.get(role, 0)) % unit:
            what = f"is no multiple of {micro} (batch of a process) x {data} (data parallel) = {unit}"
            near = {max(batch // unit, 1) * unit, (batch // unit + 1) * unit}
            remedy = " or ".join(f"{word(spec.step, role)}={n}" for n in sorted(near))
            yield _wrong(spec, role, batch, what, f"such as {remedy}")


def _hardware(spec: LaunchSpec, known: Known) -> Iterator[Finding]:
    gpu, roles = spec.profile.gpu, list[Role](["precision", "quantization"])
    if not gpu or spec.entry.flavour != "cuda":
        return
    for role in roles:
        text = _format(spec.step.roles.get(role, ""), known.get(role))
        name = next((n for n in FORMATS if n in text), "")
        if name and CAPABILITY[gpu.model] < FORMATS[name][0]:
            what = f"{text} needs {FORMATS[name][1]}; the profile's GPU is {gpu.model}"
            yield warning(f"{spec.profile.file}: gpu", what, "choose another type, or a profile with such GPUs")


def _format(key: str, value: Any) -> str:
    """Key and value in one text; of Megatron-Bridge's MixedPrecisionConfig what it says of fp8 and fp4."""
    if isinstance(value, dict):
        chosen = ("fp8", "fp4", "fp8_recipe") if value.get("fp8") or value.get("fp4") else ()
        value = " ".join(f"{k} {value[k]}" for k in chosen if value.get(k))
    return f"{key}={value}".lower() if value else ""
