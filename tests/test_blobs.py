"""artifacts/blobs.py: whether a snapshot of the hub, fetched from a hub on loopback, is what its commit has."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import CHAT, REPO, Project, safetensors, script, write_chats, write_checkpoint
from hubs import Hub, hub_in

from launcher.artifacts import blobs, detection, full_check, hub_cache

SHARD, MODEL = "model-00001-of-00002.safetensors", "hf://org/tiny"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with org/tiny, whose first shard is too large to be hashed at every launch."""
    folder = tmp_path_factory.mktemp("hub")
    source = write_checkpoint(folder / "source")
    (source / SHARD).write_bytes(safetensors({"a": [2, blobs.SMALL]}))
    with hub_in(folder / "hub") as found:
        found.add("org/tiny", source, "main")
        yield found


@pytest.fixture(scope="module")
def fetched(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A HF_HOME with org/tiny, which nobody changes."""
    home = tmp_path_factory.mktemp("home")
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
    subprocess.run([script("launch"), "fetch", MODEL], cwd=REPO, env=env, capture_output=True, check=True)
    return home


@pytest.fixture
def snapshot(hub: Hub, fetched: Path, project: Project, tmp_path: Path) -> Path:
    """org/tiny in a HF_HOME of the test's own, which is that of its commands."""
    project.env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    shutil.copytree(fetched, tmp_path / "hf", symlinks=True)
    (found,) = (tmp_path / "hf").glob("hub/models--org--tiny/snapshots/*")
    return found


def flip(file: Path, at: int = -1) -> str:
    """One bit of a file's content; returns the name of its blob."""
    blob = file.resolve()
    data = bytearray(blob.read_bytes())
    data[at] ^= 1
    blob.write_bytes(data)
    return blob.name


def redirect(file: Path, to: str) -> None:
    """A snapshot's file becomes a link to the blob of another one."""
    target = (file.parent / to).readlink()
    file.unlink()
    file.symlink_to(target)


def identity(path: Path) -> str:
    return detection.inspect("x", path).fingerprint


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("full", [[], ["--full"]])
def test_what_was_fetched_has_no_fault(project: Project, snapshot: Path, full: list[str]) -> None:
    done = project.launch("check", *full, str(snapshot))
    assert (done.code, done.stderr) == (0, "") and "error" not in done.stdout, done


def test_a_changed_byte_of_a_large_blob_is_found_by_reading_all_of_it(project: Project, snapshot: Path) -> None:
    blob = flip(snapshot / SHARD)
    assert project.launch("check", str(snapshot)).code == 0, "it is not hashed at every launch"
    done = project.launch("check", "--full", str(snapshot))
    assert done.code == 65 and done.stdout.splitlines()[-1] == (
        f"  error: {snapshot}/{SHARD} -> {blob}: the content is not that of this blob of the hub's but of "
        f"{sha256(snapshot / SHARD)}: remove both, and fetch it again"
    ), done


def test_a_changed_byte_of_a_small_blob_stops_a_launch(project: Project, snapshot: Path, tmp_path: Path) -> None:
    """Git names a small file; there is no other mark of it."""
    file = snapshot / "config.json"
    size, blob = file.stat().st_size, flip(file, at=-3)
    assert (file.stat().st_size, len(blob)) == (size, 40)
    found = blobs.content(file, blob)
    error = f"error: {file} -> {blob}: the content is not that of this blob of the hub's but of {found}"
    for full in ([], ["--full"]):
        done = project.launch("check", *full, str(snapshot))
        assert (done.code, done.stdout.count(error)) == (65, 1), done
    train = write_chats(tmp_path / "chats.jsonl")
    done = project.launch("--dry-run", "sft/automodel", "--flavour", "cpu", f"train={train}", f"model={snapshot}")
    assert done.code == 65 and error in done.stderr, done
    for both in (file.resolve(), file):
        both.unlink()
    assert project.launch("fetch", MODEL).code == 0 and project.launch("check", str(snapshot)).code == 0


def test_git_names_a_blob_of_many_pieces(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(data := b"x" * 3 * blobs.SMALL)
    assert blobs.content(tmp_path / "a", "0" * 40) == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    assert blobs.content(tmp_path / "a", "0" * 64) == hashlib.sha256(data).hexdigest()


@pytest.mark.usefixtures("snapshot")
@pytest.mark.parametrize("below", ["/data", "/data/*.jsonl", "/data/a.jsonl"])
def test_rows_of_the_hub_are_hashed_besides(project: Project, hub: Hub, tmp_path: Path, below: str) -> None:
    """A row that is still a row: nothing but the blob's name tells."""
    rows = [json.dumps(CHAT)] * (2 * blobs.SMALL // len(json.dumps(CHAT)))
    (tmp_path / "set" / "data").mkdir(parents=True)
    write_chats(tmp_path / "set" / "data" / "a.jsonl", *rows)
    hub.add("org/chats", tmp_path / "set", "main", kind="datasets")
    path = project.launch("fetch", "hf://datasets/org/chats").stdout.strip() + below
    done = project.launch("check", "--full", path)
    assert done.code == 0 and f"{len(rows) + 2:,} lines" in done.stdout, done
    file = Path(path.removesuffix(below)) / "data" / "a.jsonl"
    blob = flip(file, at=file.read_bytes().rindex(b"Out"))
    done = project.launch("check", "--full", path)
    assert (done.code, done.stdout.count("error")) == (65, 1), done
    assert f"  error: {file} -> {blob}: the content is not that of this blob" in done.stdout


Break = Callable[[Path], None]
CHANGES: list[tuple[str, Break, str]] = [
    ("redirected", lambda s: redirect(s / "config.json", "tokenizer.json"),
     "config.json -> {tokenizer.json}: in the commit it is the blob {config.json}: remove the link"),
    ("a file instead", lambda s: replace(s / "config.json", b" "),
     "config.json -> no blob: {size} bytes, in the commit it has {was}: remove both, and fetch it again"),
    ("cut off", lambda s: (s / SHARD).resolve().write_bytes((s / SHARD).read_bytes()[:-1]),
     SHARD + " -> {" + SHARD + "}: "),
    ("one more", lambda s: (s / "modeling_own.py").write_text("import os\n") and None,
     "modeling_own.py -> no blob: the commit has no such file: remove it"),
]  # fmt: skip


def replace(file: Path, more: bytes) -> None:
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data + more)


@pytest.mark.parametrize(("change", "text"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_what_the_commit_does_not_have_is_refused(snapshot: Path, change: Break, text: str) -> None:
    before = identity(snapshot)
    names = {p.name: p.readlink().name for p in snapshot.iterdir()}
    sizes = {p.name: p.stat().st_size for p in snapshot.iterdir()}
    change(snapshot)
    found = detection.inspect("x", snapshot)
    file = text.split(" ")[0]
    for name, blob in names.items():
        text = text.replace(f"{{{name}}}", blob)
    text = text.replace("{size}", str((snapshot / file).stat().st_size)).replace("{was}", str(sizes.get(file)))
    assert [f for f in found.faults if f"{f.where}: {f.what}".startswith(f"{snapshot}/{text}")], found.faults
    assert found.fingerprint != before
    assert full_check.look_at([snapshot]).exit == 65


@pytest.mark.parametrize("change", [c[1] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_without_the_commits_list_it_is_another_input(snapshot: Path, change: Break) -> None:
    """As an older huggingface_hub leaves it: there is nothing to compare with, and the fingerprint differs."""
    shutil.rmtree(snapshot.parents[1] / "trees")
    before = identity(snapshot)
    change(snapshot)
    assert identity(snapshot) != before


def test_a_blob_that_is_a_link_to_another_is_found(snapshot: Path) -> None:
    """Every link of the snapshot is as it was."""
    before, blob = identity(snapshot), (snapshot / "config.json").resolve()
    blob.unlink()
    blob.symlink_to((snapshot / "tokenizer.json").resolve().name)
    found = detection.inspect("x", snapshot)
    assert found.fingerprint != before and found.faults[0].where == f"{snapshot}/config.json -> {blob.name}"


def test_a_file_of_the_same_size_instead_of_a_link_is_another_input(snapshot: Path) -> None:
    before = identity(snapshot)
    file = snapshot / SHARD
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert identity(snapshot) != before
    (found,) = full_check.check_files([snapshot], 1, lambda *_: None).checked
    (fault,) = found.artifact.faults
    assert fault.where == f"{file} -> {hashlib.sha256(data).hexdigest()}"


def test_the_same_weights_in_another_format_make_no_other_input(snapshot: Path) -> None:
    shutil.rmtree(snapshot.parents[1] / "trees")
    before, blob = identity(snapshot), snapshot.parents[1] / "blobs" / hashlib.sha256(b"the same").hexdigest()
    blob.write_bytes(b"the same")
    (snapshot / "pytorch_model.bin").symlink_to(f"../../blobs/{blob.name}")
    assert identity(snapshot) == before


def test_what_is_hashed_before_a_launch_is_bounded(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = hub_cache.place(snapshot)
    assert place
    hashed: list[str] = []
    monkeypatch.setattr(blobs, "content", lambda file, like: hashed.append(file.name) or like)
    files = sorted(snapshot.iterdir())
    blobs.faults(place, files)
    assert SHARD not in hashed and "config.json" in hashed
    hashed.clear()
    monkeypatch.setattr(blobs, "IN_ALL", files[0].stat().st_size)
    blobs.faults(place, files)
    assert hashed == [files[0].name]
