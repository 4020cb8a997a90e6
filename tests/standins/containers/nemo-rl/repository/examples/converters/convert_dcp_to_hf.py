"""Stands for NeMo RL's converter of DTensor's checkpoints, which needs nothing but the driver's environment."""

from nemo_rl.utils import converter

if __name__ == "__main__":
    converter.convert("dcp_ckpt_path", ".metadata")
