"""Stands for modelopt.torch.export: it writes down how the model was quantized beside its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import standin


def export_hf_checkpoint(model: Any, dtype: Any, export_dir: Path) -> None:
    standin.copy_model(model.folder, export_dir)
    (export_dir / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    standin.seen(export_dir, model.quantized | {"model": str(model.folder), "device": model.device, "dtype": dtype})
