"""What a GPU has to hold in reinforcement learning and beside it, by phase, estimated before the run. Pure.

A GPU that trains and generates does one at a time, so what counts is the largest phase, not their sum. Read in NeMo RL
at v0.4.0 to v0.7.0 (grpo.py, distillation.py, dpo.py, rm.py, the policy workers, vllm_worker.py):

* training: as `memory` counts it. What a weight, its gradient and its optimizer state take, and over what they
  are divided, is the backend's (`states`, `sharding` in step.yaml). The loss has the logits in fp32, their log softmax
  and its gradient: 12 bytes a token and word of the vocabulary, of which `memory` counts 4. A preference is
  two sequences; a reward model has no logits.
* log probabilities: the weights, logits in fp32, their log softmax and softmax; without generation beside it the
  optimizer's state, too. The reference policy is on the CPU and is copied over the weights: it costs nothing here.
* refit: the weights that train, and those that generate. The optimizer is on the CPU, and the cache not there yet.
* generation: its engine takes the share of the GPU that it is given, whatever it needs. In that share have to be its
  weights and the keys and values of one whole sequence, else it does not start.
* a teacher works while all else is on the CPU.
* a reward model has GPUs of its own, and DTensor alone (reward_model_environment.py). Its weights are in fp32, whatever
  its precision, over all of these GPUs. A forward pass gathers in its precision: the embeddings and two layers, with
  DTensor's first worker all of them (unshard_fsdp2_model). It holds the activations of one layer, and a score in place
  of logits. What it reads is as long as the policy's sequences: nothing looks at its max_model_len.

Not counted, beyond what `memory` does not: what a sleeping engine keeps, gathered weights in a refit (the buffer
is made as large as there is room), an engine's own activations.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec

from launcher.catalog.definitions import Backend
from launcher.catalog.words import Role
from launcher.core.plan import LaunchSpec, Probed
from launcher.planning.checks import config_values, memory, nemo_rl
from launcher.planning.checks.config_values import Known, settings, sizes, value_of
from launcher.planning.checks.memory import GIB, REFUSE, WARN, Layout, Model
from slipway.errors import Exit
from slipway.findings import Finding, error, warning
from slipway.yamldoc import Noun

TRAINING_LOGITS, LOGPROB_LOGITS, COUNTED_LOGITS = 12, 12, 4  # bytes a token and word; what memory.activations counts

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes, by NeMo RL's names

BEYOND: tuple[Role, ...] = ("offload", "adapter")  # these are not estimated
Terms = dict[str, float]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Engine(Noun, frozen=True, kw_only=True):
    """What generates. `share` of a GPU's memory; `width`: bytes of a weight; `sequence`: longest one, in tokens."""

    share: Annotated[float, msgspec.Meta(gt=0)]
    tensor: Count
    pipeline: Count
    sequence: Count
    width: int = 2
    colocated: bool = True

    def needs(self, model: Model) -> Terms:
        """Bytes of a GPU without which it does not start."""
        key = model.head_size or model.hidden // model.heads
        heads = max((model.kv_heads or model.heads) / self.tensor, 1)  # at least one in every GPU
        cache = 2 * 2 * heads * key * self.sequence * model.layers / self.pipeline
        return {"weights": self.width * model.total / (self.tensor * self.pipeline), "one sequence": cache}


class Reward(Noun, frozen=True, kw_only=True):
    """A model that judges answers. `layout`: on its own GPUs; `width`: bytes of what it computes with.

    `whole`: all of its weights are gathered for a forward pass, and not layer by layer.
    """

    model: Model
    layout: Layout
    width: int
    whole: bool

    def terms(self) -> Terms:
        """Bytes of a GPU during a forward pass, by term."""
        model, spread = self.model, self.layout
        ends = model.vocab * model.hidden  # its head gives one number
        gathered = model.total if self.whole else ends + 2 * max(model.total - ends, 0) / model.layers
        layer = msgspec.structs.replace(model, layers=1, vocab=1)
        return {
            "weights": 4 * model.total / spread.world,
            "gathered": self.width * gathered / spread.tensor,
            "activations": memory.activations(layer, spread) * self.width / 2,
        }

    def line(self, size: int) -> str:
        """`the reward model: about 5.0 of 80 GiB a GPU (weights …); estimated; its own GPUs: 4`."""
        terms = self.terms()
        text = f"the reward model: about {sum(terms.values()) / GIB:.1f} of {size / GIB:.0f} GiB a GPU"
        return f"{text} ({_terms(terms)}); estimated; its own GPUs: {self.layout.world}"


class Run(Noun, frozen=True, kw_only=True):
    """All that is estimated of. `logprob_batch`: sequences; 0 where none are computed. `logits`: the loss has them."""

    model: Model
    layout: Layout
    logprob_batch: int
    logits: bool
    engine: Engine | None
    teacher: tuple[Model, Layout] | None


def phases(run: Run, layout: Layout) -> dict[str, Terms]:
    """Bytes on the fullest GPU that trains, by phase and term."""
    training, tokens = memory.estimate(run.model, layout), layout.micro * layout.sequence
    if layout.pipeline == 1:  # else they are on the last stage, and the first is the fullest
        training["activations"] -= COUNTED_LOGITS * _words(run.model, layout, tokens)
        training |= {"logits": TRAINING_LOGITS * _words(run.model, layout, tokens)} if run.logits else {}
    weights = {"weights": training["weights"]}
    found = {"training": training}
    if run.logprob_batch:
        tokens = run.logprob_batch * layout.sequence
        found["logprobs"] = weights | {"logits": LOGPROB_LOGITS * _words(run.model, layout, tokens)}
        if not run.engine or not run.engine.colocated:
            found["logprobs"]["optimizer"] = training["optimizer"]
    if run.engine and run.engine.colocated:
        found["refit"] = weights | {"engine": run.engine.needs(run.model)["weights"]}
    if run.teacher:
        model, spread = run.teacher
        rows = max(run.logprob_batch, 1) * spread.sequence
        held = {"weights": memory.estimate(model, spread)["weights"]}
        found["teacher"] = held | {"logits": LOGPROB_LOGITS * _words(model, spread, rows)}
    return found


def _words(model: Model, layout: Layout, tokens: float) -> float:
    """Logits that one GPU has of so many tokens."""
    return tokens * model.vocab / (layout.context * layout.tensor)


def most(run: Run, layout: Layout) -> float:
    """Bytes of the largest phase."""
    return max(sum(terms.values()) for terms in phases(run, layout).values())


def run_of(spec: LaunchSpec, seen: Probed) -> Run | None:
    """None where the step is none of these, or something that counts is unknown."""
    known, on = settings(spec), [b for b in spec.step.backends.values() if value_of(spec, b.enabled) is True]
    if spec.step.launcher != "ray" or len(on) != 1 or not on[0].states:
        return None
    model, layout = memory.model_of(spec, seen, known), _layout(spec, known, on[0])
    if model is None or layout is None:
        return None
    logprob_batch = known.get("logprob_micro")
    return Run(
        model=model, layout=layout, logprob_batch=logprob_batch if type(logprob_batch) is int else 0,
        logits=spec.step.sample.logits, engine=_engine(spec, known), teacher=_teacher(seen, known, layout),
    )  # fmt: skip


def _layout(spec: LaunchSpec, known: Known, backend: Backend) -> Layout | None:
    shape, world = sizes(spec, known), nemo_rl.training_gpus(spec, known)
    expert = known.get("expert_parallel", 1)
    needed = {"micro_batch", "sequence_length"} <= known.keys() and shape and world
    if not needed or shape is None or any(known.get(role) is True for role in BEYOND):
        return None
    if world % math.prod(shape.values()) or world % (expert * shape["pipeline"]):
        return None
    return Layout(
        world=world, micro=known["micro_batch"], sequence=known["sequence_length"] * spec.step.sample.sequences,
        bytes=backend.states or (0, 0, 0), **shape, expert=expert, sharding=backend.sharding,
        sequence_parallel=known.get("sequence_parallel") is True, recompute=known.get("recompute") is True,
        alone=False, plain=False, frees=False,
    )  # fmt: skip


def _engine(spec: LaunchSpec, known: Known) -> Engine | None:
    """None where nothing generates, or not the engine whose keys the step names, or one of them is unknown."""
    backend, key = known.get("generation_backend"), spec.step.roles.get("generation_memory", "")
    if f".{backend}_cfg." not in key:
        return None
    names: dict[str, Any] = {"share": "memory", "tensor": "tensor", "pipeline": "pipeline", "sequence": "sequence"}
    found = {field: known.get(f"generation_{role}") for field, role in names.items()}  # type: ignore[call-overload]
    precision = str(known.get("generation_precision"))
    width = 1 if "8" in precision else 4 if "32" in precision else 2
    try:
        return msgspec.convert(found | {"width": width, "colocated": known.get("colocated") is not False}, Engine)
    except msgspec.ValidationError:
        return None


def _teacher(seen: Probed, known: Known, layout: Layout) -> tuple[Model, Layout] | None:
    found = seen.artifacts.get("teacher")
    tensor, pipeline = known.get("teacher_tensor"), known.get("teacher_pipeline", 1)
    context = known.get("teacher_context", 1)
    spread = (tensor, pipeline, context)
    if found is None or any(type(n) is not int or n < 1 for n in spread) or layout.world % math.prod(spread):
        return None
    model = memory.of_sizes(found.sizes, parameters=found.parameters)
    other = msgspec.structs.replace(layout, tensor=tensor, pipeline=pipeline, context=context)
    return (model, other) if model and not layout.world % (other.expert * pipeline) else None


def reward_of(spec: LaunchSpec, seen: Probed) -> Reward | None:
    """None where no model judges, or something that counts of it is unknown."""
    known, found = settings(spec), seen.artifacts.get("reward_model")
    model = memory.of_sizes(found.sizes, parameters=found.parameters) if found else None
    width = WIDTHS.get(str(known.get("reward_precision")))
    roles: tuple[Role, ...] = ("reward_gpus", "reward_nodes", "reward_tensor", "reward_context", "sequence_length")
    counts: list[Any] = [*(known.get(role) for role in roles), known.get("reward_micro")]
    if model is None or width is None or any(type(n) is not int or n < 1 for n in counts):
        return None
    gpus, nodes, tensor, context, sequence, micro = counts
    if gpus * nodes % (tensor * context):
        return None
    spread = Layout(
        world=gpus * nodes, micro=micro, sequence=sequence, bytes=(4, 0, 0), tensor=tensor, context=context, sharding=3
    )
    tied = msgspec.structs.replace(model, tied=True)
    return Reward(model=tied, layout=spread, width=width, whole=known.get("reward_second_version") is not True)


def size_of(spec: LaunchSpec, seen: Probed) -> int:
    """Bytes of a GPU; 0 where there is none, or it is unknown."""
    return memory.gpu_bytes(spec, seen) if spec.step.launcher == "ray" and spec.entry.flavour == "cuda" else 0


def check(spec: LaunchSpec, seen: Probed) -> list[Finding]:
    """A warning where the memory gets scarce, an error where it is far too little, or generation cannot start."""
    if not (size := size_of(spec, seen)):
        return []
    run, reward = run_of(spec, seen), reward_of(spec, seen)
    return [*(_trains(spec, run, size) if run else []), *(_judges(spec, reward, size) if reward else [])]


def _trains(spec: LaunchSpec, run: Run, size: int) -> list[Finding]:
    used, findings = most(run, run.layout), _starts(spec, run, size)
    if used < WARN * size:
        return findings
    other = memory.next_fit(run.model, run.layout, size, lambda layout: most(run, layout))
    fits = f"would fit: {remedy(spec, run, other)}" if other else "no shape fits: shorten the sequences"
    return [*findings, _scarce(used / size, line(run, size), fits)]


def _judges(spec: LaunchSpec, reward: Reward, size: int) -> list[Finding]:
    used = sum(reward.terms().values())
    if used < WARN * size:
        return []
    one = msgspec.structs.replace(reward, layout=msgspec.structs.replace(reward.layout, micro=1))
    roles = spec.step.roles
    remedy = f"would fit: {roles['reward_micro']}=1"
    if sum(one.terms().values()) >= WARN * size:
        remedy = f"give it more GPUs: {roles['reward_gpus']}, {roles['reward_nodes']}, {roles['reward_tensor']}"
    return [_scarce(used / size, reward.line(size), remedy)]


def _scarce(part: float, said: str, remedy: str) -> Finding:
    return error(Exit.CONFIG, "memory", said, remedy) if part >= REFUSE else warning("memory", said, remedy)


def _starts(spec: LaunchSpec, run: Run, size: int) -> list[Finding]:
    if run.engine is None:
        return []
    needs, share = run.engine.needs(run.model), run.engine.share * size
    if sum(needs.values()) <= share:
        return []
    key, tensor = spec.step.roles["generation_memory"], spec.step.roles["generation_tensor"]
    what = f"leaves generation {share / GIB:.1f} GiB a GPU; it needs {_terms(needs)}"
    return [error(Exit.CONFIG, config_values.setting(spec, key), what, f"raise it, or {tensor}")]


def notes(spec: LaunchSpec, seen: Probed) -> list[str]:
    """The estimates, a line each, where they are no findings; and with what, or without what, there is none."""
    if not (size := size_of(spec, seen)):
        missing = [] if spec.step.launcher != "ray" or spec.entry.flavour != "cuda" else [memory.unsized(spec, seen)]
        return [f"note: memory: not estimated, since nothing here says {m}" for m in missing]
    run, reward = run_of(spec, seen), reward_of(spec, seen)
    said = [line(run, size)] if run and not _trains(spec, run, size) else []
    missing = [] if run or _beyond(spec) else _missing(spec, seen)
    said += [f"not estimated with {', '.join(beyond)}"] if (beyond := _beyond(spec)) else []
    said += [f"not estimated, since nothing here says {', '.join(missing)}"] if missing else []
    said += [reward.line(size)] if reward and not _judges(spec, reward, size) else []
    return [f"note: memory: {text}" for text in said]


def _missing(spec: LaunchSpec, seen: Probed) -> list[str]:
    """What of an estimate is not known, by name; empty of a step that does not train, or where the shape is wrong."""
    on = [b for b in spec.step.backends.values() if value_of(spec, b.enabled) is True]
    if len(on) != 1:
        return [b.enabled for b in spec.step.backends.values()]
    known, roles = settings(spec), spec.step.roles
    wanted: list[Role] = ["micro_batch", "sequence_length", *config_values.PARALLEL]
    said = [roles[role] for role in wanted if role in roles and role not in known]
    return said if memory.model_of(spec, seen, known) else [*said, "the model's sizes"]


def _beyond(spec: LaunchSpec) -> list[str]:
    """The settings with which what trains is not estimated."""
    known, roles = settings(spec), spec.step.roles
    return [config_values.setting(spec, roles[r]) for r in BEYOND if known.get(r) is True]


def line(run: Run, size: int) -> str:
    """`about 41.3 of 80 GiB a GPU, most in training (weights …); refit 9.1; …`."""
    every = {name: sum(terms.values()) for name, terms in phases(run, run.layout).items()}
    name = max(every, key=lambda n: every[n])
    text = f"about {every[name] / GIB:.1f} of {size / GIB:.0f} GiB a GPU, most in {name}"
    text += f" ({_terms(phases(run, run.layout)[name])})"
    text += "".join(f"; {other} {used / GIB:.1f}" for other, used in every.items() if other != name)
    if run.engine:
        where = "" if run.engine.colocated else " on its own GPUs"
        text += f"; generation {run.engine.share * size / GIB:.1f}{where} (needs {_terms(run.engine.needs(run.model))})"
    return f"{text}; estimated; GPUs that train: {run.layout.world}"


def _terms(terms: Terms) -> str:
    return ", ".join(f"{name} {size / GIB:.1f}" for name, size in terms.items())


def remedy(spec: LaunchSpec, run: Run, other: Layout) -> str:
    """What to say on the command line for another layout; of GPUs only how many, where not all of them train."""
    whole = run.layout.world == spec.nodes * spec.procs
    asked = other if whole else msgspec.structs.replace(other, world=run.layout.world)
    more = [] if whole or other.world == run.layout.world else [f"{other.world} GPUs that train"]
    return " ".join([*more, *memory.words(spec, run.layout, asked)])
