"""Makes a tiny Llama with random weights, and a tokenizer trained on the data: make_model.py DATA_DIRECTORY OUTPUT

Runs in the image. OUTPUT becomes a Hugging Face directory; the same data and libraries give the same bytes. A model of
this size learns how docstrings sound, not what they mean: it shows that training works, and shows it in seconds.
"""

import json
import sys
from pathlib import Path

SEED = 0
VOCABULARY = 2048
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# The text between {% generation %} and {% endgeneration %} is what the loss is computed on.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: make_model.py DATA_DIRECTORY OUTPUT")
    data, output = Path(sys.argv[1]), Path(sys.argv[2])
    tokenizer = train_tokenizer(data / "train.jsonl")
    model = random_llama()
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    print(f"{output}: {sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")


def train_tokenizer(train: Path):
    """A byte-level BPE tokenizer with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = (message["content"] for line in train.open(encoding="utf-8") for message in json.loads(line)["messages"])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    end, _, turn_end = SPECIAL
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=turn_end, pad_token=end)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def random_llama():
    """The model that training starts from; verify.py makes it again to see that the weights have changed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


if __name__ == "__main__":
    main()
