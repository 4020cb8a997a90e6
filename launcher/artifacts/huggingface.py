"""What a loader takes of a Hugging Face folder: weights, tokenizer, quantization; and what is none of them.

The weights are those of the index, else `model.safetensors`; where both are, transformers 5.8 to 5.18 take the latter
(`modeling_utils`), so that is warned of. A copy in another layout beside them is nobody's. What AutoModel and
Megatron-Bridge take was read at their tags; the layouts of tokenizers were not read in transformers.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from launcher.artifacts.faults import fault
from slipway.findings import Finding

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
OTHERS = ("consolidated*", "optimizer*", "adapter_*", "scheduler*")  # safetensors that are not the model's weights here
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
_LFS = b"version https://git-lfs.github.com/spec/"
MAX_POINTER = 1024  # bytes; a pointer has some 130

# What holds a vocabulary alone. tokenizer_config.json names a class that needs none (of bytes or characters).
VOCABULARY = (
    "tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "tiktoken.model", "source.spm", "target.spm", "bpe.codes",
)  # fmt: skip
PAIRS = {"vocab.json": "merges.txt", "source.spm": "target.spm"}
OWN_VOCABULARY = ("*.tiktoken",)  # of a tokenizer that brings its own program
NEEDS_NONE = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer", "CharacterTokenizer")

PLAIN_METHODS = ("fp8", "fbgemm_fp8")  # where a tensor's numbers are the weights, not several packed in one

# What else PEFT's adapter_config.json may say -> what it says of a plain LoRA; as peft_merge.py, which merges, has it.
LORA: dict[str, Any] = {
    "use_dora": False, "fan_in_fan_out": False, "bias": "none", "modules_to_save": None, "rank_pattern": {},
    "alpha_pattern": {}, "layer_replication": None, "target_parameters": None,
}  # fmt: skip


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def shards(folder: Path) -> tuple[list[Path], list[Finding]]:
    """The weight files that are loaded, and what is wrong with their choice; a file of the index may be missing."""
    index, whole = folder / INDEX, folder / WHOLE
    if index.is_file():
        return _indexed(folder, index, whole)
    if whole.is_file():
        return [whole], []
    found = sorted(p for p in folder.glob("*.safetensors") if not like(p.name, OTHERS))
    if found:
        return found, _unindexed(folder, found)
    there = sorted(p.name for p in folder.iterdir() if like(p.name, ("consolidated*.safetensors", "*.bin", "*.gguf")))
    if there:
        return [], [fault(folder, f"there are no weights that are loaded: {there[0]} is {_layout(there[0])}")]
    return [], [fault(folder, "there are no *.safetensors weights")]


def _layout(name: str) -> str:
    if name.startswith("consolidated"):
        return "Mistral's own layout; fetch the repository's model*.safetensors, too"
    if name.endswith(".gguf"):
        return "llama.cpp's; take the repository that it was made of"
    return "a pickle; save it with safe_serialization=True"


def _indexed(folder: Path, index: Path, whole: Path) -> tuple[list[Path], list[Finding]]:
    try:
        names = sorted(set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values()))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return [], lfs(index) or [fault(index, "no index of weights (`weight_map`)")]
    missing = [n for n in names if ".." in Path(n).parts or not (folder / n).is_file()]
    faults = [fault(folder / n, "a shard of the index is missing") for n in missing]
    if whole.is_file() and WHOLE not in names:
        what = f"stands beside {INDEX}, which names other files: transformers loads this one, other loaders those"
        faults.append(fault(whole, f"{what}; remove what is not the model", "warning"))
    return [folder / n for n in names if n not in missing], faults


def _unindexed(folder: Path, found: list[Path]) -> list[Finding]:
    """Of shards without an index: what of their numbers is missing."""
    numbers = [m for p in found if (m := _SHARD.fullmatch(p.name))]
    if not numbers:
        return []
    most, there = max(int(m[2]) for m in numbers), {int(m[1]) for m in numbers}
    missing = [n for n in range(1, most + 1) if n not in there]
    if missing:
        names = ", ".join(f"model-{n:05d}-of-{most:05d}.safetensors" for n in missing[:3])
        return [fault(folder, f"shards are missing: {names}{' …' if len(missing) > 3 else ''}")]
    if most == 1:
        return []
    return [fault(folder / INDEX, "is missing: transformers loads no shards without it", "warning")]


def like(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns is the name's."""
    return any(fnmatch.fnmatchcase(name, p) for p in patterns)


def vocabulary(folder: Path) -> list[Path]:
    """The files of a tokenizer's vocabulary, in the order in which they are hashed."""
    found = [folder / n for n in VOCABULARY if (folder / n).is_file()]
    return found + sorted(p for p in folder.glob(OWN_VOCABULARY[0]) if p.is_file())


def has_tokenizer(names: Iterable[str]) -> bool:
    """Whether names of files look like a tokenizer's."""
    return any(n in VOCABULARY or n == "tokenizer_config.json" or like(n, OWN_VOCABULARY) for n in names)


def tokenizer_faults(folder: Path, named: object) -> list[Finding]:
    """What a tokenizer lacks. `named`: the class in tokenizer_config.json."""
    found = {p.name for p in vocabulary(folder)}
    if not found:
        if isinstance(named, str) and named.removesuffix("Fast") in NEEDS_NONE:
            return []
        if (folder / "tokenizer_config.json").is_file():
            what = f"names {named or 'a tokenizer'}, and there is no vocabulary (tokenizer.json, tokenizer.model, …)"
            return [fault(folder / "tokenizer_config.json", what)]
        return [fault(folder, "there is no tokenizer (tokenizer.json, tokenizer_config.json)")]
    alone = {one: other for one, other in PAIRS.items() if one in found and other not in found}
    others = found - alone.keys()
    return [] if others else [fault(folder / n, f"is missing: {one} is read with it") for one, n in alone.items()]


def quantized(config: dict[str, Any], folder: Path) -> str:
    """The method by which weights are quantized, as config.json or Model Optimizer's own file names it; empty: none."""
    text = config.get("text_config")
    said = config.get("quantization_config") or (text.get("quantization_config") if isinstance(text, dict) else None)
    said = said or config.get("compression_config")
    if isinstance(said, dict):
        bits = "bitsandbytes" if said.get("load_in_4bit") or said.get("load_in_8bit") else "unknown"
        return str(said.get("quant_method") or bits)
    return "modelopt" if (folder / "hf_quant_config.json").is_file() else ""


def beyond_lora(config: dict[str, Any]) -> str:
    """What makes an adapter more than W + scale * (B @ A), by its adapter_config.json; empty where nothing does."""
    if config.get("peft_type") != "LORA":
        return f"its peft_type is {config.get('peft_type')}"
    for key, plain in LORA.items():
        if config.get(key, plain) not in (plain, None, [], {}):
            return f"{key} is {json.dumps(config[key])[:80]}"
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float):
        return f"r is {rank} and lora_alpha {alpha}"
    return ""


def lfs(path: Path) -> list[Finding]:
    """The fault of a file that is Git LFS's pointer to a file, and not that file. Raises OSError."""
    if path.stat().st_size > MAX_POINTER:
        return []
    with path.open("rb") as f:
        pointer = f.read(len(_LFS)) == _LFS
    return [fault(path, "is Git LFS's pointer to the file, not the file: git lfs pull")] if pointer else []


def pointers(files: Iterable[Path]) -> Iterator[Finding]:
    """Those of many files. Raises OSError."""
    for path in files:
        yield from lfs(path)
