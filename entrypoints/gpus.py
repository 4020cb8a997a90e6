"""Whether a container has the GPUs of its plan, and they are fit. Runs in whatever Python the image has: 3.9 or newer.

gpus.py    by nvidia-smi, at the start of a run with GPUs; what it finds goes into versions.json, and so into the record

Exit codes: 0 as planned, or nvidia-smi cannot be asked (then the step itself will tell); 78 the run is refused; 75 this
node is not fit, and another one may do: of a job of Slurm's, whose next attempt does without the node, named in `bad`.
Elsewhere, and where the profile says `check_nodes: false`, what is not fit is only told.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

TRY_AGAIN, REFUSED = 75, 78
FREE = 0.9  # of a GPU's memory, before the step has started
LINE = re.compile(r"^(GPU \d+| +MIG ).*\(UUID: ([^)]+)\)", re.MULTILINE)
XID = re.compile(r"NVRM: Xid \((?:PCI:)?([\w:.]+)\): (\d+)")
# Those after which NVIDIA asks for a reset, or a restart; most others are a program's own fault.
FATAL = {48: "double bit ECC error", 64: "row remapping failed", 74: "NVLink error", 79: "has fallen off the bus",
         95: "uncontained ECC error", 119: "GSP does not answer", 120: "GSP error"}  # fmt: skip


def main() -> int:
    args = parser().parse_args()
    plan = json.loads(Path(args.plan).read_text(encoding="utf-8"))
    if plan["flavour"] != "cuda" or not plan["shape"]["gpus"]:
        return 0
    profile = plan.get("profile") or {}
    looks = profile.get("kind") == "slurm" and profile.get("check_nodes", True)
    found, why = visible()
    if found is None:
        return bad(Path(args.out), [why]) if looks and why else 0
    record(Path(args.out), found, plan["shape"]["gpus"])
    wrong = difference(plan, found)
    if wrong and looks and profile.get("gpus_by") != "none":  # Slurm has counted them
        return bad(Path(args.out), [wrong])
    if wrong:
        print(wrong, file=sys.stderr)
        return REFUSED
    faults = [*unfit(ours(found, plan["shape"]["gpus"])), *fatal_xids()]
    if faults and looks:
        return bad(Path(args.out), faults)
    for fault in faults:
        print(f"warning: {fault}", file=sys.stderr)
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--plan", default="/slipway/plan.json")
    top.add_argument(
        "--out", default="/run/slipway/0/versions.json", help="what was found of the image, and now of GPUs"
    )
    return top


def ask(*words: str) -> tuple[str | None, str]:
    """What nvidia-smi says to these words; None, and why, where it fails; no reason where there is none."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        return None, "nvidia-smi does not answer within 60 s"
    except OSError:
        return None, ""
    said = done.stdout.strip().splitlines()
    if done.returncode:
        return None, f"nvidia-smi: {said[0] if said else f'exit code {done.returncode}'}"
    return done.stdout, ""


def visible() -> tuple[list[str] | None, str]:
    """UUIDs of the GPUs, and of instances (MIG) in place of those that are divided; without an answer None, and why."""
    listed, why = ask("-L")
    if listed is None:
        return None, why
    rows = LINE.findall(listed)
    instances = [kind.startswith(" ") for kind, _ in rows] + [False]
    return [uuid for n, (_, uuid) in enumerate(rows) if instances[n] or not instances[n + 1]], ""


def difference(plan: dict, found: list[str]) -> str:
    """Fewer GPUs than planned, or others; empty where all is there."""
    wanted, uuids = plan["shape"]["gpus"], (plan.get("gpus") or {}).get("uuids") or []
    if set(uuids) - set(found):
        return f"GPUs: found {', '.join(found) or 'none'}, expected {', '.join(uuids)}"
    return f"GPUs: found {len(found)}, expected {wanted}" if len(found) < wanted else ""


def ours(found: list[str], wanted: int) -> set[str]:
    """Of the GPUs that are seen those that this run has: a node may show those of other jobs, too."""
    named = [word for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word]
    chosen = {found[int(w)] if w.isdigit() and int(w) < len(found) else w for w in named}
    return chosen & set(found) or (set(found) if len(found) == wanted else set())


def unfit(uuids: set[str]) -> Iterator[str]:
    """What is wrong with these GPUs, one after the other. What a driver does not know, or a GPU lacks, is not wrong."""
    checks = {"ecc.errors.uncorrected.volatile.total": "{} uncorrected ECC errors since the driver was loaded",
              "remapped_rows.failure": "rows of its memory could not be remapped",
              "remapped_rows.pending": "rows of its memory wait for a reset to be remapped"}  # fmt: skip
    for field, text in checks.items():
        for index, uuid, value in rows(f"index,uuid,{field}"):
            if uuid in uuids and value not in ("0", "No") and (value == "Yes" or value.isdigit()):
                yield f"GPU {index} ({uuid}): {text.format(value)}"
    for index, uuid, total, used in rows("index,uuid,memory.total,memory.used"):
        if uuid in uuids and total.isdigit() and used.isdigit() and int(total) - int(used) < FREE * int(total):
            holders = [
                f"{pid} ({name})" for held, pid, name in rows("gpu_uuid,pid,name", "compute-apps") if held == uuid
            ]
            by = f", held by {', '.join(holders)}" if holders else ""
            yield f"GPU {index} ({uuid}): {used} of {total} MiB are taken before the run has started{by}"


def rows(fields: str, kind: str = "gpu") -> list[list[str]]:
    """A row for each GPU, or process; none where the driver does not know these fields."""
    said = ask(f"--query-{kind}={fields}", "--format=csv,noheader,nounits")[0] or ""
    found = [[cell.strip() for cell in line.split(",")] for line in said.splitlines()]
    return [row for row in found if len(row) == len(fields.split(","))]


def fatal_xids() -> Iterator[str]:
    """By the kernel's messages since it started, which most containers may not read."""
    try:
        done = subprocess.run(["dmesg"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return
    seen = dict.fromkeys(XID.findall(done.stdout.decode(errors="replace")))
    yield from (f"GPU at {bus}: Xid {n}, {FATAL[int(n)]}" for bus, n in seen if int(n) in FATAL)


def bad(out: Path, faults: list[str]) -> int:
    """Names this node to the job, which does without it when it starts anew."""
    names, rank = os.environ.get("SLIPWAY_NODE_NAMES", "").split(), int(os.environ.get("SLURM_NODEID") or 0)
    node = names[rank] if rank < len(names) else os.uname().nodename
    why = "; ".join(faults)
    print(f"node {node} is not fit: {why}", file=sys.stderr)
    with (out.parents[1] / "bad").open("a", encoding="utf-8") as f:
        f.write(f"{node} {why}\n")
    return TRY_AGAIN


def record(path: Path, found: list[str], wanted: int) -> None:
    """The UUIDs that are seen; and what the driver calls those of this run, where it says that, and its version."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    mine = ours(found, wanted) or set(found)
    told = [(name, driver) for uuid, name, driver in rows("uuid,name,driver_version") if uuid in mine]
    if told:
        known |= {"gpu_names": [name for name, _ in told], "driver": told[0][1]}
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(dict(known, gpus=found), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
