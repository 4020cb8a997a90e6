"""launcher/artifacts/full_check.py and `launch check`: every line of every file, in parallel, with its number."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import pty
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import CHAT, REPO, Project, script, write_chats, write_checkpoint

from launcher.artifacts import detection, full_check, jsonl
from launcher.artifacts.full_check import PIECE, Report
from launcher.artifacts.rows import Shape

GOOD = json.dumps(CHAT) + "\n"
TWICE = json.dumps({"messages": [*CHAT["messages"][:1], *CHAT["messages"]]}) + "\n"


def check(*paths: Path, workers: int = 2) -> Report:
    return full_check.check_files(paths, workers, lambda *_: None)


def places(report: Report) -> list[tuple[str, str]]:
    return [(f.severity, Path(f.where).name) for c in report.checked for f in c.artifact.faults]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """Pieces so small that files of a test are cut into many."""
    monkeypatch.setattr(full_check, "PIECE", 1000)
    return 1000


@pytest.mark.parametrize("seed", range(12))
def test_a_file_in_pieces_has_the_faults_of_the_file_as_a_whole(tmp_path: Path, small_pieces: int, seed: int) -> None:
    """Lines of every length, shorter and longer than a piece, the last one with and without an end."""
    chance, path = random.Random(seed), tmp_path / "a.jsonl"
    long = GOOD.replace("Out", "Out" * 2 * small_pieces)
    lines = [GOOD, *chance.choices([GOOD, GOOD.replace("\n", "\r\n"), "{}\n", "\n", TWICE, long], k=60)]
    path.write_text("".join(lines).removesuffix("\n" * chance.choice([0, 1])), newline="")
    with path.open("rb") as f:
        whole = jsonl.scan(f, jsonl.checker(Shape("chat_jsonl")))
    (found,) = check(path).checked
    assert (found.errors, found.warnings, found.lines) == (whole.counts["error"], whole.counts["warning"], whole.lines)
    assert {f.where for f in found.artifact.faults} == {f.where for f in whole.faults(path)}


def test_the_first_faults_are_kept_in_the_order_of_files_and_all_are_counted(tmp_path: Path, small_pieces: int) -> None:
    one = write_chats(tmp_path / "1.jsonl", *["{}"] * 15, *[GOOD.strip()] * small_pieces)
    write_chats(tmp_path / "2.jsonl", *["{}"] * 400, TWICE.strip())
    report = check(tmp_path / "*.jsonl")
    (found,) = report.checked
    assert (found.errors, found.warnings, found.lines) == (415, 1, 17 + small_pieces + 403)
    names = [("1.jsonl", n) for n in range(3, 18)] + [("2.jsonl", n) for n in range(3, 8)]
    assert places(report) == [*(("error", f"{f}:{n}") for f, n in names), ("warning", "2.jsonl:403")]
    assert one.stat().st_size > 50 * small_pieces and report.exit == 65
    assert full_check.describe(found).splitlines()[-1] == "  and 395 more errors"


def test_a_fault_behind_the_beginning_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(GOOD * (2 * PIECE // len(GOOD)) + "{}\n")
    assert detection.inspect("a", path).faults == []
    (found,) = check(path).checked
    assert places(Report(full=True, checked=[found])) == [("error", f"a.jsonl:{2 * PIECE // len(GOOD) + 1}")]
    assert found.artifact.checked == "whole"


def test_packed_and_empty_files_among_others(tmp_path: Path, small_pieces: int) -> None:
    write_chats(tmp_path / "1.jsonl")
    (tmp_path / "2.jsonl.gz").write_bytes(gzip.compress((GOOD * small_pieces + "{}\n").encode()))
    (tmp_path / "3.jsonl.zst").write_bytes(
        subprocess.run(["zstd", "-cq"], input=b"{}\n" * 3, capture_output=True, check=True).stdout
    )
    (tmp_path / "4.jsonl.gz").write_bytes(gzip.compress(random.Random(1).randbytes(9000))[:-2000])
    (tmp_path / "5.jsonl").touch()
    (found,) = check(tmp_path).checked
    names = [f"2.jsonl.gz:{small_pieces + 1}", *(f"3.jsonl.zst:{n}" for n in (1, 2, 3)), "4.jsonl.gz", "5.jsonl"]
    assert [n for _, n in places(Report(full=True, checked=[found]))] == names
    assert found.errors == 6


def test_anything_else_is_hashed_whole(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "llama")
    (found,) = check(folder).checked
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    assert found.sha256 == digest.hexdigest() and found.exit == 0


def test_progress_is_told_in_bytes_up_to_all_of_them(tmp_path: Path, small_pieces: int) -> None:
    told: list[tuple[int, int]] = []
    path = write_chats(tmp_path / "a.jsonl", *[GOOD.strip()] * small_pieces)
    full_check.check_files([path], 2, lambda *now: told.append(now))
    size = path.stat().st_size
    assert told[-1] == (size, size) and len(told) == -(-size // small_pieces) and told == sorted(told)


def test_a_worker_that_is_killed_is_an_error(tmp_path: Path) -> None:
    path = write_chats(tmp_path / "a.jsonl", *[GOOD.strip()] * 1000)
    code = f"""
import os, pathlib, signal
from launcher.artifacts import full_check
from slipway.errors import SlipwayError
full_check.PIECE, killed = 1000, []
def kill(*_):
    children = pathlib.Path(f"/proc/self/task/{{os.getpid()}}/children").read_text().split()
    if not killed:
        killed.append(os.kill(int(children[0]), signal.SIGKILL))
try:
    full_check.check_files([pathlib.Path({str(path)!r})], 2, kill)
except SlipwayError as e:
    print(int(e.code), e.what)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == "75 a worker was killed\n"


def test_workers_end_with_the_process_they_work_for(tmp_path: Path) -> None:
    """A launcher that is killed leaves nobody behind who goes on reading."""
    fifo, path = tmp_path / "fifo", tmp_path / "a.jsonl"
    os.mkfifo(fifo)
    path.write_text(GOOD * (3 * PIECE // len(GOOD)))
    code = f"""
import os, pathlib, signal
from launcher.artifacts import full_check
kept = os.open({str(fifo)!r}, os.O_WRONLY)
full_check.check_files([pathlib.Path({str(path)!r})], 2, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
"""
    program = subprocess.Popen([sys.executable, "-c", code], cwd=REPO, start_new_session=True)
    try:
        with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb") as f:  # noqa: PTH123 (a descriptor)
            assert program.wait() == -signal.SIGKILL
            assert select.select([f], [], [], 30)[0] and f.read() == b"", "a worker lives on and has it open"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)


def test_the_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("w") as f:
        f.writelines([GOOD] * (24 * PIECE // len(GOOD)))
    code = f"""
import os, pathlib
from launcher.artifacts import full_check
peaks = []
def look(*_):
    children = pathlib.Path(f"/proc/self/task/{{os.getpid()}}/children").read_text().split()
    for who in ("self", *children):
        lines = pathlib.Path("/proc", who, "status").read_text().splitlines()
        peaks.extend(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
assert full_check.check_files([pathlib.Path({str(path)!r})], 2, look).exit == 0
print(len(peaks), max(peaks))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    count, most = (int(n) for n in done.stdout.split())
    assert count > 3 * 20 and most < 8 * PIECE, "a file of 24 pieces"


@pytest.mark.parametrize("full", [[], ["--full"]])
def test_the_command_says_what_each_path_is(project: Project, tmp_path: Path, full: list[str]) -> None:
    chats, model = write_chats(tmp_path / "a.jsonl"), write_checkpoint(tmp_path / "llama")
    done = project.launch("check", *full, str(chats), str(model))
    assert (done.code, done.stderr) == (0, "")
    lines = "212 bytes, 2 lines" if full else "212 bytes"
    said = f"{chats}: chat_jsonl (file, {lines})\n  checked: whole\n  data.rows: 2\n{model}: checkpoint_hf (fol"
    assert done.stdout.startswith(said)
    assert "  parameters: 10\n" in done.stdout and "\n  sizes.architecture: LlamaForCausalLM\n" in done.stdout
    assert ("  sha256: " in done.stdout) == bool(full)


def test_the_command_prints_faults_and_the_number_of_the_rest(project: Project, tmp_path: Path) -> None:
    path = write_chats(tmp_path / "a.jsonl", *["{}"] * 25, TWICE.strip())
    done = project.launch("check", "--full", "--workers", "1", str(path))
    assert (done.code, done.stderr) == (65, "")
    assert done.stdout.splitlines()[3] == f"  error: {path}:3: `messages` is missing"
    assert done.stdout.splitlines()[-2:] == [
        f"  warning: {path}:28: two user messages in a row", "  and 5 more errors",
    ]  # fmt: skip


def test_the_commands_json_is_the_report(project: Project, tmp_path: Path) -> None:
    path = write_chats(tmp_path / "a.jsonl", "{}")
    done = project.launch("check", "--json", str(path), "--full")
    (found,) = json.loads(done.stdout)["checked"]
    assert (done.code, found["errors"], found["lines"], found["artifact"]["type"]) == (65, 1, 3, "chat_jsonl")


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("nothing", 66, "T/nothing: there is nothing there\n"),
        ("loop", 66, "T/loop: there is nothing there (a link that leads nowhere)\n"),
        ("text", 65, "T/text: no JSON on its first line (file, 5 bytes)\n"),
        ("empty.jsonl", 65, "T/empty.jsonl: chat_jsonl (file, 0 bytes)\n  checked: whole\n"
         "  error: T/empty.jsonl: the file is empty\n"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("full", [[], ["--full"]])
def test_the_command_ends_with_a_code_for_what_is_wrong(
    project: Project, tmp_path: Path, name: str, code: int, text: str, full: list[str]
) -> None:
    (tmp_path / "text").write_text("words")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "loop").symlink_to("loop")
    done = project.launch("check", *full, str(tmp_path / name))
    assert (done.code, done.stdout.replace(str(tmp_path), "T")) == (code, text)


def test_what_lies_on_a_hub_is_no_path(project: Project) -> None:
    done = project.launch("check", "hf://org/model")
    assert (done.code, done.stdout) == (64, "")
    assert done.stderr == "error: hf://org/model: hf:// is not a path\n  launch fetch prints one\n"


def test_a_bar_is_drawn_on_a_terminal_only(tmp_path: Path) -> None:
    path = write_chats(tmp_path / "a.jsonl")
    terminal, end = pty.openpty()
    try:
        done = subprocess.run([script("launch"), "check", "--full", str(path)], stdout=subprocess.PIPE, stderr=end)
        drawn = os.read(terminal, 10_000).decode()
    finally:
        os.close(terminal)
        os.close(end)
    assert done.returncode == 0 and "checking" in drawn and "100%" in drawn
