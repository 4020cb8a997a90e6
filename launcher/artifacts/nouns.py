"""What looking at files says, by what they are: rows, packing, documents, a tokenizer, sizes, weights, an adapter.

A group that says nothing has its defaults, and none of them is written: a rule asks `found.sizes.layers`, and gets 0.
"""

from __future__ import annotations

from typing import Literal

from launcher.artifacts.rows import Grammar
from slipway.findings import Finding
from slipway.yamldoc import Noun

Format = Literal["", "dcp", "megatron", "safetensors"]


class Data(Noun, frozen=True, kw_only=True, omit_defaults=True):
    """Rows of data files.

    `files`: how many, of several; `rows`: their number where all were counted, else 0; `sequences`: of binidx.
    `columns`: keys of the first rows; None where the type says what a row holds (conversations, tokens). `names`: a
    column's usual name -> its name here; `grammar`: of conversations, by which they were read. `tools`: rows have some.
    `zstd`: a file is packed so.
    """

    files: int = 1
    rows: int = 0
    sequences: int = 0
    columns: list[str] | None = None
    names: dict[str, str] = {}
    grammar: Grammar = ""
    tools: bool = False
    zstd: bool = False


class Packing(Noun, frozen=True, kw_only=True, omit_defaults=True):
    """How rows were packed: tokens a row, by which tokenizer and chat template (sha256, hex), and the number of tokens
    whose multiple each conversation's length is (0: any)."""

    size: int = 0
    multiple: int = 0
    tokenizer: str = ""
    template: str = ""


class Documents(Noun, frozen=True, kw_only=True, omit_defaults=True):
    """How tokenized documents were made: by which tokenizer (sha256, hex, over the files of its vocabulary), of how
    many tokens (its largest id and one), where a record says so. `blend`: each split has documents of its own.
    """

    blend: bool = False
    tokenizer: str = ""
    vocabulary: int = 0


class Tokenizer(Noun, frozen=True, kw_only=True, omit_defaults=True):
    """`vocabulary`: sha256 (hex) over the files of it, `template`: of the chat template; empty where there is none.

    `renders_tools`, `marks_learned`: what the template does. `needs_class`: one that only transformers 5 knows.
    `tekken`: it is Mistral's own, which has no template.
    """

    vocabulary: str = ""
    template: str = ""
    renders_tools: bool = False
    marks_learned: bool = False
    needs_class: str = ""
    tekken: bool = False


class Sizes(Noun, frozen=True, kw_only=True, omit_defaults=True):
    """What a configuration says of a model; 0 and empty where it does not. `positions`: the longest sequence.

    `per_token_loss`: Megatron's calculate_per_token_loss.
    """

    architecture: str = ""
    dtype: str = ""
    layers: int = 0
    hidden: int = 0
    vocab: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_size: int = 0
    intermediate: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0
    tied: bool = False
    positions: int = 0
    per_token_loss: bool = False


class Weights(Noun, frozen=True, kw_only=True, omit_defaults=True):
    """`bytes`: of the files that a loader reads; `quantized`: by which method; `iteration`: of the training that
    saved them; `format`: of NeMo RL's.
    """

    bytes: int = 0
    quantized: str = ""
    iteration: int = 0
    format: Format = ""


class Adapter(Noun, frozen=True, kw_only=True, omit_defaults=True):
    """`base`: the name, or the fingerprint, of the model that it was trained on; `beyond`: what it is more than
    LoRA."""

    layout: Literal["", "hf_peft", "megatron_bridge"] = ""
    base: str = ""
    rank: int = 0
    beyond: str = ""


class Found(Noun, frozen=True, kw_only=True):
    """What some files are. `type` is empty where they are none that we know, `note` says then what they look like.

    `parameters`: number of weights of a checkpoint; 0 where that cannot be told. `checked`: how much of the rows
    was read.
    """

    type: str = ""
    note: str = ""
    faults: list[Finding] = []
    parameters: int = 0
    checked: Literal["", "beginning", "whole"] = ""
    data: Data = Data()
    packing: Packing = Packing()
    documents: Documents = Documents()
    tokenizer: Tokenizer = Tokenizer()
    sizes: Sizes = Sizes()
    weights: Weights = Weights()
    adapter: Adapter = Adapter()
