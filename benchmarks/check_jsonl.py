"""How long reading all of a chat file takes: `launch check --full` beside what training would load it with.

    python3 -m venv VENV && VENV/bin/pip install datasets polars
    python benchmarks/check_jsonl.py --peers VENV/bin/python --size 1000

Makes a file of conversations in a temporary folder, reads it once so that the page cache holds it for everybody, then
lets each program read it in turn, in a process of its own, several times. The table has the best time of each, and
the most memory that its processes had together (their resident sets; what they share counts for each of them).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

PEERS = {
    "polars.read_ndjson": "import sys, polars; print(polars.read_ndjson(sys.argv[1]).height)",
    'datasets.load_dataset("json")': (
        "import sys, datasets; datasets.disable_progress_bars(); "
        "print(datasets.load_dataset('json', data_files=sys.argv[1], cache_dir=sys.argv[2], split='train').num_rows)"
    ),
}
OURS = "launch check --full"


class Measured(NamedTuple):
    seconds: float
    processor: float  # seconds of all its processes together: what a busy machine changes less
    memory: int

    def best(self, other: Measured | None) -> Measured:
        if other is None:
            return self
        return Measured(
            min(self.seconds, other.seconds), min(self.processor, other.processor), max(self.memory, other.memory)
        )


def write_chats(path: Path, size: int, seed: int = 1) -> int:
    """Writes `size` bytes of conversations of one to three turns, some with a system message; how many they are."""
    chance = random.Random(seed)
    words = [f"{chance.getrandbits(chance.choice([12, 16, 20, 28])):x}" for _ in range(3000)]
    words += ["naïve", "“quoted”", "日本語", 'say "so"', "back\\slash", "line\nline"]
    texts = [" ".join(chance.choices(words, k=chance.choice([8, 20, 60, 150, 300]))) for _ in range(4000)]
    written = count = 0
    with path.open("w", encoding="utf-8") as f:
        while written < size:
            messages = [{"role": "system", "content": "Answer briefly."}] if chance.random() < 0.5 else []
            for _ in range(chance.choice([1, 1, 2, 3])):
                messages += [{"role": role, "content": chance.choice(texts)} for role in ("user", "assistant")]
            line = json.dumps({"id": count, "messages": messages}, ensure_ascii=False) + "\n"
            f.write(line)
            written += len(line.encode())
            count += 1
    return count


def measure(command: list[str]) -> Measured:
    """Runs a command to its end. Raises RuntimeError where it fails."""
    with tempfile.TemporaryFile() as out:
        begin, most = time.perf_counter(), 0
        environment = os.environ | {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
        program = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
        while not (ended := os.wait4(program.pid, os.WNOHANG))[0]:
            most = max(most, resident(program.pid))
            time.sleep(0.02)
        seconds, program.returncode = time.perf_counter() - begin, os.waitstatus_to_exitcode(ended[1])
        if program.returncode:
            out.seek(0)
            why = out.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{command[0]} ended with {program.returncode}: {why}")
    return Measured(seconds, ended[2].ru_utime + ended[2].ru_stime, most)


def resident(session: int) -> int:
    """Bytes in the resident sets of all processes of a session."""
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if os.getsid(int(entry.name)) == session:
                    total += int((entry / "statm").read_text().split()[1])
            except OSError:
                continue  # it ended meanwhile
    return total * os.sysconf("SC_PAGE_SIZE")


def commands(file: Path, cache: Path, peers: str) -> dict[str, list[str]]:
    launch = str(Path(sysconfig.get_path("scripts"), "launch"))
    rest = {name: [peers, "-c", code, str(file), str(cache)] for name, code in PEERS.items()}
    return {OURS: [launch, "check", "--full", str(file)], **rest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, help="a Python that has datasets and polars")
    parser.add_argument("--size", type=int, default=1000, help="megabytes (default 1000)")
    parser.add_argument("--runs", type=int, default=3, help="of each (default 3)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "chats.jsonl")
        count = write_chats(file, args.size * 1_000_000)
        best: dict[str, Measured] = {}
        for number in range(args.runs):
            cache = Path(folder, f"cache{number}")  # a new one each time: load_dataset would find its own result
            for name, command in commands(file, cache, args.peers).items():
                warm(file)
                best[name] = measure(command).best(best.get(name))
        size = file.stat().st_size
    print(f"{size / 1e6:.0f} MB, {count:,} conversations, {len(os.sched_getaffinity(0))} cores, best of {args.runs}")
    print("| program | seconds | MB/s | processor seconds | peak memory, MB | times slower | times more processor |")
    print("|---" * 7 + "|")
    for name, one in best.items():
        numbers = f"{one.seconds:.2f} | {size / 1e6 / one.seconds:.0f} | {one.processor:.2f} | {one.memory / 1e6:.0f}"
        slower, more = one.seconds / best[OURS].seconds, one.processor / best[OURS].processor
        print(f"| {name} | {numbers} | {slower:.1f} | {more:.1f} |")


def warm(file: Path) -> None:
    """Reads the file once, so that the page cache holds it for whoever comes next."""
    with file.open("rb") as f:
        while f.read(1 << 20):
            pass


if __name__ == "__main__":
    main()
