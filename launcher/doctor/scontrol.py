"""What Slurm itself says of a site: its configuration and its partitions. Each is asked once."""

from __future__ import annotations

import re

from launcher.doctor import Site
from launcher.engines import slurmwords


def pairs(text: str) -> dict[str, str]:
    """`Key = Value` lines, as `scontrol show config` prints them; without those that say (null)."""
    return {k: v for k, v in re.findall(r"^(\w+)\s*= (.*?)\s*$", text, re.M) if v != "(null)"}


def minutes(text: str) -> float:
    """Slurm's time: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S; UNLIMITED is infinite."""
    if not re.fullmatch(r"[\d:-]+", text):
        return float("inf")
    days, dash, rest = text.rpartition("-")
    parts = [int(p) for p in rest.split(":")]
    hours, mins, seconds = (*parts, 0, 0)[:3] if dash or len(parts) == 3 else (0, *parts, 0)[:3]
    return int(days or 0) * 1440 + hours * 60 + mins + seconds / 60


def number(text: str) -> int | None:
    """The number that a value such as `30 sec` begins with; None where there is none."""
    found = re.match(r"\d+", text)
    return int(found[0]) if found else None


def config(site: Site) -> dict[str, str]:
    """Empty where the controller says nothing."""
    return pairs(site.ask("scontrol", "show", "config").out)


def partitions(site: Site) -> list[dict[str, str]]:
    """Those that this user may see."""
    lines = site.ask("scontrol", "--oneliner", "show", "partition").out.splitlines()
    return [slurmwords.record(line) for line in lines if line.strip()]


def partition(site: Site) -> dict[str, str]:
    """The profile's, or the site's default; empty where it is not there."""
    name = site.profile.partition
    known = partitions(site)
    return next((p for p in known if p["PartitionName"] == name or (not name and p.get("Default") == "YES")), {})
