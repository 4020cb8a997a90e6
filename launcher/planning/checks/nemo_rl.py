"""Reinforcement learning: whether backend, cluster, batches and data fit each other at the release at hand. Pure.

What NeMo RL asserts itself, minutes into the job, is in tables (conflicts.py) as far as they can say it. Here is what
takes arithmetic: shares of the cluster (grpo.py's setup), batches (shard_by_batch_size); read at v0.4.0 to v0.7.0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec

from launcher.catalog.definitions import Cache
from launcher.core.plan import LaunchSpec, Probed
from launcher.planning.checks import config_values
from launcher.planning.checks.config_values import Known, setting, value_of, word
from slipway.errors import Exit
from slipway.findings import Finding, error, warning


def check(spec: LaunchSpec, seen: Probed) -> list[Finding]:
    """Every finding of a step that Ray starts, and of any step's wires."""
    findings = [*_missing(spec), *_columns(spec, seen), *_misnamed(spec), *_library_data(spec)]
    if spec.step.launcher != "ray":
        return findings
    known = config_values.settings(spec)
    training, wrong = _training_shape(spec, known)
    findings += [*_backends(spec, seen), *wrong, *_lengths(spec, known), *_vocabularies(seen)]
    return findings + (list(_batches(spec, known, training)) if training else [])


def _missing(spec: LaunchSpec) -> Iterator[Finding]:
    for name in dict.fromkeys(spec.wired.missing.values()):
        keys = ", ".join(k for k, n in spec.wired.missing.items() if n == name)
        yield error(
            Exit.WORDS, f"{name}=", f"is needed with these inputs ({keys})", f"{name}=PATH: {_help(spec, name)}"
        )


def _help(spec: LaunchSpec, name: str) -> str:
    return spec.step.inputs[name].help


def _columns(spec: LaunchSpec, seen: Probed) -> Iterator[Finding]:
    for name, found in seen.artifacts.items():
        plain = found.kind == "file" and not found.files and found.path.endswith((".jsonl", ".json"))
        if spec.step.inputs[name].one_file and found.type and not plain:
            remedy = "unpack or join them; data_prep/rl_prep makes one file of any number of shards"
            yield error(Exit.DATA, f"{name}={found.path}", "has to be one plain .jsonl file", remedy)
        there = found.data.columns
        absent = [c for c in spec.step.inputs[name].needs_columns if there is not None and c not in there]
        if absent:
            what = f"{spec.entry.name} needs the column {', '.join(absent)} in every row"
            yield error(Exit.DATA, f"{name}={found.path}", what, "launch data_prep/rl_prep writes it: task_name=math")


def _misnamed(spec: LaunchSpec) -> Iterator[Finding]:
    """A key that old documentation names, and that no release has; the library would not notice."""
    for old, new in spec.step.misnamed.items():
        for where, key in _keys_named(spec, old):
            remedy = f"the key is {key.replace(old, new)}"
            yield error(Exit.WORDS, where, f"{spec.step.library} has no {old} at any release", remedy)


def _keys_named(spec: LaunchSpec, part: str) -> Iterator[tuple[str, str]]:
    for key in spec.words.overrides:
        if part in key.split("."):
            yield key, key
    for name, layer in spec.overlays:
        yield from ((f"-c {name}", key) for key in _below(layer) if key.split(".")[-1] == part)


def _below(values: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{above}{key}"
        if isinstance(value, dict):
            yield from _below(value, f"{above}{key}.")


def _library_data(spec: LaunchSpec) -> Iterator[Finding]:
    """Data that the library knows by name is fetched by itself, and containers are offline."""
    for name, parameter in spec.step.parameters.items():
        if parameter.instead_of and parameter.instead_of not in spec.words.inputs:
            chosen = spec.words.parameters.get(name, "the one of the base configuration")
            what = (
                f"no {parameter.instead_of}=: the library's own data ({chosen}) have to be prepared in HF_HOME/datasets"
            )
            remedy = f"give {parameter.instead_of}=PATH, or call datasets.load_dataset where the hub can be reached"
            yield warning(f"{name}=", what, remedy)


def _backends(spec: LaunchSpec, seen: Probed) -> Iterator[Finding]:
    """A backend that starts from what is given."""
    on = [name for name, backend in spec.step.backends.items() if value_of(spec, backend.enabled) is True]
    if len(on) != 1:
        return
    backend = spec.step.backends[on[0]]
    if cache := spec.step.caches.get(on[0]):  # type: ignore[call-overload]
        yield from _cached(spec, cache)
    starts = [b for b in spec.step.backends.values() if b is not backend]
    taken = [a for n, a in seen.artifacts.items() if a.type in spec.step.inputs[n].types]
    for found in taken:
        if found.type in {t for b in starts for t in b.reads} and found.type not in backend.reads:
            other = next(n for n, b in spec.step.backends.items() if found.type in b.reads)
            what = f"backend {on[0]} does not read a {found.type}"
            yield error(Exit.CONFIG, f"{found.name}={found.path}", what, f"say backend={other}")


def _cached(spec: LaunchSpec, cache: Cache) -> Iterator[Finding]:
    """What would make the library convert by itself, on every node and without a lease."""
    for key in cache.forced_by:
        if value_of(spec, key) is True:
            what = "the library would convert by itself while others may read"
            yield error(Exit.CONFIG, setting(spec, key), what, "launch cache prune FOLDER, and leave this out")
    for key in cache.rekeyed_by:
        below = any(k.startswith(f"{key}.") for k in spec.words.overrides)
        if below or value_of(spec, key) not in (None, msgspec.UNSET, {}):
            what = "the library would look for a conversion of its own with these overrides"
            yield error(Exit.CONFIG, setting(spec, key), what, "write them into the config.json of a copy of the model")


def training_gpus(spec: LaunchSpec, known: Known) -> int:
    """GPUs that train; 0 where that is unknown, or wrong."""
    return _training_shape(spec, known)[0]


def _training_shape(spec: LaunchSpec, known: Known) -> tuple[int, list[Finding]]:
    """GPUs that train (0: unknown, or wrong), after those that only generate or judge; and what is wrong."""
    nodes, gpus = spec.nodes, spec.procs
    if known.get("reward_gpus") and nodes == 1:
        gpus -= known["reward_gpus"]
    elif known.get("reward_nodes"):
        nodes -= known["reward_nodes"]
    if nodes < 1 or gpus < 1:
        return 0, [error(Exit.WORDS, "shape", f"the reward model leaves {nodes} x {gpus} for training", _more(spec))]
    if known.get("colocated") is False:
        return _apart(spec, known, nodes, gpus)
    return nodes * gpus, list(_parallel(spec, known, nodes * gpus))


def _apart(spec: LaunchSpec, known: Known, nodes: int, gpus: int) -> tuple[int, list[Finding]]:
    """Generation has GPUs of its own: some of the one node, else whole nodes."""
    taken, whole = known.get("generation_gpus", 0), known.get("generation_nodes", 0)
    if nodes == 1 and not 0 < taken < gpus:
        what = f"generation apart takes some of the {gpus} GPUs of the node: from 1 to {gpus - 1}, not {taken or None}"
        return 0, [_resources(spec, "generation_gpus", what)]
    if nodes > 1 and not 0 < whole < nodes:
        what = f"generation apart takes some of the {nodes} nodes: from 1 to {nodes - 1}, not {whole or None}"
        return 0, [_resources(spec, "generation_nodes", what)]
    if nodes > 1 and taken != gpus:
        return 0, [_resources(spec, "generation_gpus", f"generation apart takes whole nodes: {gpus} GPUs of each")]
    training = (nodes - whole) * gpus if nodes > 1 else gpus - taken
    return training, list(_parallel(spec, known, training))


def _resources(spec: LaunchSpec, role: Any, what: str) -> Finding:
    return error(Exit.WORDS, spec.step.roles[role], what, f"set it, or {spec.step.roles['colocated']}=true")


def _parallel(spec: LaunchSpec, known: Known, training: int) -> Iterator[Finding]:
    shape = config_values.sizes(spec, known)
    if shape and training % (share := math.prod(shape.values())):
        names = " x ".join(f"{n} {s}" for n, s in shape.items())
        what = f"{training} GPUs that train cannot be shared by {names} = {share}"
        yield error(Exit.WORDS, "shape", what, _more(spec))


def _more(spec: LaunchSpec) -> str:
    return f"other --nodes or --gpus than {spec.nodes} x {spec.procs}, or other sizes"


def _lengths(spec: LaunchSpec, known: Known) -> Iterator[Finding]:
    new, whole = known.get("generation_length"), known.get("sequence_length")
    if isinstance(new, int) and whole and new > whole:
        what = f"is more than a whole sequence may have ({word(spec.step, 'sequence_length')}={whole})"
        yield error(Exit.WORDS, setting(spec, spec.step.roles["generation_length"]), what)


def _vocabularies(seen: Probed) -> Iterator[Finding]:
    """What a teacher says of a token counts for the same token of the student."""
    student, teacher = seen.artifacts.get("student"), seen.artifacts.get("teacher")
    named = [a.tokenizer.vocabulary for a in (student, teacher) if a]
    if student and teacher and all(named) and named[0] != named[1]:
        what = f"has another tokenizer than {student.name}={student.path}"
        yield error(Exit.DATA, f"{teacher.name}={teacher.path}", what, "distil from a model of the same family")


def _batches(spec: LaunchSpec, known: Known, training: int) -> Iterator[Finding]:
    """A step's rows are cut into training batches, each of which is shared by the data parallel processes."""
    batch, shape = known.get("global_batch"), config_values.sizes(spec, known)
    if not batch:
        return
    where = f"{word(spec.step, 'global_batch')}={batch}"
    prompts, generations = known.get("prompts"), known.get("generations")
    if prompts and generations and (rows := prompts * generations) % batch:
        what = f"does not divide the {rows} samples of a step ({prompts} prompts x {generations} generations)"
        yield error(Exit.WORDS, where, what, f"such as {word(spec.step, 'global_batch')}={rows}")
    if not shape or training % math.prod(shape.values()):
        return
    data = training // math.prod(shape.values())
    unit = data if known.get("packing") is not False else data * known.get("micro_batch", 1)
    if batch % unit:
        what = f"is no multiple of {unit} ({data} data parallel processes{' x their batch' if unit > data else ''})"
        yield error(Exit.WORDS, where, what, f"such as {word(spec.step, 'global_batch')}={(batch // unit + 1) * unit}")
