"""What `launch --help` and a dry run of rl/grpo cost, beside hpccm and torchx, in processor time.

    python -m venv PEERS && PEERS/bin/python -m pip install hpccm torchx
    python benchmarks/commands.py --peers PEERS/bin

Whole processes, in turns, after one round that does not count. rl/grpo is planned with every check for two nodes of
eight GPUs, by the shipped profile slurm-pyxis, with a tokenizer, weights' headers and data of its own; torchx makes an
sbatch script of its own component, and looks at nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO / "tests"))

from helpers import write_checkpoint  # noqa: E402

LAUNCH = str(Path(sysconfig.get_path("scripts"), "launch"))
SHAPE = ("--nodes", "2", "--gpus", "8")
TORCHX = ("run", "--scheduler", "slurm", "--dryrun", "dist.ddp", "-j", "2x8", "--gpu", "8", "--script", "main.py")


def inputs(folder: Path) -> list[str]:
    """The words of the launch."""
    train = folder / "train.jsonl"
    train.write_text('{"input": "1 + 1", "output": "2"}\n' * 64)
    return [f"train={train}", f"policy={write_checkpoint(folder / 'model')}"]


def cpu_ms(command: list[str], folder: Path) -> float:
    """Of one process, whatever it says and ends with."""
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as program:
        _, _, used = os.wait4(program.pid, 0)
        program.returncode = 0
    return 1000 * (used.ru_utime + used.ru_stime)


def check(command: list[str], folder: Path, says: str) -> None:
    """That the command does what is timed. Raises SystemExit where it does not."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if says not in done.stdout:
        raise SystemExit(
            f"{' '.join(command)}: expected {says!r}, found {done.returncode}: {done.stdout} {done.stderr}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="the folder with the programs hpccm and torchx")
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    peers = given.peers.resolve()
    with tempfile.TemporaryDirectory(prefix="slipway-commands-") as name:
        folder = Path(name)
        (folder / "main.py").touch()
        dry = [LAUNCH, "--profile", "slurm-pyxis", "--dry-run", *SHAPE, "rl/grpo", *inputs(folder)]
        commands = {
            "launch --help": [LAUNCH, "--help"],
            "hpccm --help": [str(peers / "hpccm"), "--help"],
            "launch --dry-run rl/grpo": dry,
            "torchx run --dryrun": [str(peers / "torchx"), *TORCHX],
        }
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # theirs was compiled when it was installed
        os.environ |= {"SLIPWAY_ROOT": str(REPO), "HF_HOME": str(folder / "hf")}
        for command, says in zip(commands.values(), ("Usage", "usage", "#SBATCH", "#SBATCH"), strict=True):
            check(command, folder, says)
        spent: dict[str, list[float]] = {what: [] for what in commands}
        for _ in range(given.rounds):
            for what, command in commands.items():
                spent[what].append(cpu_ms(command, folder))
        shutil.rmtree(folder / "hf", ignore_errors=True)
    print("| command | CPU ms, median | least |\n|---|---|---|")
    for what, found in spent.items():
        print(f"| `{what}` | {statistics.median(found):.0f} | {min(found):.0f} |")
    names = list(commands)
    for ours, theirs in zip(names[::2], names[1::2], strict=True):
        middle, least = (f(spent[ours]) / f(spent[theirs]) for f in (statistics.median, min))
        print(f"\n{ours} / {theirs}: median {middle:.2f}, least {least:.2f}")


if __name__ == "__main__":
    main()
