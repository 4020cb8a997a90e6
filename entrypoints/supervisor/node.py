"""What all parts of a run share on this node."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable

from supervisor.ends import Cause, Ended, refusal, text_of
from supervisor.processes import Children, Members
from supervisor.settings import Settings
from supervisor.stopping import Stop

OTHERS_WRITE, OWNERS = 0o002, 0o700
USUAL = 0o022


class Node:
    """`env`: the step's, which grows on the way, and that of every program but for what is the step's alone."""

    def __init__(self, env: dict[str, str], mask: Iterable[int]) -> None:
        self.env = env
        self.settings = Settings(env)
        self.folder = self.settings.node_folder
        self.python = sys.executable
        self.members = Members()
        settings = self.settings
        self.stop = Stop(self.members, settings.in_job, settings.stop_seconds, settings.kill_seconds)
        self.children = Children(mask, self.stop.hear, _die)
        self.step_umask = USUAL

    @property
    def stopped(self) -> bool:
        """Whether this container was told to stop."""
        return self.stop.count > 0

    def own_umask(self) -> None:
        """What is written to the run directory is for its owner alone. The step keeps the umask that was inherited,
        unless that lets everybody write, or takes rights from the owner."""
        inherited = os.umask(0o077)
        if inherited & OTHERS_WRITE and not inherited & OWNERS:
            self.step_umask = inherited

    def begin(self) -> None:
        """Makes N/ranks, by which others know that this program listens. Raises Ended."""
        ranks = f"{self.folder}/ranks"
        try:
            os.makedirs(ranks, exist_ok=True)
        except OSError:
            pass
        if not os.access(ranks, os.W_OK):
            self.folder = ""
            who = f"uid {os.getuid()} gid {os.getgid()} cannot write there"
            raise refusal(f"{self.settings.state}: {who}; mount the run's container/ directory writable")
        left = [f"{self.folder}/{name}" for name in ("status.json", "reason", "refused", "there", "go", "alive")]
        for path in [*self._pid_files(), *left]:
            remove(path)
        if self.settings.stall_seconds:
            os.makedirs(f"{self.folder}/stacks", exist_ok=True)
        self.env["SLIPWAY_NODE_DIR"] = self.folder

    def hear_early(self) -> None:
        """What a launcher had to say before this could hear it is in writing (launcher/engines/early.py): whoever moves
        the file away has it."""
        mine = f"{self.folder}/told"
        try:
            os.rename(f"{self.settings.state}/told", mine)
        except OSError:
            return
        self.stop.hear("INT" if text_of(mine) == "INT" else "TERM")

    def pause(self, seconds: float) -> None:
        """That long, or until a signal comes."""
        self.children.wait(seconds)

    def step_env(self) -> dict[str, str]:
        """With the secrets, which are files where libraries want variables, and what marks all that the step starts."""
        secrets = {}
        for name in self.settings.secrets:
            with open(f"{self.settings.secrets_folder}/{name}", "rb") as f:
                secrets[name] = os.fsdecode(f.read().replace(b"\0", b"").rstrip(b"\n"))
        return {**self.env, **secrets, **self.members.environment()}

    def ranks(self) -> dict[int, int]:
        """rank -> pid, of those that wrote it and are still processes of this step."""
        texts = {os.path.basename(path).partition(".")[0]: text_of(path) for path in self._pid_files()}
        pids = {int(n): int(text) for n, text in texts.items() if n.isdigit() and text.isdigit()}
        return {rank: pid for rank, pid in sorted(pids.items()) if self.members.has(pid)}

    def _pid_files(self) -> list[str]:
        ranks = f"{self.folder}/ranks"
        return [f"{ranks}/{name}" for name in os.listdir(ranks) if name.endswith(".pid")]


def remove(path: str) -> None:
    """A file, where it is there."""
    try:
        os.unlink(path)
    except OSError:
        pass


def _die(number: int) -> None:
    raise Ended(128 + number, Cause.ENTRYPOINT, f"the entrypoint was ended by signal {signal.Signals(number).name[3:]}")
