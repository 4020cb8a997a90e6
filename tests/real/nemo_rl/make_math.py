"""Makes a tiny Llama with random weights, its tokenizer, and sums as data: make_math.py OUTPUT; runs in the image.

The tokenizer has a token for each character and one for each of \\boxed{0} to \\boxed{9}, so that a policy that knows
nothing gives the right answer of a one-digit sum now and then: rewards differ from the first step on. Heads are 32
wide, the least that vLLM's attention on a CPU takes.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 +-=?.,:\n"
PAD, END, UNKNOWN = "<pad>", "<eos>", "<unk>"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


def main() -> None:
    output = Path(sys.argv[1])
    make_model(output / "model")
    sums = [(a, b) for a in range(10) for b in range(10 - a)]
    random.Random(0).shuffle(sums)
    for name, part in (("train", sums[:44]), ("validation", sums[44:52])):
        write(output / f"prompts_{name}.jsonl", ({"input": f"{a}+{b}=", "output": str(a + b)} for a, b in part))
        write(output / f"preferences_{name}.jsonl", map(preference, part))
        write(output / f"chats_{name}.jsonl", map(chat, part))


def make_model(folder: Path) -> None:
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = [PAD, END, UNKNOWN, *CHARACTERS]
    tokenizer = Tokenizer(models.BPE(vocab={n: i for i, n in enumerate(names)}, merges=[], unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_tokens([AddedToken(boxed(digit), normalized=False) for digit in range(10)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, unk_token=UNKNOWN, model_max_length=512,
        chat_template=TEMPLATE,
    )  # fmt: skip
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=512, bos_token_id=None, eos_token_id=1,
        pad_token_id=0, tie_word_embeddings=False, dtype="float32",
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def boxed(digit: int) -> str:
    return f"\\boxed{{{digit}}}"


def preference(numbers: tuple[int, int]) -> dict[str, Any]:
    a, b = numbers
    return {"prompt": f"{a}+{b}=", "chosen": boxed(a + b), "rejected": "dog"}


def chat(numbers: tuple[int, int]) -> dict[str, Any]:
    a, b = numbers
    said = {"user": f"{a}+{b}=", "assistant": boxed(a + b)}
    return {"messages": [{"role": role, "content": content} for role, content in said.items()]}


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
