"""Artifacts: what a path really is, whether it is whole, and its fingerprint. Types are detected, never trusted."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from slipway.yamldoc import Noun

MAX_READ = 64 * 1024 * 1024  # bytes of a data file that a bounded check reads
SAMPLES, SAMPLE_BYTES = 16, 64 * 1024
MAX_FAULTS = 20
MAX_HEADER = 100_000_000  # bytes of a safetensors header; the library itself refuses more
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


class Fault(Noun, frozen=True, kw_only=True):
    """Something wrong inside an artifact; `where` is file:line or a file."""

    where: str
    what: str


class Artifact(Noun, frozen=True, kw_only=True):
    """An input as found. `type` is empty where it is none that we know, `note` says then what it looks like.

    `bytes`: size of all its files; `parameters`: number of weights of a checkpoint; `fingerprint`: hex.
    """

    name: str
    path: str
    kind: Literal["missing", "file", "folder"]
    type: str = ""
    note: str = ""
    fingerprint: str = "0" * 64
    bytes: int = 0
    parameters: int = 0
    faults: list[Fault] = []


class _Message(msgspec.Struct):
    role: str
    content: Any = None


class _Tensor(msgspec.Struct):
    shape: list[int]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class _Conversation(msgspec.Struct):
    messages: list[_Message]


def inspect(name: str, path: Path) -> Artifact:
    """What `path` is; never raises for bad content, nor for what cannot be read: both become faults."""
    real = path.expanduser().absolute()
    try:
        return _inspect(name, real)
    except OSError as e:
        fault = Fault(where=str(e.filename or real), what=f"cannot be read: {e.strerror}")
        return Artifact(name=name, path=str(real), kind="file", faults=[fault])


def _inspect(name: str, real: Path) -> Artifact:
    if not real.exists():
        return Artifact(name=name, path=str(real), kind="missing")
    real = real.resolve()
    if not real.is_file() and not real.is_dir():
        return Artifact(name=name, path=str(real), kind="file", note="neither a file nor a folder")
    if real.is_file():
        type_, note, faults = _inspect_file(real)
        return Artifact(
            name=name, path=str(real), kind="file", type=type_, note=note, faults=faults,
            bytes=real.stat().st_size, fingerprint=fingerprint([real], real.parent),
        )  # fmt: skip
    files = sorted(p for p in real.rglob("*") if p.is_file() or p.is_symlink())
    faults = [Fault(where=str(p), what="a link that leaves the input") for p in files if not _inside(p, real)]
    files = [p for p in files if _inside(p, real)]
    type_, note, parameters, more = _inspect_folder(real)
    return Artifact(
        name=name, path=str(real), kind="folder", type=type_, note=note, faults=faults + more, parameters=parameters,
        bytes=sum(p.stat().st_size for p in files), fingerprint=fingerprint(files, real),
    )  # fmt: skip


def fingerprint(files: list[Path], root: Path) -> str:
    """sha256 over names, sizes, safetensors headers and 16 sampled blocks of 64 KiB of every file."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(root)}\0{size}\0".encode())
        with path.open("rb") as f:
            if path.suffix == ".safetensors" and size >= 8:
                digest.update(f.read(min(MAX_HEADER, 8 + struct.unpack("<Q", f.read(8))[0])))
            for offset in _sample_offsets(size):
                f.seek(offset)
                digest.update(f.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _sample_offsets(size: int) -> list[int]:
    """All of a small file; else 16 blocks spread evenly, the first and the last included."""
    if size <= SAMPLES * SAMPLE_BYTES:
        return list(range(0, size, SAMPLE_BYTES))
    return [i * (size - SAMPLE_BYTES) // (SAMPLES - 1) for i in range(SAMPLES)]


def _inside(path: Path, root: Path) -> bool:
    return path.exists() and path.resolve().is_relative_to(root)  # in this order: a link to itself has no end


def _inspect_file(path: Path) -> tuple[str, str, list[Fault]]:
    """Type, note and faults of a file: so far JSON lines of conversations."""
    with path.open("rb") as f:
        first = f.readline(1024 * 1024)
    try:
        row = json.loads(first)
    except ValueError:
        if path.suffix != ".jsonl":
            return "", "no JSON on its first line", []
        return "chat_jsonl", "", check_chat(path)
    if not isinstance(row, dict):
        return "", f"its first line holds a JSON {type(row).__name__}", []
    if "messages" in row or (path.suffix == ".jsonl" and not row.keys() & {"prompt", "chosen", "rejected", "input"}):
        return "chat_jsonl", "", check_chat(path)
    return "", f"JSON lines with {', '.join(sorted(row))}", []


def check_chat(path: Path) -> list[Fault]:
    """The first 20 faults of a chat JSONL file, as file:line; bounded: MAX_READ bytes."""
    decoder = msgspec.json.Decoder(_Conversation)
    faults: list[Fault] = []
    number = 0
    for number, line in _lines(path):
        problem = _chat_problem(line, decoder)
        if problem:
            faults.append(Fault(where=f"{path}:{number}", what=problem))
            if len(faults) == MAX_FAULTS:
                break
    if not number:
        faults.append(Fault(where=str(path), what="the file is empty"))
    return faults


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    read = 0
    with path.open("rb") as f:
        for number, line in enumerate(iter(lambda: f.readline(MAX_READ), b""), 1):  # a file may be one endless line
            yield number, line
            read += len(line)
            if read >= MAX_READ:
                return


def _chat_problem(line: bytes, decoder: msgspec.json.Decoder[_Conversation]) -> str:
    if not line.strip():
        return "an empty line"
    try:
        messages = decoder.decode(line).messages
    except msgspec.DecodeError as e:
        return f"not a conversation: {e}"
    if not messages:
        return "`messages` is empty"
    odd = [m.role for m in messages if m.role not in _ROLES]
    if odd:
        return f"unknown role {odd[0]!r}; expected one of {', '.join(sorted(_ROLES))}"
    if not any(m.role == "assistant" for m in messages):
        return "no assistant message: nothing to learn from"
    if any(m.role == "assistant" and m.content == "" for m in messages):
        return "an empty assistant message"
    return ""


def _inspect_folder(path: Path) -> tuple[str, str, int, list[Fault]]:
    """Type, note, number of weights and faults of a folder: so far Hugging Face checkpoints."""
    config = path / "config.json"
    if not config.is_file():
        names = sorted(p.name for p in path.iterdir())[:4]
        return "", f"a folder with {', '.join(names)}" if names else "an empty folder", 0, []
    faults = []
    try:
        if not isinstance(json.loads(config.read_bytes()), dict):
            faults.append(Fault(where=str(config), what="not a JSON object"))
    except ValueError as e:
        faults.append(Fault(where=str(config), what=f"not JSON: {e}"))
    if not any((path / n).is_file() for n in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")):
        faults.append(Fault(where=str(path), what="there is no tokenizer (tokenizer.json, tokenizer_config.json)"))
    shards, more = _shards(path)
    faults += more
    parameters = 0
    for shard in shards:
        count, problem = _safetensors(shard)
        parameters += count
        if problem:
            faults.append(Fault(where=str(shard), what=problem))
    return "checkpoint_hf", "", parameters, faults


def _shards(path: Path) -> tuple[list[Path], list[Fault]]:
    """The weight files that the index names (all of them without an index), and those that are missing."""
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        found = sorted(path.glob("*.safetensors"))
        return found, [] if found else [Fault(where=str(path), what="there are no *.safetensors weights")]
    try:
        names = sorted(set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values()))
    except msgspec.DecodeError:
        return [], [Fault(where=str(index), what="no index of weights (`weight_map`)")]
    missing = [n for n in names if not (path / n).is_file()]
    return [path / n for n in names if n not in missing], [
        Fault(where=str(path / n), what="a shard of the index is missing") for n in missing
    ]


def _safetensors(path: Path) -> tuple[int, str]:
    """Number of weights, and what is wrong with the file: its length must be what its header says."""
    size = path.stat().st_size
    with path.open("rb") as f:
        head = f.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > size - 8:
            return 0, "not a whole safetensors file: its header is cut off"
        try:
            header = msgspec.json.decode(f.read(min(length, MAX_HEADER)), type=dict[str, Any])
            header.pop("__metadata__", None)
            tensors = msgspec.convert(header, dict[str, _Tensor])
        except msgspec.DecodeError:
            return 0, "not a safetensors file: its header lists no tensors"
    end = max((t.data_offsets[1] for t in tensors.values()), default=0)
    count = sum(math.prod(t.shape) for t in tensors.values())
    expected = 8 + length + end
    return count, "" if expected == size else f"{size} bytes, its header says {expected}: the file is cut off"
