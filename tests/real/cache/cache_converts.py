"""The converter of the tests: each file beside the model that is called `at-STAGE` makes it wait there for OUTPUT/go.

The stages: `start` (the folder is empty), `half` (iter_0000000 is there, and is all that NeMo RL asks for), `end` (all
is written, the marker is not). Beside `at-fault` it fails.
"""

import sys
import time
from pathlib import Path

import slipway_step

config = slipway_step.merge_config(slipway_step.load_plan()["config"])["converts"]


def stage(name: str) -> None:
    output = Path(config["output"])
    if not Path(config["model"], f"at-{name}").exists():
        return
    print("reached", name)
    (output / "reached").write_text(name)
    while not (output / "go").exists():
        time.sleep(0.02)
    for path in (output / "go", output / "reached"):
        path.unlink()


def main() -> None:
    output = Path(config["output"])
    stage("start")
    assert not any(output.iterdir()), "the folder was not empty"
    iteration = output / "iter_0000000"
    iteration.mkdir()
    (iteration / "metadata.json").write_text("{}")
    (iteration / "run_config.yaml").write_text("model: {}\n")
    (iteration / ".metadata").write_bytes(b"for torch")
    stage("half")
    (iteration / "__0_0.distcp").write_bytes(b"weights" * 1000)
    (output / "latest_checkpointed_iteration.txt").write_text("0")
    stage("end")
    if Path(config["model"], "at-fault").exists():
        sys.exit(3)
    slipway_step.write_result({"checkpoint": str(output), "type": "checkpoint_megatron"})


slipway_step.run(main)
