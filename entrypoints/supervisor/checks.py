"""What is compared with the plan before the step: programs of their own, started with the image's Python."""

from __future__ import annotations

from supervisor import environment
from supervisor.ends import REFUSED, refusal, say
from supervisor.node import Node

Check = tuple[str, list[str]]  # a program in slipway/, and its own arguments


def checks(node: Node, driver_file: str) -> list[Check]:
    """Those of this node, in order. Each gets --plan and --out, says what runs on stdout and its findings on stderr, a
    line each, and ends with 78 where these refuse the run."""
    found = [("verify.py", ["run", "--entry", node.settings.entry_file, "--driver-file", driver_file])]
    if environment.on_path(node.env, "nvidia-smi"):
        found.append(("gpus.py", []))
    return found


def run(node: Node, check: Check) -> None:
    """Its findings refuse the run, where it says so, else they are printed. Raises Ended."""
    program, own = check
    words = [node.python, f"{node.settings.slipway}/{program}", *own]
    words += ["--plan", f"{node.settings.slipway}/plan.json", "--out", f"{node.folder}/versions.json"]
    code, said = node.children.output_of(words, node.env, stream=2)
    findings = said.splitlines()
    if code == REFUSED:
        raise refusal(*findings)
    if code:
        raise refusal(f"{program} ended with exit code {code}:", *findings)
    for line in findings:
        say(line)
