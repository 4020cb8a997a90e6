"""Makes a Llama with random weights, and a tokenizer of the data: random_model.py DATA OUTPUT DEVICE SIZE=VALUE...

SIZE is a key of transformers' LlamaConfig. The tokenizer is the quickstart's; the vocabulary may be larger than its.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "quickstart"))

import make_model as quickstart


def main() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    data, output, device = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    sizes = {name: json.loads(value) for name, value in (word.split("=") for word in sys.argv[4:])}
    tokenizer = quickstart.train_tokenizer(data / "train.jsonl")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(bos_token_id=0, eos_token_id=2, pad_token_id=0, **sizes))
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    print(f"{output}: {sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")


if __name__ == "__main__":
    main()
