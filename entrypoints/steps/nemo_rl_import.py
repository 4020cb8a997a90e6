"""Converts a Hugging Face checkpoint with the Bridge of NeMo RL's image, which has an environment of its own."""

from __future__ import annotations

import os
import sys

import megatron_convert
import slipway_step

STARTED = "SLIPWAY_STARTED_WITH"  # by main(): a wrapper's interpreter need not have the name that was asked for


def main() -> None:
    """Starts itself anew with the interpreter that has Megatron-Bridge, then converts."""
    wanted = slipway_step.merge_config(slipway_step.load_plan()["config"])["interpreter"]
    if os.environ.get(STARTED) == wanted:
        megatron_convert.main()
        return
    if not os.access(wanted, os.X_OK):
        raise slipway_step.ConfigError(f"{wanted}: the image has no environment for Megatron's workers")
    os.environ[STARTED] = wanted
    os.execv(wanted, [wanted, *sys.argv])


if __name__ == "__main__":  # the processes that write a checkpoint import this file again
    slipway_step.run(main)
