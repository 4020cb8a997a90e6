"""Tiny inputs of a selftest: conversations about sums, a Llama of 0.3 M random weights, its tokenizer, tokenized text.

Written by the standard library alone, so that no machine needs a network, an engine or a library for them; the same
bytes everywhere. A model of this size learns nothing: it shows that a step runs to its end.
"""

from __future__ import annotations

import itertools
import json
import random
import struct
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.catalog.definitions import ArtifactType
from slipway import canonical
from slipway.files import cannot_write, written

# Material -> its type, and where it is in the folder.
MATERIALS: dict[str, tuple[ArtifactType, str]] = {
    "chats": ("chat_jsonl", "chats.jsonl"),
    "chats_validation": ("chat_jsonl", "chats-validation.jsonl"),
    "prompts": ("prompt_jsonl", "prompts.jsonl"),
    "prompts_validation": ("prompt_jsonl", "prompts-validation.jsonl"),
    "preferences": ("preference_jsonl", "preferences.jsonl"),
    "preferences_validation": ("preference_jsonl", "preferences-validation.jsonl"),
    "texts": ("text_jsonl", "texts.jsonl"),
    "tokens": ("binidx", "tokens"),
    "model": ("checkpoint_hf", "model"),
    "reward_model": ("checkpoint_hf", "reward-model"),
}
EDITION = 1  # of these bytes: a folder of another edition is made beside it
TRAIN, VALIDATION = 256, 64  # rows
LAYERS, HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY = 4, 64, 192, 2, 1, 512
WIDTH = HIDDEN // HEADS  # of a head: vLLM's attention without CUDA takes 32 at least
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
)  # 0, 1, 2; text is padded with the first, and ends with the last
# What stands between {% generation %} and {% endgeneration %} is learned.
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_UINT16 = 8  # Megatron's code of the type


def folder_name() -> str:
    """Of this edition."""
    return f"edition-{EDITION}"


def write(folder: Path) -> None:
    """Writes all of them into an empty folder. Raises SlipwayError 73."""
    sums = [(a, b) for a in range(20) for b in range(20)]
    random.Random(0).shuffle(sums)
    parts = {"": sums[:TRAIN], "-validation": sums[TRAIN : TRAIN + VALIDATION]}
    rows = {"chats": _chat, "prompts": _prompt, "preferences": _preference}
    with cannot_write(folder):
        for (name, row), (part, pairs) in itertools.product(rows.items(), parts.items()):
            _put(folder / f"{name}{part}.jsonl", "".join(f"{json.dumps(row(a, b))}\n" for a, b in pairs))
        _put(folder / "texts.jsonl", "".join(f"{json.dumps({'text': _text(*pair)})}\n" for pair in sums))
        for number, name in enumerate(("first", "second")):
            _write_tokens(folder / "tokens" / name, sums[number::2])
        tokenizer = _tokenizer()
        for name, judges in (("model", False), ("reward-model", True)):
            for file, value in {**tokenizer, "config.json": _config(judges)}.items():
                _put(folder / name / file, canonical.pretty(value))
            _put(folder / name / "model.safetensors", _weights(judges))


def _put(path: Path, data: str | bytes) -> None:
    with written(path) as f:  # others' uids read it, too: an engine may map a container's to another
        f.write(data.encode() if isinstance(data, str) else data)


def _chat(a: int, b: int) -> dict[str, Any]:
    asked = {"role": "user", "content": f"What is {a} + {b}?"}
    return {"messages": [asked, {"role": "assistant", "content": f"{a} + {b} is {a + b}."}]}


def _prompt(a: int, b: int) -> dict[str, Any]:
    return {"input": f"{a} + {b} =", "output": str(a + b), "task_name": "math"}  # NeMo RL v0.4.0 asks rows for a task


def _preference(a: int, b: int) -> dict[str, Any]:
    return {"prompt": f"{a} + {b} =", "chosen": str(a + b), "rejected": str(a + b + 1)}


def _text(a: int, b: int) -> str:
    return f"{a} + {b} = {a + b}\n" * 8


def _write_tokens(prefix: Path, pairs: list[tuple[int, int]]) -> None:
    """PREFIX.bin and PREFIX.idx as Megatron-Core 0.17 to 0.19 reads them (`datasets/indexed_dataset.py`): each sum is a
    document of bytes, eight times over."""
    ids = {byte: len(SPECIAL) + n for n, byte in enumerate(_bytes())}
    documents = [array("H", [*(ids[byte] for byte in _text(*pair).encode()), 2]) for pair in pairs]
    lengths = [len(document) for document in documents]
    starts = [2 * n for n in itertools.accumulate(lengths[:-1], initial=0)]
    count = len(documents)
    index = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, _UINT16, count, count + 1)
    index += struct.pack(f"<{count}i{count}q{count + 1}q", *lengths, *starts, *range(count + 1))
    _put(prefix.with_suffix(".bin"), b"".join(_little(document) for document in documents))
    _put(prefix.with_suffix(".idx"), index)


def _bytes() -> dict[int, str]:
    """Byte -> the character that stands for it in byte-level tokenizers since GPT-2: its own where that prints."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in own]
    return {b: chr(b) for b in own} | {b: chr(256 + n) for n, b in enumerate(others)}


def _merges() -> Iterator[tuple[str, str]]:
    yield from itertools.islice(itertools.product("0123456789", repeat=2), 100)
    yield from itertools.product("aeiounrtsl", "etaonrisdhluwmcf")


def _tokenizer() -> dict[str, Any]:
    """File -> what it says: a byte-level BPE whose tokens are bytes, and pairs of them until VOCABULARY is full."""
    tokens = [*SPECIAL, *_bytes().values()]
    merges = list(itertools.islice(_merges(), VOCABULARY - len(tokens)))
    vocabulary = {token: n for n, token in enumerate([*tokens, *map("".join, merges)])}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": vocabulary, "merges": [" ".join(pair) for pair in merges],
    }  # fmt: skip
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": level,
        "post_processor": None, "decoder": level, "model": model,
        "added_tokens": [{"id": n, "content": token, **flags} for n, token in enumerate(SPECIAL)],
    }  # fmt: skip
    end, _, turn_end = SPECIAL
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end, "eos_token": turn_end, "pad_token": end,
        "model_max_length": 512, "clean_up_tokenization_spaces": False, "chat_template": TEMPLATE,
    }  # fmt: skip
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": settings}


def _config(judges: bool) -> dict[str, Any]:
    """config.json of Llama; of one that `judges` with one number as its answer."""
    head = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}} if judges else {}
    return {
        "architectures": ["LlamaForSequenceClassification" if judges else "LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": WIDTH, "vocab_size": VOCABULARY, "hidden_act": "silu",
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "initializer_range": 0.02,
        "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": False,
        "use_cache": True, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0, "torch_dtype": "float32", **head,
    }  # fmt: skip


def _shapes(judges: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for n in range(LAYERS):
        at = f"model.layers.{n}"
        yield f"{at}.self_attn.q_proj.weight", (HEADS * WIDTH, HIDDEN)
        yield f"{at}.self_attn.k_proj.weight", (KV_HEADS * WIDTH, HIDDEN)
        yield f"{at}.self_attn.v_proj.weight", (KV_HEADS * WIDTH, HIDDEN)
        yield f"{at}.self_attn.o_proj.weight", (HIDDEN, HEADS * WIDTH)
        yield f"{at}.mlp.gate_proj.weight", (INNER, HIDDEN)
        yield f"{at}.mlp.up_proj.weight", (INNER, HIDDEN)
        yield f"{at}.mlp.down_proj.weight", (HIDDEN, INNER)
        yield f"{at}.input_layernorm.weight", (HIDDEN,)
        yield f"{at}.post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield ("score.weight", (1, HIDDEN)) if judges else ("lm_head.weight", (VOCABULARY, HIDDEN))


def _weights(judges: bool) -> bytes:
    """A safetensors file in F32: norms are ones, the others drawn as transformers does (normal, 0.02)."""
    draw = random.Random(0)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts: list[bytes] = []
    at = 0
    for name, shape in _shapes(judges):
        size = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = array("f", [1.0] * size if len(shape) == 1 else (draw.gauss(0, 0.02) for _ in range(size)))
        parts.append(_little(values))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + len(parts[-1])]}
        at += len(parts[-1])
    told = json.dumps(header, separators=(",", ":")).encode()
    told += b" " * (-len(told) % 8)
    return struct.pack("<Q", len(told)) + told + b"".join(parts)


def _little(values: array[Any]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()
