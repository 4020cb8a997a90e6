"""Which network NCCL took, by what it says where NCCL_DEBUG is INFO; its words from 2.4 on. Standard library alone.

A launch brings this file along as fabric.py, beside the entrypoint, so that both sides read the same. There:

fabric.py    compares what NCCL has written so far (nccl.HOST.PID in the state folder) with the fabric of the plan

Exit codes: 0 as planned, nothing said yet, or `fallback: warn`; 75 some nodes took another one; 78 all of them did.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

TRY_AGAIN, REFUSED = 75, 78
FILE = "nccl.%h.%p"  # NCCL puts in host and process
MOST, LIMIT = 1024, 2**20  # files; bytes of each: what NCCL says of its network is at the beginning
NAMES = {"ib": "InfiniBand", "roce": "RoCE", "efa": "EFA", "tcp": "sockets"}
_FILE = re.compile(r"nccl\.(.+)\.\d+")
_CHOSEN = re.compile(r"NCCL INFO (?:Using network (\S.*?)|Assigned NET plugin (\S.*?) to comm)\s*$")
_VERBS = re.compile(r"NCCL INFO NET/IB : Using ")
_PORT = re.compile(r"\[\d+\]\S+?:\d+/(IB|RoCE)\b")
_PROVIDER = re.compile(r"NCCL INFO NET/OFI Selected [Pp]rovider is ([\w;-]+)")
_SOCKET = re.compile(r"NCCL INFO NET/Socket : Using ")


def transports(lines: Iterable[str]) -> set[str]:
    """What one process uses: of ib, roce, efa and tcp, or by its own name another plugin of NCCL's. Empty: not said.

    Each line is one that NCCL has written. Devices that were found are not yet used: the network that NCCL says it
    uses counts, and only before 2.5, which does not say that, what it has found.
    """
    ports: set[str] = set()
    chosen: set[str] = set()
    provider, sockets = "", False
    for line in lines:
        if found := _CHOSEN.search(line):
            chosen.add(found[1] or found[2])
        elif _VERBS.search(line):
            ports |= {{"IB": "ib", "RoCE": "roce"}[port] for port in _PORT.findall(line)}
        elif found := _PROVIDER.search(line):
            provider = found[1]
        sockets = sockets or bool(_SOCKET.search(line))
    if not chosen:
        chosen = {"Libfabric"} if provider else {"IB"} if ports else {"Socket"} if sockets else set()
    result: set[str] = set()
    for name in chosen:
        if name == "Socket":
            result.add("tcp")
        elif "libfabric" in name.lower():
            result.add("efa" if provider.startswith("efa") else provider or name)
        else:  # NCCL's own IB, and plugins over the same devices (IBext)
            result |= ports or {name}
    return result


def host(file: str) -> str:
    """The host of a file that NCCL has written; empty for another one."""
    found = _FILE.fullmatch(file)
    return found[1] if found else ""


def fallen(fabric: str, found: Mapping[str, Iterable[str]]) -> list[str]:
    """The hosts that use another network than `fabric`. A plugin of a name that is not known may be the right one."""

    def wrong(used: set[str]) -> bool:
        return bool(used) and ("tcp" in used or (fabric not in used and used <= NAMES.keys()))

    return sorted(name for name, used in found.items() if fabric != "tcp" and wrong(set(used)))


def sentence(fabric: str, found: Mapping[str, Iterable[str]]) -> str:
    """What was expected, and what was found where; empty where all is as planned, or nothing is known."""
    by_use: dict[str, list[str]] = {}
    for name in fallen(fabric, found):
        by_use.setdefault(" and ".join(NAMES.get(used, used) for used in sorted(set(found[name]))), []).append(name)
    said = ", ".join(f"{used} on {' '.join(names)}" for used, names in sorted(by_use.items()))
    return f"expected {NAMES[fabric]}, NCCL used {said}" if said else ""


def verdict(plan_file: str, state: str) -> tuple[int, str, int]:
    """The exit code, what is wrong, and how many hosts have said what they use. Raises OSError, ValueError."""
    plan = json.loads(Path(plan_file).read_text(encoding="utf-8"))
    network = plan["profile"].get("network")
    if not isinstance(network, dict):
        return 0, "", plan["shape"]["nodes"]
    found = _read(Path(state))
    told = sum(1 for used in found.values() if used)
    wrong = sentence(network["fabric"], found)
    if not wrong:
        return 0, "", told
    wrong = (f"network: {wrong}; NCCL says why in {state}/{FILE.replace('%h', 'HOST').replace('%p', 'PID')}; "
             "mend it there, or let such runs go on (fallback: warn)")  # fmt: skip
    everywhere = len(fallen(network["fabric"], found)) == plan["shape"]["nodes"]
    return 0 if network["fallback"] == "warn" else REFUSED if everywhere else TRY_AGAIN, wrong, told


def main() -> int:
    args = parser().parse_args()
    code, wrong, _ = verdict(args.plan, args.state)
    if wrong:
        print(wrong, file=sys.stderr)
    return code


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--plan", default="/slipway/plan.json")
    top.add_argument("--state", default="/run/slipway", help="the folder in which NCCL of all nodes writes its files")
    return top


def _read(folder: Path) -> dict[str, set[str]]:
    """Host -> what its processes use, as far as they have said it."""
    found: dict[str, set[str]] = {}
    for path in sorted(folder.glob("nccl.*"))[:MOST]:
        if name := host(path.name):
            with path.open("rb") as f:
                found.setdefault(name, set()).update(transports(f.read(LIMIT).decode(errors="replace").splitlines()))
    return found


if __name__ == "__main__":
    sys.exit(main())
