"""launcher/artifacts/detection.py: what a path really is, whether it is whole, and its fingerprint."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import CHAT, HERE, SHARDS, safetensors, write_chats, write_checkpoint

from launcher.artifacts import detection
from launcher.artifacts.binidx import INDEX_MAGIC
from launcher.artifacts.detection import MAX_FAULTS, SAMPLE_BYTES, SAMPLES, Artifact
from launcher.artifacts.nouns import Data


def faults(found: Artifact) -> list[tuple[str, str]]:
    return [(Path(f.where).name, f.what) for f in found.faults]


def test_whole_chats_are_detected_whatever_their_name(tmp_path: Path) -> None:
    for name in ("chats.jsonl", "chats.json", "chats"):
        found = detection.inspect("train", write_chats(tmp_path / name))
        assert (found.type, found.kind, found.faults) == ("chat_jsonl", "file", [])
        assert (found.name, found.path) == ("train", str(tmp_path / name))
        assert found.bytes == (tmp_path / name).stat().st_size


def test_a_broken_first_line_of_a_jsonl_file_is_a_broken_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f"{{broken\n{json.dumps(CHAT)}\n")
    found = detection.inspect("train", tmp_path / "a.jsonl")
    assert (found.type, [where for where, _ in faults(found)]) == ("chat_jsonl", ["a.jsonl:1"])


def test_many_faults_are_cut_off(tmp_path: Path) -> None:
    found = detection.inspect("train", write_chats(tmp_path / "a.jsonl", *["{}"] * 100))
    assert len(found.faults) == MAX_FAULTS


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    assert faults(detection.inspect("train", tmp_path / "a.jsonl")) == [("a.jsonl", "the file is empty")]


def test_a_whole_checkpoint(tmp_path: Path) -> None:
    found = detection.inspect("model", write_checkpoint(tmp_path / "llama"))
    assert (found.type, found.kind, found.faults, found.parameters) == ("checkpoint_hf", "folder", [], 10)
    assert found.bytes == sum(p.stat().st_size for p in (tmp_path / "llama").iterdir())


Break = Callable[[Path], object]


@pytest.mark.parametrize(("names", "note"), [((), "an empty folder"), (("b", "a"), "a folder with a, b")])
def test_another_folder_is_described(tmp_path: Path, names: tuple[str, ...], note: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    found = detection.inspect("model", tmp_path)
    assert (found.type, found.note, found.kind) == ("", note, "folder")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert detection.inspect("train", tmp_path / "pipe").note == "neither a file nor a folder"


def test_what_cannot_be_read_is_a_fault() -> None:
    found = detection.inspect("train", Path("/proc/self/mem"))
    assert found.type == "" and [f.what for f in found.faults] == ["cannot be read: Input/output error"]


def test_a_link_to_an_input_is_the_input(tmp_path: Path) -> None:
    real = write_chats(tmp_path / "chats.jsonl")
    (tmp_path / "link").symlink_to(real)
    assert detection.inspect("train", tmp_path / "link") == detection.inspect("train", real)


def test_the_fingerprint_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    one, other = (write_checkpoint(tmp_path / place / "llama") for place in "ab")
    assert detection.inspect("model", one).fingerprint == detection.inspect("model", other).fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda f: (f / "config.json").write_text("{}"),
        lambda f: (f / "tokenizer.json").rename(f / "tokenizer.model"),
        lambda f: (f / "more.txt").touch(),
        lambda f: (f / SHARDS[0]).write_bytes(safetensors({"z": [2, 3]})),
        lambda f: (f / SHARDS[0]).write_bytes((f / SHARDS[0]).read_bytes()[:-1] + b"\1"),
    ],
)
def test_a_changed_file_name_or_byte_changes_the_fingerprint(tmp_path: Path, change: Break) -> None:
    folder = write_checkpoint(tmp_path / "llama")
    before = detection.inspect("model", folder).fingerprint
    change(folder)
    assert detection.inspect("model", folder).fingerprint != before


@pytest.mark.parametrize(("place", "seen"), [(0, True), (-1, True), (SAMPLE_BYTES + 1, False)])
def test_of_a_large_file_blocks_are_sampled_first_and_last_among_them(tmp_path: Path, place: int, seen: bool) -> None:
    path, size = tmp_path / "large", 4 * SAMPLES * SAMPLE_BYTES
    path.write_bytes(bytes(size))
    before = detection.fingerprint([path], tmp_path)
    with path.open("r+b") as f:
        f.seek(place % size)
        f.write(b"\1")
    assert (detection.fingerprint([path], tmp_path) != before) == seen


def test_a_header_of_a_large_shard_is_read_whole(tmp_path: Path) -> None:
    """It tells dtypes and shapes, and lies between the sampled blocks."""
    path, fingerprints = tmp_path / "large.safetensors", set()
    for dtype in ("BF16", "F160"):
        names = "".join(f'"{n:0100}": {{"dtype": "F32"}}, ' for n in range(5000))
        header = f'{{{names}"last": {{"dtype": "{dtype}"}}}}'.encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4 * SAMPLES * SAMPLE_BYTES))
        fingerprints.add(detection.fingerprint([path], tmp_path))
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    ("name", "text", "note"),
    [
        ("a.jsonl", "[1]\n", "a JSON array, not one object a line; this makes lines of it: jq -c '.[]'"),
        ("a.md", "text\n", "no JSON on its first line"),
        ("a.bin", "\0\1", "no JSON on its first line"),
        ("a.json", '{"a": 1}\n', "JSON lines with a"),
    ],
)
def test_what_is_none_that_we_know_is_described(tmp_path: Path, name: str, text: str, note: str) -> None:
    (tmp_path / name).write_text(text)
    found = detection.inspect("train", tmp_path / name)
    assert (found.type, found.note, found.faults) == ("", note, [])


@pytest.mark.parametrize("name", ["nothing", "file/below", "*.jsonl", "loop", "gone"])
def test_what_is_not_there_is_missing(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nothing")
    note = "a link that leads nowhere" if (tmp_path / name).is_symlink() else ""
    assert detection.inspect("model", tmp_path / name) == Artifact(
        name="model", path=str(tmp_path / name), kind="missing", note=note
    )


@pytest.mark.parametrize("link", ["/etc/passwd", "/etc", "nothing", "more"])
def test_a_link_that_leaves_a_folder_is_a_fault(tmp_path: Path, link: str) -> None:
    folder = write_checkpoint(tmp_path / "llama")
    before = detection.inspect("model", folder)
    (folder / "more").symlink_to(link)
    (folder / "inside").symlink_to("config.json")
    found = detection.inspect("model", folder)
    (said,) = faults(found)
    assert said[0] == "more" and said[1].startswith("a link that l")
    assert found.bytes == before.bytes + (folder / "config.json").stat().st_size


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else for a while")
@pytest.mark.parametrize("name", ["llama", "llama/deeper", "llama/config.json"])
def test_what_may_not_be_read_is_a_fault(name: str) -> None:
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        write_checkpoint(Path(base, "llama"))
        Path(base, "llama/deeper").mkdir()
        Path(base, name).chmod(0)
        os.seteuid(65534)
        try:
            found = detection.inspect("model", Path(base, "llama"))
        finally:
            os.seteuid(0)
    assert [(f.where, f.what) for f in found.faults] == [(str(Path(base, name)), "cannot be read: Permission denied")]


def test_a_pattern_is_one_artifact_of_its_files(tmp_path: Path) -> None:
    one, two = write_chats(tmp_path / "1.jsonl"), write_chats(tmp_path / "2.jsonl", "{}")
    found = detection.inspect("train", tmp_path / "*.jsonl")
    assert (found.kind, found.type, found.path) == ("glob", "chat_jsonl", str(tmp_path / "*.jsonl"))
    assert found.files == [str(one), str(two)] and found.bytes == one.stat().st_size + two.stat().st_size
    assert faults(found) == [("2.jsonl:3", "`messages` is missing")]
    two.write_text(one.read_text().replace("sea", "see"))
    assert detection.inspect("train", tmp_path / "*.jsonl").fingerprint != found.fingerprint


def test_files_of_a_pattern_have_to_have_names_of_their_own(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        write_chats(tmp_path / folder / "1.jsonl")
    found = detection.inspect("train", tmp_path / "**" / "*.jsonl")
    assert faults(found) == [("1.jsonl", "has the name of another file of the pattern")] * 2


def test_a_folder_of_data_files_is_one_artifact(tmp_path: Path) -> None:
    for number in range(2):
        write_chats(tmp_path / f"{number}.jsonl")
    found = detection.inspect("train", tmp_path)
    assert (found.kind, found.type, found.files) == ("folder", "chat_jsonl", [])
    assert (found.data, found.checked) == (Data(files=2, rows=4), "whole")


def test_packed_parquet_brings_its_metadata(tmp_path: Path) -> None:
    shutil.copy(HERE / "data" / "packed.parquet", tmp_path / "training_128.parquet")
    (tmp_path / "128_metadata.jsonl").write_text("[]")
    found = detection.inspect("train", tmp_path / "training_128.parquet")
    assert (found.kind, found.type, found.packing.size) == ("file", "packed_parquet", 128)
    assert [Path(f).name for f in found.files] == ["training_128.parquet", "128_metadata.jsonl"]
    assert detection.inspect("train", tmp_path).files == []


@pytest.mark.parametrize(("name", "kind"), [("text", "glob"), ("text.bin", "file"), ("text.idx", "file")])
def test_tokens_bring_their_index(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "text.idx").write_bytes(struct.pack("<9sQBQQiqqq", INDEX_MAGIC, 1, 8, 1, 2, 3, 0, 0, 1))
    (tmp_path / "text.bin").write_bytes(bytes(6))
    found = detection.inspect("data", tmp_path / name)
    assert (found.kind, found.type, found.faults, found.path) == (kind, "binidx", [], str(tmp_path / name))
    assert sorted(Path(f).name for f in found.files) == ["text.bin", "text.idx"]


def test_errors_stand_before_warnings(tmp_path: Path) -> None:
    twice = json.dumps({"messages": [*CHAT["messages"][:1] * 2, *CHAT["messages"][1:]]})
    found = detection.inspect("train", write_chats(tmp_path / "a.jsonl", twice, "{}"))
    assert [(f.severity, Path(f.where).name) for f in found.faults] == [
        ("error", "a.jsonl:4"),
        ("warning", "a.jsonl:3"),
    ]


def test_of_a_file_of_100_gb_little_is_read(tmp_path: Path) -> None:
    path = write_chats(tmp_path / "a.jsonl", *[json.dumps(CHAT)] * 50_000)
    os.truncate(path, 100 * 10**9)
    before, _ = read_so_far()
    found = detection.inspect("train", path)
    assert (found.type, found.faults, found.checked, found.data) == ("chat_jsonl", [], "beginning", Data())
    assert read_so_far()[0] - before < 16 * 2**20


def test_of_many_files_no_more_is_read_than_of_64_large_ones(tmp_path: Path) -> None:
    for number in range(500):
        os.truncate(write_chats(tmp_path / f"{number:03}.jsonl"), 10**9)
    before, calls = read_so_far()
    found = detection.inspect("train", tmp_path)
    assert (found.type, found.checked, found.data) == ("chat_jsonl", "beginning", Data(files=500))
    now = read_so_far()
    assert now[0] - before < 200 * 2**20 and now[1] - calls < 5 * 1024


def read_so_far() -> tuple[int, int]:
    """Bytes that this process has read, whether a disk had to be asked or not, and in how many calls."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["rchar"]), int(lines["syscr"])
