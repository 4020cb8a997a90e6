"""Stands for NeMo RL's converter of Megatron's checkpoints, which needs Bridge: one worker's environment has it."""

from megatron.bridge import AutoBridge
from nemo_rl.utils import converter

if __name__ == "__main__":
    assert AutoBridge is not None
    converter.convert("megatron_ckpt_path", "*.distcp")
