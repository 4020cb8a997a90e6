"""The tests' driver: connects as NeMo RL's init_ray does, and writes down what every node's actor sees."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import ray
import slipway_step
from ray._raylet import Config
from ray.util.placement_group import placement_group


@ray.remote(num_gpus=1, num_cpus=1)
class Worker:
    def facts(self, output: str) -> dict:
        context = ray.get_runtime_context()
        (Path(output) / f"actor-{os.getpid()}-{context.get_node_id()[:8]}").write_text("by an actor\n")
        return {
            "node": context.get_node_id(),
            "gpu": context.get_accelerator_ids()["GPU"],
            "env": dict(os.environ),
            "home": os.access(os.environ["HOME"], os.W_OK),
            "plan": Path("/slipway/plan.json").is_file(),
            "sees": (Path(output) / "from-driver").read_text(),
            "register_seconds": Config.worker_register_timeout_seconds(),
        }


@ray.remote(num_cpus=0, scheduling_strategy="SPREAD")
class Idle:
    def node(self, place: str) -> str:
        Path(place, ray.get_runtime_context().get_actor_id()).touch()
        return ray.get_runtime_context().get_node_id()


def storm(number: int, place: Path) -> dict:
    """Starts as many actors at once; how long it took until each had answered, and how many each node has."""
    place.mkdir()
    start = time.monotonic()
    crowd = [Idle.remote() for _ in range(number)]
    nodes = ray.get([idle.node.remote(str(place)) for idle in crowd])
    return {"seconds": time.monotonic() - start, "of": {node: nodes.count(node) for node in set(nodes)}}


def main() -> None:
    config = slipway_step.merge_config(slipway_step.load_plan()["config"])["ray"]
    output = Path(config["output"])
    (output / "from-driver").write_text("by the driver\n")
    ray.init(address="auto", log_to_driver=True, include_dashboard=False, runtime_env={"env_vars": dict(os.environ)})
    resources = ray.cluster_resources()
    group = placement_group([{"CPU": 3, "GPU": 1}] * int(resources["worker_units"]), strategy="PACK")
    ray.get(group.ready(), timeout=60)
    ray.util.remove_placement_group(group)
    workers = [Worker.remote() for _ in range(int(resources["worker_units"]))]
    actors = ray.get([worker.facts.remote(str(output)) for worker in workers], timeout=120)
    nodes = [{k: n[k] for k in ("NodeID", "NodeName", "Resources")} for n in ray.nodes() if n["Alive"]]
    seen = {"resources": resources, "nodes": nodes, "actors": actors, "address": os.environ["RAY_ADDRESS"]}
    if config["actors"]:
        seen["storm"] = storm(config["actors"], output / "crowd")
    (output / "seen.json").write_text(json.dumps(seen))
    print("the driver has asked", len(actors), "actors")
    if config["wait"]:
        wait_for(output)
    slipway_step.write_result({"checkpoint": str(output), "type": "ray"})
    sys.exit(config["code"])


def wait_for(output: Path) -> None:
    def save(*_: object) -> None:
        ray.get(Worker.options(num_gpus=0).remote().facts.remote(str(output)), timeout=20)  # Ray is still there
        (output / "saved").write_text("told to stop\n")
        sys.exit(0)

    signal.signal(signal.SIGTERM, save)
    (output / "waiting").touch()
    while not (output / "go").exists():
        time.sleep(0.1)


if __name__ == "__main__":
    slipway_step.run(main)
