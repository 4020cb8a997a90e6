"""`launch steps` and `launch schema`: what the catalogue holds, for people and for editors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec

from images.locking import attestation
from images.locking import lock as locks
from images.locking.model import Entry, Flavour, Lock, Matrix
from launcher.catalog import commands, definitions, releases
from launcher.catalog.definitions import Input, Step
from launcher.catalog.pipelines import Pipeline
from launcher.catalog.profiles import Profile
from launcher.catalog.words import ArtifactType
from launcher.core.plan import Plan
from launcher.records.metrics import Measured
from launcher.records.run_directory import Record
from slipway import canonical, gates, tables
from slipway.errors import Exit, SlipwayError, nearest, visible
from slipway.project import Root

KINDS: dict[str, Any] = {
    "matrix": Matrix, "profile": Profile, "step": Step, "record": Record, "metrics": Measured,
    "pipeline": Pipeline,
}  # fmt: skip
BY_PLACE = {
    "step": ("id", "folder"),
    "profile": ("name", "file"),
    "pipeline": ("file",),
}  # what a file does not say of itself


def choose(root: Root, library: str | None, consumes: str | None, produces: str | None) -> list[Step]:
    """The steps that match all that is given, by id. Raises SlipwayError 64 for what no step could have."""
    steps = definitions.all_steps(root)
    _known("--library", library, [s.library for s in steps])
    _known("--consumes", consumes, get_args(ArtifactType))
    _known("--produces", produces, get_args(ArtifactType))
    return [
        s for s in steps
        if library in (None, s.library) and produces in (None, s.output.type)
        and (consumes is None or any(consumes in i.types for i in s.inputs.values()))
    ]  # fmt: skip


def below(root: Root, folder: str) -> list[Step]:
    """The steps in a folder of the catalogue, by their ids or aliases: `sft`, `rl/`."""
    start = folder.rstrip("/") + "/"
    return [s for s in definitions.all_steps(root) if any(n.startswith(start) for n in (s.id, *s.aliases))]


def _known(option: str, word: str | None, known: Sequence[str]) -> None:
    if word is not None and word not in known:
        raise SlipwayError(Exit.WORDS, f"{word!r} is not known", where=option, remedy=nearest(word, known))


def table(root: Root, steps: list[Step]) -> str:
    """One line a step, under a heading; `?` marks inputs that may be left out."""
    lock = locks.load_lock(root)
    rows = [("STEP", "LIBRARY", "IMAGE", "TESTED", "INPUTS -> OUTPUT", "TITLE")]
    rows += [
        (_names(s), s.library, _image(default_entry(lock, s)), _tested_in(lock, s), _flow(s), s.title) for s in steps
    ]
    return tables.columns(rows, width=tables.terminal_width(), spared=(2, 1))


def _tested_in(lock: Lock, step: Step) -> str:
    """The entries in which it has run, as `launch selftest` has attested."""
    return ", ".join(f"{entry.release} ({entry.flavour})" for entry in tested(lock, step)) or "no"


def tested(lock: Lock, step: Step) -> list[Entry]:
    """The lock's entries that say that the step has run in them."""
    return [e for e in lock.entries.values() if e.library == step.library and attestation.of_step(e, step.id)]


def as_json(root: Root, steps: list[Step]) -> str:
    """The steps as a JSON list: what stands in each file, `id`, `folder`, `image` by reference or null, and `tested`:
    name of an entry -> its attestations of the step."""
    lock = locks.load_lock(root)
    listed = []
    for step in steps:
        entry = default_entry(lock, step)
        told = {e.name: attestation.of_step(e, step.id) for e in tested(lock, step)}
        seen = {"image": (entry and entry.base.reference) or None, "tested": told}
        listed.append({**msgspec.to_builtins(step), **seen})
    return canonical.pretty(listed)


def _names(step: Step) -> str:
    return step.id + (f" ({', '.join(step.aliases)})" if step.aliases else "")


def _flow(step: Step) -> str:
    return f"{', '.join(f'{n}?' if i.optional else n for n, i in step.inputs.items())} -> {step.output.type}"


def default_entry(lock: Lock, step: Step) -> Entry | None:
    """The lock's entry of the default release, with CUDA where the step runs on it; None where there is none."""
    library = lock.libraries.get(step.library)
    flavour: Flavour = "cuda" if any(b.flavour in (None, "cuda") for b in step.base) else "cpu"
    return locks.select(lock, step.library, flavour) if library and flavour in library.default else None


def _image(entry: Entry | None) -> str:
    """`release@digest`, with 12 digits; a base of Debian's packages has no digest."""
    if entry is None:
        return "none"
    if entry.base.bootstrap:
        return f"{entry.release} ({entry.flavour})"
    return f"{entry.release}@{entry.base.digest[:19]}" if entry.base.digest else f"{entry.release} unresolved"


def details(root: Root, name: str) -> str:
    """All that is to know of one step. Raises SlipwayError as definitions.find_step."""
    step, lock = definitions.find_step(root, name), locks.load_lock(root)
    shape = f"{step.shape.nodes} node{'s' if step.shape.nodes > 1 else ''} x {step.shape.gpus} GPUs"
    stop = f"{step.graceful.signal} to the {step.graceful.to}, {step.graceful.seconds} s"
    files = (p for folder in (step.folder, *step.inherited) for p in Path(folder).glob("*.yaml"))
    configurations = sorted({p.stem for p in files} - {"step", "base", "base.cpu"})
    sections = {
        "inputs": [_input(n, i) for n, i in step.inputs.items()],
        "output": [f"{step.output.type}: {step.output.help}"],
        "parameters": [_parameter(n, p) for n, p in step.parameters.items()],
        "configurations (-c)": configurations,
        "configuration roots": [", ".join(step.config_roots)],
        "wired by the launcher": [f"{k}{f' (by {word})' if word else ''}" for k, word in step.owned().items()],
        "environment": [f"{n}={v}" for n, v in step.env.items()],
        "starts from": [_base(b) for b in step.base],
        "with --resume": [f"{k}={v}" for k, v in (step.resume.set if step.resume else {}).items()],
        "roles": [f"{role}: {key}" for role, key in step.roles.items()],
        "runs": [f"by {step.launcher}, {shape} unless told otherwise; stopped by {stop}"],
        "commands": [*map(_command, step.commands), *([step.why] if step.why else [])],
        "lock entries": [_entry(step, e) for e in lock.entries.values() if e.library == step.library],
        "reports (--expect)": [", ".join([*gates.DERIVED, *step.reports])] if step.reports else [],
        "example": [example(step)],
    }
    head = f"{_names(step)}: {step.title}\n{step.library}, {step.folder}/step.yaml\n"
    return head + "".join(
        f"\n{t}\n" + "".join(f"  {visible(line)}\n" for line in lines) for t, lines in sections.items() if lines
    )


def _input(name: str, wanted: Input) -> str:
    return f"{name}{' (optional)' if wanted.optional else ''}: {' or '.join(wanted.types)}: {wanted.help}"


def _parameter(name: str, parameter: definitions.Parameter) -> str:
    keys = ", ".join(dict.fromkeys([*parameter.keys, *(k for s in parameter.values.values() for k in s)]))
    return f"{name}: {_type(parameter)}: {parameter.help} ({keys or 'by release'})"


def _base(base: definitions.BaseConfig) -> str:
    when = "".join(f" with {n} {v}" for n, v in base.when.items())
    return f"{base.flavour or 'both'}{when}: {base.path or base.file}"


def _command(command: definitions.Command) -> str:
    return f"{command.program}: {' '.join(f'{n} {v}' for n, v in command.when.items()) or 'any'}"


def _type(parameter: definitions.Parameter) -> str:
    return " | ".join(parameter.choices or parameter.values) or parameter.type


def _entry(step: Step, entry: Entry) -> str:
    """Whether a step runs in an entry, by which program, and whether somebody has run it there."""
    try:
        commands.base_config(step, entry)
        script = releases.at_release(step, entry).script
        program = commands.choose_command(step, entry).program
    except SlipwayError as e:
        return f"{entry.name}: no: {e.what}"
    found = [f"yes ({t.date[:10]}, {t.hardware}, {t.engine})" for t in attestation.of_step(entry, step.id)]
    return f"{entry.name}: {program}{f' ({script})' if script else ''}; tested: {found[0] if found else 'no'}"


def example(step: Step) -> str:
    """A command line with all that the step cannot do without."""
    words = [
        f"{n}={n}{'.jsonl' if i.types[0].endswith('_jsonl') else '/'}" for n, i in step.inputs.items() if not i.optional
    ]
    return " ".join(["launch", step.id, *words, "output=out/"])


def environment(root: Root, plan: Plan, as_json: bool) -> str:
    """The variables of a container: value, who set it, and what the image itself says; of secrets the names alone."""
    entry = next(e for e in locks.load_lock(root).entries.values() if e.checksum == plan.entry)
    ours = {name: (v.value, v.by) for name, v in plan.env.items()}
    secrets = dict.fromkeys(plan.secrets, (None, "secret"))
    found = {n: (v, "image") for n, v in entry.env.items()} | ours | secrets
    rows = [{"name": n, "value": v, "by": by, "image": entry.env.get(n)} for n, (v, by) in sorted(found.items())]
    if as_json:
        return canonical.pretty(rows)
    heads = ("NAME", "VALUE", "SET BY", "IMAGE SAYS")
    return tables.columns([heads, *(["-" if v is None else v if v else '""' for v in r.values()] for r in rows)])


def schema(kind: str) -> str:
    """JSON Schema of what a file of this kind may hold, for editors."""
    made: dict[str, Any] = msgspec.json.schema(KINDS[kind])
    for noun, key in itertools.product(made["$defs"].values(), BY_PLACE.get(kind, ())):
        if "schema" in noun.get("properties", ()):  # a whole file's
            del noun["properties"][key]
    made |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "$comment": f"Made by: launch schema {kind}"}
    return canonical.pretty(made)
