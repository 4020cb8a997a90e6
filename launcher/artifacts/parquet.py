"""The footer of a Parquet file: its columns and number of rows, without pyarrow.

The footer is a Thrift struct in the compact protocol
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md); its fields are FileMetaData's in
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift. Only what stands before the row
groups is read, which may be many.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

MAGIC = b"PAR1"
MAX_FOOTER = 1024 * 1024  # bytes of a footer that are read; schema and row count stand at its beginning
_TRUE, _FALSE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 7, 8, 9, 10, 11, 12


class Footer(NamedTuple):
    """Names of the top-level columns, and rows of the file."""

    columns: list[str]
    rows: int


def read_footer(path: Path) -> Footer:
    """Reads the end of a Parquet file. Raises ValueError where it is none, or is cut off."""
    size = path.stat().st_size
    with path.open("rb") as f:
        if f.read(4) != MAGIC or size < 12:
            raise ValueError("not a Parquet file")
        f.seek(size - 8)
        tail = f.read(8)
        length = struct.unpack("<I", tail[:4])[0]
        if tail[4:] != MAGIC or length > size - 12:
            raise ValueError("not a whole Parquet file: its footer is cut off")
        f.seek(size - 8 - length)
        footer = f.read(min(length, MAX_FOOTER))
    try:
        fields = _Reader(footer).struct(until=3)
        return Footer(_top_level(fields[2]), int(fields[3]))
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as e:
        raise ValueError("not a whole Parquet file: its footer is no schema") from e


def _top_level(schema: list[dict[int, Any]]) -> list[str]:
    """Names of the root's children: the schema is a tree, written depth first (4: name, 5: number of children)."""
    names, below, at = [], schema[0].get(5, 0), 1
    for _ in range(below):
        names.append(schema[at][4].decode())
        open_ = 1
        while open_:
            open_ += schema[at].get(5, 0) - 1
            at += 1
    return names


class _Reader:
    """Reads values of Thrift's compact protocol; a struct becomes field number -> value."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        value = shift = 0
        while (byte := self.byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
        return value | byte << shift

    def zigzag(self) -> int:
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise ValueError("cut off")
        self.at += count
        return self.data[self.at - count : self.at]

    def struct(self, until: int = 0) -> dict[int, Any]:
        """Field number -> value; no further than the field `until`."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self.byte():
            number = number + (head >> 4) if head >> 4 else self.zigzag()
            fields[number] = self.value(head & 0x0F)
            if number == until:
                break
        return fields

    def value(self, type_: int, inside: bool = False) -> Any:
        if type_ in (_TRUE, _FALSE):
            return self.byte() == _TRUE if inside else type_ == _TRUE  # a field's own head holds its truth value
        if type_ == 3:
            return self.byte()
        if type_ == _DOUBLE:
            return self.take(8)
        if type_ == _BINARY:
            return self.take(self.varint())
        if type_ in (_LIST, _SET):
            head = self.byte()
            count = self.varint() if head >> 4 == 15 else head >> 4
            return [self.value(head & 0x0F, inside=True) for _ in range(count)]
        if type_ == _MAP:
            raise ValueError("no map stands before the row groups")
        return self.struct() if type_ == _STRUCT else self.zigzag()
