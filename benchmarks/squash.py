"""Twenty concurrent squashes of one image beside one: python benchmarks/squash.py [IMAGE] [--processes N]

Both in one run, each in a new folder, so that only the ratios count. Each makes exactly one import.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

IMAGES = str(Path(sys.executable).parent / "images")


class Cost(NamedTuple):
    seconds: float
    cpu: float
    imports: int
    size: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", nargs="?", default="automodel/0.7.0-cpu")
    parser.add_argument("--processes", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slipway-benchmark-") as name:
        folder = Path(name)
        one = squash(args.image, folder / "one", 1)
        many = squash(args.image, folder / "many", args.processes)
        hit = squash(args.image, folder / "many", 1)
    print(f"{args.image}, {one.size / 1e6:.0f} MB")
    print(f"{'processes':>9} {'seconds':>9} {'CPU s':>9} {'imports':>9}")
    for count, cost in ((1, one), (args.processes, many), (1, hit)):
        print(f"{count:9} {cost.seconds:9.2f} {cost.cpu:9.2f} {cost.imports:9}")
    print(
        f"{args.processes} against one: {many.seconds / one.seconds:.2f} x the time, {many.cpu / one.cpu:.2f} x the CPU"
    )


def squash(image: str, folder: Path, processes: int) -> Cost:
    """Starts all of them at once, in one folder."""
    command = [IMAGES, "squash", image, "--dir", str(folder)]
    before, started = cpu(), time.monotonic()
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    said = [program.communicate() for program in running]
    seconds = time.monotonic() - started
    if failed := [errors for program, (_, errors) in zip(running, said, strict=True) if program.returncode]:
        sys.exit(failed[0])
    (file,) = {Path(out.strip()) for out, _ in said}
    return Cost(seconds, cpu() - before, sum(": importing " in errors for _, errors in said), file.stat().st_size)


def cpu() -> float:
    """Seconds of every process that has ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
