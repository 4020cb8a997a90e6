"""launcher/artifacts.py: what a path really is, whether it is whole, and its fingerprint."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import CHAT, INDEX, SHARDS, safetensors, write_chats, write_checkpoint

from launcher import artifacts
from launcher.artifacts import MAX_FAULTS, SAMPLE_BYTES, SAMPLES, Artifact


def chat(*roles: str, content: object = "x") -> str:
    return json.dumps({"messages": [{"role": r, "content": content} for r in roles]})


def faults(found: Artifact) -> list[tuple[str, str]]:
    return [(Path(f.where).name, f.what) for f in found.faults]


def test_whole_chats_are_detected_whatever_their_name(tmp_path: Path) -> None:
    for name in ("chats.jsonl", "chats.json", "chats"):
        found = artifacts.inspect("train", write_chats(tmp_path / name))
        assert (found.type, found.kind, found.faults) == ("chat_jsonl", "file", [])
        assert (found.name, found.path) == ("train", str(tmp_path / name))
        assert found.bytes == (tmp_path / name).stat().st_size


@pytest.mark.parametrize(
    "line",
    [
        chat("system", "user", "assistant"),
        chat("user", "assistant", "tool", "assistant"),
        chat("developer", "assistant", content=[{"type": "text", "text": "x"}]),
        json.dumps({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}], "id": 3}),
    ],
)
def test_a_conversation_may_be(tmp_path: Path, line: str) -> None:
    assert artifacts.inspect("train", write_chats(tmp_path / "a.jsonl", line)).faults == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("", "an empty line"),
        ('{"messages": [', "not a conversation: Input data was truncated"),
        ("{}", "not a conversation: Object missing required field `messages`"),
        ('{"messages": 3}', "not a conversation: Expected `array`, got `int` - at `$.messages`"),
        ('{"messages": []}', "`messages` is empty"),
        (
            chat("user", "asistant"),
            "unknown role 'asistant'; expected one of assistant, developer, function, system, tool, user",
        ),
        (chat("system", "user"), "no assistant message: nothing to learn from"),
        (chat("user", "assistant", content=""), "an empty assistant message"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path: Path, line: str, what: str) -> None:
    found = artifacts.inspect("train", write_chats(tmp_path / "a.jsonl", line, json.dumps(CHAT)))
    assert (found.type, faults(found)) == ("chat_jsonl", [("a.jsonl:3", what)])


def test_a_broken_first_line_of_a_jsonl_file_is_a_broken_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f"{{broken\n{json.dumps(CHAT)}\n")
    found = artifacts.inspect("train", tmp_path / "a.jsonl")
    assert (found.type, [where for where, _ in faults(found)]) == ("chat_jsonl", ["a.jsonl:1"])


def test_many_faults_are_cut_off(tmp_path: Path) -> None:
    found = artifacts.inspect("train", write_chats(tmp_path / "a.jsonl", *["{}"] * 100))
    assert len(found.faults) == MAX_FAULTS


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    assert faults(artifacts.inspect("train", tmp_path / "a.jsonl")) == [("a.jsonl", "the file is empty")]


@pytest.mark.parametrize(
    ("name", "text", "note"),
    [
        ("a.jsonl", '{"prompt": "x", "chosen": "y"}\n', "JSON lines with chosen, prompt"),
        ("a.jsonl", "[1]\n", "its first line holds a JSON list"),
        ("a.txt", "text\n", "no JSON on its first line"),
        ("a.bin", "\0\1", "no JSON on its first line"),
        ("a.json", '{"a": 1}\n', "JSON lines with a"),
    ],
)
def test_what_is_none_that_we_know_is_described(tmp_path: Path, name: str, text: str, note: str) -> None:
    (tmp_path / name).write_text(text)
    found = artifacts.inspect("train", tmp_path / name)
    assert (found.type, found.note, found.faults) == ("", note, [])


def test_a_whole_checkpoint(tmp_path: Path) -> None:
    found = artifacts.inspect("model", write_checkpoint(tmp_path / "llama"))
    assert (found.type, found.kind, found.faults, found.parameters) == ("checkpoint_hf", "folder", [], 10)
    assert found.bytes == sum(p.stat().st_size for p in (tmp_path / "llama").iterdir())


def test_a_checkpoint_of_one_file_needs_no_index(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "llama")
    for name in (INDEX, *SHARDS):
        (folder / name).unlink()
    (folder / "model.safetensors").write_bytes(safetensors({"a": [3], "scalar": []}))
    found = artifacts.inspect("model", folder)
    assert (found.faults, found.parameters) == ([], 4)


CUT_OFF = "not a whole safetensors file: its header is cut off"
NO_TOKENIZER = "there is no tokenizer (tokenizer.json, tokenizer_config.json)"
Break = Callable[[Path], object]


@pytest.mark.parametrize(
    ("break_it", "where", "what"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "llama", NO_TOKENIZER),
        (lambda f: (f / SHARDS[1]).unlink(), SHARDS[1], "a shard of the index is missing"),
        (lambda f: [(f / n).unlink() for n in (INDEX, *SHARDS)], "llama", "there are no *.safetensors weights"),
        (
            lambda f: os.truncate(f / SHARDS[0], (f / SHARDS[0]).stat().st_size - 1),
            SHARDS[0], "{size} bytes, its header says {more}: the file is cut off",
        ),
        (lambda f: os.truncate(f / SHARDS[0], 20), SHARDS[0], CUT_OFF),
        (lambda f: os.truncate(f / SHARDS[0], 3), SHARDS[0], CUT_OFF),
        (lambda f: (f / SHARDS[0]).write_bytes(b""), SHARDS[0], CUT_OFF),
        (lambda f: (f / SHARDS[0]).write_bytes(b"\xff" * 99), SHARDS[0], CUT_OFF),
        *(
            (
                lambda f, text=text: (f / SHARDS[0]).write_bytes(struct.pack("<Q", len(text)) + text),
                SHARDS[0], "not a safetensors file: its header lists no tensors",
            )
            for text in (b"no json!", b"[]", b'{"a": {}}', b'{"a": {"shape": [1], "data_offsets": 3}}')
        ),
        *(
            (lambda f, text=text: (f / INDEX).write_text(text), INDEX, "no index of weights (`weight_map`)")
            for text in ("", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}')
        ),
        (lambda f: (f / "config.json").write_text("[]"), "config.json", "not a JSON object"),
        (lambda f: (f / "more").symlink_to("/etc/passwd"), "more", "a link that leaves the input"),
        (lambda f: (f / "more").symlink_to("nothing"), "more", "a link that leaves the input"),
        (lambda f: (f / "more").symlink_to("more"), "more", "a link that leaves the input"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_checkpoint_is_named_by_file(
    tmp_path: Path, break_it: Break, where: str, what: str
) -> None:
    folder = write_checkpoint(tmp_path / "llama")
    break_it(folder)
    found = artifacts.inspect("model", folder)
    size = (folder / SHARDS[0]).stat().st_size if (folder / SHARDS[0]).exists() else 0
    assert found.type == "checkpoint_hf"
    assert faults(found) == [(where, what.format(size=size, more=size + 1))]


def test_a_config_that_is_no_json_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "llama")
    (folder / "config.json").write_text("{")
    ((where, what),) = faults(artifacts.inspect("model", folder))
    assert where == "config.json" and what.startswith("not JSON: ")


@pytest.mark.parametrize(("names", "note"), [((), "an empty folder"), (("b", "a"), "a folder with a, b")])
def test_another_folder_is_described(tmp_path: Path, names: tuple[str, ...], note: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    found = artifacts.inspect("model", tmp_path)
    assert (found.type, found.note, found.kind) == ("", note, "folder")


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in ("nothing", "loop"):
        assert artifacts.inspect("model", tmp_path / name) == Artifact(
            name="model", path=str(tmp_path / name), kind="missing"
        )


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert artifacts.inspect("train", tmp_path / "pipe").note == "neither a file nor a folder"


def test_what_cannot_be_read_is_a_fault() -> None:
    found = artifacts.inspect("train", Path("/proc/self/mem"))
    assert found.type == "" and [f.what for f in found.faults] == ["cannot be read: Input/output error"]


def test_a_link_to_an_input_is_the_input(tmp_path: Path) -> None:
    real = write_chats(tmp_path / "chats.jsonl")
    (tmp_path / "link").symlink_to(real)
    assert artifacts.inspect("train", tmp_path / "link") == artifacts.inspect("train", real)


def test_the_fingerprint_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    one, other = (write_checkpoint(tmp_path / place / "llama") for place in "ab")
    assert artifacts.inspect("model", one).fingerprint == artifacts.inspect("model", other).fingerprint


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
    before = artifacts.inspect("model", folder).fingerprint
    change(folder)
    assert artifacts.inspect("model", folder).fingerprint != before


@pytest.mark.parametrize(("place", "seen"), [(0, True), (-1, True), (SAMPLE_BYTES + 1, False)])
def test_of_a_large_file_blocks_are_sampled_first_and_last_among_them(tmp_path: Path, place: int, seen: bool) -> None:
    path, size = tmp_path / "large", 4 * SAMPLES * SAMPLE_BYTES
    path.write_bytes(bytes(size))
    before = artifacts.fingerprint([path], tmp_path)
    with path.open("r+b") as f:
        f.seek(place % size)
        f.write(b"\1")
    assert (artifacts.fingerprint([path], tmp_path) != before) == seen


def test_a_header_of_a_large_shard_is_read_whole(tmp_path: Path) -> None:
    """It tells dtypes and shapes, and lies between the sampled blocks."""
    path, fingerprints = tmp_path / "large.safetensors", set()
    for dtype in ("BF16", "F160"):
        names = "".join(f'"{n:0100}": {{"dtype": "F32"}}, ' for n in range(5000))
        header = f'{{{names}"last": {{"dtype": "{dtype}"}}}}'.encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4 * SAMPLES * SAMPLE_BYTES))
        fingerprints.add(artifacts.fingerprint([path], tmp_path))
    assert len(fingerprints) == 2


def test_a_data_file_is_checked_as_far_as_the_bound(tmp_path: Path) -> None:
    line = json.dumps({"messages": [{"role": "assistant", "content": "x" * 2**20}]}) + "\n"
    path = tmp_path / "a.jsonl"
    with path.open("w") as f:
        f.writelines([line] * 70)
        f.write("{}\n")
    assert artifacts.inspect("train", path).faults == []
    with path.open("r+") as f:
        f.seek(60 * len(line))
        f.write("!")
    assert [Path(f.where).name for f in artifacts.inspect("train", path).faults] == ["a.jsonl:61"]


def test_a_line_without_an_end_is_read_as_far_as_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"messages": [')
    os.truncate(path, 2**40)
    assert [Path(f.where).name for f in artifacts.inspect("train", path).faults] == ["a.jsonl:1"]
