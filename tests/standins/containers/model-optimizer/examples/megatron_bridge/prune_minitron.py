"""Stands for Model Optimizer's script: writes down its options, and leaves the model as it was."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import standin
import torch.distributed


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("hf_model_name_or_path", "output_hf_path", "prune_export_config", "calib_dataset_name"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("pp_size", "calib_num_samples", "seq_length"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage"):
        parser.add_argument(f"--{name}", type=int)
    args = parser.parse_args()
    assert int(os.environ["WORLD_SIZE"]) == args.pp_size
    torch.distributed.init_process_group("nccl")
    model, output = standin.hugging_face(args.hf_model_name_or_path), Path(args.output_hf_path)
    with Path(args.calib_dataset_name).open() as rows:
        texts = [json.loads(line)["text"] for line in rows]
    sizes = json.loads(args.prune_export_config)
    standin.seen(output, vars(args) | {"prune_export_config": sizes, "texts": len(texts)})
    if not standin.rank():
        standin.copy_model(model, output)


if __name__ == "__main__":
    main()
