"""Stands for Megatron-Core's writer of tokenized documents: the same bytes, by the standard library alone."""

from __future__ import annotations

import array
import enum
import struct
from pathlib import Path


class DType(enum.Enum):
    int32 = 4
    uint16 = 8

    @classmethod
    def dtype_from_code(cls, code: int) -> str:
        return {4: "i", 8: "H"}[code]


class IndexedDatasetBuilder:
    def __init__(self, path: str, dtype: str) -> None:
        self.file, self.dtype, self.lengths = Path(path).open("wb"), dtype, list[int]()  # noqa: SIM115 - as the real one

    def add_document(self, tokens: array.array[int], lengths: list[int]) -> None:
        assert tokens.typecode == self.dtype and [len(tokens)] == lengths
        self.file.write(tokens.tobytes())
        self.lengths += lengths

    def finalize(self, path: str) -> None:
        self.file.close()
        count, size, at, offsets = len(self.lengths), array.array(self.dtype).itemsize, 0, []
        for length in self.lengths:
            offsets.append(at)
            at += length * size
        head = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, {"i": 4, "H": 8}[self.dtype], count, count + 1)
        index = struct.pack(f"<{count}i{count}q{count + 1}q", *self.lengths, *offsets, *range(count + 1))
        Path(path).write_bytes(head + index)
