"""What a run is told by its environment: where its files are, its shape, and how long it waits."""

from __future__ import annotations

import os
import signal


def inherited() -> dict[str, str]:
    """The environment as it was handed down: in a C locale the interpreter sets LC_CTYPE in its own (PEP 538)."""
    try:
        with open("/proc/self/environ", "rb") as f:
            entries = f.read().split(b"\0")
    except OSError:  # whoever may not read the interpreter may not read this
        return dict(os.environ)
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if entry.find(b"=") > 0)
    return {name: value for name, _, value in pairs}


class Settings:
    """An empty variable is one that is not set. `faults`: what is wrong with them."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env
        self.faults: list[str] = []
        self.slipway = self._text("SLIPWAY_DIR", "/slipway")
        self.state = self._text("SLIPWAY_STATE_DIR", "/run/slipway")
        self.entry_file = self._text("SLIPWAY_ENTRY_FILE", "/etc/slipway/entry.json")
        self.driver_file = self._text("SLIPWAY_DRIVER_FILE", "/proc/driver/nvidia/version")
        self.image_environment = self._text("SLIPWAY_IMAGE_ENVIRONMENT", "/etc/environment")
        self.secrets_folder = self._text("SLIPWAY_SECRETS_DIR", "/run/secrets")
        self.secrets = self._text("SLIPWAY_SECRETS").split()
        self.expect = [line.strip() for line in self._text("SLIPWAY_EXPECT").splitlines()]
        self.converted = [line.strip() for line in self._text("SLIPWAY_CONVERTED").splitlines()]
        self.shared = self._text("SLIPWAY_SHARED").split()
        self.launcher = self._text("SLIPWAY_LAUNCHER", "python")
        self.procs = self._count("SLIPWAY_PROCS", "the number of processes of this node")
        self.nodes = self._count("SLIPWAY_NODES", "the number of nodes")
        self.rank = 0 if self.nodes == 1 else self._count("SLURM_NODEID", "the rank of this node", 0)
        self.node_folder = f"{self.state}/{self.rank}"
        self.names = self._text("SLIPWAY_NODE_NAMES").split()
        self.head = self._text("SLIPWAY_HEAD")
        self.nonce = self._text("SLIPWAY_NONCE")
        if self.nodes > 1 and not (self.nonce and self.head):
            says = "the job has to say how nodes find each other: SLIPWAY_NONCE, SLIPWAY_HEAD"
            self.faults.append(f"SLIPWAY_NODES={self.nodes}: {says}")
        self.all_reduce = bool(self._text("SLIPWAY_ALL_REDUCE"))  # nodes try each other out before the step
        self.in_job = bool(self._text("SLURM_JOB_ID"))
        self.stop_to = self._text("SLIPWAY_STOP_TO", "group")
        self.stop_signal = self._signal("SLIPWAY_STOP_SIGNAL", "TERM")
        self.stop_seconds = self._seconds("SLIPWAY_STOP_SECONDS", 30)
        self.stall_seconds = self._seconds("SLIPWAY_STALL_SECONDS", 0)
        self.kill_seconds = self._seconds("SLIPWAY_KILL_SECONDS", 5)  # between TERM and KILL for what is still there
        self.start_wait = self._seconds("SLIPWAY_START_WAIT", 1800)  # between the first node's container and the last's
        self.mount_wait = self._seconds("SLIPWAY_MOUNT_WAIT", 90)
        self.converted_wait = self._seconds("SLIPWAY_MOUNT_WAIT", 0)
        self.ray_wait = self._seconds("SLIPWAY_RAY_WAIT", 300)
        self.ray_dashboard = bool(self._text("SLIPWAY_RAY_DASHBOARD"))
        self.ray_head_is_dedicated = self._text("SLIPWAY_RAY_HEAD") == "dedicated"

    def node_name(self, rank: int) -> str:
        """As the scheduler calls it."""
        return self.names[rank] if rank < len(self.names) else os.uname().nodename

    @property
    def name(self) -> str:
        return self.node_name(self.rank)

    def _text(self, name: str, default: str = "") -> str:
        return self._env.get(name) or default

    def _count(self, name: str, what: str, least: int = 1) -> int:
        text = self._text(name, str(least))
        if text.isascii() and text.isdigit() and int(text) >= least:
            return int(text)
        self.faults.append(f"{name}={text}: expected {what}")
        return least

    def _signal(self, name: str, default: str) -> str:
        text = self._text(name, default)
        if f"SIG{text}" in signal.Signals.__members__:
            return text
        self.faults.append(f"{name}={text}: expected the name of a signal")
        return default

    def _seconds(self, name: str, default: float) -> float:
        text = self._text(name, str(default))
        try:
            return float(text)
        except ValueError:
            self.faults.append(f"{name}={text}: expected a number of seconds")
            return default
