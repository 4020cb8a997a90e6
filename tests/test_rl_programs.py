"""entrypoints/steps/{rl_prep,nemo_rl_train,nemo_rl_convert,nemo_rl_import}.py, run as programs."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
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
    for name in ("rl_prep.py", "slipway_inputs.py", "slipway_resolver.py", "slipway_step.py"):
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


STEPS_FOLDER = PROJECT / "entrypoints" / "steps"
STANDIN = PROJECT / "tests" / "standins" / "containers" / "nemo-rl" / "repository"
SCRIPT = """
import json, os, sys, threading, time
from pathlib import Path
import yaml
import nemo_rl
config = yaml.safe_load(Path(sys.argv[2]).read_text())
seen = {"argv": sys.argv, "cwd": os.getcwd(), "library": nemo_rl.__file__, "config": config}
seen["path"] = os.environ["PYTHONPATH"]
if config["checkpointing"]["checkpoint_must_save_by"]:
    from nemo_rl.utils.timer import TimeoutChecker
    training = time.time()
    checker = TimeoutChecker(config["checkpointing"]["checkpoint_must_save_by"], fit_last_save_time=True)
    seen["clock"] = {"starts": checker.start_time, "training": training, "seconds": checker.last_save_time}
data = config.get("data", {})
parts = [data, data.get("train", {}), *data.get("validation", [])]
keys = ("train_data_path", "val_data_path", "data_path")
seen["files"] = [part[key] for part in parts for key in keys if key in part]
seen["rows"] = [len(Path(file).read_text().splitlines()) for file in seen["files"]]
Path(os.environ["SEEN"]).write_text(json.dumps(seen))
threading.Thread(target=threading.Event().wait).start()  # what NeMo RL's driver leaves behind: it never ends by itself
for step in json.loads(os.environ.get("STEPS", "[2, 10]")):
    folder = Path(config["checkpointing"]["checkpoint_dir"], f"step_{step}")
    folder.mkdir(parents=True)
    folder.joinpath("training_info.json").write_text('{"total_steps": 10, "val:loss": 0.5, "names": ["x"]}')
exec(os.environ.get("END", ""))
"""


class Train:
    """Runs of nemo_rl_train.py on a repository whose script writes down what it sees."""

    must_save_by: str | None = None

    def __init__(self, root: Path) -> None:
        self.root, self.repository = root, root / "repository"
        self.sections: dict[str, Any] = {}
        for folder in ("slipway", "state/0/ranks", "repository/examples", "repository/nemo_rl"):
            (root / folder).mkdir(parents=True)
        (self.repository / "nemo_rl" / "__init__.py").write_text("")
        (self.repository / "nemo_rl" / "utils").mkdir()
        shutil.copy(STANDIN / "nemo_rl" / "utils" / "timer.py", self.repository / "nemo_rl" / "utils")
        self.script = self.repository / "examples" / "run_boats.py"
        self.script.write_text(SCRIPT)

    def run(self, resume: bool = False, **env: str) -> subprocess.CompletedProcess[str]:
        values = {
            "checkpointing": {"checkpoint_must_save_by": self.must_save_by},
            "prompt": "${a.b}",
            "deadline": {"margin": 100},
        }
        config = {
            "base": {"values": values}, "layers": [], "remove": [], "script": str(self.script),
            "set": [["checkpointing.checkpoint_dir", str(self.root / "output")]],
            "resume": {"where": str(self.root / "output" / "step_*"), "set": [["checkpointing.goes_on", True]]},
        }  # fmt: skip
        config["base"]["values"].update(self.sections)
        (self.root / "slipway" / "plan.json").write_text(json.dumps({"config": config, "resume": resume}))
        where = {"SLIPWAY_DIR": str(self.root / "slipway"), "SLIPWAY_STATE_DIR": str(self.root / "state")}
        where |= {"SEEN": str(self.root / "seen.json"), "PYTHONPATH": "/site"}
        program = ["timeout", "60", sys.executable, STEPS_FOLDER / "nemo_rl_train.py"]  # 124: it did not end
        return subprocess.run(program, env=os.environ | where | env, capture_output=True, text=True, check=False)

    @property
    def seen(self) -> dict[str, Any]:
        return dict(json.loads((self.root / "seen.json").read_text()))

    @property
    def result(self) -> dict[str, Any]:
        return dict(json.loads((self.root / "state" / "result.json").read_text()))


@pytest.fixture
def train(tmp_path: Path) -> Train:
    return Train(tmp_path)


@pytest.mark.parametrize("named", ["shards", "shards/*.jsonl*", "shards/b.jsonl.gz", "shards/a.jsonl"])
def test_rows_that_are_packed_or_in_several_files_become_one(train: Train, named: str) -> None:
    folder = train.root / "shards"
    folder.mkdir()
    row = json.dumps({"input": "1", "output": "2"}) + "\n"
    (folder / "a.jsonl").write_text(row * 3)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(row.encode() * 5))
    path = str(train.root / named)
    sections = {"train": {"data_path": path}, "validation": [{"data_path": path}], "default": {"data_path": None}}
    train.sections["data"] = {"train_data_path": path, "val_data_path": path, **sections}
    assert train.run().returncode == 0
    rows = {"shards": 8, "shards/*.jsonl*": 8, "shards/b.jsonl.gz": 5, "shards/a.jsonl": 3}[named]
    assert train.seen["rows"] == [rows] * 4
    assert (train.seen["files"] == [path] * 4) == (named == "shards/a.jsonl"), "a plain file is read where it is"
    assert not any(Path(file).exists() for file in train.seen["files"] if file != path)


def test_the_script_gets_its_configuration_in_its_repository(train: Train) -> None:
    done = train.run()
    assert done.returncode == 0, done.stderr
    assert train.seen["argv"] == [str(train.script), "--config", str(train.root / "state" / "config.yaml")]
    assert train.seen["cwd"] == str(train.repository)
    assert train.seen["library"] == str(train.repository / "nemo_rl" / "__init__.py")  # not one of the step programs
    assert train.seen["path"] == f"{train.repository}:/site", "actors find the library by it, too"
    assert train.seen["config"] == {
        "checkpointing": {"checkpoint_must_save_by": None, "checkpoint_dir": str(train.root / "output")},
        "prompt": "${a.b}",
    }  # fmt: skip
    assert train.result == {
        "checkpoint": str(train.root / "output" / "step_10"), "type": "checkpoint_nemo_rl", "steps": 10,
        "training_info": {"total_steps": 10, "val:loss": 0.5},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("end", "code", "reason"),
    [
        ("sys.exit(3)", 3, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('no')", 1, ""),
        ("raise ValueError('not both')", 1, "ValueError: not both\n"),
    ],
)
def test_the_scripts_end_is_the_programs(train: Train, end: str, code: int, reason: str) -> None:
    done = train.run(END=end)
    assert done.returncode == code, done.stderr
    left = train.root / "state" / "0" / "reason"
    assert (left.read_text() if left.exists() else "") == reason
    assert (train.root / "state" / "result.json").exists() == (code == 0)


def test_a_run_that_saved_nothing_is_none(train: Train) -> None:
    done = train.run(STEPS="[]")
    assert done.returncode == 1
    assert "no step_* checkpoint was written" in (train.root / "state" / "0" / "reason").read_text()


def test_a_checkpoint_of_an_earlier_attempt_is_gone_on_from(train: Train) -> None:
    assert train.run(resume=True).returncode == 0
    assert "goes_on" not in train.seen["config"]["checkpointing"]
    assert train.run(resume=True, STEPS="[12]").returncode == 0
    assert train.seen["config"]["checkpointing"]["goes_on"] is True and train.result["steps"] == 12


def test_a_time_limit_is_kept_whatever_the_set_up_takes(train: Train) -> None:
    """NeMo RL counts from when training starts; the job from when it started."""
    until = time.time() + 90_000
    assert train.run(SLIPWAY_DEADLINE=str(until)).returncode == 0
    clock = train.seen["clock"]
    assert clock["starts"] < clock["training"]
    assert until - 101 < clock["starts"] + clock["seconds"] <= until - 100
    assert train.seen["config"]["checkpointing"]["checkpoint_must_save_by"].startswith("01:00:5")
    done = train.run(SLIPWAY_DEADLINE="soon", STEPS="[11]")
    assert done.returncode == 78 and "SLIPWAY_DEADLINE=soon" in done.stderr


def test_a_duration_of_the_configuration_counts_as_nemo_rl_says(train: Train) -> None:
    train.must_save_by = "00:03:45:00"
    assert train.run(SLIPWAY_DEADLINE=str(time.time() + 90_000)).returncode == 0
    assert train.seen["clock"]["starts"] >= train.seen["clock"]["training"]
    assert train.seen["clock"]["seconds"] == 13_500


LOGGER = """
class Logger:
    def log_metrics(self, metrics, step, prefix="", step_metric=None, step_finished=False):
        print("given", prefix, step, step_finished, flush=True)
"""
LOGS = """
from nemo_rl.utils.logger import Logger
class Array(list):
    def mean(self):
        return sum(self) / len(self)
logger = Logger()
logger.log_metrics({"val_loss": 5.0}, 0, prefix="validation")
told = {"loss": Array([1.0, 2.0]), "grad_norm": 0.5, "lr": 1e-6, "global_valid_toks": 100}
logger.log_metrics(told, 1, prefix="train")
logger.log_metrics({"total_step_time": 2.0, "policy_training": 1.5}, 1, prefix="timing/train")
logger.log_metrics({"tokens_per_sec": 12.5}, 2, prefix="performance")
logger.log_metrics({"loss": float("nan"), "lr": "?", "global_valid_toks": 100}, 2, prefix="train")
logger.log_metrics({"total_step_time": 4.0}, 2, "timing/train", step_finished=True)
logger.log_metrics({}, 3, prefix="timing/train")
"""


@pytest.mark.parametrize(("most", "of"), [(40, "/40"), (-1, "")])
def test_each_step_is_told_with_what_the_librarys_logger_is_given(train: Train, most: int, of: str) -> None:
    """As all algorithms of v0.4.0 to v0.7.0 give it: `timing/train` of a step last."""
    (train.repository / "nemo_rl" / "utils" / "logger.py").write_text(LOGGER)
    train.sections["sft"] = {"max_num_steps": most}
    done = train.run(END=LOGS)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith(("slipway: step ", "given "))]
    assert told == [
        "given validation 0 False",
        "given train 1 False",
        f"slipway: step 1{of} | loss 1.5 | grad_norm 0.5 | lr 1e-06 | tokens_per_s 50 | step_s 2.000",
        "given timing/train 1 False",
        "given performance 2 False",
        "given train 2 False",
        f"slipway: step 2{of} | loss nan | tokens_per_s 12.5 | step_s 4.000",
        "given timing/train 2 True",
        f"slipway: step 3{of} | step_s 0.000",
        "given timing/train 3 False",
    ]


def test_a_library_without_that_logger_trains_and_says_so(train: Train) -> None:
    done = train.run()
    assert (done.returncode, "the numbers of each step are not told: No module named" in done.stdout) == (0, True)


def test_a_library_that_counts_in_another_way_is_refused(train: Train) -> None:
    timer = train.repository / "nemo_rl" / "utils" / "timer.py"
    timer.write_text(timer.read_text().replace("start_time", "begun"))
    done = train.run(SLIPWAY_DEADLINE=str(time.time() + 90_000))
    assert done.returncode == 78, done.stderr
    assert "TimeoutChecker: expected a start_time" in done.stderr and "checkpoint_must_save_by" in done.stderr
    assert train.run().returncode == 0


@pytest.mark.parametrize(
    ("left", "margin", "seconds"),
    [(10_000, None, 9_100), (1_000, None, 750), (100, None, 75), (-5, None, 1), (1_000, 900, 100), (500, 900, 1)],
)
def test_a_margin_is_kept_where_there_is_time_for_one(
    monkeypatch: pytest.MonkeyPatch, left: float, margin: float | None, seconds: int
) -> None:
    monkeypatch.syspath_prepend(str(STEPS_FOLDER))
    import nemo_rl_train

    assert nemo_rl_train.must_save_by(left, margin) == seconds
    assert nemo_rl_train.as_duration(seconds + 86_400) == f"01:{seconds // 3600:02d}" + time.strftime(
        ":%M:%S", time.gmtime(seconds)
    )


def test_an_image_without_the_script_is_refused(train: Train) -> None:
    train.script.unlink()
    done = train.run()
    assert done.returncode == 78 and f"{train.script}: the image does not have this script" in done.stderr


CONVERTER = """
import json, os, sys
from pathlib import Path
import yaml
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
config = yaml.safe_load(Path(words["--config"]).read_text())
Path(os.environ["SEEN"]).write_text(json.dumps([Path(sys.argv[0]).stem, words, config]))
target = Path(words["--hf-ckpt-path"])
target.mkdir()  # as theirs, which refuse one that is there
for name in ("config.json", "model.safetensors"):
    (target / name).write_text(name)
"""


class Convert(Train):
    """Runs of nemo_rl_convert.py on a checkpoint with weights of one kind."""

    def checkpoint(self, *weights: str) -> Path:
        root = self.root / "run"
        for step in (2, 10):
            for name in (*weights, "../tokenizer/tokenizer.json"):
                path = root / f"step_{step}" / "policy" / "weights" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("x")
            config = {"policy": {"model_name": "/inputs/policy-0", "tokenizer": {"name": "/inputs/policy-0"}}}
            (root / f"step_{step}" / "config.yaml").write_text(yaml.safe_dump(config))
        return root

    def convert(self, source: Path) -> subprocess.CompletedProcess[str]:
        scripts = {kind: str(self.repository / "examples" / f"{kind}.py") for kind in ("dcp", "megatron")}
        for path in scripts.values():
            Path(path).write_text(CONVERTER)
        (self.root / "output").mkdir()
        wrapper = self.root / "python-of-megatron"
        wrapper.write_text(f'#!/bin/sh\necho started >>{self.root}/started\nexec {sys.executable} "$@"\n')
        wrapper.chmod(0o755)
        values = {
            "interpreter": str(wrapper),
            "scripts": scripts,
            "output": {"path": str(self.root / "output"), "shard_size": "5GB"},
        }
        values |= {"input": {"path": str(source), "config": "/inputs/config-0"}}
        config = {"base": {"values": values}, "layers": [], "remove": [], "set": []}
        (self.root / "slipway" / "plan.json").write_text(json.dumps({"config": config}))
        where = {"SLIPWAY_DIR": str(self.root / "slipway"), "SLIPWAY_STATE_DIR": str(self.root / "state")}
        program = [sys.executable, STEPS_FOLDER / "nemo_rl_convert.py"]
        env = os.environ | where | {"SEEN": str(self.root / "seen.json")}
        return subprocess.run(program, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("weights", "kind", "word", "path"),
    [
        (".metadata", "dcp", "--dcp-ckpt-path", ""),
        ("model/.metadata", "dcp", "--dcp-ckpt-path", ""),
        ("iter_0000000/metadata.json", "megatron", "--megatron-ckpt-path", "/iter_0000000"),
    ],
)
def test_what_is_inside_chooses_the_converter(tmp_path: Path, weights: str, kind: str, word: str, path: str) -> None:
    convert = Convert(tmp_path)
    source = convert.checkpoint(weights)
    done = convert.convert(source)
    assert done.returncode == 0, done.stderr
    script, words, config = json.loads((tmp_path / "seen.json").read_text())
    last = source / "step_10"
    assert (script, words[word]) == (kind, f"{last}/policy/weights{path}")
    assert (tmp_path / "started").exists() == (kind == "megatron"), "by the interpreter that has Megatron-Bridge"
    assert config["policy"] == {"model_name": "/inputs/config-0", "tokenizer": {"name": f"{last}/policy/tokenizer"}}
    made = sorted(p.name for p in (tmp_path / "output").iterdir())
    assert made == ["config.json", "model.safetensors", "tokenizer.json"]
    assert convert.result == {"checkpoint": str(tmp_path / "output"), "type": "checkpoint_hf", "step": "step_10"}


def test_one_step_may_be_named_and_consolidated_weights_are_taken_as_they_are(tmp_path: Path) -> None:
    convert = Convert(tmp_path)
    source = convert.checkpoint("model/consolidated/config.json", "model/consolidated/model.safetensors")
    done = convert.convert(source / "step_2")
    assert done.returncode == 0, done.stderr
    assert convert.result["step"] == "step_2" and not (tmp_path / "seen.json").exists()


def test_what_no_converter_reads_is_refused_with_what_to_train_with(tmp_path: Path) -> None:
    convert = Convert(tmp_path)
    done = convert.convert(convert.checkpoint("model/shard-00001.safetensors"))
    assert done.returncode == 78 and "checkpointing.save_consolidated=true" in done.stderr
    assert not any((tmp_path / "output").iterdir())


def imported(root: Path, interpreter: Path) -> subprocess.CompletedProcess[str]:
    """nemo_rl_import.py with a plan that Megatron's converter refuses before it needs any library."""
    for folder in ("slipway", "state/0/ranks"):
        (root / folder).mkdir(parents=True)
    values = {"interpreter": str(interpreter), "convert": {"direction": "sideways"}, "output": {"path": str(root)}}
    config = {"base": {"values": values}, "layers": [], "remove": [], "set": []}
    (root / "slipway" / "plan.json").write_text(json.dumps({"config": config}))
    env = os.environ | {"SLIPWAY_DIR": str(root / "slipway"), "SLIPWAY_STATE_DIR": str(root / "state")}
    program = PROJECT / "entrypoints" / "steps" / "nemo_rl_import.py"
    return subprocess.run([sys.executable, program], env=env, capture_output=True, text=True, check=False, timeout=60)


def test_the_import_runs_once_with_the_interpreter_that_has_bridge(tmp_path: Path) -> None:
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\necho started >>{tmp_path}/started\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    done = imported(tmp_path / "run", wrapper)
    assert (tmp_path / "started").read_text() == "started\n"
    assert done.returncode == 78 and "convert.direction: 'sideways' is none of" in done.stderr, done


def test_the_import_says_that_the_image_has_no_such_interpreter(tmp_path: Path) -> None:
    done = imported(tmp_path / "run", tmp_path / "nowhere")
    assert done.returncode == 78 and "the image has no environment for Megatron's workers" in done.stderr, done
