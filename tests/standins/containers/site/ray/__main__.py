"""`ray start --block [--head]`: the head serves the list of nodes, the others stay in it while they are connected."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

alive: dict[str, dict[str, Any]] = {}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["start"])
    for name in ("node-name", "resources", "num-gpus", "address", "node-ip-address", "temp-dir"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--port", type=int)
    parser.add_argument("--head", action="store_true")
    args, _ = parser.parse_known_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    node = {"NodeName": args.node_name, "Alive": True, "Resources": json.loads(args.resources)}
    print("Ray runtime started.", flush=True)
    if args.head:
        logs = Path(args.temp_dir, "session_2026", "logs")
        logs.mkdir(parents=True)
        (logs / "raylet.out").write_text(json.dumps({"argv": sys.argv, "environ": dict(os.environ)}) + "\n")
        serve(args.node_ip_address, args.port, node)
    join(args.address, node)


def serve(host: str, port: int, own: dict[str, Any]) -> None:
    alive[own["NodeName"]] = own
    with socket.create_server((host, port)) as server:
        while True:
            client, _ = server.accept()
            threading.Thread(target=answer, args=(client,), daemon=True).start()


def answer(client: socket.socket) -> None:
    """One line in, the list of nodes out; a node is in it until its connection ends."""
    with client, client.makefile("rw") as stream:
        node = json.loads(stream.readline())
        if node:
            alive[node["NodeName"]] = node
        stream.write(json.dumps(list(alive.values())) + "\n")
        stream.flush()
        if node:
            client.recv(1)
            alive.pop(node["NodeName"], None)


def join(address: str, node: dict[str, Any]) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as head, head.makefile("rw") as stream:
        stream.write(json.dumps(node) + "\n")
        stream.flush()
        stream.readline()
        head.recv(1)  # until the head leaves


if __name__ == "__main__":
    main()
