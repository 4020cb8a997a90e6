"""Stands for NeMo RL's converter of Megatron's checkpoints, which needs Bridge: one worker's environment has it."""

import converter
from megatron.bridge import AutoBridge

if __name__ == "__main__":
    assert AutoBridge is not None
    converter.convert("megatron_ckpt_path", "*.distcp")
