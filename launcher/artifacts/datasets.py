"""Data files: JSON Lines, packed Parquet and Megatron's binidx; what they are and what is wrong at their beginning."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from launcher.artifacts import binidx, compressed, forms, huggingface, jsonl, parquet
from launcher.artifacts.faults import fault
from launcher.artifacts.nouns import Data, Found, Packing
from launcher.artifacts.rows import Grammar, Shape
from slipway.findings import Finding

HEAD, HEADS = 4 * 1024 * 1024, 32 * 1024 * 1024  # bytes read of one file's beginning; of all files together
MAX_HEADS, MAX_PACKED = 256, 32  # files whose beginning is read; of packed ones, each of which may start a program
TO_LINES = 'python -c \'import sys, datasets; datasets.load_dataset("parquet", data_files=sys.argv[1])["train"].'
TO_LINES += "to_json(sys.argv[2])' IN.parquet OUT.jsonl"
SAMPLE = 64  # lines that tell the type and the keys
PACKED = ("input_ids", "loss_mask", "seq_start_id")
TEXTS = (".txt", ".txt.gz", ".txt.zst")
RECORD = "slipway.json"  # beside packed Parquet, by data_prep/sft_packing


class Rows(NamedTuple):
    """How rows are read: `columns`, a column's usual name -> its name here; `grammar`, of conversations."""

    columns: Mapping[str, str] = {}
    grammar: Grammar = ""


USUAL = Rows()


class _Packing(msgspec.Struct):
    """slipway.json beside packed Parquet, written by data_prep/sft_packing."""

    pack_size: int = 0
    tokenizer: str = ""
    template: str = ""
    packing: dict[str, Any] = {}


def data_files(folder: Path) -> list[Path]:
    """The data files that lie directly in a folder, sorted, all of the one kind that there is most of."""
    kinds: dict[str, list[Path]] = {"jsonl": [], "parquet": [], "index": []}
    texts = []
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        if path.name.endswith(jsonl.SUFFIXES) and not path.name.endswith("_metadata.jsonl"):
            kinds["jsonl"].append(path)
        elif path.suffix in (".parquet", ".pq"):
            kinds["parquet"].append(path)
        elif path.suffix == ".idx":
            kinds["index"].append(path)
        elif path.name.endswith(TEXTS):  # of which anything may have one, for people to read
            texts.append(path)
    return max(kinds.values(), key=len) or texts


def beside(file: Path) -> list[Path]:
    """What belongs to a data file: an index or tokens of the same name, a blend's, the metadata of packed Parquet."""
    if file.suffix in (".bin", ".idx", ".json"):
        return binidx.beside(file)
    record = file.with_name(RECORD)
    return _metadata(file) + [record] * record.is_file() if file.suffix in (".parquet", ".pq") else []


def look(files: Sequence[Path], rows: Rows = USUAL) -> Found:
    """What some files are together; the first one tells the type. Raises OSError for what cannot be read."""
    first = files[0]
    if wrong := huggingface.lfs(first):
        return Found(faults=wrong)
    with first.open("rb") as f:
        magic = f.read(len(binidx.INDEX_MAGIC))
    if magic.startswith(parquet.MAGIC):
        return _parquet([f for f in files if f.suffix in (".parquet", ".pq")] or [first], rows)
    if magic == binidx.INDEX_MAGIC or (first.suffix == ".bin" and beside(first)):
        return binidx.look(sorted({f.with_suffix(".idx") for f in files if f.suffix in (".bin", ".idx")} or {first}))
    if len(files) > 1 and binidx.is_blend(first):
        return binidx.look([], first)
    return _lines(files, rows)


def shape_of(file: Path) -> tuple[Shape | None, str]:
    """The shape of a JSON Lines file by its beginning, or what it is instead."""
    return _shape(file, _head(file, HEAD)[0], USUAL)


def _shape(file: Path, head: bytes, rows: Rows) -> tuple[Shape | None, str]:
    lines = io.BytesIO(head)
    first = [line for _, line in zip(range(SAMPLE), lines, strict=False)]
    shape, note = jsonl.detect(first, file.name, rows.columns)
    return shape and shape._replace(grammar=rows.grammar), note


def _lines(files: Sequence[Path], rows: Rows) -> Found:
    size = max(64 * 1024, min(HEAD, HEADS // len(files)))
    try:
        first = _head(files[0], size)
    except OSError as e:
        return Found(note="data that cannot be unpacked", faults=[unreadable(files[0], e)])
    shape, note = _shape(files[0], first[0], rows)
    if shape is None:
        return _texts(files, size) if first_text(files[0], first[0]) else Found(note=note)
    faults: list[Finding] = []
    counted = 0
    most = MAX_PACKED if compressed.packed(files[0]) else MAX_HEADS
    whole = len(files) <= most
    for number, file in enumerate(files[:most]):
        try:
            head, all_of_it = _head(file, size) if number else first
        except OSError as e:
            faults.append(unreadable(file, e))
            continue
        whole &= all_of_it
        found = jsonl.scan(io.BytesIO(head), jsonl.checker(shape))
        counted += found.lines - found.blank
        faults += found.faults(file) if found.lines > found.blank else [fault(file, "the file is empty")]
        faults += _dropped(file, head) if shape.type == "chat_jsonl" else []
    chats = shape.type == "chat_jsonl"
    data = Data(
        files=len(files),
        rows=counted if whole and chats else 0,
        columns=None if chats else list(shape.keys),
        names=dict(sorted(rows.columns.items())),
        grammar=rows.grammar,
        tools=chats and ("tools" in shape.keys or "tool_calls" in shape.inner),
        zstd=any(compressed.zstd(f) for f in files[:MAX_HEADS]),
    )
    return Found(type=shape.type, faults=faults, data=data, checked="whole" if whole else "beginning")


def first_text(file: Path, head: bytes) -> bool:
    """Whether a file is plain text, by its name and by what is no JSON."""
    return file.name.endswith(TEXTS) and not head.lstrip().startswith((b"{", b"["))


def _texts(files: Sequence[Path], size: int) -> Found:
    """Plain text, which has to be UTF-8."""
    faults: list[Finding] = []
    most = MAX_PACKED if compressed.packed(files[0]) else MAX_HEADS
    whole = len(files) <= most
    for file in files[:most]:
        try:
            head, all_of_it = _head(file, size)
            head.decode()
        except UnicodeDecodeError as e:
            byte, line = e.object[e.start], e.object.count(b"\n", 0, e.start) + 1
            faults.append(fault(f"{file}:{line}", f"not UTF-8 (byte 0x{byte:02x}): convert it with iconv -t UTF-8"))
            continue
        except OSError as e:
            faults.append(unreadable(file, e))
            continue
        whole &= all_of_it
        faults += [] if head.strip() else [fault(file, "the file is empty")]
    data = Data(files=len(files), zstd=any(compressed.zstd(f) for f in files[:MAX_HEADS]))
    return Found(type="text_plain", faults=faults, data=data, checked="whole" if whole else "beginning")


def _dropped(file: Path, head: bytes) -> list[Finding]:
    """What the first rows say that is not read: once of a file, at the first row that says it."""
    first: dict[str, int] = {}
    for number, line in zip(range(1, SAMPLE + 1), io.BytesIO(head), strict=False):
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            row = msgspec.json.decode(line, type=dict[str, Any])
            for what in forms.dropped(row):
                first.setdefault(what, number)
    return [fault(f"{file}:{number}", what, "warning") for what, number in first.items()]


def unreadable(file: Path, e: OSError) -> Finding:
    """The fault of a file that cannot be read."""
    return fault(e.filename or file, f"cannot be read: {e.strerror or e}")


def _head(file: Path, size: int) -> tuple[bytes, bool]:
    """The whole lines within the first `size` bytes, the first line at least; and whether that is all of the file."""
    with compressed.opened(file) as f:
        head = f.read(size)
        if len(head) < size or not (more := f.read(1)):
            return head, True
        cut = head.rfind(b"\n") + 1
        if cut:
            return head[:cut], False
        head += more + f.readline(jsonl.MAX_LINE - len(head))
        return head, False


def _parquet(files: Sequence[Path], rows: Rows) -> Found:
    """Packed rows; or a column of texts, where they have one, or a word of the launch names it."""
    column = rows.columns.get("text", "text")
    try:
        footers = {file: parquet.read_footer(file) for file in files[:1]}
    except ValueError:
        return _packed(files)
    has = next(iter(footers.values())).columns
    if "text" not in rows.columns and (column not in has or {*PACKED} <= {*has} or "messages" in has):
        return _packed(files)
    if column not in has:
        return Found(note=f"Parquet without the column {column}; it has {', '.join(has)}")
    faults: list[Finding] = []
    counted = 0
    for file in files:
        try:
            footer = parquet.read_footer(file)
        except ValueError as e:
            faults.append(fault(file, str(e)))
            continue
        faults += [] if column in footer.columns else [fault(file, f"the column {column} is missing")]
        counted += footer.rows
    faults += [] if counted or faults else [fault(files[0], "holds no rows")]
    data = Data(files=len(files), rows=counted, columns=has, names=dict(sorted(rows.columns.items())))
    return Found(type="text_parquet", faults=faults, data=data)


def _packed(files: Sequence[Path]) -> Found:
    faults: list[Finding] = []
    rows = 0
    for number, file in enumerate(files):
        try:
            footer = parquet.read_footer(file)
        except ValueError as e:
            faults.append(fault(file, str(e)))
            continue
        missing = [c for c in PACKED if c not in footer.columns]
        if missing and number == 0 and "messages" in footer.columns:
            return Found(note=f"Parquet with `messages`, neither packed nor JSON Lines; this makes those: {TO_LINES}")
        if missing and number == 0:
            has = ", ".join(footer.columns)
            return Found(note=f"Parquet without the columns {', '.join(missing)} of packed data (it has {has})")
        if missing:
            faults.append(fault(file, f"the columns {', '.join(missing)} are missing"))
        elif not footer.rows:
            faults.append(fault(file, "holds no rows"))
        rows += footer.rows
    packing = _packing(files[0], faults)
    return Found(type="packed_parquet", faults=faults, data=Data(files=len(files), rows=rows), packing=packing)


def _packing(file: Path, faults: list[Finding]) -> Packing:
    """How the rows were packed; by slipway.json, else by the metadata, else by the file's name."""
    recorded = file.parent / RECORD
    known = _Packing()
    if recorded.is_file():
        try:
            known = msgspec.json.decode(recorded.read_bytes(), type=_Packing)
        except (msgspec.MsgspecError, UnicodeDecodeError) as e:
            faults.append(fault(recorded, f"not what packing writes: {e}"))
    sizes = {size for path in _metadata(file) for size in _metadata_sizes(path, faults)}
    if not _metadata(file):
        faults.append(fault(file, "no <size>_metadata.jsonl of its packing lies beside it", "warning"))
    named = re.search(r"_(\d+)\.", file.name)
    size = known.pack_size or max(sizes, default=0) or (int(named[1]) if named else 0)
    multiple = known.packing.get("pad_to_multiple_of")
    multiple = multiple if type(multiple) is int else 0
    return Packing(size=size, multiple=multiple, tokenizer=known.tokenizer, template=known.template)


def _metadata(file: Path) -> list[Path]:
    names = ("metadata.json", "metadata.jsonl")
    return sorted(p for p in file.parent.glob("*metadata.json*") if p.name in names or re.match(r"\d+_meta", p.name))


def _metadata_sizes(path: Path, faults: list[Finding]) -> list[int]:
    """Pack sizes in what Megatron-Bridge writes: one JSON list with an object for each packed split."""
    try:
        rows = msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        faults.append(fault(path, f"not the metadata of a packing: {e}"))
        return []
    named = re.match(r"(\d+)_", path.name)
    return [r["pack_size"] for r in rows if isinstance(r.get("pack_size"), int)] or ([int(named[1])] if named else [])
