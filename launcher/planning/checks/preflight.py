"""What must hold before anything is submitted. Pure: LaunchSpec and Probed in, findings out, all at once."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import PurePath, PurePosixPath

from launcher.artifacts.detection import Artifact
from launcher.catalog.definitions import Step
from launcher.catalog.profiles import RESERVED_ENV, SlurmProfile
from launcher.core import gpus
from launcher.core.plan import LaunchSpec, Origin, OutputInfo, Probed, Unreadable
from launcher.planning import configuration
from launcher.planning.checks import (
    config_values,
    conflicts,
    documents,
    expectations,
    input_rules,
    known_keys,
    memory,
    memory_rl,
    nemo_rl,
    network,
    parallelism,
)
from slipway.errors import Exit
from slipway.findings import Finding
from slipway.findings import error as _error
from slipway.findings import warning as _warning

ADAM_BYTES = 8  # two fp32 moments per weight: what AutoModel's optimizer checkpoint holds for AdamW
# `org/name`, `org/name@revision`, and what a browser shows
HUB = re.compile(
    r"(?:(?:https?://)?(?:huggingface\.co|hf\.co)/)?(?P<data>datasets/)?(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?:@(?P<revision>[\w.-]+)|/tree/(?P<tree>[\w.-]+))?/?"
)
_IMAGE_OF = "image of "
ADAPTER_BYTES = 4  # of a weight, at most
_LOOKS = {
    "chat_jsonl": "a file with one JSON object a line that has `messages`",
    "preference_jsonl": "a file with one JSON object a line that has `prompt`, `chosen` and `rejected`",
    "prompt_jsonl": "a file with one JSON object a line that has `input` and `output`",
    "packed_parquet": "a folder with *.idx.parquet and *_metadata.jsonl, as data_prep/sft_packing makes it",
    "binidx": "a .bin and an .idx file side by side, or a folder of such pairs, as data_prep/pretrain_prep makes it",
    "text_jsonl": "a file with one JSON object a line that has `text` (text_field=NAME for another)",
    "text_parquet": "Parquet with a column `text`",
    "text_plain": "*.txt in UTF-8",
    "checkpoint_hf": "a folder with config.json, tokenizer and *.safetensors",
    "checkpoint_lora": "a folder with adapter_config.json, or Megatron's iterations of an adapter",
    "checkpoint_megatron": "a folder with latest_checkpointed_iteration.txt and iter_*",
    "checkpoint_nemo_rl": "a folder with step_*",
    "tokenizer_hf": "a folder with a tokenizer (tokenizer.json, tokenizer_config.json)",
}


def check(spec: LaunchSpec, seen: Probed, steps: Sequence[Step] = ()) -> list[Finding]:
    """Every finding: inputs, output, environment, mounts, configuration, shape, fit, memory, engine, image, in order.

    `steps`: among which one that converts a wrong input is looked for.
    """
    findings = [*_inputs(spec, seen, steps), *_output(spec, seen), *_environment(spec)]
    findings += [*network.check(spec), *_mounts(spec, seen), *expectations.check(spec)]
    findings += [*configuration.check(spec), *known_keys.check(spec, seen.image.classes)]
    findings += [*_shape(spec, seen), *parallelism.check(spec, seen)]
    findings += [*input_rules.check(spec, seen), *documents.check(spec, seen)]
    findings += [*nemo_rl.check(spec, seen), *conflicts.check(spec, seen)]
    findings += [*memory.check(spec, seen), *memory_rl.check(spec, seen)]
    return [*findings, *_engine(spec, seen), *_image(spec, seen)]


def first_error(findings: list[Finding]) -> Finding | None:
    """The one whose exit code the launch takes."""
    return next((f for f in findings if f.severity == "error"), None)


def _inputs(spec: LaunchSpec, seen: Probed, steps: Sequence[Step]) -> Iterator[Finding]:
    for name, found in seen.artifacts.items():
        if name in seen.hub and (absent := seen.hub[name].finding):
            yield absent
            continue
        yield from _input(spec, name, found, steps)
        if name in seen.unreadable:
            yield _unreadable(found, seen.unreadable[name])


def _input(spec: LaunchSpec, name: str, found: Artifact, steps: Sequence[Step]) -> Iterator[Finding]:
    asked = spec.step.inputs[name]
    types = asked.types
    where, wanted = f"{name}={found.path}", " or ".join(types)
    if found.kind == "missing":
        remedy = _on_the_hub(spec, name, types) or f"expected: {wanted}"
        yield _error(Exit.NO_INPUT, where, "there is nothing there", remedy)
    elif found.type not in types and (found.type or found.note):
        what = found.type or found.note
        remedy = parallelism.converter(steps, found, types) or f"expected: {_shape_of(types)}"
        why = f" ({asked.why})" if asked.why else ""
        yield _error(Exit.DATA, where, f"is no {wanted}: found {what}{why}", remedy)
    yield from found.faults


def _unreadable(found: Artifact, wrong: Unreadable) -> Finding:
    """What this launcher may read, and the container may not: by another of the user's groups, or by a capability."""
    what = "cannot be listed and entered" if wrong.folder else "cannot be read"
    what += f" in the container, which runs as uid {wrong.uid}: it is {wrong.owner}'s, with mode {wrong.mode}"
    remedy = f"as its owner: chmod {'a+r' if wrong.top == wrong.path else '-R a+rX'} {shlex.quote(wrong.top)}"
    return _error(Exit.NOT_PERMITTED, f"{found.name}: {wrong.path}", what, remedy)


def _on_the_hub(spec: LaunchSpec, name: str, types: Sequence[str]) -> str:
    """The question where a word looks like a name on the hub, or is its address."""
    if not (match := HUB.fullmatch(spec.words.inputs.get(name, ""))):
        return ""
    data = match["data"] or not any(t.startswith(("checkpoint_", "tokenizer_")) for t in types)
    revision = "".join(f"@{r}" for r in (match["revision"], match["tree"]) if r)
    return f"did you mean {name}=hf://{'datasets/' if data else ''}{match['repo']}{revision}?"


def _shape_of(types: Sequence[str]) -> str:
    return " or ".join(_LOOKS[t] for t in types)


def _output(spec: LaunchSpec, seen: Probed) -> Iterator[Finding]:
    out = seen.output
    if not seen.host.runs_writable:
        yield _error(
            Exit.CANNOT_WRITE, seen.host.runs, "the runs directory cannot be written", "name another: --runs-dir"
        )
    if spec.resume and not spec.step.resume:
        yield _error(Exit.WORDS, "--resume", f"{spec.step.id} has nothing to go on from: it starts anew each time")
    if out is None:
        if spec.resume and spec.step.resume:
            yield _error(Exit.WORDS, "--resume", "needs output=PATH, the output of the run that goes on")
        yield from _space(seen.host.runs, spec, seen, seen.host.runs_free)
        return
    where = f"output={out.path}"
    if kept := _kept(out.path, spec, seen):
        yield _error(Exit.WORDS, where, kept, "name a folder of its own: output=PATH")
        return
    if out.kind == "other":
        yield _error(Exit.CANNOT_WRITE, where, "is not a folder")
    elif not out.writable:
        yield _error(Exit.CANNOT_WRITE, where, f"cannot be written by uid {seen.host.uid} ({out.nearest})")
    elif not out.empty and not spec.resume and not spec.makes:  # what is not whole in a cache goes aside first
        remedy = "continue that run with --resume, or name another folder"
        yield _error(Exit.CANNOT_WRITE, where, "is not empty: it holds an earlier run's output", remedy)
    elif spec.resume and spec.step.resume:
        yield from _resumed(where, out, spec, seen)
    yield from _space(where, spec, seen, out.free)
    for name, found in seen.artifacts.items():
        if found.path == out.path or out.path.startswith(f"{found.path}/"):
            yield _error(Exit.WORDS, where, f"lies inside the input {name}={found.path}, which is mounted read-only")


def _kept(path: str, spec: LaunchSpec, seen: Probed) -> str:
    """Why no run may have that folder for its own; empty where one may."""
    if what := seen.host.kept.get(path):
        return f"is {what}"
    for folder, what in seen.host.kept.items():
        if PurePath(folder).is_relative_to(path):
            return f"holds {what}, {folder}"
    ours = PurePath(path).is_relative_to(seen.host.runs) and PurePath(path).relative_to(seen.host.runs).parts[0]
    return f"is in {ours}/ of the folder of all runs, which is the launcher's" if _hidden_name(ours, spec) else ""


def _hidden_name(name: str | bool, spec: LaunchSpec) -> bool:
    return isinstance(name, str) and name.startswith(".") and not spec.makes


def _resumed(where: str, out: OutputInfo, spec: LaunchSpec, seen: Probed) -> Iterator[Finding]:
    """A run goes on from a checkpoint of its own kind, with what that was made of."""
    differences = list(_differences(out.origin, spec, seen)) if out.origin else []
    for what in differences:
        said = f"--resume: run {out.origin.run if out.origin else ''} made what is there with another {what}"
        if spec.allow_drift:
            yield _warning(where, f"{said} (--allow-drift)")
        else:
            remedy = "go on with what it was made with, name another output, or accept it with --allow-drift"
            yield _error(Exit.DATA, where, said, remedy)
    if out.checkpoint:
        return
    wanted = spec.step.resume.where if spec.step.resume else ""
    if out.origin and not differences and not out.near:
        what = f"--resume: run {out.origin.run} has saved no checkpoint there, so the run starts from the beginning"
        yield _warning(where, what)
        return
    how = "there is nothing there" if out.kind == "missing" else "is empty" if out.empty else "has no checkpoint"
    remedy = "did you mean " + " or ".join(f"output={path}" for path in out.near) + "?" if out.near else ""
    what = f"--resume: {how}; expected {wanted}, which {spec.step.id} leaves"
    yield _error(Exit.NO_INPUT, where, what, remedy or "name the output of the run that goes on, or leave --resume out")


def _differences(origin: Origin, spec: LaunchSpec, seen: Probed) -> Iterator[str]:
    """What the run that made an output had, and this one has not."""
    if origin.step != spec.step.id:
        yield f"step: {origin.step}, this is {spec.step.id}"
    made, entry = f"{origin.library}/{origin.release}-{origin.flavour}", spec.entry
    if made != entry.name:
        yield f"library: {made}, this is {entry.name}"
    given = {n: (found.path, found.fingerprint) for n, found in seen.artifacts.items() if found.kind != "missing"}
    given |= {need.input: (need.source, need.fingerprint) for need in spec.needs}
    for name in sorted({*origin.inputs, *given} - {n for n in seen.artifacts if n not in given}):
        before, now = origin.inputs.get(name), given.get(name)
        if before is None or now is None:
            yield f"{name}: {before.path if before else 'none'}, this has {now[0] if now else 'none'}"
        elif before.fingerprint and before.fingerprint != now[1]:
            marks = f"{before.fingerprint[:12]}, this is {now[0]}, {now[1][:12]}"
            yield f"{name}: {before.path}, fingerprint {marks}"


def notes(spec: LaunchSpec, seen: Probed) -> Iterator[str]:
    """What a person should know of a checkpoint that the run goes on from."""
    out = seen.output
    if not (spec.resume and spec.step.resume and out and out.checkpoint):
        return
    if not out.origin:
        why = out.unread or f"no run has left its name in {out.path}"
        yield f"note: --resume: {why}: whether model, data and library are those of its checkpoint is not known"
    elif out.origin.entry != spec.entry.checksum:
        made = f"was made with entry {out.origin.entry[:12]}, this is {spec.entry.checksum[:12]}"
        yield f"note: --resume: {out.path} {made}: the same release with other pins"


def _space(where: str, spec: LaunchSpec, seen: Probed, free: int) -> Iterator[Finding]:
    need = checkpoint_bytes(spec, seen)
    if need > free:
        what = f"one checkpoint needs about {_size(need)}, {_size(free)} are free there"
        yield _error(Exit.CANNOT_WRITE, where, what, "free space there, or name a folder elsewhere: output=PATH")


def checkpoint_bytes(spec: LaunchSpec, seen: Probed) -> int:
    """What one full checkpoint takes: weights as shards and consolidated, and the optimizer's moments.

    0 where nothing here says how large it gets. Of LoRA the adapter alone is saved, of several models (a teacher, a
    judge, a tokenizer's) the one that the step starts from, and of a conversion, or of a training that does not go on
    from what it saves, the weights alone.
    """
    inputs = {n: i for n, i in spec.step.inputs.items() if "tokenizer_hf" not in i.types and not i.frozen}
    start = next((seen.artifacts[n] for n in inputs if n in seen.artifacts and seen.artifacts[n].parameters), None)
    if start is None:
        return 0
    if spec.step.output.type == "checkpoint_lora":
        model, rank = memory.model_of(spec, seen, {}), config_values.settings(spec).get("adapter_rank", 0)
        return int((ADAPTER_BYTES + ADAM_BYTES) * memory.adapter_weights(model, rank)) if model else 0
    saves_all = spec.step.resume is not None and "micro_batch" in spec.step.roles
    size = start.weights.bytes or start.bytes
    return 2 * size + ADAM_BYTES * start.parameters if saves_all else size


def _environment(spec: LaunchSpec) -> Iterator[Finding]:
    step = (Exit.CONFIG, f"{spec.step.folder}/step.yaml: env", spec.step.env)
    profile = (Exit.CONFIG, f"{spec.profile.file}: env", spec.profile.env)
    for code, where, names in (step, profile, (Exit.WORDS, "--env", spec.env)):
        for name in names:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                yield _error(code, f"{where}: {name!r}", "is no name of a variable")
            elif name in RESERVED_ENV or name.startswith("SLIPWAY_"):
                yield _error(code, f"{where}: {name}", "is set by the launcher")


def _mounts(spec: LaunchSpec, seen: Probed) -> Iterator[Finding]:
    targets = [mount.target for mount in spec.profile.mounts]
    for target in sorted({t for t in targets if targets.count(t) > 1}):
        yield _error(Exit.CONFIG, f"{spec.profile.file}: mounts", f"{target} stands there twice")
    yield from _hidden(spec, targets)
    for name, why in seen.host.missing_secrets.items():
        yield _error(Exit.NO_INPUT, f"{spec.profile.file}: secrets.{name}", why)
    for source in seen.host.missing_mounts:
        yield _error(Exit.NO_INPUT, f"{spec.profile.file}: mounts", f"there is nothing at {source}")
    yield from _logins(spec, seen)


def _logins(spec: LaunchSpec, seen: Probed) -> Iterator[Finding]:
    """Tokens that nobody has declared, in a folder that somebody mounts."""
    mounted = [(f"{spec.profile.file}: mounts", m.source) for m in spec.profile.mounts]
    mounted += [(f"{name}={a.path}", a.path) for name, a in seen.artifacts.items()]
    mounted += [(f"output={seen.output.path}", seen.output.path)] if seen.output else []
    if isinstance(spec.profile, SlurmProfile) and spec.profile.mount_home:
        mounted.append((f"{spec.profile.file}: mount_home", seen.host.home))
    for where, folder in mounted:
        for login in seen.host.logins:
            if PurePath(login).is_relative_to(folder):
                what = f"{login} is in it, a login that whatever runs in the container can read"
                yield _warning(where, what, "mount a folder without it")


def _hidden(spec: LaunchSpec, targets: Sequence[str]) -> Iterator[Finding]:
    """What would be mounted over what the image runs with; as root with a home mounted, enroot puts it on /root."""
    profile = spec.profile
    over = {target: f"mounts: {target}" for target in targets}
    if isinstance(profile, SlurmProfile) and profile.mount_home and profile.remap_root:
        over["/root"] = "mount_home, with remap_root, is a mount on /root, which"
    for target, what in over.items():
        if held := [h for h in spec.entry.holds if h == target or PurePosixPath(target) in PurePosixPath(h).parents
                    or PurePosixPath(h) in PurePosixPath(target).parents]:  # fmt: skip
            said = f"{what} hides {' and '.join(held)}, where {spec.entry.name} has interpreters and packages"
            yield _error(Exit.CONFIG, str(profile.file), said, "name another target, or leave it out")


def _shape(spec: LaunchSpec, seen: Probed) -> Iterator[Finding]:
    if spec.nodes > 1 and not seen.engine.nodes:
        yield _error(Exit.WORDS, "--nodes", f"a {spec.profile.kind} profile runs on one machine")
    if spec.step.launcher == "python" and (number := spec.nodes * spec.procs) > 1:
        said = f"{spec.step.id} runs in one process, {number} asked for"
        yield _error(Exit.WORDS, "--nodes" if spec.nodes > 1 else "--procs", said, "leave it out; --gpus may be more")
    if spec.gpus and spec.entry.flavour == "cpu":
        yield _error(Exit.WORDS, "--gpus", "the cpu flavour has none; say --procs")
    there = seen.engine.gpus
    if there and spec.gpus > there:
        yield _error(Exit.WORDS, "--gpus", f"{spec.gpus} asked for, the machine has {there}")
    else:
        yield from gpus.check(spec, seen.engine)
    if spec.procs > seen.host.cpus and spec.entry.flavour == "cpu":
        yield _warning("--procs", f"{spec.procs} processes on {seen.host.cpus} cores")


def _engine(spec: LaunchSpec, seen: Probed) -> Iterator[Finding]:
    engine = seen.engine
    where = f"{engine.address} (from {engine.source})"
    if engine.error:
        yield _error(Exit.UNAVAILABLE, where, engine.error, engine.remedy)
        return
    if spec.gpus and engine.gpus == 0 and spec.entry.flavour == "cuda":
        yield _error(Exit.UNAVAILABLE, where, f"no GPU for a container: {engine.no_gpus}", engine.gpu_remedy)


def of_machine(finding: Finding) -> bool:
    """Whether it is about the engine or its image, and not about what is to run there."""
    return finding.code == Exit.UNAVAILABLE or finding.where.startswith(_IMAGE_OF)


def _image(spec: LaunchSpec, seen: Probed) -> Iterator[Finding]:
    image, entry = seen.image, spec.entry
    where = f"{_IMAGE_OF}{entry.name}"
    if seen.engine.error:
        return
    if image.missing:
        yield _error(Exit.NO_INPUT, where, image.missing, image.remedy)
    elif not image.id and image.tagged:
        what = f"the engine's slipway/{entry.library} is {image.tagged}, which no record of this lock entry names"
        yield _error(Exit.DATA, where, what, f"build it from the lock: {entry.build_command}")
    elif image.platform and seen.engine.platform and image.platform != seen.engine.platform:
        what = f"is for {image.platform}; containers run on {seen.engine.platform} ({seen.engine.platform_by})"
        yield _error(Exit.DATA, image.source or where, what, _for_platform(spec, seen.engine.platform))
    elif not image.id:
        what = "was built, but this engine does not have it" if image.recorded else "has not been built"
        yield _error(Exit.NO_INPUT, where, what, f"run: {entry.build_command}")
    for name in sorted(set(image.left_out) - set(spec.code)):
        if name not in spec.step.repositories:
            yield _warning(where, f"was built without {name} (--source {name}=none)")
        else:
            remedy = f"build it with {name}, from its server or from a checkout (--source {name}=DIR)"
            what = f"was built without {name} (--source {name}=none), which {spec.step.id} runs"
            yield _error(Exit.NOT_PERMITTED, where, what, remedy)
    for pinned, other in image.drift.items():
        what = f"has {other} in place of {pinned}"
        if spec.allow_drift:
            yield _warning(where, f"{what} (--allow-drift)")
        else:
            yield _error(Exit.DATA, where, what, "build it from what the lock pins, or accept it with --allow-drift")


def _for_platform(spec: LaunchSpec, platform: str) -> str:
    """What makes the image for another processor."""
    squash = "" if spec.profile.kind == "docker" else f", then: images squash {spec.entry.name}"
    profile = "; or correct what the profile says" if spec.profile.kind == "slurm" else ""
    return f"run: {spec.entry.build_command} --platform {platform}{squash}{profile}"


def _size(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.4g} {unit}"
        n /= 1024
    return f"{n:.4g} TiB"
