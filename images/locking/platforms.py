"""Processors, as Docker names them: which one an engine has, what the lock has for it, and what else an engine runs."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

from images.locking.model import Entry
from slipway.errors import Exit, SlipwayError

NAMES = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}  # of Python's platforms, and of `uname -m`
OTHERS = {name: machine for machine, name in NAMES.items() if name != "linux/amd64"}  # that a release may name


def named(machine: str) -> str:
    """`uname -m` as Docker writes it: linux/amd64."""
    return NAMES.get(machine, f"linux/{machine}")


def of_engine(client: Any) -> str:
    """Of the machine on which the engine is; empty where it does not say."""
    arch = client.version().get("Arch")
    return f"linux/{arch}" if arch else ""


def check_locked(entry: Entry, platform: str) -> None:
    """Raises SlipwayError 65 where the lock has other packages, or another base, than those of `platform`."""
    found = {NAMES.get(g.platform.partition("-")[0], platform): n for n, g in entry.groups.items()}
    for other in sorted(found.keys() - {platform} if platform else ()):
        what = f"is locked for {other}, not for {platform}: its packages (group {found[other]}) are that one's"
        remedy = (
            f"build it where programs of {other} run, or lock it: `platforms:` of its release in images/matrix.yaml"
        )
        raise SlipwayError(Exit.DATA, what, where=entry.name, remedy=remedy)
    if platform and entry.base.platforms and platform not in entry.base.platforms:
        what = f"its base {entry.base.image}:{entry.base.tag} is there for {', '.join(sorted(entry.base.platforms))}"
        raise SlipwayError(Exit.DATA, f"{what}, not for {platform}", where=entry.name)


def check_runs(engine: str, platform: str) -> None:
    """Raises SlipwayError 69 where the engine's machine runs no programs of `platform`, as a build has to."""
    command, env = ["docker", "buildx", "inspect"], {**os.environ, "DOCKER_HOST": engine}
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout
    runs = re.findall(r"linux/\w+", "".join(re.findall(r"^Platforms:.*", said, re.M)))
    if platform not in runs:
        what = f"runs programs of {', '.join(dict.fromkeys(runs)) or 'its own processor'}, not of {platform}"
        remedy = "build on such a machine, or let this one run them: install qemu-user-static (with binfmt-support)"
        raise SlipwayError(Exit.UNAVAILABLE, what, where=engine, remedy=remedy)
