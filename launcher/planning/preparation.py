"""The one way from arguments to what can be submitted: probe, resolve, check, plan, render.

What follows is in runs/lifecycle.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from images.locking import lock as locks
from images.locking.model import Entry, Flavour
from launcher import engines
from launcher.artifacts import hub, hub_cache
from launcher.artifacts.detection import Artifact
from launcher.catalog import cache_location, commands, conflicts, definitions, profiles, releases
from launcher.catalog.cache_location import MegatronCache
from launcher.core import gpus
from launcher.core.arguments import Arguments, parse
from launcher.core.asked import Asked, Former, Replayed
from launcher.core.plan import Code, EngineInfo, LaunchSpec, Probed
from launcher.core.requirement import Requirement
from launcher.planning import by_hand, configuration, probe, programs, rehearsal, run_inputs
from launcher.planning import code as codes
from launcher.planning.by_hand import ByHand
from launcher.planning.checks import config_values, memory, memory_kept, memory_rl, parallelism, preflight
from launcher.planning.planner import container_paths, make_plan
from launcher.planning.probe import Looks
from launcher.planning.run_files import Prepared
from launcher.records import run_directory
from slipway import yamldoc
from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import sha256_file
from slipway.findings import Finding
from slipway.project import Root


@dataclass(frozen=True)
class Options:
    """The launch options of the command line, as given.

    `needs`: inputs in whose place others stand, which are made first; `makes`: what this launch makes for others.
    `layers`: what files of `overlays` hold, where that is not to be read again. `resumes`, `replays`: the run that this
    one goes on from, or repeats; `from_run`: inputs that are named by path, and which run made them. `expect`: what the
    run has to have come to; `expected`: what inputs will be that another run is to make.
    `by_hand`: what runs in the step's place.
    """

    step: str
    words: tuple[str, ...]
    profile: str = "docker"
    release: str | None = None
    flavour: Flavour | None = None
    overlays: tuple[str, ...] = ()
    nodes: int | None = None
    gpus: int | None = None
    gpu_ids: str | None = None
    procs: int | None = None
    env: tuple[str, ...] = ()
    secret: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    allow_dirty: bool = False
    megatron_cache: str | None = None
    resume: bool = False
    allow_drift: bool = False
    runs_dir: str | None = None
    argv: tuple[str, ...] = ()
    needs: Mapping[str, tuple[Requirement, Artifact]] = field(default_factory=dict)
    makes: Requirement | None = None
    rehearsal: Flavour | None = None  # that of the run which this one rehearses
    layers: Mapping[str, Any] = field(default_factory=dict)
    resumes: Former | None = None
    replays: Replayed | None = None
    from_run: Mapping[str, Former] = field(default_factory=dict)
    expect: tuple[str, ...] = ()
    expected: Mapping[str, Artifact] = field(default_factory=dict)
    by_hand: ByHand = field(default_factory=ByHand)


class Chosen(NamedTuple):
    """What a launch is of, by its words, the catalogue, the lock, and what the engine has.

    `step`: as the entry's release takes it; `engine`: what was seen of it; `why`: the line that says why this flavour;
    `from_run`: input -> the run that made it.
    """

    step: definitions.Step
    profile: profiles.Profile
    overlays: list[tuple[str, Any]]
    env: dict[str, str]
    entry: Entry
    program: str
    words: Arguments
    engine: EngineInfo
    why: str
    from_run: Mapping[str, Former] = {}


def prepare(root: Root, options: Options, looks: Looks | None = None) -> Prepared:
    """Looks, checks and plans; writes nothing. Raises SlipwayError for what makes a plan impossible.

    `looks`: what this launch has looked at before; see probe.Looks.
    """
    looks = looks or Looks()
    chosen = _choose(root, options, looks)
    inputs, former = run_inputs.taken(root, options.runs_dir, chosen.words.inputs)
    chosen = chosen._replace(words=replace(chosen.words, inputs=inputs), from_run={**options.from_run, **former})
    step, profile, entry, found = chosen.step, chosen.profile, chosen.entry, chosen.engine
    runs = run_directory.runs_dir(root, options.runs_dir, profile.runs)
    resumed = step.resume if options.resume else None
    rows = probe.rows(step, chosen.words)
    expected = {**options.expected, **{name: artifact for name, (_, artifact) in options.needs.items()}}
    seen = probe.everything(root, profile, entry, chosen.words, found, runs, rows, resumed, looks, expected)
    trees = codes.known(root, entry) if options.code else []
    checkouts = codes.choose(trees, entry, options.code, options.allow_dirty)
    spec = _resolve(root, options, chosen, seen, {name: tree.code for name, tree in checkouts.items()})
    engine = engines.of(profile.kind)
    files = programs.files(root, step, [chosen.program, *options.by_hand.programs], engine)
    plan = make_plan(spec, seen, {name: sha256_file(path) for name, path in files.items()})
    plan = by_hand.planned(plan, options.by_hand)
    findings = [*preflight.check(spec, seen, probe.converters(root, step, seen.artifacts)), *engine.check(plan, seen)]
    findings = _placed(root, profile, [*findings, *codes.check(spec, checkouts, trees)])
    read = tuple(name for name in options.overlays if name not in options.layers)
    findings = [_in_file(finding, read) for finding in findings]
    notes = [chosen.why, *run_inputs.notes(spec.words.inputs, spec.from_run), *_notes(spec, seen)]
    writers = {name: tree.write for name, tree in checkouts.items()}
    absent = {name: h.id for name, h in seen.hub.items() if h.fetch}
    request = engine.render(plan)
    own = options.rehearsal or options.makes or options.by_hand != ByHand()
    said = None if own else _asked(root, options, chosen, checkouts)
    return Prepared(
        plan, findings, request, runs, notes, found.address, options.argv, files, writers, absent, spec, said,
        memory=memory_kept.of(spec, seen),
    )  # fmt: skip


def _asked(root: Root, options: Options, chosen: Chosen, checkouts: Mapping[str, codes.Checkout]) -> Asked:
    """What a record keeps beside the plan, for `launch resume` and `launch replay`."""
    known = {*chosen.step.inputs, "output"}
    trees = {
        name: f"{tree.folder}" if tree.code.diff else f"{tree.folder}@{tree.code.commit}"
        for name, tree in checkouts.items()
    }
    return Asked(
        inputs=list(chosen.words.inputs),
        words=[word for word in options.words if word.partition("=")[0] not in known],
        overlays=list(options.overlays),
        nodes=options.nodes,
        gpus=options.gpus,
        gpu_ids=options.gpu_ids,
        procs=options.procs,
        secrets=_whole_secrets(options.secret),
        code=[f"{name}={place}" for name, place in trees.items()],
        allow_dirty=options.allow_dirty,
        megatron_cache=options.megatron_cache and str(Path(options.megatron_cache).expanduser().absolute()),
        commit=codes.commit_of(root),
        resumes=options.resumes,
        replays=options.replays,
        expect=list(options.expect),
    )


def _whole_secrets(words: tuple[str, ...]) -> list[str]:
    """`--secret` as it was given, with whole paths."""
    places = _secrets(words)
    return [name if place == "env" else f"{name}={place}" for name, place in places.items()]


def understood(root: Root, options: Options, looks: Looks) -> str:
    """The kind of the profile; raises SlipwayError for what the words alone make impossible. No input is looked at."""
    return _choose(root, options, looks).profile.kind


def _choose(root: Root, options: Options, looks: Looks) -> Chosen:
    """Step, profile and entry, and what stands behind the step on the command line; inputs as they are named there."""
    own = options.by_hand
    step = by_hand.command_step(own.library) if own.library else definitions.find_step(root, options.step)
    step = rehearsal.rehearsed(step) if options.rehearsal else step
    profile = profiles.find_profile(root, options.profile)
    mounts = [*profile.mounts, *by_hand.mounts(own.mounts)]
    profile = msgspec.structs.replace(profile, secrets=profile.secrets | _secrets(options.secret), mounts=mounts)
    named = () if own.library else ("default", *options.overlays)
    overlays = [(n, options.layers[n] if n in options.layers else definitions.overlay(step, n)) for n in named]
    env = _environment(options.env)
    profiles.refuse_secrets(step.env, f"{step.folder}/step.yaml: env", "leave it out, and launch with --secret {}")
    lock = locks.load_lock(root)
    if step.library not in lock.libraries:
        where, remedy = f"{step.folder}/step.yaml: library", nearest(step.library, lock.libraries)
        raise SlipwayError(Exit.CONFIG, f"unknown library {step.library!r}", where=where, remedy=remedy)
    found = probe.engine(root, profile, looks)
    flavour, why = flavour_of(options.flavour, profile.flavour, found.gpus)
    entry = lock.on(found.platform, locks.select(lock, step.library, flavour, options.release))
    program = commands.choose_command(step, entry).program
    step = releases.at_release(step, entry)
    return Chosen(step, profile, overlays, env, entry, program, parse(step, options.words), found, why)


def _resolve(root: Root, options: Options, chosen: Chosen, seen: Probed, code: dict[str, Code]) -> LaunchSpec:
    """What was asked for, with its configuration."""
    step, profile, entry = chosen.step, chosen.profile, chosen.entry
    number, named = _gpus(options, profile, entry.flavour, _usual_gpus(step, profile, entry))
    spec = LaunchSpec(
        step=step,
        profile=profile,
        entry=entry,
        words=chosen.words,
        overlays=chosen.overlays,
        base=commands.base_config(step, entry),
        program=chosen.program,
        nodes=options.nodes or step.shape.nodes,
        gpus=number,
        gpu_ids=named,
        procs=options.procs or (1 if step.launcher == "python" else number or 1),
        env=chosen.env,
        resume=options.resume,
        allow_drift=options.allow_drift,
        lock_checksum=sha256_file(root.lock),
        megatron_cache=_megatron_cache(options, profile, step, entry, seen.host.hf_home),
        code=code,
        wired=releases.wired(step, seen.artifacts),
        needs=[need for need, _ in options.needs.values()],
        makes=options.makes,
        conflicts=conflicts.at_release(root, step, entry),
        imposed=rehearsal.imposed(step, options.rehearsal) if options.rehearsal else {},
        from_run=dict(chosen.from_run),
        expect=list(options.expect),
    )
    if path := spec.base.get("path"):
        hidden = configuration.hidden_by(spec, path)
        spec = msgspec.structs.replace(spec, in_image=seen.image.configurations.get(path), hidden=hidden)
    return config_values.with_backend(configuration.resolved(spec, container_paths(seen.artifacts)))


def _notes(spec: LaunchSpec, seen: Probed) -> Iterator[str]:
    """What is said of a launch that nothing is wrong with."""
    usual, asked = _usual_gpus(spec.step, spec.profile, spec.entry), spec.step.shape.gpus
    if spec.gpus == usual and usual not in (0, asked):
        yield f"gpus {spec.gpus}: a node has as many (profile {spec.profile.name})"
    yield from (h.note for h in seen.hub.values() if h.note)
    yield from spec.wired.notes
    if cache := spec.megatron_cache:
        yield f"{cache_location.NAME}: {cache.path} ({cache.rule})"
    yield from _unpacked(spec.profile, seen.image.unpack)
    yield from preflight.notes(spec, seen)
    yield from parallelism.taken(seen)
    yield from parallelism.expected(spec, seen)
    yield from parallelism.notes(spec)
    yield from memory.notes(spec, seen)
    yield from memory_rl.notes(spec, seen)


def _usual_gpus(step: definitions.Step, profile: profiles.Profile, entry: Entry) -> int:
    """How many GPUs per machine a launch has that does not say."""
    return 0 if entry.flavour == "cpu" else profile.gpus_for(step.shape.gpus)


def _unpacked(profile: profiles.Profile, size: int) -> list[str]:
    """What every node of a job does with the image before its container starts, where its size is recorded."""
    if profile.kind != "slurm" or not size:
        return []
    unless = f"where pyxis does not mount .sqsh files (launch profiles doctor {profile.name} tells)"
    return [f"note: image: each node unpacks {size / 1e9:.1f} GB before the step starts, {unless}"]


def _placed(root: Root, profile: profiles.Profile, findings: list[Finding]) -> list[Finding]:
    """What is said of a key of the profile is said with its line, which may be one of a profile that it extends."""
    if not any(f.where.startswith(f"{profile.file}: ") for f in findings):
        return findings
    origins, placed = profiles.with_origins(root, profile.name)[1], []
    for finding in findings:
        file, _, key = finding.where.partition(": ")
        line = profiles.place(origins, key) if file == profile.file else ""
        placed.append(msgspec.structs.replace(finding, where=f"{line}: {key}") if line else finding)
    return placed


def _in_file(finding: Finding, overlays: tuple[str, ...]) -> Finding:
    """What is said of a key in a file of `-c` is said with its line."""
    file, _, key = finding.where.partition(": ")
    if file not in overlays or not key:
        return finding
    line = yamldoc.line_of(Path(file), *key.split("."))
    return msgspec.structs.replace(finding, where=f"{file}:{line}: {key}")


def fetched(root: Root, options: Options, prepared: Prepared, looks: Looks) -> Prepared:
    """The launch anew, with its inputs of the hub in HF_HOME; as it is where something else stops it anyway."""
    ours = {f"{name}={at}" for name, at in prepared.hub.items()}
    stopped = any(f.severity == "error" and f.where not in ours for f in prepared.findings)
    if stopped or not prepared.hub:
        return prepared
    assert prepared.spec is not None  # it was made here
    for at in sorted(set(prepared.hub.values())):
        hub.fetch(hub_cache.parse(at), probe.hf_home(prepared.plan.profile), looks.listings.get(at))
    for name, at in prepared.hub.items():
        looks.fetched(prepared.spec.words.inputs[name], at)
    again = prepare(root, options, looks)
    return replace(again, notes=list(dict.fromkeys([*prepared.notes, *again.notes])))


def _megatron_cache(
    options: Options, profile: profiles.Profile, step: definitions.Step, entry: Entry, hf_home: str
) -> MegatronCache | None:
    if "megatron" not in step.caches:
        return None
    return cache_location.choose(options.megatron_cache, profile.megatron_cache, os.environ, hf_home, entry)


def _gpus(options: Options, profile: profiles.Profile, flavour: Flavour, usual: int) -> tuple[int, list[str]]:
    """How many GPUs per machine, and by which names. Raises SlipwayError 64."""
    of_profile = [str(i) for i in getattr(profile, "gpu_ids", [])]
    named = gpus.parse(options.gpu_ids) if options.gpu_ids else of_profile if flavour == "cuda" else []
    return options.gpus if options.gpus is not None else len(named) or usual, named


def flavour_of(asked: Flavour | None, profile: str, gpus: int | None) -> tuple[Flavour, str]:
    """The flavour and the line that says why."""
    if asked:
        return asked, f"flavour {asked}: --flavour"
    if profile in ("cpu", "cuda"):
        return profile, f"flavour {profile}: the profile says so"  # type: ignore[return-value]
    if gpus is None:
        return "cpu", "flavour cpu: the engine does not tell whether it has GPUs; if it has: --flavour cuda"
    chosen: Flavour = "cuda" if gpus else "cpu"
    return chosen, f"flavour {chosen}: the engine has {gpus or 'no'} GPU{'' if gpus == 1 else 's'}"


def _environment(words: tuple[str, ...]) -> dict[str, str]:
    """`--env NAME=VALUE`, or `--env NAME` for this shell's own value. Raises SlipwayError 64, 77 for a secret."""
    names = (word.partition("=")[0] for word in words)
    remedy = "--secret {0}, which takes this shell's variable, or --secret {0}=file:PATH"
    profiles.refuse_secrets(names, "--env", remedy)
    result = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals and name not in os.environ:
            raise SlipwayError(Exit.WORDS, f"{name} is not set here", where="--env", remedy=f"--env {name}=VALUE")
        result[name] = value if equals else os.environ[name]
    return result


def _secrets(words: tuple[str, ...]) -> dict[str, str]:
    """`--secret NAME` (this shell's variable) and `--secret NAME=file:PATH`, as profiles declare them.

    Raises SlipwayError 64, and 66 for one that cannot be had.
    """
    result = {}
    for word in words:
        name, _, place = word.partition("=")
        where, file = f"--secret {name}", place.removeprefix("file:")
        if why := profiles.secret_fault(name):
            raise SlipwayError(Exit.WORDS, why, where=where)
        if place not in ("", "env") and (not place.startswith("file:") or not file):
            # What stands there may be the secret itself: it is not repeated.
            what = "expected the place of its value, not the value"
            raise SlipwayError(Exit.WORDS, what, where=where, remedy=f"export {name}, or --secret {name}=file:PATH")
        if place in ("", "env"):
            if not os.environ.get(name):
                remedy = f"export {name}, or --secret {name}=file:PATH"
                raise SlipwayError(Exit.NO_INPUT, "the variable is not set here", where=where, remedy=remedy)
            result[name] = "env"
            continue
        path = Path(file).expanduser().absolute()
        if not path.is_file() or not os.access(path, os.R_OK):
            raise SlipwayError(Exit.NO_INPUT, f"{path} is no file that can be read", where=where)
        result[name] = f"file:{path}"
    return result
