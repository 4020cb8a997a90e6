"""Checks that distillation has taught something: verify.py CONVERSATIONS TEACHER PRUNED STUDENT

Runs in the image. Compares the next-token probabilities of the pruned model, before and after distillation, with the
teacher's, on conversations that neither was trained on. Exits 1 with the reason where the student is hardly nearer.
"""

import json
import sys
from pathlib import Path

NEARER = 0.75  # what may be left of the divergence; 20 steps leave about half
CONVERSATIONS, TOKENS = 32, 128


def main() -> None:
    if len(sys.argv) != 5:
        sys.exit("usage: verify.py CONVERSATIONS TEACHER PRUNED STUDENT")
    source, teacher, *students = (Path(word) for word in sys.argv[1:])
    rows = tokens(source, teacher)
    wanted = log_probabilities(teacher, rows)
    before, after = (divergence(log_probabilities(student, rows), wanted) for student in students)
    sizes = [parameters(folder) for folder in (teacher, *students)]
    print(f"parameters {sizes[0]:,} -> {sizes[1]:,}; divergence from the teacher {before:.4f} -> {after:.4f} per token")
    if not sizes[0] > sizes[1] == sizes[2]:
        sys.exit("the student is no smaller than its teacher, or not of the size that it was pruned to")
    if not 0 < after < NEARER * before:
        sys.exit(f"more than {NEARER} of the divergence is left")


def tokens(source: Path, teacher: Path) -> list:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher)
    lines = source.read_text(encoding="utf-8").splitlines()[:CONVERSATIONS]
    chats = (json.loads(line)["messages"] for line in lines)
    return [tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"][:TOKENS] for chat in chats]


def log_probabilities(folder: Path, rows: list):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([ids])).logits[0] for ids in rows]).log_softmax(-1)


def divergence(found, wanted) -> float:
    """Kullback and Leibler's, per token."""
    from torch.nn.functional import kl_div

    return kl_div(found, wanted, log_target=True, reduction="batchmean").item()


def parameters(folder: Path) -> int:
    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as f:
            for name in f.keys():  # noqa: SIM118
                shape = f.get_slice(name).get_shape()
                count += shape[0] * (shape[1] if len(shape) > 1 else 1)
    return count


if __name__ == "__main__":
    main()
