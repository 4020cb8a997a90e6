"""Loads two checkpoints with transformers and prints a JSON: how much their weights differ, and what the second says to
a prompt: compare.py BEFORE AFTER; runs in the image."""

from __future__ import annotations

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    before, after = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in sys.argv[1:])
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
    others = after.state_dict()
    apart = {name: float((weights - others[name]).abs().max()) for name, weights in before.state_dict().items()}
    prompt = tokenizer("1+2=\n", return_tensors="pt")
    said = after.generate(**prompt, max_new_tokens=4, do_sample=False)
    print(json.dumps({"apart": apart, "said": tokenizer.decode(said[0])}))


main()
