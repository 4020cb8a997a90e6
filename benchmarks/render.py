"""How long rendering takes: one image's files in one process, and whole processes, beside hpccm.

    python3 -m venv VENV && VENV/bin/pip install hpccm
    python benchmarks/render.py --peer VENV/bin/python

The recipe for hpccm says what our cpu image of automodel is made of: the same base, packages, files, environment and
labels. In one process, each program renders `--times` times and then tells CPU and wall seconds of one; rounds of both
take turns, and the table has the best round of each. Ours reads the lock once, as a command does; hpccm reads its
recipe each time, as it always does. The processes: `images render --check` renders every committed file, `hpccm` one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).parents[1]
OURS = """
from images.building import render
from images.locking import lock
from slipway.project import find_root
root = find_root()
pins = lock.load_lock(root)
entry = lock.select(pins, "automodel", "cpu")
def once():
    return render.files_of(root, pins, entry)
"""
PEER = """
import hpccm
def once():
    return str(hpccm.recipe(sys.argv[2]))
"""
TIMED = """
import json, sys, time
{setup}
once()
wall, cpu = time.perf_counter(), time.process_time()
for _ in range(int(sys.argv[1])):
    once()
print(json.dumps([time.process_time() - cpu, time.perf_counter() - wall]))
"""
RECIPE = """
Stage0 += baseimage(image="scratch", _as="base", _distro="ubuntu22")
Stage0 += copy(src="base.tar", dest="/")
Stage0 += environment(variables={"PATH": "/opt/venv/bin:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"})
Stage0 += copy(src="path.sh", dest="/etc/profile.d/zz-slipway.sh")
Stage0 += workdir(directory="/")
Stage0 += shell(commands=["/usr/bin/python3.11 -m venv --without-pip /opt/venv"])
for group in ("torch", "automodel"):
    Stage0 += comment(group)
    Stage0 += copy(src=f"requirements-{group}.txt", dest="/etc/slipway/")
    Stage0 += raw(docker=f"ARG INDEX_{group.upper()}=")
    Stage0 += shell(commands=["/usr/bin/python3.11 -m pip --python /opt/venv/bin/python install --no-deps "
                              f"--require-hashes --requirement /etc/slipway/requirements-{group}.txt"])
Stage0 += copy(src="cpu/", dest="/opt/venv/lib/python3.11/site-packages/")
Stage0 += shell(commands=["/opt/venv/bin/python -B -m compileall -qf /opt/venv/lib/python3.11/site-packages"])
Stage0 += copy(src="entry.json", dest="/etc/slipway/entry.json")
Stage0 += shell(commands=["/opt/venv/bin/python -B /run/slipway-verify.py image"])
Stage0 += label(metadata={"org.opencontainers.image.title": "automodel", "org.opencontainers.image.version": "0.7.0",
                          "library": "automodel", "release": "0.7.0", "flavour": "cpu", "entry": "0" * 64})
"""


class Spent(NamedTuple):
    """Seconds of processor and of clock."""

    cpu: float
    wall: float


def in_process(python: str, setup: str, times: int, *arguments: str) -> Spent:
    """What one rendering takes in a process that has rendered before."""
    command = [python, "-c", TIMED.format(setup=setup), str(times), *arguments]
    done = subprocess.run(command, cwd=REPO, stdout=subprocess.PIPE, text=True, check=True)
    return Spent(*(seconds / times for seconds in json.loads(done.stdout)))


def process(*command: str) -> Spent:
    """What a whole process takes, from its start to its end."""
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL) as program:
        _, status, used = os.wait4(program.pid, 0)
        program.returncode = os.waitstatus_to_exitcode(status)
    assert program.returncode == 0, command
    return Spent(used.ru_utime + used.ru_stime, time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="the Python that has hpccm")
    parser.add_argument("--times", type=int, default=200, help="renderings in one process")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    images, hpccm = Path(sysconfig.get_path("scripts"), "images"), Path(given.peer).parent / "hpccm"
    with tempfile.TemporaryDirectory() as folder:
        recipe = str(Path(folder, "recipe.py"))
        Path(recipe).write_text(RECIPE)
        subjects: dict[str, Callable[[], Spent]] = {
            "in one process, ours": lambda: in_process(sys.executable, OURS, given.times),
            "in one process, hpccm": lambda: in_process(given.peer, PEER, given.times, recipe),
            "`images render --check` (all committed)": lambda: process(str(images), "render", "--check"),
            "`hpccm --recipe` (one)": lambda: process(str(hpccm), "--recipe", recipe),
        }
        rounds = [{name: measure() for name, measure in subjects.items()} for _ in range(given.rounds)]
    best = {n: Spent(min(r[n].cpu for r in rounds), min(r[n].wall for r in rounds)) for n in subjects}
    print("| what | CPU ms | wall ms |\n|---|---|---|")
    for name, spent in best.items():
        print(f"| {name} | {1000 * spent.cpu:.2f} | {1000 * spent.wall:.2f} |")
    for ours, peer in (list(best.values())[:2], list(best.values())[2:]):
        print(f"ours / hpccm: CPU {ours.cpu / peer.cpu:.2f}, wall {ours.wall / peer.wall:.2f}")


if __name__ == "__main__":
    main()
