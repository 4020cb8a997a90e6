"""Tokenized documents in Megatron's format: pairs of .bin (tokens) and .idx (where sequences and documents begin).

The format is megatron/core/datasets/indexed_dataset.py's (Megatron-Core 0.17 to 0.19). An index has a head, an int32
length for each sequence, an int64 offset for each, an int64 for each document and one more, and for several modalities
a byte for each sequence. All numbers are little-endian.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from launcher.artifacts.faults import fault
from launcher.artifacts.nouns import Data, Documents, Found
from slipway.findings import Finding

INDEX_MAGIC = b"MMIDIDX\x00\x00"
RECORD = "slipway.json"  # beside the pairs, by data_prep/pretrain_prep
BLEND = "blend.json"  # beside the pairs or above them: split -> weights and names of pairs, in turn
SPLITS = ("train", "valid", "validation", "val", "dev", "test")  # names that AutoModel's reader takes
MAX_BLEND = 16 * 1024 * 1024  # bytes
_HEAD = struct.Struct("<9sQBQQ")  # magic, version, type of the tokens, sequences, documents + 1
_TOKEN_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 8, 7: 4, 8: 2}
AT_ONCE = 1 << 16  # numbers of an index that are read at a time


class Prepared(msgspec.Struct):
    """slipway.json, written by data_prep/pretrain_prep. `vocabulary`: one more than the tokenizer's largest id."""

    data: str = ""
    tokenizer: str = ""
    vocabulary: int = 0


class _Index(NamedTuple):
    """What the head says."""

    code: int
    sequences: int
    documents: int  # numbers in the list of documents, which begins with 0

    @property
    def width(self) -> int:
        """Bytes of a token."""
        return _TOKEN_BYTES[self.code]


def is_index(path: Path) -> bool:
    """Whether a file begins as an index does."""
    if not path.is_file():
        return False
    with path.open("rb") as f:
        return f.read(len(INDEX_MAGIC)) == INDEX_MAGIC


def beside(file: Path) -> list[Path]:
    """What belongs to tokens, to an index, or to a blend: the other file of the pair, or all pairs; and the record."""
    if file.suffix in (".bin", ".idx"):
        pair = file.with_suffix(".idx" if file.suffix == ".bin" else ".bin")
        found = [pair] if pair.is_file() and is_index(file.with_suffix(".idx")) else []
    elif names := _names(file):
        found = [p for name in names for suffix in ("bin", "idx") if (p := file.parent / f"{name}.{suffix}").is_file()]
    else:
        return []
    record = file.with_name(RECORD)
    return [*found, record] if found and record.is_file() else found


def is_blend(file: Path) -> bool:
    """Whether a file is a blend: JSON with lists for splits."""
    return bool(_names(file))


def _names(file: Path) -> list[str]:
    """The pairs that a blend names; none where it is no blend."""
    if file.suffix != ".json" or file.stat().st_size > MAX_BLEND:
        return []
    try:
        said = msgspec.json.decode(file.read_bytes(), type=dict[str, list[str | float]])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return []
    if "train" not in said or not said.keys() <= {*SPLITS}:
        return []
    return [str(word) for words in said.values() for word in _prefixes(words)]


def _prefixes(words: Sequence[str | float]) -> Sequence[str | float]:
    """A flat list without its weights, which stand before each pair, or nowhere."""
    return words[1::2] if len(words) % 2 == 0 and words and _number(words[0]) else words


def _number(word: str | float) -> bool:
    try:
        return float(word) >= 0
    except ValueError:
        return False


def look(indexes: Sequence[Path], blend: Path | None = None) -> Found:
    """Pairs of files; those that `blend` names, where there is one."""
    faults: list[Finding] = []
    if blend is not None:
        names = list(dict.fromkeys(_names(blend)))
        faults += _misnamed(blend, names)
        indexes = [blend.parent / f"{name}.idx" for name in names if not Path(name).is_absolute()]
        if not names:
            faults.append(fault(blend, "no blend: expected lists of weights and pairs of files, with one for train"))
    sequences = 0
    for index in indexes:
        count, wrong = check(index)
        sequences += count
        faults += [wrong] if wrong else []
    tokenizer, vocabulary = _recorded(indexes, faults)
    documents = Documents(blend=blend is not None, tokenizer=tokenizer, vocabulary=vocabulary)
    return Found(type="binidx", faults=faults, data=Data(sequences=sequences), documents=documents)


def _misnamed(blend: Path, names: Sequence[str]) -> Iterator[Finding]:
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            what = f"names {name}; a container sees what lies in its folder alone"
            yield fault(blend, f"{what}: name pairs by their path from there")


def _recorded(indexes: Sequence[Path], faults: list[Finding]) -> tuple[str, int]:
    """By which tokenizer, of how many tokens, the pairs were made, where slipway.json beside them says so.

    Of two tokenizers there is a fault.
    """
    found: dict[Path, Prepared] = {}
    for record in dict.fromkeys(index.with_name(RECORD) for index in indexes):
        if not record.is_file():
            continue
        try:
            found[record] = msgspec.json.decode(record.read_bytes(), type=Prepared)
        except (msgspec.MsgspecError, UnicodeDecodeError) as e:
            faults.append(fault(record, f"not what data_prep/pretrain_prep writes: {e}"))
    made = {record: p for record, p in found.items() if p.data == "binidx" and p.tokenizer}
    first, *others = made.items() or [(Path(), Prepared())]
    for record, other in others:
        if other.tokenizer != first[1].tokenizer:
            what = f"made with another tokenizer than {first[0].parent} (sha256 {other.tokenizer[:12]} and "
            faults.append(fault(record, f"{what}{first[1].tokenizer[:12]}): make both with one"))
    size = max((p.vocabulary for p in made.values()), default=0)
    return first[1].tokenizer, size


def _head(index: Path) -> _Index:
    with index.open("rb") as f:
        _, _, *rest = _HEAD.unpack(f.read(_HEAD.size))
    return _Index(*rest)


def check(index: Path) -> tuple[int, Finding | None]:
    """Number of sequences, and what is wrong by the head and the last entries: both files are as long as these say."""
    tokens, size = index.with_suffix(".bin"), index.stat().st_size if index.is_file() else 0
    for path in (index, tokens):
        if not path.is_file():
            return 0, fault(path, "is missing: tokens (.bin) and index (.idx) belong together")
    with index.open("rb") as f:
        head = f.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return 0, fault(index, "not a whole index: it is cut off")
        magic, version, *rest = _HEAD.unpack(head)
        if magic != INDEX_MAGIC or version != 1 or rest[0] not in _TOKEN_BYTES:
            return 0, fault(index, "not an index of version 1")
        found = _Index(*rest)
        expected = len(head) + 12 * found.sequences + 8 * found.documents
        if size not in (expected, expected + found.sequences):
            return found.sequences, fault(index, f"{size} bytes, its head says {expected}: the file is cut off")
        if not found.sequences:
            return 0, fault(index, "holds no sequences")
        f.seek(len(head) + 4 * (found.sequences - 1))
        last = struct.unpack("<i", f.read(4))[0]
        f.seek(len(head) + 4 * found.sequences + 8 * (found.sequences - 1))
        end = struct.unpack("<q", f.read(8))[0] + last * found.width
    size = tokens.stat().st_size
    wrong = fault(tokens, f"{size} bytes, its index says {end}") if size != end else None
    return found.sequences, wrong


def scan(index: Path) -> Finding | None:
    """What is wrong with an index whose head is right, by all of its numbers; in bounded memory and linear time.

    No length is negative, each offset is where the sequence before ends, and the documents begin at the first sequence
    and end with the last, without going back. Raises OSError.
    """
    found = _head(index)
    with index.open("rb") as lengths, index.open("rb") as offsets:
        lengths.seek(_HEAD.size)
        offsets.seek(_HEAD.size + 4 * found.sequences)
        at = end = 0
        for sizes in _numbers(lengths, "i", found.sequences):
            if min(sizes) < 0:
                bad = next(n for n, size in enumerate(sizes, at) if size < 0)
                return fault(index, f"sequence {bad} has a length of {sizes[bad - at]}: no library can read it")
            ends = array("q", accumulate((size * found.width for size in sizes), initial=end))
            (said,) = _numbers(offsets, "q", len(sizes))
            if said != ends[:-1]:
                bad = next(n for n, (a, b) in enumerate(zip(said, ends, strict=False)) if a != b)
                what = f"sequence {at + bad} begins at byte {said[bad]}, the one before ends at {ends[bad]}"
                return fault(index, f"{what}: make it anew")
            at, end = at + len(sizes), ends[-1]
        return _documents(index, offsets, found)


def _documents(index: Path, rest: BinaryIO, found: _Index) -> Finding | None:
    before, first = 0, True
    for bounds in _numbers(rest, "q", found.documents):
        if first and bounds[0]:
            return fault(index, f"its first document begins with sequence {bounds[0]}, expected 0")
        if any(a > b for a, b in zip([before, *bounds], bounds, strict=False)):
            return fault(index, "its documents are not in order: make it anew")
        before, first = bounds[-1], False
    if before != found.sequences:
        return fault(index, f"its documents end with sequence {before}, expected {found.sequences}")
    return None


def _numbers(stream: Any, code: str, count: int) -> Iterator[array[int]]:
    """The next `count` numbers, some at a time."""
    while count:
        part = array(code)
        part.fromfile(stream, min(count, AT_ONCE))
        if sys.byteorder == "big":
            part.byteswap()
        count -= len(part)
        yield part
