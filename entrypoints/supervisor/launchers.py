"""How a step program is started on a node, told to stop, and when it is over: one class for each kind of launcher.

That of Ray is in ray_cluster.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from supervisor.ends import Ended, refusal, say
from supervisor.meeting import free_port
from supervisor.node import Node
from supervisor.processes import NO_INPUT, Child, FileAction, send


class Launcher:
    """One process: the step program itself.

    The order of the calls: `prepare`, the nodes meet, `command`, `start`, `over` until it says so, `settle`, `close`.
    """

    port = ""  # by which ranks find each other, where it is known before the nodes meet
    files: tuple[FileAction, ...] = (NO_INPUT,)

    def __init__(self, node: Node) -> None:
        self.node = node

    def prepare(self) -> None:
        """Before the nodes meet. Raises Ended."""

    def command(self, words: list[str], port: str) -> list[str]:
        """What becomes the step's process, of the step program and its arguments. Raises Ended."""
        return [self.node.python, *words]

    def start(self, command: list[str]) -> Child:
        """In a process group of its own. Raises Ended."""
        try:
            return self.node.children.start(command, self.node.step_env(), self.files, self.node.step_umask)
        except OSError as e:
            raise refusal(f"{command[0]}: cannot be started: {e.strerror}") from e

    def over(self, step: Child) -> int | None:
        """The step's exit code, once it has ended; asked at every event. Raises Ended where it cannot go on."""
        return step.code

    def settle(self, code: int) -> None:
        """After the step's own end. Raises Ended where that has another cause."""

    def observers(self) -> list[Callable[[], Ended | None]]:
        """What is called once a second while the step runs; whose word, if any, ends the run."""
        return []

    def tell(self, step: Child) -> None:
        """Asks the step to save and leave."""
        settings, by = self.node.settings, self.node.stop.by
        name, ranks = settings.stop_signal, [*self.node.ranks().values()]
        number = signal.Signals[f"SIG{name}"]
        if settings.stop_to == "ranks" and ranks:
            say(f"{by}: {name} to {len(ranks)} rank(s), up to {settings.stop_seconds:g} s to save")
            send(ranks, number)
        else:
            say(f"{by}: {name} to the step, up to {settings.stop_seconds:g} s to end")
            step.kill(number, group=True)

    def close(self, step: Child | None) -> None:
        """Ends what was started beside the step, whatever has happened; no signal is heard any more."""


class Python(Launcher):
    """The step program is the only process of the run."""


class Torchrun(Launcher):
    """A torchrun on each node, which starts the ranks of that node."""

    def command(self, words: list[str], port: str) -> list[str]:
        settings = self.node.settings
        if not self.node.env.get("OMP_NUM_THREADS"):
            self.node.env["OMP_NUM_THREADS"] = "1"  # torchrun's own default, without its warning
        # Not --standalone: its rendezvous wants a name service, and hangs in a container without a network.
        shape = {
            "nnodes": settings.nodes,
            "node-rank": settings.rank,
            "nproc-per-node": settings.procs,
            "master-addr": settings.head or "127.0.0.1",
            "master-port": port or free_port(),
        }
        options = [f"--{name}={value}" for name, value in shape.items()]
        return [self.node.python, "-m", "torch.distributed.run", *options, *words]


def step_program(words: list[str]) -> list[str]:
    """The step program and its arguments, of `python PROGRAM [ARGUMENT...]`. Raises Ended."""
    if words[:1] != ["python"] or not words[1:2] or not words[1]:
        raise refusal(f"entrypoint.sh: expected `python PROGRAM [ARGUMENT...]`, found: {' '.join(words)}")
    if not os.path.isfile(words[1]):
        raise refusal(f"{words[1]}: there is no such step program")
    return words[1:]
