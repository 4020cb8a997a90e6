"""Shows that a quickstart run trained something: verify.py CHECKPOINT RECORD

Runs in the image. CHECKPOINT is the Hugging Face directory that the run made; RECORD is its result.json, AutoModel's
training.jsonl or the run's log. Checks that the checkpoint loads and generates, that the loss fell, and that the
weights are no longer those that make_model.py made. Exits 1 with the reason otherwise.
"""

import re
import sys
from pathlib import Path

from make_model import random_llama

QUESTION = "What does json.dumps do in Python?"
FALL = 0.5  # by how much the loss has to fall; 120 steps bring it down by more than 1.5
LOSS = re.compile(r'\b(?:first_|last_)?loss"?:? ([0-9.]+)')


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: verify.py CHECKPOINT RECORD")
    checkpoint, record = Path(sys.argv[1]), Path(sys.argv[2])
    if not (checkpoint / "config.json").is_file():
        sys.exit(f"{checkpoint}: no config.json; expected a Hugging Face checkpoint, see `checkpoint` in result.json")
    model, tokenizer = load(checkpoint)
    print(f"{type(model).__name__} generates: {generate(model, tokenizer)!r}")
    check_loss(record)
    check_weights(model)


def load(checkpoint: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)


def generate(model, tokenizer) -> str:
    """The model's answer to QUESTION, the likeliest token each time."""
    messages = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=24, do_sample=False)
    answer = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
    if not answer:
        sys.exit("the checkpoint generates nothing")
    return answer


def check_loss(record: Path) -> None:
    """The first and last training loss in a result, a training record or a log; lines of validation do not count."""
    lines = [line for line in record.read_text(encoding="utf-8").splitlines() if "[val]" not in line]
    losses = [float(match[1]) for line in lines if (match := LOSS.search(line))]
    if len(losses) < 2:
        sys.exit(f"{record}: found {len(losses)} training losses, expected the first and the last at least")
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    if losses[0] - losses[-1] < FALL:
        sys.exit(f"{record}: the loss fell by less than {FALL}")


def check_weights(model) -> None:
    """Compares with the weights that make_model.py draws from its seed."""
    start = random_llama().state_dict()
    now = model.state_dict()
    if start.keys() != now.keys():
        sys.exit(f"the checkpoint has other tensors than make_model.py makes: {sorted(start.keys() ^ now.keys())}")
    changes = {name: (now[name].float() - start[name]).abs().max().item() for name in start}
    same = [name for name, change in changes.items() if change == 0]
    if same:
        sys.exit(f"training has not changed {len(same)} of {len(changes)} tensors: {', '.join(same[:3])}")
    largest = max(changes, key=changes.get)
    print(f"all {len(changes)} tensors have changed, {largest} most ({changes[largest]:.4f})")


if __name__ == "__main__":
    main()
