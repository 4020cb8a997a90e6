"""A small all-reduce over all GPUs of a job, before its step starts: whether every node can talk to every other.

allreduce.py --nodes 2 --rank 0 --procs 8 --head HOST --port PORT [--names 'n1 n2']

One process on each node, which becomes `--procs` more, each with a GPU of its own (Gloo where there is no CUDA). The
first of all prints one line: ranks, size, bandwidth. torch alone is needed, 2.1 or newer.
Exit codes: 0 all have the right sum, or this Python has no torch; 75 some do not, or not within `--seconds`: stderr
names the nodes, on all of them by the word of the first, which writes them into `--bad` for the job's script.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

TRY_AGAIN = 75
MIB, ROUNDS = 64, 5
COMING, READY, DONE, FAILED = "coming", "ready", "done", "failed"  # in the store, by each process
VERDICT, READ = "verdict", "read"  # by the first node, and by each of the others
WHY = {COMING: "did not come to the all-reduce", READY: "did not join the all-reduce", DONE: "did not end it"}
POLL, LINGER = 0.1, 10


def main() -> int:
    args = parser().parse_args()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # what it has to say is said here, in a line
    try:  # once a node, since it takes long: the processes have it from this one
        from torch.distributed import PrefixStore, TCPStore  # noqa: F401
    except ImportError as e:
        print(f"all-reduce: not tried, since this Python has no torch for it: {e}", file=sys.stderr)
        return 0

    return look_after(args)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--nodes", type=int, required=True)
    top.add_argument("--rank", type=int, required=True, help="of this node")
    top.add_argument("--procs", type=int, required=True, help="processes of each node")
    top.add_argument("--head", required=True, help="the first node's address")
    top.add_argument("--port", type=int, required=True, help="free on the first node, and for this alone")
    top.add_argument("--names", default="", help="the nodes' names, by rank")
    top.add_argument("--seconds", type=float, default=120)
    top.add_argument("--bad", help="file that gets a line for each node that is named: NAME WHY")
    return top


def look_after(args: argparse.Namespace) -> int:
    """On each node: starts its processes, and leaves them with the first node's verdict, whatever they do."""
    end = time.monotonic() + args.seconds
    context = multiprocessing.get_context("fork")  # before there are threads, and before anybody has touched a GPU
    started = [context.Process(target=become, args=(args, local)) for local in range(args.procs)]
    for process in started:
        process.start()
    try:
        store = meet(args, args.rank == 0)
        verdict = judge(args, store, end) if args.rank == 0 else await_verdict(args, store, end)
    except RuntimeError as e:
        print(f"all-reduce: {name(args, args.rank)} does not reach the first node, {name(args, 0)}, at "
              f"{args.head}:{args.port}: {first_line(e)}", file=sys.stderr)  # fmt: skip
        return TRY_AGAIN
    finally:
        for process in started:
            process.kill()
            process.join()
    if verdict:
        print(verdict, file=sys.stderr)
    return TRY_AGAIN if verdict else 0


def meet(args: argparse.Namespace, first: bool) -> Any:
    """The store in which all say how far they are. Raises where the first node's is not there in time."""
    from torch.distributed import TCPStore

    return TCPStore(args.head, args.port, is_master=first, wait_for_workers=False,
                    timeout=datetime.timedelta(seconds=args.seconds))  # fmt: skip


def judge(args: argparse.Namespace, store: Any, end: float) -> str:
    """The first node's: waits until all processes are done, or nobody can be waited for; tells all what is wrong."""
    ranks = args.nodes * args.procs
    while not all_have(store, DONE, range(ranks)) and time.monotonic() < end and not failed(store, ranks):
        time.sleep(POLL)
    verdict = wrong(args, store, ranks)
    if verdict and args.bad:
        with Path(args.bad).open("a", encoding="utf-8") as f:
            f.writelines(f"{line}\n" for line in named(args, store, ranks))
    store.set(VERDICT, verdict or "-")
    end = time.monotonic() + LINGER  # the store is this process's: others have to read it
    there = [f"{READ}/{node}" for node in range(1, args.nodes) if any_has_come(args, store, node)]
    while not all(store.check([key]) for key in there) and time.monotonic() < end:
        time.sleep(POLL)
    return verdict


def await_verdict(args: argparse.Namespace, store: Any, end: float) -> str:
    """On other nodes: what the first one says, which may have left."""
    try:
        while not store.check([VERDICT]) and time.monotonic() < end + LINGER:
            time.sleep(POLL)
        said = store.get(VERDICT).decode() if store.check([VERDICT]) else "all-reduce: the first node has said nothing"
        store.set(f"{READ}/{args.rank}", "")
    except RuntimeError as e:
        return f"all-reduce: the first node, {name(args, 0)}, has left: {first_line(e)}"
    return "" if said == "-" else said


def all_have(store: Any, what: str, ranks: Any) -> bool:
    return all(store.check([f"{what}/{rank}"]) for rank in ranks)


def any_has_come(args: argparse.Namespace, store: Any, node: int) -> bool:
    """Any process of it: one may fail before the others have started."""
    return any(store.check([f"{COMING}/{rank}"]) for rank in range(node * args.procs, (node + 1) * args.procs))


def failed(store: Any, ranks: int) -> bool:
    return any(store.check([f"{FAILED}/{rank}"]) for rank in range(ranks))


def named(args: argparse.Namespace, store: Any, ranks: int) -> list[str]:
    """NAME WHY of each node that is to blame: one that failed, else those that are behind the others.

    Where all stand in the same place it is the network between them, and nobody is named.
    """
    found: dict[int, str] = {}
    for rank in range(ranks):
        if store.check([f"{FAILED}/{rank}"]):
            found.setdefault(rank // args.procs, store.get(f"{FAILED}/{rank}").decode())
    for what in () if found else (COMING, READY, DONE):
        behind = [rank for rank in range(ranks) if not store.check([f"{what}/{rank}"])]
        if behind:
            nodes = sorted({rank // args.procs for rank in behind})
            found = dict.fromkeys(nodes if len(nodes) < args.nodes else [], WHY[what])
            break
    return [f"{name(args, node)} {why}" for node, why in found.items()]


def wrong(args: argparse.Namespace, store: Any, ranks: int) -> str:
    """What is wrong, in a line; empty where all have the right sum."""
    if all_have(store, DONE, range(ranks)) and not failed(store, ranks):
        return ""
    blamed = named(args, store, ranks)
    if blamed:
        return f"all-reduce of {args.nodes} nodes: " + "; ".join(f"node {line}" for line in blamed)
    names = " ".join(name(args, node) for node in range(args.nodes))
    return f"all-reduce of {args.nodes} nodes did not end within {args.seconds:.0f} s, on none of {names}: " \
           "look at the network between them"  # fmt: skip


def name(args: argparse.Namespace, node: int) -> str:
    names = args.names.split()
    return names[node] if node < len(names) else f"of rank {node}"


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def become(args: argparse.Namespace, local: int) -> None:
    """A process with a GPU of its own; it says in the store how far it is."""
    rank = args.rank * args.procs + local
    try:
        store = meet(args, False)
    except RuntimeError:
        os._exit(1)  # its node says so
    store.set(f"{COMING}/{rank}", "")
    try:
        reduce(args, store, rank, local)
    except Exception as e:  # noqa: BLE001 - whatever it is, it is told by node
        store.set(f"{FAILED}/{rank}", f"{type(e).__name__}: {' '.join(str(e).split())[:300]}")
        os._exit(1)
    store.set(f"{DONE}/{rank}", "")
    os._exit(0)  # NCCL's own farewell waits for whoever has left


def reduce(args: argparse.Namespace, store: Any, rank: int, local: int) -> None:
    """The sum of all ranks, some rounds of it, and the time that they took. Raises whatever is wrong."""
    import torch
    from torch import distributed

    ranks, cuda = args.nodes * args.procs, torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local)
    distributed.init_process_group(
        "nccl" if cuda else "gloo", store=distributed.PrefixStore("group", store), rank=rank, world_size=ranks,
        timeout=datetime.timedelta(seconds=args.seconds),
    )  # fmt: skip
    tensor = torch.full((MIB * 2**18,), float(rank + 1), device="cuda" if cuda else "cpu")
    distributed.all_reduce(tensor)
    found, expected = tensor[[0, -1]].tolist(), ranks * (ranks + 1) / 2
    store.set(f"{READY}/{rank}", "")
    if found != [expected] * 2:
        raise ValueError(f"the sum is {found}, expected {expected}")
    began = time.perf_counter()
    for _ in range(ROUNDS):
        distributed.all_reduce(tensor)
    if cuda:
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / ROUNDS
    if rank == 0:
        moved = MIB * 2**20 * 2 * (ranks - 1) / ranks / seconds / 1e9
        print(f"all-reduce of {MIB} MiB over {ranks} ranks on {args.nodes} nodes: {moved:.2f} GB/s (bus)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
