"""Ray around a step.

Every node runs one `ray start --block`, with ports, a temporary directory and an environment of its own. The first is
the head, and runs the step program as the driver once every node is there; the others leave when the head does.
`ray stop` is never used: it ends the Ray of other jobs, too.

Exit codes: the driver's own; 75 when nodes did not come within SLIPWAY_RAY_WAIT seconds, or one was lost: with other
nodes the same run may work. The reason names the hosts.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections.abc import Callable

from supervisor.ends import Ended, put, refusal, say, text_of, unavailable
from supervisor.environment import remove_tree
from supervisor.launchers import Launcher
from supervisor.meeting import GLANCE, has_content
from supervisor.node import Node
from supervisor.processes import NO_INPUT, Child, FileAction
from supervisor.ray_logs import RayLogs, last_line
from supervisor.ray_options import BLOCK, FIRST, LAST, Options, Ports, claim, own_address

START = ("start", "--block", "--disable-usage-stats", "--log-color=false")
OPEN_FILES = 65535  # Ray opens many
CONNECT = 5  # seconds that the head has to take a connection
RETRY = 0.5
NO_PORTS = f"none of the {(LAST - FIRST) // BLOCK} blocks of ports from {FIRST} on is free"
NOTICE, NOTICE_OTHERS = 2, 5  # seconds after which those who watch have noticed what a driver has failed of


class Ray(Launcher):
    """This node's Ray, whose logs are carried into the run directory."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.ray: Child | None = None
        self.program = f"{os.path.dirname(node.python)}/ray"
        self.folder = f"{node.folder}/ray"
        self.temp = ""  # short: the path of a socket below it may have 107 bytes
        self.logs: RayLogs | None = None

    def prepare(self) -> None:
        node = self.node
        if not os.access(self.program, os.X_OK):
            raise refusal(f"{self.program}: the image has no Ray")
        if node.settings.nodes > 1:  # an actor has the driver's environment, the head's mark in it: all have the same
            node.members.mark = f"ray.{node.settings.nonce}"
        remove_tree(self.folder)
        try:
            os.mkdir(self.folder)
        except OSError:
            raise refusal(f"{self.folder}: cannot be made") from None
        put(f"{self.folder}/host", f"{node.settings.name}\n")
        self.options = Options(node)
        self._clean_environment()

    def _clean_environment(self) -> None:
        """What actors will have: the plan's variables and the image's, and of Ray's own only these; what was declared
        stays."""
        env = self.node.env
        for name in [*self.options.undeclared(), "RAY_ADDRESS"]:
            env.pop(name, None)
        env |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
        # As NeMo RL's ray.sub: it makes virtual environments itself, hundreds of workers may register at once, and Ray
        # opens many files.
        env["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
        env |= self.options.limits()
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))

    def _claim(self) -> Ports:
        """A folder and a block of ports for this node's Ray."""
        temp = f"/tmp/ray-{self.node.members.mark.rpartition('.')[2]}"  # Ray wants the same one on all nodes
        try:
            os.mkdir(temp, 0o700)
        except OSError:
            raise refusal(f"{temp}: cannot be made") from None
        self.temp = temp
        self.logs = RayLogs(self.temp, self.folder)
        self.ports = ports = claim()  # for as long as this program runs
        if not ports:
            raise unavailable(f"Ray on {self.node.settings.name}: {NO_PORTS}")
        self.node.env |= {name: str(port) for name, port in ports.variables.items()}
        return ports

    def output(self, name: str, stream: int = 1, *more: FileAction) -> tuple[FileAction, ...]:
        """What a program beside the driver writes goes into a file here."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        return NO_INPUT, (os.POSIX_SPAWN_OPEN, stream, f"{self.folder}/{name}", flags, 0o600), *more

    def lost(self) -> str:
        """Why the cluster is not whole any more; empty where it is."""
        if self.ray and self.ray.code is not None:
            return f"Ray on {self.node.settings.name} has ended: {last_line(self.folder, 'start.log')}"
        return ""

    def observers(self) -> list[Callable[[], Ended | None]]:
        return [self.logs.carry] if self.logs else []

    def close(self, step: Child | None) -> None:
        """Ray ends its own processes in order when it is told, which takes seconds; workers of its that are left then
        are idle."""
        if not os.path.isdir(self.folder):
            return
        try:
            put(f"{self.folder}/ended", "")
        except OSError:  # a disk that is full: the others see status.json
            pass
        if step:
            step.kill(signal.SIGTERM, group=True)
        if self.ray:
            self.ray.kill(signal.SIGTERM)
            deadline = time.monotonic() + self.node.settings.kill_seconds
            while self.ray.code is None and time.monotonic() < deadline:
                self.node.pause(GLANCE)
        self.node.members.kill(signal.SIGKILL)
        if self.logs:
            self.logs.carry()
        if self.temp:
            remove_tree(self.temp)


class RayHead(Ray):
    """The first node: the driver is its step."""

    watch: Child | None = None

    def prepare(self) -> None:
        super().prepare()
        settings, env = self.node.settings, self.node.env
        put(f"{self.folder}/home", f"{env['HOME']}\n")
        ports = self._claim()
        self.port = str(ports.cluster)  # what it tells the others when they meet
        try:
            host = own_address(settings.head)
        except OSError as e:
            raise unavailable(f"Ray on {settings.name}: {settings.head}: {e.strerror}") from e
        self.address = f"{host}:{self.port}"
        self.words = [self.program, *START, *self.options.of_head(ports, host, self.temp)]

    def command(self, words: list[str], port: str) -> list[str]:
        """Once Ray is whole, or when it is told to stop."""
        env = {**self.node.step_env(), **self.options.head_limits()}
        # In process groups of their own: what the driver is told, Ray is not.
        children = self.node.children
        both = self.output("start.log", 1, (os.POSIX_SPAWN_DUP2, 1, 2))
        self.ray = children.start(self.words, env, both, self.node.step_umask)
        self._await_nodes()
        self.node.env["RAY_ADDRESS"] = self.address
        return super().command(words, port)

    def _await_nodes(self) -> None:
        """Until every node is in the cluster, by Ray's own word."""
        node, settings = self.node, self.node.settings
        names, wait = settings.names or [settings.name], f"{settings.ray_wait:g}"
        say(f"Ray's head is coming up at {self.address}; up to {wait} s for: {' '.join(names)}")
        ready = f"{self.folder}/ready"
        words = [node.python, "-B", f"{settings.slipway}/ray_watch.py", self.address, str(settings.procs), wait, ready]
        env = {**node.env, **node.members.environment()}
        files = (*self.output("lost"), *self.output("watch.log", 2)[1:])
        self.watch = node.children.start([*words, *names], env, files)
        while not node.stopped and not os.path.exists(ready):
            if why := self.lost():
                raise unavailable(why)
            if self.logs:
                self.logs.carry()
            node.pause(RETRY)

    def lost(self) -> str:
        if why := super().lost():
            return why
        if self.watch and self.watch.code is not None:
            failed = f"what watches the nodes of Ray has ended: {last_line(self.folder, 'watch.log')}"
            return text_of(f"{self.folder}/lost") or failed
        return ""

    def over(self, step: Child) -> int | None:
        if step.code is None and (why := self.lost()):
            if not self.node.stopped:
                raise unavailable(why)
            self.node.stop.shorten()  # Slurm's TERM reaches Ray, too, and without it the driver can only leave
        return step.code

    def settle(self, code: int) -> None:
        """A driver may fail because a node was lost, which those who watch notice a little later."""
        settings = self.node.settings
        deadline = time.monotonic() + (NOTICE_OTHERS if settings.nodes > 1 else NOTICE)
        while code and not self.node.stopped and time.monotonic() < deadline:
            if why := self.lost():
                raise unavailable(why)
            if os.path.exists(f"{settings.state}/failed"):
                return
            self.node.pause(GLANCE)

    def close(self, step: Child | None) -> None:
        if self.watch:
            self.watch.kill(signal.SIGTERM)
        super().close(step)


class RayWorker(Ray):
    """Another node: its Ray is its step, and stays for as long as the head's."""

    home = ""  # the head's HOME, made here by us: actors bring it to every node

    def command(self, words: list[str], port: str) -> list[str]:
        """Once the head's Ray takes connections, or when it is told to stop."""
        settings = self.node.settings
        self.head_folder = f"{settings.state}/0"
        self.files = self.output("start.log", 1, (os.POSIX_SPAWN_DUP2, 1, 2))
        self._await_head(port)
        if self.node.stopped:
            return []
        home = text_of(f"{self.head_folder}/ray/home")
        try:
            os.mkdir(home)
            self.home = home
        except OSError:  # it is there
            pass
        try:
            return [self.program, *START, *self.options.of_worker(self._claim(), settings.head, port)]
        except OSError as e:
            raise unavailable(f"Ray on {settings.name}: {settings.head}: {e.strerror}") from e

    def _await_head(self, port: str) -> None:
        settings, deadline = self.node.settings, time.monotonic() + self.node.settings.ray_wait
        head = f"Ray's head on {settings.node_name(0)}, {settings.head}:{port}"
        while not self.node.stopped and not _answers(settings.head, port):
            if self._head_has_left():
                raise unavailable(f"{head}, has left before {settings.name} could join")
            if time.monotonic() >= deadline:
                raise unavailable(f"{settings.name}: {head}, did not answer within {settings.ray_wait:g} s")
            self.node.pause(RETRY)

    def start(self, command: list[str]) -> Child:
        self.ray = super().start(command)
        return self.ray

    def over(self, step: Child) -> int | None:
        if self._head_has_left():
            return 0
        why = self.lost()
        if why and not self.node.stopped:
            raise unavailable(why)
        return 0 if why else None

    def tell(self, step: Child) -> None:
        settings = self.node.settings
        stays = f"Ray stays for the driver on {settings.node_name(0)}"
        say(f"{self.node.stop.by}: {stays}, up to {settings.stop_seconds:g} s")

    def close(self, step: Child | None) -> None:
        super().close(step)
        if self.home:
            remove_tree(self.home)

    def _head_has_left(self) -> bool:
        return os.path.exists(f"{self.head_folder}/ray/ended") or has_content(f"{self.head_folder}/status.json")


def _answers(host: str, port: str) -> bool:
    try:
        socket.create_connection((host, int(port)), CONNECT).close()
    except (OSError, ValueError):
        return False
    return True
