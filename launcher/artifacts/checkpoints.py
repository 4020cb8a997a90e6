"""Checkpoint folders: Hugging Face, Megatron, LoRA adapters in two layouts, NeMo RL; whether each is whole."""

from __future__ import annotations

import hashlib
import math
import re
import struct
from pathlib import Path
from typing import Any

import msgspec

from launcher.artifacts import huggingface
from launcher.artifacts.faults import fault
from launcher.artifacts.huggingface import lfs
from launcher.artifacts.nouns import Adapter, Format, Found, Sizes, Tokenizer, Weights
from slipway import yamldoc
from slipway.errors import SlipwayError
from slipway.findings import Finding

MAX_HEADER = 100_000_000  # bytes of a safetensors header; the library itself refuses more
MAX_METADATA = 64 * 1024 * 1024  # bytes of a Megatron .metadata that are searched for names of shards
LATEST = "latest_checkpointed_iteration.txt"
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")  # config.json's names of one number
MEGATRON = {
    "layers": "num_layers", "hidden": "hidden_size", "vocab": "vocab_size", "heads": "num_attention_heads",
    "kv_heads": "num_query_groups", "head_size": "kv_channels", "intermediate": "ffn_hidden_size",
    "experts": "num_moe_experts", "experts_per_token": "moe_router_topk",
    "expert_intermediate": "moe_ffn_hidden_size", "tied": "share_embeddings_and_output_weights",
    "per_token_loss": "calculate_per_token_loss",
}  # fmt: skip
NEW_CLASS = "TokenizersBackend"  # what transformers calls a tokenizer from 5.0 on, and does not know before
TOOLS = re.compile(r"\btools?\b")  # in a chat template: it renders tools, or their calls
GENERATION = re.compile(r"{%-?\s+generation\s")  # in a chat template: what follows is learned
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_EPOCH = re.compile(r"epoch_(\d+)_step_(\d+)")
_OF_TRAINER = {"config.json", ADAPTER[0]}
NONE = Sizes()
PREFIX = "base_model.model."  # of the names in an adapter of PEFT's


class _Tensor(msgspec.Struct):
    shape: list[int]
    data_offsets: tuple[int, int]


def look(folder: Path) -> Found | None:
    """What checkpoint a folder is; None where it looks like none. Raises OSError for what cannot be read."""
    names = {p.name for p in folder.iterdir()}
    if names & set(ADAPTER):
        return _peft(folder)
    if "config.json" in names or any(n.endswith(".safetensors") for n in names):
        return _hugging_face(folder)
    if LATEST in names or _numbered(folder, "iter_") or any(n.endswith(".distcp") for n in names):
        return _megatron(folder)
    if "run_config.yaml" in names and "metadata.json" in names:
        return _megatron(folder)
    if "training_info.json" in names or _numbered(folder, "step_"):
        return _nemo_rl(folder)
    if huggingface.has_tokenizer(names):
        return Found(type="tokenizer_hf", faults=_tokenizer(folder), tokenizer=tokenizer(folder))
    return None


def last(folder: Path) -> Path | None:
    """The last whole checkpoint of a library's output, or of a run directory; None where the folder is none of these.

    AutoModel writes epoch_E_step_S with LATEST, a link or a file, beside them; in each is model/, an adapter or shards,
    and of shards model/consolidated is what others read. transformers' Trainer writes checkpoint-N.
    """
    names = {p.name for p in folder.iterdir()}
    if "plan.json" in names and (folder / "output").is_dir():
        return last(folder / "output") or folder / "output"
    if names & _OF_TRAINER:
        return None
    if (folder / "consolidated" / "config.json").is_file():
        return folder / "consolidated"
    saved = [(tuple(map(int, m.groups())), p) for p in folder.iterdir() if (m := _EPOCH.fullmatch(p.name))]
    whole = [p for _, p in sorted(saved) if not (p / ".incomplete").exists()]
    latest = folder / "LATEST"
    chosen = [latest] if latest.is_dir() and not (latest / ".incomplete").exists() else whole[-1:]
    for found in (*chosen, folder):
        if (found / "model" / ADAPTER[0]).is_file():
            return found / "model"
        if (found / "model" / "consolidated" / "config.json").is_file():
            return found / "model" / "consolidated"
    trained = [p for _, p in _numbered(folder, "checkpoint-") if {n.name for n in p.iterdir()} & _OF_TRAINER]
    return trained[-1] if trained else None


def tokenizer(folder: Path) -> Tokenizer:
    """What a folder's tokenizer is.

    tokenizer_config.json is left out: every save_pretrained() adds to it, while the vocabulary stays the same bytes.
    """
    digest = hashlib.sha256()
    found = huggingface.vocabulary(folder)
    for path in found:
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    template = _template(folder)
    named = (_json(folder / "tokenizer_config.json") or {}).get("tokenizer_class")
    return Tokenizer(
        vocabulary=digest.hexdigest() if found else "",
        template=hashlib.sha256(template.encode()).hexdigest() if template else "",
        renders_tools=bool(TOOLS.search(template)),
        marks_learned=bool(GENERATION.search(template)),
        needs_class=named if named == NEW_CLASS else "",
        tekken=(folder / "tekken.json").is_file(),
    )


def _template(folder: Path) -> str:
    """The chat template: a file of its own wins over the configuration, as in transformers."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(errors="replace")
    value = (_json(folder / "tokenizer_config.json") or {}).get("chat_template")
    if isinstance(value, list):  # several, each with a name
        value = next((t.get("template") for t in value if isinstance(t, dict) and t.get("name") == "default"), None)
    return value if isinstance(value, str) else ""


def _json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _check_json(path: Path) -> list[Finding]:
    if not path.is_file():
        return [fault(path, "is missing")]
    try:
        value = msgspec.json.decode(path.read_bytes())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        return lfs(path) or [fault(path, f"not JSON: {e}")]
    return [] if isinstance(value, dict) else [fault(path, "not a JSON object")]


def _hugging_face(folder: Path) -> Found:
    shards, faults = huggingface.shards(folder)
    parameters, wrong = _weights(shards)
    config = _json(folder / "config.json") or {}
    method = huggingface.quantized(config, folder)
    if method and method not in huggingface.PLAIN_METHODS:
        parameters = 0  # packed: files do not say how many weights there are
    return Found(
        type="checkpoint_hf",
        faults=[*_check_json(folder / "config.json"), *_tokenizer(folder), *faults, *wrong],
        parameters=parameters,
        sizes=_sizes(config),
        tokenizer=tokenizer(folder),
        weights=Weights(bytes=sum(p.stat().st_size for p in shards), quantized=method),
    )


def _tokenizer(folder: Path) -> list[Finding]:
    named = (_json(folder / "tokenizer_config.json") or {}).get("tokenizer_class")
    return huggingface.tokenizer_faults(folder, named)


def _sizes(config: dict[str, Any]) -> Sizes:
    """What a config.json says."""
    text = config.get("text_config")  # where a model of several modalities keeps its language model's sizes
    sizes = config | text if isinstance(text, dict) else config
    architectures = config.get("architectures")
    return _known(
        {
            "architecture": architectures[0] if isinstance(architectures, list) and architectures else "",
            "layers": sizes.get("num_hidden_layers"),
            "hidden": sizes.get("hidden_size"),
            "vocab": sizes.get("vocab_size"),
            "heads": sizes.get("num_attention_heads"),
            "kv_heads": sizes.get("num_key_value_heads"),
            "head_size": sizes.get("head_dim"),
            "intermediate": sizes.get("intermediate_size"),
            "experts": next((sizes[n] for n in EXPERTS if sizes.get(n)), None),
            "experts_per_token": sizes.get("num_experts_per_tok"),
            "expert_intermediate": sizes.get("moe_intermediate_size"),
            "tied": bool(config.get("tie_word_embeddings")),
            "positions": sizes.get("max_position_embeddings"),
            "dtype": sizes.get("dtype") or sizes.get("torch_dtype") or config.get("torch_dtype"),
        }
    )


def megatron_sizes(model: dict[str, Any]) -> Sizes:
    """The sizes in a `model` section of Megatron-Bridge."""
    said = {name: model.get(key) for name, key in MEGATRON.items()}
    if not said["experts"]:
        said |= {"experts_per_token": 0, "expert_intermediate": 0}  # Megatron keeps defaults there
    return _known(said)


def _known(said: dict[str, Any]) -> Sizes:
    """Those that are of the type that they should be."""
    kinds = {name: type(getattr(NONE, name)) for name in said}
    return Sizes(**{name: value for name, value in said.items() if type(value) is kinds[name]})


def _weights(shards: list[Path]) -> tuple[int, list[Finding]]:
    parameters, faults = 0, []
    for shard in shards:
        count, problem = _safetensors(shard)
        parameters += count
        if problem:
            faults += lfs(shard) or [fault(shard, problem)]
    return parameters, faults


def _safetensors(path: Path) -> tuple[int, str]:
    """Number of weights, and what is wrong with the file: its length must be what its header says."""
    size = path.stat().st_size
    try:
        length, tensors = _header(path)
    except ValueError as e:
        return 0, str(e)
    end = max((t.data_offsets[1] for t in tensors.values()), default=0)
    count = sum(math.prod(t.shape) for t in tensors.values())
    expected = 8 + length + end
    return count, "" if expected == size else f"{size} bytes, its header says {expected}: the file is cut off"


def _header(path: Path) -> tuple[int, dict[str, _Tensor]]:
    """Length of a safetensors header, and its tensors. Raises ValueError in words, where it has none."""
    size = path.stat().st_size
    with path.open("rb") as f:
        head = f.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > size - 8:
            raise ValueError("not a whole safetensors file: its header is cut off")
        try:
            header = msgspec.json.decode(f.read(min(length, MAX_HEADER)), type=dict[str, Any])
            header.pop("__metadata__", None)
            return length, msgspec.convert(header, dict[str, _Tensor])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise ValueError("not a safetensors file: its header lists no tensors") from None


def misfit(adapter: Path, base: Path) -> str:
    """Why an adapter in PEFT's layout does not fit the weights of a base, by names and shapes; empty where it does.

    The same comparison as entrypoints/steps/peft_merge.py makes. Raises OSError; ValueError for a broken file.
    """
    halves: dict[str, dict[str, list[int]]] = {}
    for name, tensor in _header(adapter / ADAPTER[1])[1].items():
        module, dot, half = name.removeprefix(PREFIX).rpartition(".lora_")
        if not dot or half not in ("A.weight", "B.weight") or not name.startswith(PREFIX) or len(tensor.shape) != 2:
            return f"holds {name}, which is no {PREFIX}….lora_A or lora_B weight"
        halves.setdefault(f"{module}.weight", {})[half[0]] = tensor.shape
    there = {n: t.shape for shard in huggingface.shards(base)[0] for n, t in _header(shard)[1].items()}
    if not halves:
        return "holds no tensors"
    for name, found in halves.items():
        if len(found) < 2:
            return f"holds one half of {name} alone"
        changes = [found["B"][0], found["A"][1]]
        if there.get(name) != changes:
            has = " x ".join(map(str, there[name])) if name in there else "not there"
            return f"changes {name} as {changes[0]} x {changes[1]}, which is {has} in {base}"
    return ""


def _peft(folder: Path) -> Found:
    config = folder / ADAPTER[0]
    faults = _check_json(config)
    weights = folder / ADAPTER[1]
    parameters, wrong = _weights([weights]) if weights.is_file() else (0, [fault(weights, "is missing")])
    known = _json(config) or {}
    recorded = (_json(folder / "slipway.json") or {}).get("base")  # the base's fingerprint, by peft/automodel
    base = recorded or known.get("base_model_name_or_path")
    adapter = Adapter(
        layout="hf_peft",
        base=base if isinstance(base, str) else "",
        rank=known["r"] if isinstance(known.get("r"), int) else 0,
        beyond=huggingface.beyond_lora(known) if known else "",
    )
    return Found(type="checkpoint_lora", faults=faults + wrong, adapter=adapter, parameters=parameters)


def _numbered(folder: Path, prefix: str) -> list[tuple[int, Path]]:
    """Folders `<prefix><number>` below a folder, by number."""
    found = ((re.fullmatch(rf"{prefix}(\d+)", p.name), p) for p in folder.iterdir() if p.is_dir())
    return sorted((int(m[1]), p) for m, p in found if m)


def _megatron(folder: Path) -> Found:
    """A root whose tracker file names the iteration, or the folder of one iteration."""
    numbered = _numbered(folder, "iter_")
    if not numbered and not (folder / LATEST).is_file():
        return _iteration(folder, [])
    if not (folder / LATEST).is_file():
        what = f"{LATEST} is missing: saving did not end, or only an iteration was copied"
        return _iteration(numbered[-1][1], [fault(folder, what)])
    named = (folder / LATEST).read_text(errors="replace").strip()[:40]
    wanted = folder / (f"iter_{int(named):07d}" if named.isdecimal() else named)
    if not (named.isdecimal() or named == "release") or not wanted.is_dir():
        what = f"names {named!r}; the folder has {', '.join(p.name for _, p in numbered) or 'no iter_*'}"
        return Found(type="checkpoint_megatron", faults=[fault(folder / LATEST, what)])
    return _iteration(wanted, [])


def _iteration(folder: Path, faults: list[Finding]) -> Found:
    faults = faults + [fault(folder / n, "is missing") for n in (".metadata", "metadata.json") if not _full(folder / n)]
    shards = sorted(folder.glob("*.distcp"))
    faults += [fault(p, "a shard of .metadata is missing") for p in _named_shards(folder) if not p.exists()]
    faults += [fault(p, "an empty shard") for p in shards if not p.stat().st_size]
    if not shards:
        faults.append(fault(folder, "there are no *.distcp shards"))
    run, more = _run_config(folder / "run_config.yaml")
    weights = Weights(iteration=_number(r"iter_(\d+)", folder))
    if not run.get("peft"):
        model = run.get("model")
        sizes, named = megatron_sizes(model if isinstance(model, dict) else {}), tokenizer(folder / "tokenizer")
        kind = "checkpoint_megatron"
        return Found(type=kind, faults=faults + more, weights=weights, sizes=sizes, tokenizer=named)
    checkpoint, peft = run.get("checkpoint"), run["peft"]
    base = checkpoint.get("pretrained_checkpoint") if isinstance(checkpoint, dict) else None
    rank = peft.get("dim") if isinstance(peft, dict) else None
    target = str(peft.get("_target_", "") if isinstance(peft, dict) else peft)
    adapter = Adapter(
        layout="megatron_bridge",
        base=base if isinstance(base, str) else "",
        rank=rank if isinstance(rank, int) else 0,
        beyond="" if target.endswith(".LoRA") else f"it is {target.rpartition('.')[2] or 'of no known kind'}",
    )
    return Found(type="checkpoint_lora", faults=faults + more, weights=weights, adapter=adapter)


def _number(pattern: str, folder: Path) -> int:
    found = re.fullmatch(pattern, folder.name)
    return int(found[1]) if found else 0


def _full(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _named_shards(folder: Path) -> list[Path]:
    """Shards whose names stand in .metadata, which is a pickle: it is searched, never loaded."""
    metadata = folder / ".metadata"
    if not metadata.is_file():
        return []
    with metadata.open("rb") as f:
        names = set(re.findall(rb"__\d+_\d+\.distcp", f.read(MAX_METADATA)))
    return sorted(folder / n.decode() for n in names)


def _run_config(path: Path) -> tuple[dict[str, Any], list[Finding]]:
    if not path.is_file():
        return {}, [fault(path, "is missing")]
    try:
        value = yamldoc.parse(path.read_text(), str(path))
    except (SlipwayError, UnicodeDecodeError) as e:
        return {}, [fault(path, f"cannot be read: {e.what if isinstance(e, SlipwayError) else 'not UTF-8'}")]
    return (value, []) if isinstance(value, dict) else ({}, [fault(path, "not a mapping")])


def _nemo_rl(folder: Path) -> Found:
    """A root with step_N folders (the last counts), or one of them."""
    steps = _numbered(folder, "step_")
    step = steps[-1][1] if steps else folder
    faults = [fault(step / n, "is missing") for n in ("config.yaml", "training_info.json") if not _full(step / n)]
    if not _full(step / "train_dataloader.pt"):
        faults.append(fault(step / "train_dataloader.pt", "is missing: training cannot go on from it", "warning"))
    weights = step / "policy" / "weights"
    files = sorted(p for p in weights.rglob("*") if p.is_file()) if weights.is_dir() else []
    if not any(p.suffix in (".distcp", ".safetensors", ".bin") for p in files):
        faults.append(fault(weights, "there are no weights"))
    shards = [p for p in files if p.suffix == ".distcp"]
    faults += [fault(p, "an empty shard") for p in shards if not p.stat().st_size]
    indices = sorted({p.with_name(".metadata") for p in shards})
    faults += [fault(p, "is missing: saving did not end, or a copy left it out") for p in indices if not _full(p)]
    safe = any(p.suffix == ".safetensors" for p in files)
    written: Format = "safetensors" if safe else "megatron" if any(weights.glob("iter_*")) else "dcp"
    return Found(
        type="checkpoint_nemo_rl", faults=faults, tokenizer=tokenizer(step / "policy" / "tokenizer"),
        weights=Weights(format=written, iteration=_number(r"step_(\d+)", step)),
    )  # fmt: skip
