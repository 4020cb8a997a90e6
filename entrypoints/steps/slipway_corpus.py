"""Files of text as blocks of documents, read one after the other in bounded memory: JSON Lines, Parquet and plain text.

A block is what one worker tokenizes. Where blocks begin and end depends on the files alone, so that what is made of
them does not depend on the number of workers.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from slipway_step import ConfigError

BLOCK = 1 << 20  # bytes of text, about
MAX_DOCUMENT = 64 << 20  # bytes of a line, a paragraph or a file; the launcher reads no longer lines either
ROWS = 1024  # of Parquet that are read at a time
SUFFIXES = {
    "text_jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson"),
    "text_parquet": (".parquet", ".pq"),
    "text_plain": (".txt", ".txt.gz", ".txt.zst"),
}
UNITS = ("file", "line", "paragraph")
BOM = b"\xef\xbb\xbf"
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Block(NamedTuple):
    """Some documents. `first`: the number of its first line, row or document in `file`; `read`: bytes of that file that
    were read so far; `form`: `lines` of JSON or of text, `rows` (a pyarrow array), or `texts`, each one document.
    """

    file: str
    first: int
    read: int
    form: str
    data: Any


class Document(NamedTuple):
    """`text`: None where there is none, for the reason that `wrong` names (a key of the counts)."""

    number: int
    text: str | None
    wrong: str = ""


def files_of(source: Path, type_: str) -> list[Path]:
    """The files of an input: itself, those of a folder, or those that a pattern names. Raises ConfigError for none."""
    if source.is_file():
        return [source]
    there = source.iterdir() if source.is_dir() else source.parent.glob(source.name)
    found = sorted(p for p in there if p.is_file() and p.name.endswith(SUFFIXES[type_]))
    if not found:
        raise ConfigError(f"data.train: {source}: there are no files of {type_} ({', '.join(SUFFIXES[type_])})")
    return found


def blocks(file: Path, type_: str, field: str, unit: str) -> Iterator[Block]:
    """The documents of a file, in their order. Raises ConfigError for what cannot be read to its end."""
    if type_ == "text_parquet":
        return rows(file, field)
    if type_ == "text_plain" and unit != "line":
        return whole(file) if unit == "file" else paragraphs(file)
    return lines(file, "lines" if type_ == "text_jsonl" else "texts")


@contextlib.contextmanager
def opened(file: Path) -> Iterator[tuple[Any, Any]]:
    """The unpacked bytes of a file, and the file itself, which tells how far it was read. Raises ConfigError."""
    with file.open("rb") as raw:
        magic = raw.read(4)
        raw.seek(0)
        try:
            if magic.startswith(GZIP):
                with gzip.open(raw) as unpacked:
                    yield unpacked, raw
            elif magic == ZSTD:
                import pyarrow

                with pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, mode="r"), "zstd") as unpacked:
                    yield unpacked, raw
            else:
                yield raw, raw
        except (EOFError, zlib.error, OSError) as e:  # pyarrow's errors of packed data are OSErrors
            how = "gzip" if magic.startswith(GZIP) else "zstd" if magic == ZSTD else ""
            what = f"the {how} data is broken" if how else "cannot be read"
            raise ConfigError(f"data.train: {file}: {what}: {e}; make it anew") from e


def lines(file: Path, form: str) -> Iterator[Block]:
    """Whole lines."""
    first, rest = 1, b""
    with opened(file) as (stream, raw):
        while piece := stream.read(BLOCK):
            cut = piece.rfind(b"\n") + 1
            if not cut:
                rest = grown(file, first, rest + piece)
                continue
            data, rest = rest + piece[:cut], piece[cut:]
            yield block(file, first, raw.tell(), form, data)
            first += data.count(b"\n")
        if rest:
            yield block(file, first, raw.tell(), form, rest)


def block(file: Path, first: int, read: int, form: str, data: bytes) -> Block:
    """Lines as they are, for a worker to read as JSON; of plain text each is a document."""
    if first == 1:
        data = data.removeprefix(BOM)
    return Block(str(file), first, read, form, data if form == "lines" else data.removesuffix(b"\n").split(b"\n"))


def paragraphs(file: Path) -> Iterator[Block]:
    """Texts between empty lines; `first` is the number of the first paragraph."""
    first, rest = 1, b""
    with opened(file) as (stream, raw):
        while piece := stream.read(BLOCK):
            rest = (rest + piece if rest else piece.removeprefix(BOM)).replace(b"\r\n", b"\n")
            cut = rest.rfind(b"\n\n") + 2
            if cut < 2:
                rest = grown(file, first, rest)
                continue
            texts = [text for text in rest[:cut].split(b"\n\n") if text.strip()]
            rest = rest[cut:]
            yield Block(str(file), first, raw.tell(), "texts", texts)
            first += len(texts)
        if rest.strip():
            yield Block(str(file), first, raw.tell(), "texts", [t for t in rest.split(b"\n\n") if t.strip()])


def whole(file: Path) -> Iterator[Block]:
    """A file as one document."""
    with opened(file) as (stream, raw):
        data = stream.read(MAX_DOCUMENT + 1)
        if len(data) > MAX_DOCUMENT:
            what = f"data.train: {file}: has more than {MAX_DOCUMENT >> 20} MiB, too long for one document"
            raise ConfigError(f"{what}; say documents=line or documents=paragraph")
        yield Block(str(file), 1, raw.tell(), "texts", [data.removeprefix(BOM)])


def rows(file: Path, field: str) -> Iterator[Block]:
    """A column of Parquet, some rows at a time."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file, pre_buffer=False) as found:
            if field not in found.schema_arrow.names:
                names = ", ".join(found.schema_arrow.names)
                raise ConfigError(f"data.train: {file}: there is no column {field}; it has {names}")
            first, size = 1, file.stat().st_size
            for batch in found.iter_batches(ROWS, columns=[field]):
                column = batch.column(0)
                yield Block(str(file), first, size * first // max(found.metadata.num_rows, 1), "rows", column)
                first += len(column)
    except (pyarrow.ArrowException, OSError) as e:
        raise ConfigError(f"data.train: {file}: cannot be read as Parquet: {e}; make it anew") from e


def grown(file: Path, number: int, begun: bytes) -> bytes:
    """What has begun and not ended. Raises ConfigError where that is longer than a document may be."""
    if len(begun) > MAX_DOCUMENT:
        what = f"data.train: {file}: the document that begins with number {number} has more than"
        raise ConfigError(f"{what} {MAX_DOCUMENT >> 20} MiB; cut it into several")
    return begun


def documents(found: Block, field: str) -> Iterator[Document]:
    """The documents of a block. Raises ConfigError, with file and line, for what is neither JSON nor UTF-8."""
    if found.form == "rows":
        for number, value in enumerate(found.data.to_pylist(), found.first):
            yield document(number, value)
        return
    texts = found.data.split(b"\n") if found.form == "lines" else found.data
    for number, line in enumerate(texts, found.first):
        where = f"data.train: {found.file}:{number}"
        try:
            if found.form == "texts":
                yield document(number, line.decode())
            elif line.strip():
                row = json.loads(line.decode())
                if not isinstance(row, dict):
                    raise ConfigError(f"{where}: is no JSON object; expected one with `{field}` in each line")
                yield document(number, row.get(field))
        except UnicodeDecodeError as e:
            raise ConfigError(f"{where}: not UTF-8 (byte 0x{line[e.start]:02x}); convert it: iconv -t UTF-8") from e
        except (ValueError, RecursionError) as e:
            raise ConfigError(f"{where}: no JSON: {e}; expected an object with `{field}` in each line") from e


def document(number: int, value: Any) -> Document:
    """What a value is: a text, or why it is none."""
    if not isinstance(value, str):
        return Document(number, None, "not_text")
    if not value.strip():
        return Document(number, None, "empty")
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can write and UTF-8 cannot
        return Document(number, None, "not_text")
    return Document(number, value)
