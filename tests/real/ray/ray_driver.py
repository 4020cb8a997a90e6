"""The tests' step for the Ray in NeMo RL's image: a head of its own, and what two actors with a fake GPU each see."""

import json
import os
import tempfile
from pathlib import Path

import ray
import slipway_step


@ray.remote(num_gpus=1)
class Worker:
    def facts(self) -> dict:
        import torch

        ids = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        return {
            "pid": os.getpid(),
            "uid": os.getuid(),
            "gpu": ids,
            "torch": torch.__version__,
            "home": os.environ["HOME"],
        }


def main() -> None:
    config = slipway_step.merge_config(slipway_step.load_plan()["config"])
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # short: below it Ray makes sockets
        ray.init(
            num_cpus=2,
            num_gpus=2,
            include_dashboard=False,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
            object_store_memory=100 << 20,
        )
        workers = [Worker.remote() for _ in range(2)]
        said = ray.get([worker.facts.remote() for worker in workers])
        ray.shutdown()
    print("actors", json.dumps(said))
    Path(config["ray"]["output"], "actors.json").write_text(json.dumps(said))
    slipway_step.write_result({"checkpoint": config["ray"]["output"], "type": "ray"})


if __name__ == "__main__":
    slipway_step.run(main)
