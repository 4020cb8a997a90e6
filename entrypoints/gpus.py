"""Compares the GPUs that a container has with those of its plan. Runs in whatever Python the image has: 3.9 or newer.

gpus.py    by nvidia-smi, at the start of a run with GPUs; what it finds goes into versions.json, and so into the record

Exit codes: 0 as planned, or nvidia-smi cannot be asked (then the step itself will tell); 78 the run is refused.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

REFUSED = 78
LINE = re.compile(r"^(GPU \d+| +MIG ).*\(UUID: ([^)]+)\)", re.MULTILINE)


def main() -> int:
    args = parser().parse_args()
    plan = json.loads(Path(args.plan).read_text(encoding="utf-8"))
    if plan["flavour"] != "cuda" or not plan["shape"]["gpus"]:
        return 0
    found = visible()
    if found is None:
        return 0
    record(Path(args.out), found)
    wrong = difference(plan, found)
    if wrong:
        print(wrong, file=sys.stderr)
    return REFUSED if wrong else 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--plan", default="/slipway/plan.json")
    top.add_argument(
        "--out", default="/run/slipway/0/versions.json", help="what was found of the image, and now of GPUs"
    )
    return top


def visible() -> list[str] | None:
    """UUIDs of the GPUs, and of instances (MIG) in place of those that are divided; None without an nvidia-smi."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = LINE.findall(done.stdout)
    instances = [kind.startswith(" ") for kind, _ in rows] + [False]
    return [uuid for n, (_, uuid) in enumerate(rows) if instances[n] or not instances[n + 1]]


def difference(plan: dict, found: list[str]) -> str:
    """Fewer GPUs than planned, or others; empty where all is there."""
    wanted, uuids = plan["shape"]["gpus"], (plan.get("gpus") or {}).get("uuids") or []
    if set(uuids) - set(found):
        return f"GPUs: found {', '.join(found) or 'none'}, expected {', '.join(uuids)}"
    return f"GPUs: found {len(found)}, expected {wanted}" if len(found) < wanted else ""


def record(path: Path, found: list[str]) -> None:
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(dict(known, gpus=found), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
