"""What a GPU has to hold while it trains, estimated before the run. Pure.

Sources: mixed-precision Adam's 16 or 18 bytes a weight and the division of its optimizer by the data parallel size are
ZeRO's stage 1 (Rajbhandari et al. 2020, arXiv:1910.02054); what a layer keeps for the backward pass is counted as in
Korthikanti et al. 2022 (arXiv:2205.05198, section 4); nine shapes of AutoModel's training were measured, with layers
of transformers' own (docs/gpu.md). Not counted, and the reason why a warning comes before the memory is full:
fragmentation, CUDA's and NCCL's own buffers, experts that get more tokens than others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from launcher.artifacts.checkpoints import megatron_sizes
from launcher.artifacts.nouns import Sizes
from launcher.catalog.words import Role
from launcher.core.plan import LaunchSpec, Probed
from launcher.planning.checks import config_values, parallelism
from launcher.planning.checks.config_values import Known, settings, sizes, value_of, word, world_size
from slipway.errors import Exit
from slipway.findings import Finding, error, warning
from slipway.yamldoc import Noun

WARN, REFUSE = 0.85, 1.20  # of the GPU's memory
NODE = 8  # GPUs of a machine, at most; tensor parallelism stays inside
GIB = 2**30
# Bytes a weight takes as weight, gradient and optimizer state, by a word in the precision. Megatron's mixed precision
# keeps fp32 gradients, and an fp32 copy beside Adam's two moments (18); a plain type is Adam's in that type, too.
BYTES = {"mixed": (2, 4, 12), "fp32": (4, 4, 8), "float32": (4, 4, 8), "bfloat16": (2, 2, 4), "float16": (2, 2, 4)}

# By Megatron's switch, or the name of AutoModel's strategy; before 0.3 that of its class.
SHARDING: dict[str, Literal[0, 1, 3]] = {
    "true": 1, "fsdp2": 3, "megatron_fsdp": 3, "fsdp2manager": 3, "megatronfsdpmanager": 3,
}  # fmt: skip

# Words for recomputing whole layers: Megatron's one, and AutoModel's (recipes/_dist_utils.py); of a part of each layer
# ("selective") nothing is counted.
RECOMPUTE = frozenset({"full", "true", "on", "enabled", "yes"})

NEEDED = frozenset[Role]({"micro_batch", "sequence_length", "precision"})  # beside the sharding and parallel sizes
OF_MODEL = ("layers", "hidden", "vocab", "heads", "intermediate")  # sizes without which there is no estimate
MOMENTS = 8  # bytes a weight of Adam's two in fp32, where the optimizer keeps weights of its own beside 16 bits


class Model(Sizes, frozen=True, kw_only=True):
    """A transformer with gated MLPs; of experts where `experts`. `parameters`: as counted; 0: by the sizes."""

    parameters: int = 0

    @property
    def widths(self) -> tuple[float, float, float]:
        """Of queries, of keys (or values), and of one token's MLP, all in units of `hidden`."""
        size = self.head_size or self.hidden // self.heads
        mlp = self.experts_per_token * (self.expert_intermediate or self.intermediate) or self.intermediate
        heads = (self.heads, self.kv_heads or self.heads)
        return heads[0] * size / self.hidden, heads[1] * size / self.hidden, mlp / self.hidden

    @property
    def embeddings(self) -> int:
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def body(self) -> int:
        """All but the embeddings; none where a checkpoint has fewer weights than its sizes say."""
        return max(self.total - self.embeddings, 0)

    @property
    def in_experts(self) -> int:
        """Weights that expert parallelism divides."""
        return 3 * self.layers * self.experts * self.hidden * (self.expert_intermediate or self.intermediate)

    @property
    def total(self) -> int:
        """All weights."""
        query, key, mlp = self.widths
        body = 2 * query + 2 * key + (0 if self.experts else 3 * mlp)
        dense = self.layers * (int(body * self.hidden**2) + self.hidden * (2 + self.experts)) + self.hidden
        return self.parameters or self.embeddings + self.in_experts + dense


class Layout(Noun, frozen=True, kw_only=True):
    """How a model is spread and trained. `sharding` over the data parallel GPUs: ZeRO's stage 0, 1 or 3.

    `bytes`: of a weight, its gradient, its optimizer state. `rank`: of an adapter; 0 trains all. `batch`: global.
    `logit`: bytes that the loss keeps of one. `frozen`: bytes of what is held whole and not trained. `alone`: the step
    has no other parallelism than by data. `plain`: layers are transformers' own, operation by operation. `frees`:
    gradients are there from the first backward pass to the optimizer's step, which makes a copy of what trains.
    """

    world: int
    micro: int
    sequence: int
    bytes: tuple[int, int, int]
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    expert: int = 1
    sharding: Literal[0, 1, 3] = 0
    sequence_parallel: bool = False
    recompute: bool = False
    rank: int = 0
    batch: int = 0
    logit: int = 4
    frozen: int = 0
    alone: bool = False
    plain: bool = False
    frees: bool = False

    @property
    def accumulates(self) -> bool:
        """Whether an optimizer step has several backward passes; as long as nothing says otherwise, it has."""
        return self.batch != self.micro * (self.world // (self.tensor * self.pipeline * self.context))

    @property
    def expert_tensor(self) -> int:
        """Megatron's default is the tensor parallel size; 1 where the processes are too few for that."""
        return self.tensor if self.world % (self.tensor * self.expert * self.pipeline) == 0 else 1

    def possible(self, model: Model) -> bool:
        """Whether Megatron would take it."""
        share = self.tensor * self.pipeline * self.context
        unit = self.micro * (self.world // share)
        whole = not (self.world % share or self.world % (self.expert * self.pipeline) or model.heads % self.tensor)
        experts = not model.experts % self.expert if model.experts else self.expert == 1
        return whole and experts and not model.layers % self.pipeline and not self.batch % max(unit, 1)


def estimate(model: Model, layout: Layout) -> dict[str, float]:
    """Bytes on the fullest GPU (the first stage of a pipeline) when it holds most, by term."""
    trained, sharded = (adapter_weights(model, layout.rank) / layout.pipeline, 0.0) if layout.rank else (0.0, 1.0)
    terms = {}
    for (name, least), size in zip({"weights": 3, "gradients": 3, "optimizer": 1}.items(), layout.bytes, strict=True):
        model_part = 1.0 if name == "weights" else sharded
        terms[name] = size * (model_part * _held(model, layout, bool(layout.sharding >= least)) + trained)
    if layout.sharding == 3:  # two layers are gathered while one is computed
        terms["weights"] += 2 * layout.bytes[0] * model.body / model.layers / layout.tensor
    terms |= {"frozen": layout.frozen} if layout.frozen else {}
    backward = terms | {"activations": activations(model, layout)}
    if not layout.frees:
        return backward
    if not layout.accumulates:  # the first gradients come when the last layer's activations go
        del backward["gradients"]
    update = terms | {"update": terms["optimizer"] / 2}
    return max(backward, update, key=lambda found: sum(found.values()))


def _held(model: Model, layout: Layout, sharded: bool) -> float:
    """Weights that belong to one GPU; where `sharded`, its part of what all its data parallel peers hold."""
    tensor, pipeline = layout.tensor, layout.pipeline
    ends = model.embeddings if pipeline == 1 else model.vocab * model.hidden
    experts = min(model.in_experts, model.body)
    dense = ends / tensor + (model.body - experts) / (tensor * pipeline)
    expert_share = layout.expert * layout.expert_tensor * pipeline
    if not sharded:
        return dense + experts / expert_share
    return dense / (layout.world // (tensor * pipeline)) + experts / expert_share / (layout.world // expert_share)


def adapter_weights(model: Model, rank: int) -> float:
    """Weights of LoRA on the four linear layers of attention and MLP."""
    query, key, mlp = model.widths
    ends = (1 + query + 2 * key) + (query + 1) + (1 + 2 * mlp) + (mlp + 1)
    return rank * ends * model.hidden * model.layers


def activations(model: Model, layout: Layout) -> float:
    """Bytes kept for the backward pass, in 16 bits, with fused attention (no term in the square of the sequence).

    Korthikanti et al. count 34 a token and hidden unit for a GPT layer, of which 24 are divided by tensor parallelism
    alone and the other 10 with sequence parallelism, too. Here: inputs of norms and linear layers 8, queries and the
    core's output 4 x their width, keys and values 4 x theirs, a gated MLP 6 x its width, no dropout masks. The first of
    p stages keeps p batches of 1/p of the layers, so a pipeline changes nothing. Full recomputation keeps a layer's
    input (2) and, later than the loss, one whole layer. The last norm, logits and their fp32 softmax: 4 (h + v) without
    a pipeline; a step's loss may keep more of a logit (`sample` in step.yaml).

    transformers' own layers keep more: a norm's input in fp32, what it makes of it before and after its weight 8 (6
    where that is not trained), keys and values repeated for every query 10 x the width of those in all, a gated MLP 8 x
    its width, of which AutoModel's adapters from 0.5 on keep 4 and compute the rest again.
    """
    query, key, mlp = model.widths
    tokens = layout.micro * layout.sequence / layout.context
    whole = layout.tensor if layout.sequence_parallel else 1
    again = 2 * max(model.experts_per_token, 1)  # each expert gets a copy of the token
    if layout.plain:
        norms, inside = (12, 10 * query + 4 * mlp) if layout.rank else (16, 10 * query + 8 * mlp)
    else:
        norms, inside = 6 + again, 4 * query + 4 * key + 6 * mlp
    layer = tokens * model.hidden * (norms / whole + inside / layout.tensor)
    head = tokens * (4 * model.hidden + layout.logit * model.vocab) / layout.tensor if layout.pipeline == 1 else 0
    if layout.recompute:
        return 2 * tokens * model.hidden / whole * model.layers + max(layer, head)
    return layer * model.layers + head


def next_fit(model: Model, layout: Layout, memory: int, used: Callable[[Layout], float] | None = None) -> Layout | None:
    """The layout that fits with the fewest GPUs, then this batch of a process or 1, then the least parallelism.

    `used`: bytes of a GPU with a layout; those of training otherwise.

    None where none does. Where everything is sharded, only more GPUs help.
    """
    used = used or (lambda other: sum(estimate(model, other).values()))
    few, micros = (1, 2, 4, 8), dict.fromkeys((layout.micro, 1))
    sizes = itertools.product((*few, 16, 32), micros, (*few, 16), few, (*few, 16, 32))
    for grown, micro, pipeline, tensor, expert in sizes:
        other = msgspec.structs.replace(
            layout, world=layout.world * grown, micro=micro, pipeline=pipeline, tensor=tensor, expert=expert,
            sequence_parallel=tensor > 1,
        )  # fmt: skip
        changed = (pipeline, tensor, expert) != (layout.pipeline, layout.tensor, layout.expert)
        fixed = changed and (layout.alone or layout.sharding == 3)
        if not fixed and other.possible(model) and used(other) < WARN * memory:
            return other
    return None


def layout_of(spec: LaunchSpec, seen: Probed, known: Known) -> Layout | None:
    """None where the step does not train, something that counts is unknown, or the shape is wrong anyway."""
    shape, width, world = sizes(spec, known), _states(_precision(spec, seen, known), known), world_size(spec)
    expert = known.get("expert_parallel", 1)
    step, needed = spec.step, _needed(spec)
    if shape is None or width is None or not known.keys() >= needed or step.launcher == "ray":
        return None
    if world % math.prod(shape.values()) or world % (expert * shape["pipeline"]):
        return None
    weight, gradient, optimizer = width
    copies = step.sample.gradients if world > 1 else 1
    return Layout(
        world=world, micro=known["micro_batch"], sequence=known["sequence_length"], **shape, expert=expert,
        bytes=(weight + (step.sample.cast if weight > 2 else 0), gradient * copies, optimizer),
        sharding=SHARDING.get(str(known.get("sharding")).lower().rpartition(".")[2], 0),
        sequence_parallel=known.get("sequence_parallel") is True,
        recompute=str(known.get("recompute")).lower() in RECOMPUTE,
        rank=known.get("adapter_rank", 0), batch=known.get("global_batch", 0),
        logit=step.sample.logit_bytes, frozen=_frozen(spec, seen, weight), alone="tensor_parallel" not in step.roles,
        plain=bool(step.sample.plain) and all(value_of(spec, k) == v for k, v in step.sample.plain.items()),
        frees=step.sample.frees,
    )  # fmt: skip


def _needed(spec: LaunchSpec) -> set[Role]:
    """Without which there is no estimate; a step that has no word for sharding does none."""
    sharding: list[Role] = ["sharding"]
    return {*NEEDED, *(role for role in sharding if role in spec.step.roles)}


def _frozen(spec: LaunchSpec, seen: Probed, width: int) -> int:
    """Bytes of the models that are held and not trained."""
    held = [seen.artifacts[n] for n, i in spec.step.inputs.items() if i.frozen and n in seen.artifacts]
    return sum(width * a.parameters for a in held)


def _precision(spec: LaunchSpec, seen: Probed, known: Known) -> Any:
    """What the configuration says; `auto` is the type that the checkpoint's config.json names, or that of new weights.

    Read in AutoModel's _transformers/auto_model.py at v0.2.0 to v0.5.0: from_config() takes `auto` for bfloat16.
    """
    said, start = known.get("precision"), parallelism.model(spec, seen)
    if said == "auto" and known.get("start") == "random":
        return spec.step.sample.new_type
    return (start.sizes.dtype or None) if said == "auto" and start else said


def _states(precision: Any, known: Known) -> tuple[int, int, int] | None:
    """Bytes of a weight, its gradient and its optimizer state; an optimizer may keep fp32 weights beside 16 bits.

    Of those it keeps 4 bytes, or the 2 that are not in the weight (Transformer Engine's FusedAdam).
    """
    found = _bytes(precision)
    if found and found[0] == 2 and known.get("master_weights") is True:
        return *found[:2], MOMENTS + (2 if known.get("master_remainders") is True else 4)
    return found


def _bytes(precision: Any) -> tuple[int, int, int] | None:
    if isinstance(precision, dict):  # Megatron-Bridge's MixedPrecisionConfig, written out
        return BYTES["fp32" if precision.get("fp32") else "mixed"]
    return next((b for name, b in BYTES.items() if name in str(precision)), None)


def model_of(spec: LaunchSpec, seen: Probed, known: Known) -> Model | None:
    """The model's sizes by its checkpoint, else by the configuration; None where one is missing."""
    start, written = parallelism.model(spec, seen), known.get("architecture")
    tokenizer = seen.artifacts.get("tokenizer")
    vocabulary = (tokenizer and tokenizer.sizes.vocab) or known.get("vocabulary")
    if start:
        return of_sizes(start.sizes, vocabulary, start.parameters)
    return of_sizes(megatron_sizes(written if isinstance(written, dict) else {}), vocabulary)


def of_sizes(sizes: Sizes, vocabulary: int | None = None, parameters: int = 0) -> Model | None:
    """The model of these sizes; None where one is missing. `vocabulary`: where they do not say it."""
    said = msgspec.structs.asdict(sizes) | {"vocab": sizes.vocab or vocabulary, "parameters": parameters}
    return Model(**said) if all(said[name] and type(said[name]) is int for name in OF_MODEL) else None


def check(spec: LaunchSpec, seen: Probed) -> list[Finding]:
    """A warning where the memory gets scarce, an error where it is far too little, both with what would fit."""
    found = sized(spec, seen)
    used = sum(estimate(found[0], found[1]).values()) / found[2] if found else 0
    if not found or used < WARN:
        return []
    other = next_fit(*found)
    remedy = f"would fit: {' '.join(words(spec, found[1], other))}" if other else "no shape fits: shorten the sequences"
    return [
        error(Exit.CONFIG, "memory", line(*found), remedy)
        if used >= REFUSE
        else warning("memory", line(*found), remedy)
    ]


def notes(spec: LaunchSpec, seen: Probed) -> list[str]:
    """The estimate in one line, where it is no finding; of a step that trains, else what would be needed for one."""
    if found := sized(spec, seen):
        return [] if check(spec, seen) else [f"note: memory: {line(*found)}"]
    trains = spec.step.launcher != "ray" and spec.step.roles.keys() >= NEEDED
    if spec.entry.flavour != "cuda" or not trains or not (missing := _missing(spec, seen)):
        return []
    return [f"note: memory: not estimated, since nothing here says {', '.join(missing)}"]


def _missing(spec: LaunchSpec, seen: Probed) -> list[str]:
    """What of an estimate is not known, as the user would say it; empty where it is the shape that is wrong."""
    known, roles = settings(spec), spec.step.roles
    wanted = sorted(_needed(spec) | (set(config_values.PARALLEL) & roles.keys()))
    said = [] if gpu_bytes(spec, seen) else [unsized(spec, seen)]
    said += [roles[role] for role in wanted if role not in known]
    if "precision" in known and _bytes(_precision(spec, seen, known)) is None:
        said.append(f"the type behind {roles['precision']}={known['precision']}")
    return said if model_of(spec, seen, known) else [*said, "the model's sizes"]


def sized(spec: LaunchSpec, seen: Probed) -> tuple[Model, Layout, int] | None:
    """What an estimate is made of, with a GPU's bytes; None where something is not known."""
    size = gpu_bytes(spec, seen)
    if spec.entry.flavour != "cuda" or not size:
        return None
    known = settings(spec)
    model, layout = model_of(spec, seen, known), layout_of(spec, seen, known)
    return (model, layout, size) if model and layout else None


def gpu_bytes(spec: LaunchSpec, seen: Probed) -> int:
    """A GPU's memory as the profile has it, else as the names of the engine's GPUs do; 0 where neither says it."""
    gpu = spec.profile.gpu
    return (gpu.bytes if gpu else 0) or seen.engine.gpu.bytes


def unsized(spec: LaunchSpec, seen: Probed) -> str:
    """What is missing where nothing says a GPU's memory; with what the engine's are called, where that is known."""
    names = list(dict.fromkeys(gpu.name for gpu in seen.engine.gpu.devices if gpu.name))
    if not names:
        return f"the GPU's memory ({spec.profile.file}: gpu.memory)"
    model = next((m for m in sorted(parallelism.CAPABILITY, key=len, reverse=True) if m in names[0]), "…")
    return f"the memory of {', '.join(names)} ({spec.profile.file}: gpu: {{model: {model}, memory: …}})"


def line(model: Model, layout: Layout, memory: int) -> str:
    """`about 61.2 of 80 GiB a GPU: weights 15.0, …; tensor 4 x pipeline 1 x …`."""
    terms = estimate(model, layout)
    data = layout.world // (layout.tensor * layout.pipeline * layout.context)
    shape = {"tensor": layout.tensor, "pipeline": layout.pipeline, "context": layout.context, "data": data}
    return (
        f"about {sum(terms.values()) / GIB:.1f} of {memory / GIB:.0f} GiB a GPU: "
        + ", ".join(f"{name} {size / GIB:.1f}" for name, size in terms.items())
        + f" (estimated; {' x '.join(f'{n} {s}' for n, s in shape.items())}, expert {layout.expert})"
    )


def words(spec: LaunchSpec, layout: Layout, other: Layout) -> Iterator[str]:
    """What to say on the command line for another layout."""
    per_node = min(max(spec.procs, NODE), other.world)
    if other.world != layout.world:
        yield f"--nodes {other.world // per_node} --gpus {per_node}"
    if other.micro != layout.micro:
        yield f"{word(spec.step, 'micro_batch')}={other.micro}"
    for name in ("tensor", "pipeline", "expert"):
        role: Role = f"{name}_parallel"  # type: ignore[assignment]
        if getattr(other, name) != getattr(layout, name) and role in spec.step.roles:
            yield f"{word(spec.step, role)}={getattr(other, name)}"
    if other.sequence_parallel != layout.sequence_parallel and "sequence_parallel" in spec.step.roles:
        yield f"{spec.step.roles['sequence_parallel']}={str(other.sequence_parallel).lower()}"
