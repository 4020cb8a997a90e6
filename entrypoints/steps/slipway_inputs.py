"""What the step programs share for their inputs and outputs: paths in a configuration, data files, tokenizers."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slipway_step import ConfigError

RECORD = "slipway.json"
OF_RUNS = ".slipway-run"  # in an output: what launchers know of the runs that write there, and no part of it
ROWS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson")  # names of files with rows, in a folder
# What str.splitlines(), by which AutoModel reads, takes for the end of a line beside what JSON itself forbids in one:
# U+0085, U+2028, U+2029 -> as JSON escapes them.
BREAKS = {b"\xc2\x85": b"\\u0085", b"\xe2\x80\xa8": b"\\u2028", b"\xe2\x80\xa9": b"\\u2029"}
DTYPES = ("bfloat16", "float16", "float32")
VOCABULARY = (
    "tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "tiktoken.model", "source.spm", "target.spm", "bpe.codes",
)  # fmt: skip


def path_of(config: Mapping[str, Any], dotted: str) -> Path:
    """The path at `dotted`, which the launcher sets. Raises ConfigError where it is not set or not there."""
    value: Any = config
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if not value:
        raise ConfigError(f"{dotted}: is not set")
    path = Path(value)
    if not path.exists() and not any(path.parent.glob(path.name)) and not Path(f"{path}.idx").exists():
        raise ConfigError(f"{dotted}: {value} is not there")
    return path


def dtype_of(config: Mapping[str, Any], section: str) -> str | None:
    """`dtype` of a section; None leaves the model's own type. Raises ConfigError for another word."""
    name: str | None = config[section].get("dtype")
    if name is not None and name not in DTYPES:
        raise ConfigError(f"{section}.dtype: {name!r} is none of {', '.join(DTYPES)}")
    return name


def refuse_filled(folder: Path, key: str) -> None:
    """Raises ConfigError where an output already holds something; our own programs never mix two results."""
    found = sorted(p.name for p in folder.iterdir() if p.name != OF_RUNS) if folder.is_dir() else []
    if found:
        raise ConfigError(f"{key}: {folder} already holds {found[0]}; name another output")


def tokenizer_record(folder: Path) -> dict[str, str]:
    """sha256 of the vocabulary's files and of the chat template, computed as the launcher does; absent where none is.

    tokenizer_config.json is left out: every save_pretrained() adds to it, while the vocabulary stays the same bytes.
    """
    digest = hashlib.sha256()
    found = [folder / n for n in VOCABULARY if (folder / n).is_file()]
    found += sorted(p for p in folder.glob("*.tiktoken") if p.is_file())
    for path in found:
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    template = chat_template(folder)
    record = {"tokenizer": digest.hexdigest() if found else ""}
    record["template"] = hashlib.sha256(template.encode()).hexdigest() if template else ""
    return {k: v for k, v in record.items() if v}


def chat_template(folder: Path) -> str:
    """The chat template: a file of its own wins over the configuration, as in transformers. Empty where none is."""
    own, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if own.is_file():
        return own.read_text(encoding="utf-8", errors="replace")
    value = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    if isinstance(value, list):
        value = next((t.get("template") for t in value if t.get("name") == "default"), None)
    return value if isinstance(value, str) else ""


def jsonl_files(source: Path) -> list[Path]:
    """The files of an input: itself, those of a folder, or those that a pattern names. Raises ConfigError for none.

    They are those that the launcher has looked at (launcher/artifacts/datasets.py).
    """
    if source.is_file():
        return [source]
    if source.is_dir():
        found = sorted(p for p in source.iterdir() if p.name.endswith(ROWS) and not p.name.endswith("_metadata.jsonl"))
    else:
        found = sorted(p for p in source.parent.glob(source.name) if p.is_file())
    if not found:
        raise ConfigError(f"{source}: there are no *.jsonl files")
    return found


def plain(source: Path) -> bool:
    """Whether an input is one file, not packed. Raises ConfigError where it is packed as no image can read it."""
    return source.is_file() and not _packed(source)


def one_jsonl(source: Path, target: Path) -> Path:
    """`target`, made of an input's files: a link where that is one plain file, since it may be large.

    What every reader takes alike: no empty line, and no character in a line that some take for its end.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    files = jsonl_files(source)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    if len(files) == 1 and not _packed(files[0]) and not _uneven(files[0]):
        part.unlink(missing_ok=True)
        part.symlink_to(files[0])
        return part.replace(target)
    with part.open("wb") as out:
        for line in lines(files):
            for raw, escaped in BREAKS.items():
                line = line.replace(raw, escaped)
            if line.strip():
                out.write(line if line.endswith(b"\n") else line + b"\n")
    return part.replace(target)


def _uneven(file: Path) -> bool:
    """Whether a file ends with an empty line, or has one of BREAKS."""
    seen = b""
    with file.open("rb") as f:
        while piece := f.read(1 << 22):
            seen = seen[-(1 << 10) :] + piece  # none is cut in two, and more of the end than an empty line has
            if not seen.isascii() and any(raw in seen for raw in BREAKS):
                return True
    return seen[len(seen.rstrip()) :] not in (b"", b"\n", b"\r\n")


def lines(files: list[Path]) -> Iterator[bytes]:
    """The lines of some files, one after the other, unpacked."""
    for file in files:
        with gzip.open(file) if _packed(file) else file.open("rb") as f:
            yield from f


def _packed(file: Path) -> bool:
    with file.open("rb") as f:
        magic = f.read(4)
    if magic == b"\x28\xb5\x2f\xfd":
        raise ConfigError(f"{file}: zstd cannot be read in this image; unpack it, or pack it with gzip")
    return magic[:2] == b"\x1f\x8b"
