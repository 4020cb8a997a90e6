"""Splits prompts or preferences into training and validation, by Python alone.

A row's side and its place in the file come from hashes of its content and the seed: they stay the same however the rows
are sharded or ordered, and rows with the same prompt are on one side, so that no prompt of validation was trained on.
Rows go through a file per range of hashes, of which one at a time is held in memory.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import slipway_inputs
import slipway_step
from slipway_step import ConfigError

RANGE, RANGES = 32 * 1024 * 1024, 512  # bytes of rows that are sorted at a time; files for them at most
PACKED = 10  # how many times larger gzip's rows become, at a guess
# Names of a row's columns, by the type of the data: the one that is hashed for the split first.
COLUMNS = {
    "prompt_jsonl": {"prompt": "input", "answer": "output"},
    "preference_jsonl": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
}
RANKED = {"prompt": "context", "completions": "completions"}  # preferences of more than two answers


class Rules(NamedTuple):
    """How rows are read and split. `columns`: role -> name in the file, where that is not the usual one."""

    type: str
    columns: dict[str, str]
    task_name: str | None
    share: float
    seed: int
    keep_duplicates: bool


class Made(NamedTuple):
    """A file that was written."""

    rows: int
    sha256: str


def main() -> None:
    plan = slipway_step.load_plan()
    config = slipway_step.merge_config(plan["config"])
    output, rules = Path(config["output"]["path"]), rules_of(config, plan["inputs"]["train"]["type"])
    source = slipway_inputs.path_of(config, "data.train")
    slipway_inputs.refuse_filled(output, "output.path")
    with slipway_step.config_file(config):
        pass
    record = split(slipway_inputs.jsonl_files(source), rules, output)
    slipway_step.write_atomic(output / slipway_inputs.RECORD, json.dumps(record, indent=2, sort_keys=True) + "\n")
    slipway_step.write_result({"type": rules.type, "path": str(output), **record})


def rules_of(config: dict[str, Any], type_: str) -> Rules:
    """Raises ConfigError for values that are none, and for columns that this type of data does not have."""
    wanted, columns = config["split"], dict(config["columns"])
    share, seed, duplicates = wanted["validation_share"], wanted["seed"], wanted["duplicates"]
    if not isinstance(share, (int, float)) or not 0 < share < 1:
        raise ConfigError(f"split.validation_share: {share!r} is not between 0 and 1")
    if not isinstance(seed, int):
        raise ConfigError(f"split.seed: {seed!r} is no whole number")
    if duplicates not in ("drop", "keep"):
        raise ConfigError(f"split.duplicates: {duplicates!r} is none of drop, keep")
    task = columns.pop("task_name", None)
    named = {role: name for role, name in columns.items() if name}
    for role in named.keys() - COLUMNS[type_].keys():
        raise ConfigError(f"columns.{role}: {type_} has no such column; it has {', '.join(COLUMNS[type_])}")
    return Rules(type_, named, task, float(share), seed, duplicates == "keep")


def split(files: list[Path], rules: Rules, output: Path) -> dict[str, Any]:
    """Writes both files; returns the record. Raises ConfigError for a row that is not whole, and for no rows."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".rows-") as folder:
        ranges = [Path(folder, f"{n:03}") for n in range(ranges_for(files))]
        read = sort_out(files, rules, ranges)
        made, dropped = write(ranges, rules, output)
    for name, file in made.items():
        if not file.rows:
            (output / "train.jsonl").unlink()
            (output / "validation.jsonl").unlink()
            what = f"split.validation_share: {rules.share} of {read} rows leaves none for {name}"
            raise ConfigError(f"{what}; choose another share, or another seed")
    told = ", ".join(f"{file.rows} for {name}" for name, file in made.items())
    print(f"{read} rows, {dropped} left out that were there already: {told}", flush=True)
    counts = {"rows_read": read, "duplicates_dropped": dropped, "seed": rules.seed, "validation_share": rules.share}
    return {"schema": 1, "data": rules.type, **counts, **{name: file._asdict() for name, file in made.items()}}


def ranges_for(files: list[Path]) -> int:
    size = sum(f.stat().st_size * (PACKED if f.name.endswith(".gz") else 1) for f in files)
    return min(size // RANGE + 1, RANGES)


def sort_out(files: list[Path], rules: Rules, ranges: list[Path]) -> int:
    """Every row goes to the file of its hash's range, as its hash, its side and itself; returns how many there were."""
    count = 0
    with contextlib.ExitStack() as stack:
        sinks = [stack.enter_context(path.open("wb")) for path in ranges]
        for where, line in numbered(files):
            prompt, row = read_row(where, line, rules)
            key = hashlib.sha256(f"{rules.seed}\0".encode() + row).hexdigest()
            side = b"v" if is_validation(prompt, rules) else b"t"
            sinks[int(key[:8], 16) * len(sinks) >> 32].write(key.encode() + side + row + b"\n")
            count += 1
    return count


def numbered(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Every line that is not blank, with where it stands. Raises ConfigError for packing that is broken."""
    for file in files:
        try:
            for number, line in enumerate(slipway_inputs.lines([file]), 1):
                if line.strip():
                    yield f"{file}:{number}", line
        except (EOFError, gzip.BadGzipFile) as e:
            raise ConfigError(f"{file}: the gzip data is broken: {e}") from e


def read_row(where: str, line: bytes, rules: Rules) -> tuple[str, bytes]:
    """The prompt as text, and the row as it will be written. Raises ConfigError for one that is not whole."""
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("not an object")
        row = usual_names(row, rules)
        prompt = row[wanted_columns(row, rules.type)["prompt"]]
        return prompt_text(prompt), as_bytes(row)
    except KeyError as e:
        raise ConfigError(f"{where}: `{e.args[0]}` is missing or empty; name another column by a parameter") from e
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{where}: no row of {rules.type}: {e}") from e


def usual_names(row: dict[str, Any], rules: Rules) -> dict[str, Any]:
    """The row with its columns under their usual names. Raises KeyError or ValueError."""
    usual = COLUMNS[rules.type]
    for role, name in rules.columns.items():
        if name not in row:
            raise KeyError(name)
        if name != usual[role] and usual[role] in row:
            raise ValueError(f"it has both {name} and {usual[role]}")
        row[usual[role]] = row.pop(name)
    for name in wanted_columns(row, rules.type).values():
        if row.get(name) in (None, "", [], {}):
            raise KeyError(name)
    return {"task_name": rules.task_name, **row} if rules.task_name else row


def wanted_columns(row: dict[str, Any], type_: str) -> dict[str, str]:
    ranked = type_ == "preference_jsonl" and "completions" in row
    return RANKED if ranked else COLUMNS[type_]


def prompt_text(prompt: Any) -> str:
    """What is hashed of a prompt: differences of white space, and of how an accent is written, make no other prompt."""
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False, sort_keys=True)
    return " ".join(unicodedata.normalize("NFC", text).split())


def as_bytes(row: dict[str, Any]) -> bytes:
    """One form for one content, whatever the order of its columns. Raises ValueError for what JSON cannot hold."""
    return json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def is_validation(prompt: str, rules: Rules) -> bool:
    digest = hashlib.sha256(f"{rules.seed}\0{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < rules.share * 2**64


def write(ranges: list[Path], rules: Rules, output: Path) -> tuple[dict[str, Made], int]:
    """Both files, in the order of the rows' hashes, and how many rows were left out."""
    sides = {b"t": "train", b"v": "validation"}
    digests, rows, dropped = {s: hashlib.sha256() for s in sides}, dict.fromkeys(sides, 0), 0
    with contextlib.ExitStack() as stack:
        sinks = {s: stack.enter_context((output / f"{name}.jsonl").open("wb")) for s, name in sides.items()}
        for path in ranges:
            last = b""
            for line in sorted(path.read_bytes().splitlines(keepends=True)):
                if line == last and not rules.keep_duplicates:
                    dropped += 1
                    continue
                last, side = line, line[64:65]
                sinks[side].write(line[65:])
                digests[side].update(line[65:])
                rows[side] += 1
            path.unlink()
    return {name: Made(rows[s], digests[s].hexdigest()) for s, name in sides.items()}, dropped


if __name__ == "__main__":
    slipway_step.run(main)
