"""ray_watch.py ADDRESS UNITS SECONDS READY NAME...: waits until all nodes are in the cluster, makes the file READY, and
ends as soon as one is not. UNITS: workers of each node.

Ends with 1 where nodes did not come within SECONDS, or one is lost; which is one line on stdout.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

POLL = 1.0  # seconds


def main(address: str, units: int, seconds: int, ready: Path, names: list[str]) -> int:
    """As one more client of the cluster, and by public functions alone: they are the same from Ray 2.46 to 2.55."""
    import ray

    deadline, said, seen = time.monotonic() + seconds, "", {}
    while True:
        try:
            if not ray.is_initialized():
                ray.init(address, namespace="slipway", log_to_driver=False, logging_level="error")
            seen = {n["NodeName"]: n["Resources"].get("worker_units", 0) for n in ray.nodes() if n["Alive"]}
            said = missing(names, units, seen)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as e:  # it is not there yet
            said = f"Ray's head on {names[0]} does not answer: {' '.join(str(e).split())[:200]}"
        if not said:
            break
        if time.monotonic() > deadline:
            print(f"{said} within {seconds} s (profile: ray_wait)", flush=True)
            return 1
        time.sleep(POLL / 2)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # Ray's own way out of it may abort
    ready.touch()
    while True:
        seen = {n["NodeName"] for n in ray.nodes() if n["Alive"]}
        gone = [name for name in names if name not in seen]
        if gone:
            print(f"Ray has lost {', '.join(gone)}", flush=True)
            return 1
        time.sleep(POLL)


def missing(names: list[str], units: int, seen: dict[str, float]) -> str:
    """Which hosts are not in the cluster, or not with all they should have; empty where all is there."""
    absent = [name for name in names if name not in seen]
    if absent:
        return f"{len(absent)} of {len(names)} node(s) did not join Ray: {', '.join(absent)}: not there"
    dedicated = os.environ.get("SLIPWAY_RAY_HEAD") == "dedicated"  # a head that runs no workers
    less = [f"{n} has {seen[n]:g} of {units} workers" for n in names[dedicated:] if seen[n] < units]
    return ", ".join(less)


if __name__ == "__main__":
    place, of_each, limit, file, *hosts = sys.argv[1:]
    sys.exit(main(place, int(of_each), int(limit), Path(file), hosts))
