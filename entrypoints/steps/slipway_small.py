"""What rehearsals train: a model of the same architecture and vocabulary, with a few layers and random weights."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack")
WIDTHS = {"hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 64, "head_dim": 16}  # at most


def small_model(
    source: Path,
    target: Path,
    trust: bool = False,
    widths: dict[str, int] = WIDTHS,
    dtype: str = "float32",
    seed: int = 0,
) -> str:
    """Makes a model of the same architecture and vocabulary, with random weights and a few layers; says what it is.

    With the tokenizer and all else that lies beside the real one's weights. `widths`: its sizes at most, as far as the
    architecture can be made with them; `dtype`: of the weights, "auto" as the real one's. Raises what transformers
    raises where the architecture cannot be made small.
    """
    model, fewer = _small(source, trust, widths, seed)
    model.to(_dtype(source, trust) if dtype == "auto" else dtype_named(dtype))
    model.save_pretrained(target)
    for file in source.iterdir():
        if not file.name.endswith((*WEIGHTS, ".index.json")) and not (target / file.name).exists():
            (target / file.name).symlink_to(file)
    weights = sum(p.numel() for p in model.parameters())
    layers = model.config.get_text_config().num_hidden_layers
    return f"{type(model).__name__} with {layers} layers and {weights:,} random weights (fewer {fewer})"


def dtype_named(name: str) -> Any:
    import torch

    return getattr(torch, name)


def _dtype(source: Path, trust: bool) -> Any:
    """That of the real model's weights, as its config.json has it."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source, trust_remote_code=trust)
    return getattr(config, "dtype", None) or dtype_named("float32")


def _small(source: Path, trust: bool, widths: dict[str, int], seed: int) -> tuple[Any, str]:
    with contextlib.suppress(Exception):  # its parts do not fit together so small
        return _made(source, widths, trust, seed), "layers and widths"
    return _made(source, {}, trust, seed), "layers"


def _made(source: Path, widths: dict[str, int], trust: bool, seed: int) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(source, trust_remote_code=trust)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    shrink(config.get_text_config(), widths)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=trust)
    model(input_ids=torch.tensor([[0, 1, 2, 3]]))  # what does not fit together fails here
    return model


def shrink(config: Any, widths: dict[str, int]) -> None:
    """Two layers at most, and where `widths` has any: those widths, four heads, four experts."""
    for name in ("num_hidden_layers", "num_nextn_predict_layers", "num_mtp_layers"):
        _lower(config, name, 2)
    if kinds := getattr(config, "layer_types", None):
        config.layer_types = list(dict.fromkeys(kinds))[:2] + kinds[: max(0, 2 - len(set(kinds)))]
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    if not widths:
        return
    heads, shared = config.num_attention_heads, getattr(config, "num_key_value_heads", None) or 0
    config.num_attention_heads = min(heads, 4)
    if shared:
        config.num_key_value_heads = 1 if shared == 1 else config.num_attention_heads if shared == heads else 2
        config.num_key_value_heads = min(config.num_key_value_heads, config.num_attention_heads)
    for name, most in widths.items():
        _lower(config, name, most)
    for name in ("num_local_experts", "num_experts", "n_routed_experts"):
        _lower(config, name, 4)
    for name in ("num_experts_per_tok", "top_k"):
        _lower(config, name, 2)


def _lower(config: Any, name: str, most: int) -> None:
    value = getattr(config, name, None)
    if isinstance(value, int) and not isinstance(value, bool):
        setattr(config, name, min(value, most))


def vocabulary(model: Path) -> int:
    """The model's `vocab_size`; 0 where there is no config.json that says it."""
    if not (model / "config.json").is_file():
        return 0
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    value = (config.get("text_config") or config).get("vocab_size", 0)
    return value if isinstance(value, int) else 0
