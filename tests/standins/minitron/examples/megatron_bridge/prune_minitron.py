"""In place of Model Optimizer's script: takes its options, and leaves what it was told where the model would be."""

import argparse
import json
import os
import sys
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("hf_model_name_or_path", "output_hf_path", "prune_export_config", "calib_dataset_name"):
    parser.add_argument(f"--{name}", required=True)
for name in ("pp_size", "calib_num_samples", "seq_length"):
    parser.add_argument(f"--{name}", type=int, required=True)
for name in ("num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage"):
    parser.add_argument(f"--{name}", type=int)
args = parser.parse_args()
assert int(os.environ["WORLD_SIZE"]) == args.pp_size and os.environ["MASTER_PORT"]
told = vars(args) | {
    "prune_export_config": json.loads(args.prune_export_config),
    "calibration": [json.loads(line) for line in Path(args.calib_dataset_name).read_text().splitlines()],
    "first_on_path": sys.path[0],
}
out = Path(args.output_hf_path)
out.mkdir(parents=True, exist_ok=True)
(out / "config.json").write_text(json.dumps(told))
