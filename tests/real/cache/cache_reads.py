"""The step of the tests that needs a converted model: says what it finds where NeMo RL looks for it."""

import json
import os
from pathlib import Path

import slipway_step

config = slipway_step.merge_config(slipway_step.load_plan()["config"])["reads"]


def main() -> None:
    place = Path(os.environ["NRL_MEGATRON_CHECKPOINT_DIR"]) / f"model_{config['model'].replace('/', '_')}"
    found = sorted(p.name for p in place.iterdir())
    seen = {
        "place": str(place),
        "found": found,
        "iteration": sorted(p.name for p in (place / "iter_0000000").iterdir()),
    }
    print("the driver finds", json.dumps(seen))
    Path(config["output"], "seen.json").write_text(json.dumps(seen))
    slipway_step.write_result({"checkpoint": config["output"], "type": "toy"})


slipway_step.run(main)
