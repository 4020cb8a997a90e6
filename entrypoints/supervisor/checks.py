"""What is compared with the plan before the step: programs of their own, started with the image's Python."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from types import MappingProxyType

from supervisor import environment
from supervisor.ends import REFUSED, TRY_AGAIN, refusal, say, unavailable
from supervisor.node import Node

Check = tuple[str, list[str]]  # a program in slipway/, and its own arguments


def checks(node: Node, driver_file: str) -> list[Check]:
    """Those of this node, in order. Each says what runs on stdout and its findings on stderr, a line each, and ends
    with 78 where these refuse the run, or with 75 where another node may do."""
    plan = ["--plan", f"{node.settings.slipway}/plan.json", "--out", f"{node.folder}/versions.json"]
    found = [("verify.py", ["run", "--entry", node.settings.entry_file, "--driver-file", driver_file, *plan])]
    if environment.on_path(node.env, "nvidia-smi"):
        found.append(("gpus.py", plan))
    return found


def all_reduce(node: Node, port: str) -> None:
    """Tries out, from all nodes at once, whether each can talk to every other. Raises Ended."""
    settings = node.settings
    words = {"nodes": settings.nodes, "rank": settings.rank, "procs": settings.procs, "head": settings.head}
    words |= {"port": port, "names": " ".join(settings.names), "bad": f"{settings.state}/bad"}
    check = "allreduce.py", [f"--{name}={value}" for name, value in words.items()]
    try:
        run(node, check, node.members.environment(), lambda: node.stopped)
    finally:
        node.members.kill(signal.SIGKILL)


def run(
    node: Node, check: Check, env: Mapping[str, str] = MappingProxyType({}), given_up: Callable[[], bool] | None = None
) -> None:
    """Its findings refuse the run, where it says so, else they are printed; not what it says once it was given up.
    Raises Ended."""
    program, own = check
    words = [node.python, f"{node.settings.slipway}/{program}", *own]
    code, said = node.children.output_of(words, {**node.env, **env}, stream=2, given_up=given_up)
    findings = said.splitlines()
    if given_up and given_up():
        return
    if code == REFUSED:
        raise refusal(*findings)
    if code == TRY_AGAIN:
        raise unavailable("; ".join(findings))
    if code:
        raise refusal(f"{program} ended with exit code {code}:", *findings)
    for line in findings:
        say(line)
