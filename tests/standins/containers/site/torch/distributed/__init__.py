"""Stands for torch.distributed: a group that every rank joins when it is there, and waits for the others in."""

import contextlib
import itertools
import os
import socket
import time

PATIENCE = 60  # seconds
_barriers = itertools.count()  # each has a port of its own: some may be at the next one already


def init_process_group(backend: str) -> None:
    import torch

    if backend == "nccl" and not torch.cuda.is_available():
        raise RuntimeError("ProcessGroupNCCL is only supported with GPUs, no GPUs found!")
    barrier()


def barrier() -> None:
    """The first rank lets go of the others when all have come to it."""
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    address = (os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", 0)) + next(_barriers))
    with contextlib.ExitStack() as stack:
        if rank == 0 and world > 1:
            server = stack.enter_context(socket.create_server(("", address[1]), backlog=world))
            for _ in range(world - 1):
                stack.enter_context(server.accept()[0])
        elif rank:
            assert stack.enter_context(_connected(address)).recv(1) == b""


def _connected(address: tuple[str, int]) -> socket.socket:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(address, timeout=PATIENCE)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def destroy_process_group() -> None:
    """Nothing was made."""
