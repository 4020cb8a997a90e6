"""launcher/artifacts/hub_cache.py: names on the hub, and which files of a cache they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.artifacts import hub_cache
from launcher.artifacts.hub_cache import HubId
from slipway.errors import Exit, SlipwayError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = HubId("models", "org/llama", COMMIT)


@pytest.mark.parametrize(
    ("text", "found", "again"),
    [
        ("hf://org/llama", HubId("models", "org/llama", "main"), "hf://org/llama@main"),
        ("hf://models/org/Llama-3.2_1B", HubId("models", "org/Llama-3.2_1B", "main"), "hf://org/Llama-3.2_1B@main"),
        (f"hf://org/llama@{COMMIT}", MODEL, f"hf://org/llama@{COMMIT}"),
        ("hf://org/llama@v1.0/", HubId("models", "org/llama", "v1.0"), "hf://org/llama@v1.0"),
        ("hf://org/llama@a%2Fb", HubId("models", "org/llama", "a/b"), "hf://org/llama@a%2Fb"),
        ("hf://org/llama@refs/pr/3", HubId("models", "org/llama", "refs/pr/3"), "hf://org/llama@refs/pr/3"),
        (
            "hf://datasets/org/chats@v1/data/*.jsonl",
            HubId("datasets", "org/chats", "v1", "data/*.jsonl"),
            "hf://datasets/org/chats@v1/data/*.jsonl",
        ),
        ("hf://datasets/org/chats/a.jsonl", HubId("datasets", "org/chats", "main", "a.jsonl"), None),
    ],
)
def test_a_name_is_read_and_written(text: str, found: HubId, again: str | None) -> None:
    assert hub_cache.parse(text) == found
    assert hub_cache.parse(str(found)) == found
    assert again is None or str(found) == again


@pytest.mark.parametrize(
    "text",
    [
        "hf://", "hf://llama", "hf:///org/llama", "hf://spaces/org/app", "hf://buckets/org/b", "hf://datasets/chats",
        "hf://org/llama@", "hf://org/../llama", "hf://org/llama/../../etc", "hf://org/llama@..", "hf://org/llama@a b",
        "hf://org/llama@a%2F..%2F..", "hf://org/llama@a@b", "hf://-org/llama", "hf://org/llama@%00",
    ],
)  # fmt: skip
def test_what_is_no_name_is_a_wrong_word(text: str) -> None:
    with pytest.raises(SlipwayError) as e:
        hub_cache.parse(text)
    assert (e.value.code, e.value.where) == (Exit.WORDS, text)


def test_there_is_one_revision() -> None:
    assert hub_cache.parse("hf://org/llama", "v2").revision == "v2"
    with pytest.raises(SlipwayError, match="two revisions: @v1 and 'v2'"):
        hub_cache.parse("hf://org/llama@v1", "v2")


@pytest.mark.parametrize("below", ["", "/config.json", "/a/b.jsonl", "/a/*.jsonl"])
@pytest.mark.parametrize("kind", ["models", "datasets"])
def test_a_path_tells_where_in_a_cache_it_lies(kind: str, below: str) -> None:
    found = hub_cache.place(f"/hf/hub/{kind}--org--llama-2/snapshots/{COMMIT}{below}")
    assert found == (Path(f"/hf/hub/{kind}--org--llama-2"), HubId(kind, "org/llama-2", COMMIT, below[1:]))
    assert found.id.snapshot(Path("/hf")) / found.id.below == found.id.snapshot(Path("/hf")) / below[1:]


@pytest.mark.parametrize(
    "path", ["/data/llama", f"/hf/models--org--llama/blobs/{COMMIT}", "/hf/models--org--llama/snapshots/main", "/"]
)
def test_another_path_lies_in_none(path: str) -> None:
    assert hub_cache.place(path) is None


OTHER = ["config.json", "tokenizer.model", "modeling_own.py", "README.md"]
SAFE = ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
SAME = ["pytorch_model.bin", "pytorch_model.bin.index.json", "original/consolidated.00.pth", "model.gguf", "tf.h5"]


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        ([*OTHER, *SAFE, *SAME, "consolidated.safetensors"], [*SAME, "consolidated.safetensors"]),
        ([*OTHER, "consolidated.safetensors"], []),
        ([*OTHER, "pytorch_model.bin", "optimizer.pt", "flax_model.msgpack"], ["flax_model.msgpack"]),
        ([*OTHER, "common.pt", "__0_0.distcp"], []),
        ([*OTHER, "model.gguf"], []),
        (["adapter_model.safetensors", "adapter_model.bin"], ["adapter_model.bin"]),
    ],
)
def test_the_same_weights_are_needed_once(names: list[str], left_out: list[str]) -> None:
    assert hub_cache.needed(names, "") == [n for n in names if n not in left_out]


@pytest.mark.parametrize(
    ("below", "found"),
    [
        ("a.jsonl", ["a.jsonl"]),
        ("data", ["data/b.jsonl", "data/c.bin"]),
        ("data/*.jsonl", ["data/b.jsonl"]),
        ("dat", []),
    ],
)
def test_of_a_path_only_what_is_there(below: str, found: list[str]) -> None:
    assert hub_cache.needed(["a.jsonl", "data/b.jsonl", "data/c.bin", "x.safetensors"], below) == found


def write(home: Path, *names: str, listed: tuple[str, ...] = (), text: str = "") -> None:
    for name in names:
        path = MODEL.snapshot(home) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    trees = MODEL.folder(home) / "trees" / f"{COMMIT}.json"
    trees.parent.mkdir(parents=True, exist_ok=True)
    if listed or text:
        trees.write_text(text or json.dumps({"format_version": 1, "files": {n: {"size": 0} for n in listed}}))


def test_a_snapshot_is_whole_when_all_that_is_needed_of_its_list_is_there(tmp_path: Path) -> None:
    assert not hub_cache.is_whole(MODEL, tmp_path)
    write(tmp_path, "config.json", listed=("config.json", "a.safetensors", "a.bin"))
    assert not hub_cache.is_whole(MODEL, tmp_path)
    write(tmp_path, "a.safetensors")
    assert hub_cache.is_whole(MODEL, tmp_path), "what is not needed may be missing"
    (MODEL.snapshot(tmp_path) / "a.safetensors").unlink()
    (MODEL.snapshot(tmp_path) / "a.safetensors").symlink_to("../../blobs/gone")
    assert not hub_cache.is_whole(MODEL, tmp_path), "a link to a blob that is not there"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}'])
def test_without_a_list_what_is_there_counts(tmp_path: Path, text: str) -> None:
    write(tmp_path, "data/a.jsonl", text=text)
    for below, there in (("", True), ("data/a.jsonl", True), ("data/*.jsonl", True), ("b.jsonl", False)):
        assert hub_cache.is_whole(HubId("models", "org/llama", COMMIT, below), tmp_path) == there


@pytest.mark.parametrize(("text", "known"), [(COMMIT, COMMIT), (f"{COMMIT}\n", COMMIT), ("", ""), ("../../x", "")])
def test_a_branch_is_what_the_cache_last_fetched(tmp_path: Path, text: str, known: str) -> None:
    asked = HubId("models", "org/llama", "a/b")
    assert hub_cache.known_commit(asked, tmp_path) == ""
    asked.ref(tmp_path).parent.mkdir(parents=True)
    asked.ref(tmp_path).write_text(text)
    assert hub_cache.known_commit(asked, tmp_path) == known
    assert hub_cache.known_commit(MODEL, tmp_path) == COMMIT
