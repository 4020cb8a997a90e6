"""Stands for torchrun: starts the processes of one node, tells them rank and world, and ends with 1 if one does not."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("nnodes", "node-rank", "nproc-per-node", "master-port"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--master-addr")
    parser.add_argument("program", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    started = [subprocess.Popen([sys.executable, *args.program], env=environment(args, n)) for n in
               range(args.nproc_per_node)]  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: [p.send_signal(n) for p in started])
    codes = [p.wait() for p in started]
    return int(any(codes))


def environment(args: argparse.Namespace, local: int) -> dict[str, str]:
    said = {
        "RANK": args.node_rank * args.nproc_per_node + local,
        "LOCAL_RANK": local,
        "WORLD_SIZE": args.nnodes * args.nproc_per_node,
        "LOCAL_WORLD_SIZE": args.nproc_per_node,
        "GROUP_RANK": args.node_rank,
        "MASTER_ADDR": args.master_addr,
        "MASTER_PORT": args.master_port,
    }
    return {**os.environ, **{name: str(value) for name, value in said.items()}}


if __name__ == "__main__":
    sys.exit(main())
