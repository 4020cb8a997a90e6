"""How long `launch runs` takes with many runs, beside `ls` of the same folder and a program that reads each record.

    python benchmarks/runs.py [--runs 10000] [--rounds 5]

The runs have ended; their plan is a golden one. `first` has no index of them yet, and makes it. The reader is plain
Python: it loads every record.json and prints id, step and state. All take turns; the table has the best round of each,
and how many times the processor time of `launch runs` the others take.
"""

from __future__ import annotations

import argparse
import datetime
import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO / "tests"))

from helpers import record_of  # noqa: E402

from launcher.core.plan import Plan  # noqa: E402
from launcher.records.run_directory import STAMP, Outcome, Run  # noqa: E402

PLAN = REPO / "tests" / "golden" / "sft" / "automodel" / "docker-cpu" / "plan.json"
READER = """
import json, os, sys
for name in sorted(os.listdir(sys.argv[1])):
    with open(f"{sys.argv[1]}/{name}/record.json") as f:
        record = json.load(f)
    print(name, record["plan"]["step"], record["outcome"]["end"])
"""


def make(folder: Path, count: int) -> None:
    """Runs that have ended, a minute apart."""
    plan = msgspec.json.decode(PLAN.read_bytes(), type=Plan)
    result = {"steps": 40, "total_steps": 40, "first_loss": 6.5, "last_loss": 2.25}
    outcome = Outcome(exit_code=0, cause="step", reason="done", result=result)
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    for number in range(count):
        stamp = (begin + datetime.timedelta(minutes=number)).strftime(STAMP)
        run = Run(folder / f"{stamp}-sft.automodel-{number:06x}")
        run.path.mkdir(parents=True)
        run.write(record_of(run, plan, "unix:///gone", state="ended", outcome=outcome))
        (run.path / "lock").touch()
        run.event("ended")


class Spent(NamedTuple):
    """Seconds of clock and of processor."""

    wall: float
    cpu: float


def spent(words: list[str], env: dict[str, str]) -> Spent:
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=env, cwd=REPO)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(time.perf_counter() - begin, cpu)


def best(times: list[Spent]) -> Spent:
    return Spent(min(t.wall for t in times), min(t.cpu for t in times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slipway-runs-") as name:
        folder, cache = Path(name, "runs"), Path(name, "cache")
        make(folder, asked.runs)
        env = {**os.environ, "SLIPWAY_RUNS": str(folder), "XDG_CACHE_HOME": str(cache)}
        launch = str(Path(sysconfig.get_path("scripts"), "launch"))
        ours = [launch, "runs", "--runs-dir", str(folder)]
        programs = {
            "launch runs": ours,
            "launch runs -n 20": [*ours, "-n", "20"],
            "launch --help": [launch, "--help"],
            "ls": ["ls", "-l", str(folder)],
            "reader": [sys.executable, "-c", READER, str(folder)],
        }
        first = list[Spent]()
        taken: dict[str, list[Spent]] = {name: [] for name in programs}
        for _ in range(asked.rounds):
            shutil.rmtree(cache, ignore_errors=True)
            first.append(spent(ours, env))
            for program, words in programs.items():
                taken[program].append(spent(words, env))
    ours_took = best(taken["launch runs"])
    for program, times in {"launch runs, first": first, **taken}.items():
        took = best(times)
        print(f"{program:<20} {took.wall:6.3f} s, CPU {took.cpu:6.3f} s  {took.cpu / ours_took.cpu:5.2f}")


if __name__ == "__main__":
    main()
