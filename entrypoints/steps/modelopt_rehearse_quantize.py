"""Rehearses a quantization: every row of the calibration, then the format on a small model, and its export.

Whether the format's groups divide the layers is asked of the real model's files. The small one has widths that every
format's groups divide.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import modelopt_common as common
import modelopt_quantize
import modelopt_rehearse
import slipway_step
from slipway_rehearsal import Steps


def main() -> None:
    config = modelopt_rehearse.begin()
    source = common.hugging_face(config, "model.path")
    name = config["quantize"].get("format")
    chosen = modelopt_quantize.format_of(name)
    modelopt_quantize.refuse_uneven(source, name, chosen.group)

    def take(steps: Steps, model: Any, tokenizer: Any, calibration: common.Calibration) -> None:
        layers = modelopt_quantize.quantize(model, modelopt_quantize.library_config(name, chosen), calibration)
        rows = f"{len(calibration.batches)} samples of {calibration.source}"
        steps.did.append(f"calibrated by {rows}; {name}: {layers} layers quantized")
        with tempfile.TemporaryDirectory(dir=slipway_step.OUTPUT) as output:
            algorithm = modelopt_quantize.export(model, tokenizer, Path(output))
            steps.did.append(f"exported as {algorithm}: {', '.join(sorted(p.name for p in Path(output).iterdir()))}")

    none = f"{name} is calibrated by CUDA kernels, and there is no CUDA device" if chosen.cuda else ""
    modelopt_rehearse.calibrated(config, source, common.dtype_of(config, "quantize"), none, take)


if __name__ == "__main__":
    slipway_step.run(main)
