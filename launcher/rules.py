"""What must hold before anything is submitted. Pure: Wish and Observed in, findings out, all at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath, PurePosixPath

from launcher import configuration, fit, gpus, memory, memory_rl, rlrules
from launcher.artifacts import Artifact
from launcher.catalogue import Input, Step
from launcher.fit import error as _error
from launcher.fit import warning as _warning
from launcher.plan import Finding, Observed, Wish
from launcher.profiles import RESERVED_ENV, SlurmProfile
from slipway.errors import Exit

ADAM_BYTES = 8  # two fp32 moments per weight: what AutoModel's optimizer checkpoint holds for AdamW
ADAPTER_BYTES = 4  # of a weight, at most
_LOOKS = {
    "chat_jsonl": "a file with one JSON object a line that has `messages`",
    "preference_jsonl": "a file with one JSON object a line that has `prompt`, `chosen` and `rejected`",
    "prompt_jsonl": "a file with one JSON object a line that has `input` and `output`",
    "packed_parquet": "a folder with *.idx.parquet and *_metadata.jsonl, as data_prep/sft_packing makes it",
    "binidx": "a .bin and an .idx file side by side",
    "checkpoint_hf": "a folder with config.json, tokenizer and *.safetensors",
    "checkpoint_lora": "a folder with adapter_config.json, or Megatron's iterations of an adapter",
    "checkpoint_megatron": "a folder with latest_checkpointed_iteration.txt and iter_*",
    "checkpoint_nemo_rl": "a folder with step_*",
    "tokenizer_hf": "a folder with a tokenizer (tokenizer.json, tokenizer_config.json)",
}


def check(wish: Wish, seen: Observed, steps: Sequence[Step] = ()) -> list[Finding]:
    """Every finding: inputs, output, environment, mounts, configuration, shape, fit, memory, engine, image, in order.

    `steps`: among which one that converts a wrong input is looked for.
    """
    findings = [*_inputs(wish, seen, steps), *_output(wish, seen), *_environment(wish), *_mounts(wish, seen)]
    findings += [*configuration.check(wish), *_shape(wish, seen), *fit.check(wish, seen), *rlrules.check(wish, seen)]
    findings += [*memory.check(wish, seen), *memory_rl.check(wish, seen)]
    return [*findings, *_engine(wish, seen), *_image(wish, seen)]


def first_error(findings: list[Finding]) -> Finding | None:
    """The one whose exit code the launch takes."""
    return next((f for f in findings if f.severity == "error"), None)


def _inputs(wish: Wish, seen: Observed, steps: Sequence[Step]) -> Iterator[Finding]:
    for name, found in seen.artifacts.items():
        if name in seen.hub and (absent := seen.hub[name].finding):
            yield absent
            continue
        yield from _input(name, wish.step.inputs[name], found, steps)


def _input(name: str, asked: Input, found: Artifact, steps: Sequence[Step]) -> Iterator[Finding]:
    types = asked.types
    where, wanted = f"{name}={found.path}", " or ".join(types)
    if found.kind == "missing":
        yield _error(Exit.NO_INPUT, where, "there is nothing there", f"expected: {wanted}")
    elif found.type not in types and (found.type or found.note):
        what = found.type or found.note
        remedy = fit.converter(steps, found, types) or f"expected: {_shape_of(types)}"
        why = f" ({asked.why})" if asked.why else ""
        yield _error(Exit.DATA, where, f"is no {wanted}: found {what}{why}", remedy)
    for fault in found.faults:
        warns = fault.severity == "warning"
        yield _warning(fault.where, fault.what) if warns else _error(Exit.DATA, fault.where, fault.what)


def _shape_of(types: Sequence[str]) -> str:
    return " or ".join(_LOOKS[t] for t in types)


def _output(wish: Wish, seen: Observed) -> Iterator[Finding]:
    out = seen.output
    if not seen.host.runs_writable:
        yield _error(
            Exit.CANNOT_WRITE, seen.host.runs, "the runs directory cannot be written", "name another: --runs-dir"
        )
    if out is None:
        if wish.resume:
            yield _error(Exit.WORDS, "--resume", "needs output=PATH, the output of the run that goes on")
        yield from _space(seen.host.runs, wish, seen, seen.host.runs_free)
        return
    where = f"output={out.path}"
    if out.kind == "other":
        yield _error(Exit.CANNOT_WRITE, where, "is not a folder")
    elif not out.writable:
        yield _error(Exit.CANNOT_WRITE, where, f"cannot be written by uid {seen.host.uid} ({out.nearest})")
    elif not out.empty and not wish.resume and not wish.makes:  # what is not whole in a cache goes aside first
        remedy = "continue that run with --resume, or name another folder"
        yield _error(Exit.CANNOT_WRITE, where, "is not empty: it holds an earlier run's output", remedy)
    elif out.empty and wish.resume:
        how = "is empty" if out.kind == "folder" else "is not there"
        yield _warning(where, f"--resume: the folder {how}, so the run starts from the beginning")
    yield from _space(where, wish, seen, out.free)
    for name, found in seen.artifacts.items():
        if found.path == out.path or out.path.startswith(f"{found.path}/"):
            yield _error(Exit.WORDS, where, f"lies inside the input {name}={found.path}, which is mounted read-only")


def _space(where: str, wish: Wish, seen: Observed, free: int) -> Iterator[Finding]:
    need = checkpoint_bytes(wish, seen)
    if need > free:
        what = f"one checkpoint needs about {_size(need)}, {_size(free)} are free there"
        yield _error(Exit.CANNOT_WRITE, where, what, "free space there, or name a folder elsewhere: output=PATH")


def checkpoint_bytes(wish: Wish, seen: Observed) -> int:
    """What one full checkpoint takes: weights as shards and consolidated, and the optimizer's moments.

    0 where nothing here says how large it gets. Of LoRA the adapter alone is saved, of several models (a teacher, a
    judge, a tokenizer's) the one that the step starts from, and of a conversion the weights alone.
    """
    inputs = {name: asked for name, asked in wish.step.inputs.items() if "tokenizer_hf" not in asked.types}
    start = next((seen.artifacts[n] for n in inputs if n in seen.artifacts and seen.artifacts[n].parameters), None)
    if start is None:
        return 0
    if wish.step.output.type == "checkpoint_lora":
        model, rank = memory.model_of(wish, seen, {}), fit.settings(wish).get("adapter_rank", 0)
        return int((ADAPTER_BYTES + ADAM_BYTES) * memory.adapter_weights(model, rank)) if model else 0
    return 2 * start.bytes + ADAM_BYTES * start.parameters if "micro_batch" in wish.step.roles else start.bytes


def _environment(wish: Wish) -> Iterator[Finding]:
    step = (Exit.CONFIG, f"{wish.step.folder}/step.yaml: env", wish.step.env)
    profile = (Exit.CONFIG, f"{wish.profile.file}: env", wish.profile.env)
    for code, where, names in (step, profile, (Exit.WORDS, "--env", wish.env)):
        for name in names:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                yield _error(code, f"{where}: {name!r}", "is no name of a variable")
            elif name in RESERVED_ENV or name.startswith("SLIPWAY_"):
                yield _error(code, f"{where}: {name}", "is set by the launcher")


def _mounts(wish: Wish, seen: Observed) -> Iterator[Finding]:
    targets = [mount.target for mount in wish.profile.mounts]
    for target in sorted({t for t in targets if targets.count(t) > 1}):
        yield _error(Exit.CONFIG, f"{wish.profile.file}: mounts", f"{target} stands there twice")
    yield from _hidden(wish, targets)
    for name, why in seen.host.missing_secrets.items():
        yield _error(Exit.NO_INPUT, f"{wish.profile.file}: secrets.{name}", why)
    for source in seen.host.missing_mounts:
        yield _error(Exit.NO_INPUT, f"{wish.profile.file}: mounts", f"there is nothing at {source}")
    yield from _logins(wish, seen)


def _logins(wish: Wish, seen: Observed) -> Iterator[Finding]:
    """Tokens that nobody has declared, in a folder that somebody mounts."""
    mounted = [(f"{wish.profile.file}: mounts", m.source) for m in wish.profile.mounts]
    mounted += [(f"{name}={a.path}", a.path) for name, a in seen.artifacts.items()]
    mounted += [(f"output={seen.output.path}", seen.output.path)] if seen.output else []
    if isinstance(wish.profile, SlurmProfile) and wish.profile.mount_home:
        mounted.append((f"{wish.profile.file}: mount_home", seen.host.home))
    for where, folder in mounted:
        for login in seen.host.logins:
            if PurePath(login).is_relative_to(folder):
                what = f"{login} is in it, a login that whatever runs in the container can read"
                yield _warning(where, what, "mount a folder without it")


def _hidden(wish: Wish, targets: Sequence[str]) -> Iterator[Finding]:
    """What would be mounted over what the image runs with; as root with a home mounted, enroot puts it on /root."""
    profile = wish.profile
    over = {target: f"mounts: {target}" for target in targets}
    if isinstance(profile, SlurmProfile) and profile.mount_home and profile.remap_root:
        over["/root"] = "mount_home, with remap_root, is a mount on /root, which"
    for target, what in over.items():
        if held := [h for h in wish.entry.holds if h == target or PurePosixPath(target) in PurePosixPath(h).parents
                    or PurePosixPath(h) in PurePosixPath(target).parents]:  # fmt: skip
            said = f"{what} hides {' and '.join(held)}, where {wish.entry.name} has interpreters and packages"
            yield _error(Exit.CONFIG, str(profile.file), said, "name another target, or leave it out")


def _shape(wish: Wish, seen: Observed) -> Iterator[Finding]:
    if wish.nodes > 1 and not seen.engine.nodes:
        yield _error(Exit.WORDS, "--nodes", f"a {wish.profile.kind} profile runs on one machine")
    if wish.step.launcher == "python" and (number := wish.nodes * wish.procs) > 1:
        said = f"{wish.step.id} runs in one process, {number} asked for"
        yield _error(Exit.WORDS, "--nodes" if wish.nodes > 1 else "--procs", said, "leave it out; --gpus may be more")
    if wish.gpus and wish.entry.flavour == "cpu":
        yield _error(Exit.WORDS, "--gpus", "the cpu flavour has none; say --procs")
    there = seen.engine.gpus
    if there and wish.gpus > there:
        yield _error(Exit.WORDS, "--gpus", f"{wish.gpus} asked for, the machine has {there}")
    else:
        yield from gpus.check(wish, seen.engine)
    if wish.procs > seen.host.cpus and wish.entry.flavour == "cpu":
        yield _warning("--procs", f"{wish.procs} processes on {seen.host.cpus} cores")


def _engine(wish: Wish, seen: Observed) -> Iterator[Finding]:
    engine = seen.engine
    where = f"{engine.address} (from {engine.source})"
    if engine.error:
        yield _error(Exit.UNAVAILABLE, where, engine.error, engine.remedy)
        return
    if wish.gpus and engine.gpus == 0 and wish.entry.flavour == "cuda":
        yield _error(Exit.UNAVAILABLE, where, f"no GPU for a container: {engine.no_gpus}", engine.gpu_remedy)


def _image(wish: Wish, seen: Observed) -> Iterator[Finding]:
    image, entry = seen.image, wish.entry
    where = f"image of {entry.name}"
    if seen.engine.error:
        return
    if image.missing:
        yield _error(Exit.NO_INPUT, where, image.missing, image.remedy)
    elif not image.id and image.tagged:
        what = f"the engine's slipway/{entry.library} is {image.tagged}, which no record of this lock entry names"
        yield _error(Exit.DATA, where, what, f"build it from the lock: {entry.build_command}")
    elif image.platform and seen.engine.platform and image.platform != seen.engine.platform:
        what = f"is for {image.platform}; containers run on {seen.engine.platform} ({seen.engine.platform_by})"
        yield _error(Exit.DATA, image.source or where, what, _for_platform(wish, seen.engine.platform))
    elif not image.id:
        what = "was built, but this engine does not have it" if image.recorded else "has not been built"
        yield _error(Exit.NO_INPUT, where, what, f"run: {entry.build_command}")
    for name in sorted(set(image.left_out) - set(wish.code)):
        if name not in wish.step.repositories:
            yield _warning(where, f"was built without {name} (--source {name}=none)")
        else:
            remedy = f"build it with {name}, from its server or from a checkout (--source {name}=DIR)"
            what = f"was built without {name} (--source {name}=none), which {wish.step.id} runs"
            yield _error(Exit.NOT_PERMITTED, where, what, remedy)
    for pinned, other in image.drift.items():
        what = f"has {other} in place of {pinned}"
        if wish.allow_drift:
            yield _warning(where, f"{what} (--allow-drift)")
        else:
            yield _error(Exit.DATA, where, what, "build it from what the lock pins, or accept it with --allow-drift")


def _for_platform(wish: Wish, platform: str) -> str:
    """What makes the image for another processor."""
    squash = "" if wish.profile.kind == "docker" else f", then: images squash {wish.entry.name}"
    profile = "; or correct what the profile says" if wish.profile.kind == "slurm" else ""
    return f"run: {wish.entry.build_command} --platform {platform}{squash}{profile}"


def _size(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.4g} {unit}"
        n /= 1024
    return f"{n:.4g} TiB"
