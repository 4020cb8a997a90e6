"""How nodes find each other. They have to share what they write to, and start together.

Their containers may take minutes to make, one longer than another: so nobody waits for a file of a node that may not be
there yet, until it has to be there.
"""

from __future__ import annotations

import os
import time

from supervisor.ends import put, refusal, say, unavailable
from supervisor.node import Node

GLANCE = 0.2  # seconds between two looks
QUIET = 3  # seconds after which is said who is waited for


class Meeting:
    """Of this attempt: what an earlier one told carries another nonce."""

    def __init__(self, node: Node) -> None:
        self._node, self._settings = node, node.settings
        self.spare = ""  # a port of the first node's, which it tells all where they try each other out

    def meet(self, port: str) -> str:
        """Until all nodes are there: the port that the first tells, `port` where it knows one already. Raises Ended."""
        settings = self._settings
        if settings.nodes == 1:
            return port
        self._find_shared()
        self._tell("there", port)
        if settings.rank:
            told, _, self.spare = self._await(0, "go").partition(" ")
            return told or port
        for rank in range(1, settings.nodes):
            self._await(rank, "there")
        port = port or free_port()
        while settings.all_reduce and self.spare in ("", port):
            self.spare = free_port()
        self._tell("go", f"{port} {self.spare}".rstrip())
        return port

    def leave(self) -> None:
        """A node that has left after a TERM makes srun end the others, which may still be saving: so all that are there
        leave together."""
        if self._settings.nodes == 1 or self._node.stop.count != 1:
            return
        deadline = time.monotonic() + self._settings.stop_seconds
        while time.monotonic() < deadline and not os.path.exists(f"{self._settings.state}/failed"):
            if not any(map(self._stays, range(self._settings.nodes))):
                return
            self._node.pause(GLANCE)

    def _stays(self, rank: int) -> bool:
        status = f"{self._settings.state}/{rank}/status.json"
        return self._heard(rank, "there") is not None and not has_content(status)

    def _find_shared(self) -> None:
        """Below each such mount the job's script has written a file before any container was made; every node has to
        find it there, through mounts of its own. NFS shows a new file after up to a minute."""
        settings = self._settings
        deadline = time.monotonic() + settings.mount_wait
        for place in (settings.state, *settings.shared):
            while not self._node.stopped and not os.path.exists(f"{place}/.slipway-nonce-{settings.nonce}"):
                if time.monotonic() >= deadline:
                    raise refusal(
                        f"node {settings.name} does not see in {place} what {settings.node_name(0)} wrote there, "
                        f"looked for it for {settings.mount_wait:g} s: it is not the same storage on both"
                    )
                look_again(self._node, place)

    def _tell(self, what: str, ports: str) -> None:
        """This node is that far."""
        try:
            put(f"{self._node.folder}/{what}", f"{self._settings.nonce} {ports}\n")
        except OSError:
            raise refusal(f"{self._node.folder}: cannot be written") from None

    def _heard(self, rank: int, what: str) -> str | None:
        """The ports that a node says with it, where it is that far."""
        try:
            with open(f"{self._settings.state}/{rank}/{what}", encoding="utf-8", errors="replace") as f:
                nonce, _, ports = f.readline().strip().partition(" ")
        except OSError:
            return None
        return ports if nonce == self._settings.nonce else None

    def _await(self, rank: int, what: str) -> str:
        """For as long as images may take to unpack."""
        settings, begun, said = self._settings, time.monotonic(), False
        other = settings.node_name(rank)
        while not self._node.stopped:
            heard = self._heard(rank, what)
            if heard is not None:
                return heard
            waited, longest = time.monotonic() - begun, f"{settings.start_wait:g} s"
            if waited >= settings.start_wait:
                why = "its container is not made"
                raise unavailable(f"{other} was not there within {longest}, {settings.name} was: {why}")
            if waited >= QUIET and not said:
                said = True
                say(f"{settings.name} waits for {other}, whose container may take up to {longest}")
            look_again(self._node, f"{settings.state}/{rank}")
        return ""


def find_converted(node: Node) -> None:
    """What another run was to make for this one ends with a marker. NFS may show it late. Without it the step would
    read half a model, or the library convert by itself, on every node at once. Raises Ended."""
    deadline = time.monotonic() + node.settings.converted_wait
    for folder in node.settings.converted:
        while not node.stopped and not has_content(f"{folder}/slipway.json"):
            if time.monotonic() >= deadline:
                why = "the model is not there, or not whole: its conversion did not finish"
                raise refusal(f"{folder}: {why}; see `launch cache list`, and launch this anew")
            look_again(node, folder)


def look_again(node: Node, place: str) -> None:
    """Asks the server of a network file system again, after a moment."""
    node.pause(GLANCE)
    try:
        os.listdir(place)
    except OSError:
        pass


def has_content(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False


def free_port() -> str:
    """Below the range from which the kernel serves outgoing connections, so that it is still free in some seconds."""
    import random
    import socket

    while True:
        port = random.randrange(20000, 32768)
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)):
                return str(port)
