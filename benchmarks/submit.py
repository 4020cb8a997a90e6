"""How long a submission to Slurm takes beside a bare `sbatch`, and how planning grows with the number of nodes.

    python benchmarks/submit.py

On the tests' own Slurm (tests/real/slurm; needs root). Submissions, ours and bare ones of the very same script, take
turns; the jobs are held, so that none of them runs. `submit` is all that follows the plan: run directory, files,
record, sbatch. Planning is done in one process (best of `--rounds`), and by whole `launch … --dry-run` processes, with
all checks on; the peak is that process's.
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
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO / "tests"))

from helpers import record_image, write_chats, write_checkpoint  # noqa: E402
from real.slurm.cluster import running  # noqa: E402

from images.locking import lock as locks  # noqa: E402
from images.squashing import sidecar  # noqa: E402
from launcher.engines import slurmjobs  # noqa: E402
from launcher.planning import preparation, run_files  # noqa: E402
from launcher.records.run_directory import Run  # noqa: E402
from launcher.runs import lifecycle  # noqa: E402
from slipway import canonical  # noqa: E402
from slipway.project import Root  # noqa: E402

PARTS = ("versions.lock", "images", "launcher/steps", "launcher/profiles", "templates", "entrypoints")
PROFILE = "schema: 1\nkind: slurm\nflavour: cpu\nshared: [{folder}]\nhf_home: {folder}/hf\nsbatch: {{hold: true}}\n"
MEASURES: tuple[Callable[[list[float]], float], ...] = (statistics.median, min)
NODES = (1, 8, 64, 512, 4096)


class Spent(NamedTuple):
    """Seconds of clock and of processor, and the peak of memory in MB."""

    wall: float
    cpu: float = 0.0
    peak: float = 0.0


def project(folder: Path) -> tuple[Root, list[str]]:
    """A copy of the project that has the image (a file of that name), and the words of a launch."""
    for name in PARTS:
        source, target = REPO / name, folder / "project" / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target.parent)
    root = Root(folder / "project")
    site = root.path / "launcher" / "profiles" / "site.yaml"
    site.write_text(PROFILE.format(folder=folder))
    entry = locks.select(locks.load_lock(root), "automodel", "cpu")
    record = record_image(root, entry)
    file = sidecar.folder(root) / sidecar.file_name(record)
    file.parent.mkdir(parents=True)
    file.touch()
    said = sidecar.Sidecar(
        name=entry.name,
        entry=entry.checksum,
        ids=record.ids,
        source="-",
        platform="-",
        sha256="-",
        size=0,
        tool="-",
        made="-",
    )
    sidecar.path_of(file).write_text(canonical.pretty(said))
    train, model = write_chats(folder / "chats.jsonl"), write_checkpoint(folder / "llama")
    return root, ["sft/automodel", f"train={train}", f"model={model}"]


def prepare(root: Root, words: list[str], nodes: int) -> run_files.Prepared:
    return preparation.prepare(
        root, preparation.Options(step=words[0], words=tuple(words[1:]), profile="site", nodes=nodes)
    )


def timed(work: Callable[[], object]) -> Spent:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


def process(command: list[str], folder: Path) -> Spent:
    """A whole process, whatever its exit code: a shape may have findings."""
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as program:
        _, _, used = os.wait4(program.pid, 0)
        program.returncode = 0
    return Spent(time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


@contextmanager
def site(folder: Path) -> Iterator[None]:
    """A Slurm that this process, and those it starts, find."""
    with running(folder / "slurm", nodes=1) as cluster:
        os.environ |= {"SLURM_CONF": cluster.env["SLURM_CONF"]}
        yield
        cluster.call("scancel", "--user=root")


def submissions(root: Root, words: list[str], rounds: int) -> None:
    prepared = prepare(root, words, nodes=1)
    assert "UNRESOLVED" not in prepared.request["script"]
    run_files.write_directory(prepared, root.path / "written")
    launch = [str(Path(sysconfig.get_path("scripts"), "launch")), "--profile", "site", *words]

    def ours() -> None:
        with lifecycle.submitted(prepared):
            pass

    verb, run = slurmjobs.SlurmJobs(), Run(root.path / "written")
    bare = ["sbatch", "--parsable", "script.sh"]
    spent: dict[str, list[Spent]] = {"bare": [], "verb": [], "ours": [], "launch": []}
    for _ in range(rounds):
        spent["bare"].append(process(bare, root.path / "written"))
        spent["verb"].append(timed(lambda: verb.submit(prepared.request, run)))
        spent["ours"].append(timed(ours))
        spent["launch"].append(process(launch, root.path))
    held = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(held) == 4 * rounds, held
    print("| what | wall ms, median | best |\n|---|---|---|")
    titles = {
        "verb": "the engine's `submit` (sbatch, the file `job`)",
        "bare": "`sbatch script.sh`",
        "ours": "submit, in a process that has planned",
        "launch": "`launch …`, whole",
    }
    for name, title in titles.items():
        walls = [1000 * one.wall for one in spent[name]]
        print(f"| {title} | {statistics.median(walls):.1f} | {min(walls):.1f} |")
    for name in ("verb", "ours"):
        middle, best = (f([s.wall for s in spent[name]]) / f([s.wall for s in spent["bare"]]) for f in MEASURES)
        print(f"\n{titles[name]} / bare: median {middle:.2f}, best {best:.2f} ({rounds} of each, in turns)")
    print()


def planning(root: Root, words: list[str], rounds: int) -> None:
    launch = [str(Path(sysconfig.get_path("scripts"), "launch")), "--profile", "site", "--dry-run"]
    print(
        "| nodes | plan and script, ms | CPU ms | whole dry run, CPU ms | peak MB | script, bytes |\n"
        "|---|---|---|---|---|---|"
    )
    prepare(root, words, 1)
    plans: dict[int, list[Spent]] = {n: [] for n in NODES}
    whole: dict[int, list[Spent]] = {n: [] for n in NODES}
    for _ in range(rounds):
        for nodes in NODES:
            plans[nodes].append(timed(lambda n=nodes: prepare(root, words, n)))  # type: ignore[misc]
            whole[nodes].append(process([*launch, "--nodes", str(nodes), *words], root.path))
    for nodes in NODES:
        wall, cpu = min(s.wall for s in plans[nodes]), min(s.cpu for s in plans[nodes])
        dry, peak = min(s.cpu for s in whole[nodes]), min(s.peak for s in whole[nodes])
        size = len(prepare(root, words, nodes).request["script"])
        print(f"| {nodes:,} | {1000 * wall:.1f} | {1000 * cpu:.1f} | {1000 * dry:.0f} | {peak:.1f} | {size:,} |")
    first, last = (min(s.cpu for s in plans[n]) for n in (NODES[0], NODES[-1]))
    print(f"\n{NODES[-1]:,} nodes / 1 node: CPU {last / first:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slipway-submit-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "project" / "launcher").mkdir(parents=True)
        root, words = project(folder)
        os.environ["SLIPWAY_ROOT"] = str(root.path)
        with site(folder):
            submissions(root, words, given.rounds)
            planning(root, words, min(given.rounds, 10))


if __name__ == "__main__":
    main()
