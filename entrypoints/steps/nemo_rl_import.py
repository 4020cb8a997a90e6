"""Converts a Hugging Face checkpoint with the Bridge of NeMo RL's image, which has an environment of its own."""

from __future__ import annotations

import megatron_convert
import slipway_step


def main() -> None:
    """Starts itself anew with the interpreter that has Megatron-Bridge, then converts."""
    wanted = slipway_step.merge_config(slipway_step.load_plan()["config"])["interpreter"]
    slipway_step.continue_with(wanted, "Megatron's workers")
    megatron_convert.main()


if __name__ == "__main__":  # the processes that write a checkpoint import this file again
    slipway_step.run(main)
