"""What both converters do: the model that the configuration names, as the checkpoint's."""

from __future__ import annotations

import argparse
from pathlib import Path

import standin
import yaml


def convert(source: str, holds: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--hf-ckpt-path", type=Path, required=True)
    parser.add_argument(f"--{source.replace('_', '-')}", required=True)
    args = parser.parse_args()
    config = yaml.safe_load(args.config.read_text())
    standin.need(getattr(args, source), holds)
    standin.copy_model(standin.hugging_face(config["policy"]["model_name"]), args.hf_ckpt_path)
    standin.seen(args.hf_ckpt_path, config)
