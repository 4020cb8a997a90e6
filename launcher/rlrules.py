"""Reinforcement learning: whether backend, cluster, batches and data fit each other at the release at hand. Pure.

The rules are those that NeMo RL asserts itself, minutes into the job: one backend (lm_policy.py), shares of the cluster
(grpo.py's setup), batches (shard_by_batch_size), checkpoint formats (save_checkpoint); read at v0.4.0 to v0.7.0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec

from launcher import fit, releases
from launcher.catalogue import Cache
from launcher.fit import Known, error, setting, value_of, warning, word
from launcher.plan import Finding, Observed, Wish
from slipway.errors import Exit


def check(wish: Wish, seen: Observed) -> list[Finding]:
    """Every finding of a step that Ray starts, and of any step's wires."""
    findings = [*_missing(wish), *_columns(wish, seen), *_misnamed(wish), *_library_data(wish)]
    if wish.step.launcher != "ray":
        return findings
    known = fit.settings(wish)
    training, wrong = _training_shape(wish, known)
    findings += [*_backends(wish, seen), *wrong, *_formats(wish, known), *_lengths(wish, known)]
    findings += [*_template(wish, seen), *_logprobs(wish, known), *_vocabularies(seen)]
    return findings + (list(_batches(wish, known, training)) if training else [])


def _missing(wish: Wish) -> Iterator[Finding]:
    for name in dict.fromkeys(wish.wired.missing.values()):
        keys = ", ".join(k for k, n in wish.wired.missing.items() if n == name)
        yield error(
            Exit.WORDS, f"{name}=", f"is needed with these inputs ({keys})", f"{name}=PATH: {_help(wish, name)}"
        )


def _help(wish: Wish, name: str) -> str:
    return wish.step.inputs[name].help


def _columns(wish: Wish, seen: Observed) -> Iterator[Finding]:
    for name, found in seen.artifacts.items():
        plain = found.kind == "file" and not found.files and found.path.endswith((".jsonl", ".json"))
        if wish.step.inputs[name].one_file and found.type and not plain:
            remedy = "unpack or join them; data_prep/rl_prep makes one file of any number of shards"
            yield error(Exit.DATA, f"{name}={found.path}", "has to be one plain .jsonl file", remedy)
        there = releases.columns(found)
        absent = [c for c in wish.step.inputs[name].needs_columns if "columns" in found.facts and c not in there]
        if absent:
            what = f"{wish.entry.name} needs the column {', '.join(absent)} in every row"
            yield error(Exit.DATA, f"{name}={found.path}", what, "launch data_prep/rl_prep writes it: task_name=math")


def _misnamed(wish: Wish) -> Iterator[Finding]:
    """A key that old documentation names, and that no release has; the library would not notice."""
    for old, new in wish.step.misnamed.items():
        for where, key in _keys_named(wish, old):
            remedy = f"the key is {key.replace(old, new)}"
            yield error(Exit.WORDS, where, f"{wish.step.library} has no {old} at any release", remedy)


def _keys_named(wish: Wish, part: str) -> Iterator[tuple[str, str]]:
    for key in wish.words.overrides:
        if part in key.split("."):
            yield key, key
    for name, layer in wish.overlays:
        yield from ((f"-c {name}", key) for key in _below(layer) if key.split(".")[-1] == part)


def _below(values: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{above}{key}"
        if isinstance(value, dict):
            yield from _below(value, f"{above}{key}.")


def _library_data(wish: Wish) -> Iterator[Finding]:
    """Data that the library knows by name is fetched by itself, and containers are offline."""
    for name, parameter in wish.step.parameters.items():
        if parameter.instead_of and parameter.instead_of not in wish.words.inputs:
            chosen = wish.words.parameters.get(name, "the one of the base configuration")
            what = (
                f"no {parameter.instead_of}=: the library's own data ({chosen}) have to be prepared in HF_HOME/datasets"
            )
            remedy = f"give {parameter.instead_of}=PATH, or call datasets.load_dataset where the hub can be reached"
            yield warning(f"{name}=", what, remedy)


def _backends(wish: Wish, seen: Observed) -> Iterator[Finding]:
    """Exactly one backend, and one that starts from what is given."""
    values = {name: value_of(wish, b.enabled) for name, b in wish.step.backends.items()}
    on = [name for name, value in values.items() if value is True]
    where = ", ".join(setting(wish, wish.step.backends[n].enabled) for n in values)
    remedy = "say one: " + " or ".join(f"backend={name}" for name in values)
    if len(on) > 1:
        yield error(Exit.CONFIG, where, f"{' and '.join(on)} are both switched on", remedy)
    elif values and not on and all(value is False for value in values.values()):
        yield error(Exit.CONFIG, where, "no backend is switched on", remedy)
    elif len(on) == 1:
        backend = wish.step.backends[on[0]]
        if cache := wish.step.caches.get(on[0]):  # type: ignore[call-overload]
            yield from _cached(wish, cache)
        starts = [b for b in wish.step.backends.values() if b is not backend]
        taken = [a for n, a in seen.artifacts.items() if a.type in wish.step.inputs[n].types]
        for found in taken:
            if found.type in {t for b in starts for t in b.reads} and found.type not in backend.reads:
                other = next(n for n, b in wish.step.backends.items() if found.type in b.reads)
                what = f"backend {on[0]} does not read a {found.type}"
                yield error(Exit.CONFIG, f"{found.name}={found.path}", what, f"say backend={other}")


def _cached(wish: Wish, cache: Cache) -> Iterator[Finding]:
    """What would make the library convert by itself, on every node and without a lease."""
    for key in cache.forced_by:
        if value_of(wish, key) is True:
            what = "the library would convert by itself while others may read"
            yield error(Exit.CONFIG, setting(wish, key), what, "launch cache prune FOLDER, and leave this out")
    for key in cache.rekeyed_by:
        below = any(k.startswith(f"{key}.") for k in wish.words.overrides)
        if below or value_of(wish, key) not in (None, msgspec.UNSET, {}):
            what = "the library would look for a conversion of its own with these overrides"
            yield error(Exit.CONFIG, setting(wish, key), what, "write them into the config.json of a copy of the model")


def training_gpus(wish: Wish, known: Known) -> int:
    """GPUs that train; 0 where that is unknown, or wrong."""
    return _training_shape(wish, known)[0]


def _training_shape(wish: Wish, known: Known) -> tuple[int, list[Finding]]:
    """GPUs that train (0: unknown, or wrong), after those that only generate or judge; and what is wrong."""
    nodes, gpus = wish.nodes, wish.procs
    if known.get("reward_gpus") and nodes == 1:
        gpus -= known["reward_gpus"]
    elif known.get("reward_nodes"):
        nodes -= known["reward_nodes"]
    if nodes < 1 or gpus < 1:
        return 0, [error(Exit.WORDS, "shape", f"the reward model leaves {nodes} x {gpus} for training", _more(wish))]
    if known.get("colocated") is False:
        return _apart(wish, known, nodes, gpus)
    return nodes * gpus, list(_parallel(wish, known, nodes * gpus))


def _apart(wish: Wish, known: Known, nodes: int, gpus: int) -> tuple[int, list[Finding]]:
    """Generation has GPUs of its own: some of the one node, else whole nodes."""
    taken, whole = known.get("generation_gpus", 0), known.get("generation_nodes", 0)
    if nodes == 1 and not 0 < taken < gpus:
        what = f"generation apart takes some of the {gpus} GPUs of the node: from 1 to {gpus - 1}, not {taken or None}"
        return 0, [_resources(wish, "generation_gpus", what)]
    if nodes > 1 and not 0 < whole < nodes:
        what = f"generation apart takes some of the {nodes} nodes: from 1 to {nodes - 1}, not {whole or None}"
        return 0, [_resources(wish, "generation_nodes", what)]
    if nodes > 1 and taken != gpus:
        return 0, [_resources(wish, "generation_gpus", f"generation apart takes whole nodes: {gpus} GPUs of each")]
    training = (nodes - whole) * gpus if nodes > 1 else gpus - taken
    return training, list(_parallel(wish, known, training))


def _resources(wish: Wish, role: Any, what: str) -> Finding:
    return error(Exit.WORDS, wish.step.roles[role], what, f"set it, or {wish.step.roles['colocated']}=true")


def _parallel(wish: Wish, known: Known, training: int) -> Iterator[Finding]:
    shape = fit.sizes(wish, known)
    if shape and training % (share := math.prod(shape.values())):
        names = " x ".join(f"{n} {s}" for n, s in shape.items())
        what = f"{training} GPUs that train cannot be shared by {names} = {share}"
        yield error(Exit.WORDS, "shape", what, _more(wish))


def _more(wish: Wish) -> str:
    return f"other --nodes or --gpus than {wish.nodes} x {wish.procs}, or other sizes"


def _formats(wish: Wish, known: Known) -> Iterator[Finding]:
    key = wish.step.roles.get("save_format", "")
    if known.get("second_version") is False and known.get("save_format"):
        what = f"DTensor's first worker ({wish.step.roles['second_version']}=false) writes no {known['save_format']}"
        yield error(Exit.CONFIG, setting(wish, key), what, f"{key}=null")


def _lengths(wish: Wish, known: Known) -> Iterator[Finding]:
    new, whole = known.get("generation_length"), known.get("sequence_length")
    if isinstance(new, int) and whole and new > whole:
        what = f"is more than a whole sequence may have ({word(wish.step, 'sequence_length')}={whole})"
        yield error(Exit.WORDS, setting(wish, wish.step.roles["generation_length"]), what)


def _template(wish: Wish, seen: Observed) -> Iterator[Finding]:
    """Rows become text by the chat template of the model, unless the configuration names one."""
    key = wish.step.roles.get("chat_template", "")
    own = value_of(wish, key) if key else ""
    for name in sorted(set(wish.wired.paths.values())):
        found = seen.artifacts[name]
        said = key and wish.wired.paths.get(f"{key.rpartition('.')[0]}.name") == name
        if said and "tokenizer" in found.facts and "template" not in found.facts and own in ("default", msgspec.UNSET):
            remedy = (
                f"add one to the tokenizer, or {word(wish.step, 'chat_template')}=FILE.jinja (a path in the container)"
            )
            yield error(Exit.DATA, f"{name}={found.path}", "its tokenizer has no chat template", remedy)


def _vocabularies(seen: Observed) -> Iterator[Finding]:
    """What a teacher says of a token counts for the same token of the student."""
    student, teacher = seen.artifacts.get("student"), seen.artifacts.get("teacher")
    named = [a.facts.get("tokenizer") for a in (student, teacher) if a]
    if student and teacher and None not in named and named[0] != named[1]:
        what = f"has another tokenizer than {student.name}={student.path}"
        yield error(Exit.DATA, f"{teacher.name}={teacher.path}", what, "distil from a model of the same family")


def _logprobs(wish: Wish, known: Known) -> Iterator[Finding]:
    micro, logprobs = known.get("micro_batch"), known.get("logprob_batch")
    if known.get("tensor_parallel", 1) >= 4 and micro and isinstance(logprobs, int) and micro != logprobs:
        what = f"has to be the batch of training ({micro}) where the tensor parallel size is 4 or more"
        yield error(Exit.WORDS, f"{wish.step.roles['logprob_batch']}={logprobs}", what, f"set it to {micro}")


def _batches(wish: Wish, known: Known, training: int) -> Iterator[Finding]:
    """A step's rows are cut into training batches, each of which is shared by the data parallel processes."""
    batch, shape = known.get("global_batch"), fit.sizes(wish, known)
    if not batch:
        return
    where = f"{word(wish.step, 'global_batch')}={batch}"
    prompts, generations = known.get("prompts"), known.get("generations")
    if prompts and generations and (rows := prompts * generations) % batch:
        what = f"does not divide the {rows} samples of a step ({prompts} prompts x {generations} generations)"
        yield error(Exit.WORDS, where, what, f"such as {word(wish.step, 'global_batch')}={rows}")
    if not shape or training % math.prod(shape.values()):
        return
    data = training // math.prod(shape.values())
    unit = data if known.get("packing") is not False else data * known.get("micro_batch", 1)
    if batch % unit:
        what = f"is no multiple of {unit} ({data} data parallel processes{' x their batch' if unit > data else ''})"
        yield error(Exit.WORDS, where, what, f"such as {word(wish.step, 'global_batch')}={(batch // unit + 1) * unit}")
