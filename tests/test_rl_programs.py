"""entrypoints/steps/rl_prep.py, run as a program: how rows are split, ordered and refused."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parent.parent
PROGRAM = PROJECT / "entrypoints" / "steps" / "rl_prep.py"
FOLDER = PROJECT / "launcher" / "steps" / "data_prep" / "rl_prep"
ROWS = [{"input": f"What is {n} + {n}?", "output": str(2 * n), "level": n % 3} for n in range(400)]


def write(path: Path, rows: Iterable[Any]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Prep:
    """Runs of the program, each with an output of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.runs = root, 0

    def run(
        self, source: Path, type_: str = "prompt_jsonl", program: Path = PROGRAM, **words: Any
    ) -> subprocess.CompletedProcess[str]:
        self.runs += 1
        root = self.root / f"run{self.runs}"
        for folder in ("slipway", "state/0/ranks"):
            (root / folder).mkdir(parents=True)
        base, layer = (yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) for name in ("base", "default"))
        given = [["data.train", str(source)], ["output.path", str(self.output)]]
        given += [[k.replace("__", "."), v] for k, v in words.items()]
        config = {
            "base": {"values": base},
            "layers": [{"name": "default", "values": layer}],
            "remove": [],
            "set": given,
        }
        plan = {"config": config, "inputs": {"train": {"type": type_}}}
        (root / "slipway" / "plan.json").write_text(json.dumps(plan))
        env = os.environ | {"SLIPWAY_DIR": str(root / "slipway"), "SLIPWAY_STATE_DIR": str(root / "state")}
        return subprocess.run([sys.executable, program], env=env, capture_output=True, text=True, check=False)

    @property
    def output(self) -> Path:
        return self.root / f"run{self.runs}" / "output"

    @property
    def result(self) -> dict[str, Any]:
        return dict(json.loads((self.output.parent / "state" / "result.json").read_text()))

    def splits(self, source: Path, **words: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        done = self.run(source, **words)
        assert done.returncode == 0, done.stderr
        return read(self.output / "train.jsonl"), read(self.output / "validation.jsonl")

    def refused(self, source: Path, **words: Any) -> str:
        done = self.run(source, **words)
        assert done.returncode == 78 and "Traceback" not in done.stderr, done.stderr
        assert not list(self.output.glob("*")) if self.output.is_dir() else True
        return done.stderr


@pytest.fixture
def prep(tmp_path: Path) -> Prep:
    return Prep(tmp_path)


def test_every_row_is_on_one_side_and_the_record_counts_them(prep: Prep, tmp_path: Path) -> None:
    train, validation = prep.splits(write(tmp_path / "rows.jsonl", ROWS), split__validation_share=0.25)
    assert sorted(map(json.dumps, train + validation)) == sorted(json.dumps(r, sort_keys=True) for r in ROWS)
    assert 60 < len(validation) < 140  # a quarter of 400, by hashes
    record = json.loads((prep.output / "slipway.json").read_text())
    for name, rows in (("train", train), ("validation", validation)):
        digest = hashlib.sha256((prep.output / f"{name}.jsonl").read_bytes()).hexdigest()
        assert record[name] == {"rows": len(rows), "sha256": digest}
    assert (record["rows_read"], record["duplicates_dropped"], record["seed"]) == (400, 0, 1234)
    assert prep.result == {"type": "prompt_jsonl", "path": str(prep.output), **record}
    assert sorted(p.name for p in prep.output.iterdir()) == ["slipway.json", "train.jsonl", "validation.jsonl"]


def test_the_same_bytes_come_out_however_the_rows_are_sharded_and_ordered(prep: Prep, tmp_path: Path) -> None:
    prep.splits(write(tmp_path / "rows.jsonl", ROWS))
    whole = {name: (prep.output / name).read_bytes() for name in ("train.jsonl", "validation.jsonl", "slipway.json")}
    mixed = random.Random(1).sample([dict(reversed(row.items())) for row in ROWS], len(ROWS))
    for number, name in enumerate(("a.jsonl", "b.jsonl.gz", "c.jsonl")):
        write(tmp_path / "shards" / name, mixed[number::3])
    prep.splits(tmp_path / "shards")
    assert {name: (prep.output / name).read_bytes() for name in whole} == whole


def test_as_many_ranges_as_the_data_needs_change_nothing(prep: Prep, tmp_path: Path) -> None:
    prep.splits(write(tmp_path / "rows.jsonl", ROWS))
    whole = (prep.output / "train.jsonl").read_bytes()
    steps = tmp_path / "steps"  # the program with ranges of 1 KiB, of which these rows need some twenty
    steps.mkdir()
    for name in ("rl_prep.py", "slipway_inputs.py", "slipway_step.py"):
        text = (PROGRAM.parent / name).read_text()
        (steps / name).write_text(text.replace("RANGES = 32 * 1024 * 1024,", "RANGES = 1024,"))
    assert "RANGES = 1024," in (steps / "rl_prep.py").read_text()
    prep.splits(tmp_path / "rows.jsonl", program=steps / "rl_prep.py")
    assert (prep.output / "train.jsonl").read_bytes() == whole


def test_no_prompt_is_on_both_sides(prep: Prep, tmp_path: Path) -> None:
    other = [{**row, "input": f"  {row['input']}\n", "output": "another answer"} for row in ROWS]
    train, validation = prep.splits(write(tmp_path / "rows.jsonl", ROWS + other), split__validation_share=0.5)
    sides = [{row["input"].strip() for row in side} for side in (train, validation)]
    assert len(train) + len(validation) == 800 and not sides[0] & sides[1] and all(len(s) > 150 for s in sides)


def test_rows_that_are_there_twice_are_left_out_unless_they_are_kept(prep: Prep, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS + ROWS[:50])
    train, validation = prep.splits(source)
    assert len(train) + len(validation) == 400 and prep.result["duplicates_dropped"] == 50
    train, validation = prep.splits(source, split__duplicates="keep")
    assert len(train) + len(validation) == 450 and prep.result["duplicates_dropped"] == 0


def test_another_seed_is_another_split(prep: Prep, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    first, other = prep.splits(source)[1], prep.splits(source, split__seed=5)[1]
    assert {r["input"] for r in first} != {r["input"] for r in other}


def test_columns_get_their_usual_names(prep: Prep, tmp_path: Path) -> None:
    rows = [{"question": row["input"], "output": row["output"], "task_name": "own"} for row in ROWS[:99]]
    rows += [{"question": "?", "output": "!"}]
    train, validation = prep.splits(
        write(tmp_path / "rows.jsonl", rows), columns__prompt="question", columns__task_name="math"
    )
    assert {tuple(sorted(row)) for row in train + validation} == {("input", "output", "task_name")}
    assert sorted({row["task_name"] for row in train + validation}) == ["math", "own"]


def test_preferences_of_both_layouts(prep: Prep, tmp_path: Path) -> None:
    pairs = [{"prompt": f"q{n}", "chosen": "good", "rejected": "bad"} for n in range(200)]
    ranked = [{"rank": 0, "completion": "good"}, {"rank": 1, "completion": "bad"}]
    turns = [{"context": [{"role": "user", "content": f"q{n}"}], "completions": ranked} for n in range(200)]
    for rows in (pairs, turns):
        train, validation = prep.splits(write(tmp_path / "rows.jsonl", rows), type_="preference_jsonl")
        assert len(train) + len(validation) == 200 and prep.result["type"] == "preference_jsonl"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"input": "x"}', "`output` is missing or empty; name another column by a parameter"),
        ('{"input": "", "output": "x"}', "`input` is missing or empty"),
        ("[1]", "no row of prompt_jsonl: not an object"),
        ('{"input": "x", "output": "y"', "no row of prompt_jsonl: "),
        ('{"input": "x", "output": NaN}', "no row of prompt_jsonl: "),
        ('{"input": "\\ud800", "output": "x"}', "no row of prompt_jsonl: "),
        ("[" * 100_000, "no row of prompt_jsonl: "),
    ],
)
def test_a_row_that_is_not_whole_is_named_by_its_line(prep: Prep, tmp_path: Path, line: str, what: str) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    source.write_text(source.read_text() + "\n" + line + "\n")
    assert f"{source}:402: {what}" in prep.refused(source)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ({"split__validation_share": 0.0}, "split.validation_share: 0.0 is not between 0 and 1"),
        ({"split__validation_share": 1}, "split.validation_share: 1 is not between 0 and 1"),
        ({"split__validation_share": 1e-9}, "of 400 rows leaves none for validation; choose another share"),
        ({"split__seed": "x"}, "split.seed: 'x' is no whole number"),
        ({"split__duplicates": "some"}, "split.duplicates: 'some' is none of drop, keep"),
        ({"columns__chosen": "best"}, "columns.chosen: prompt_jsonl has no such column; it has prompt, answer"),
        ({"columns__prompt": "question"}, "rows.jsonl:1: `question` is missing or empty"),
        ({"columns__prompt": "level"}, "no row of prompt_jsonl: it has both level and input"),
    ],
)
def test_what_cannot_be_done_is_refused(prep: Prep, tmp_path: Path, words: dict[str, Any], what: str) -> None:
    assert what in prep.refused(write(tmp_path / "rows.jsonl", ROWS), **words)


def test_broken_packing_is_refused(prep: Prep, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl.gz", ROWS)
    source.write_bytes(source.read_bytes()[:-20])
    assert "rows.jsonl.gz: the gzip data is broken" in prep.refused(source)
