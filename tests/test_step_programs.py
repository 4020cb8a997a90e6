"""entrypoints/steps/: how configurations merge, and the AutoModel program on a library that is only its outline."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

STEPS = Path(__file__).parent.parent / "entrypoints" / "steps"
sys.path.insert(0, str(STEPS))

import slipway_step  # noqa: E402


def config(base: Any, *layers: Any, remove: Any = (), assign: Any = ()) -> dict[str, Any]:
    named = [{"name": str(i), "values": values} for i, values in enumerate(layers)]
    return {"base": {"values": base}, "layers": named, "remove": list(remove), "set": [list(pair) for pair in assign]}


@pytest.mark.parametrize(
    ("below", "above", "merged"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3, "d": 4}}, {"a": {"b": 1, "c": 3, "d": 4}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"a": 2}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": {"_target_": "X", "old": 1}}, {"a": {"_target_": "Y", "new": 2}}, {"a": {"_target_": "Y", "new": 2}}),
        ({"a": {"_target_": "X", "b": 1}}, {"a": {"_target_": "X", "c": 2}}, {"a": {"_target_": "X", "b": 1, "c": 2}}),
        ({"a": {"_target_": "X", "b": 1}}, {"a": {"b": 2}}, {"a": {"_target_": "X", "b": 2}}),
        ({"a": {"b": 1}}, {"a": {"_target_": "X"}}, {"a": {"b": 1, "_target_": "X"}}),
    ],
)
def test_a_layer_over_the_base(below: Any, above: Any, merged: Any) -> None:
    assert slipway_step.merge_config(config(below, above)) == merged


def test_layers_then_remove_then_set_in_order() -> None:
    merged = slipway_step.merge_config(
        config(
            {"a": 1, "gone": {"deep": 1}, "kept": {"x": 1, "y": 2}},
            {"a": 2},
            {"a": 3, "gone": {"more": 2}},
            remove=["gone", "kept.x", "never.there", "a.b", "kept.z"],
            assign=[("n.e.w", 1), ("n.e.w", 2), ("kept.z", [1])],
        )
    )
    assert merged == {"a": 3, "kept": {"y": 2, "z": [1]}, "n": {"e": {"w": 2}}}


def test_set_makes_a_mapping_where_nothing_is() -> None:
    assert slipway_step.merge_config(config({"a": None}, assign=[("a.b", 1)])) == {"a": {"b": 1}}


def test_set_names_what_is_in_the_way() -> None:
    with pytest.raises(slipway_step.ConfigError, match=r"a\.b\.c\.d: cannot be set, since a\.b is 5 and not a mapping"):
        slipway_step.merge_config(config({"a": {"b": 5}}, assign=[("a.b.c.d", 1)]))


def test_merging_changes_no_layer() -> None:
    plan = config({"a": {"b": 1}}, {"c": {"d": 1}}, remove=["a.b"], assign=[("c.d", 2)])
    before = json.dumps(plan)
    slipway_step.merge_config(plan)
    assert json.dumps(plan) == before


def test_a_base_in_the_image(tmp_path: Path) -> None:
    plan = {**config(None, {"a": {"c": 2}}), "base": {"path": str(tmp_path / "example.yaml")}}
    with pytest.raises(slipway_step.ConfigError, match=r"example\.yaml: the step starts from this file"):
        slipway_step.merge_config(plan)
    (tmp_path / "example.yaml").write_text("a: {b: 1.0e-5}\n")
    assert slipway_step.merge_config(plan) == {"a": {"b": 1.0e-5, "c": 2}}


LIBRARY = {
    "nemo_automodel-0.7.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: nemo_automodel\nVersion: 0.7.0\n",
    "nemo_automodel/cli/utils.py": "def resolve_recipe_name(name): return f'recipes.{name}'\n",
    "nemo_automodel/components/config/_arg_parser.py": (
        "import yaml\n"
        "def parse_args_and_load_config(path, argv):\n"
        "    print('configuration', path)\n"
        "    return yaml.safe_load(open(path))\n"
    ),
    "nemo_automodel/components/launcher/interactive.py": (
        "import importlib\n"
        "def resolve_recipe_cls(target):\n"
        "    module, name = target.rsplit('.', 1)\n"
        "    return getattr(importlib.import_module(module), name)\n"
    ),
    "recipes.py": '''
import json, logging, os, pathlib, types
class Recipe:
    """Logs, records and saves as AutoModel's recipe does, and does what `fake` in the configuration says."""
    def __init__(self, config):
        self.config, self.output = config, pathlib.Path(config["checkpoint"]["checkpoint_dir"])
    def setup(self):
        fake = self.config["fake"]
        if "fails" in fake:
            raise ValueError(fake["fails"])
        logging.getLogger().setLevel(logging.INFO)
        epochs = {"num_epochs": 1, "epoch_len": 6}
        self.step_scheduler = types.SimpleNamespace(step=fake["first"], max_steps=fake["max"], **epochs)
    def run_train_validation_loop(self):
        fake = self.config["fake"]
        for step in range(fake["first"], fake["last"] + 1):
            logging.info(f"step {step} | epoch 0 | loss {9 - step:.4f} | grad_norm 1.0")
            if os.environ.get("RANK", "0") == "0":
                with (self.output / "training.jsonl").open("a") as f:
                    f.write(json.dumps({"step": step, "loss": 9 - step}) + "\\n")
            self.step_scheduler.step = step + 1
        logging.info('[val] name "default" | step 3 | epoch 0 | loss 1.0')
        if os.environ.get("RANK", "0") == "0":
            for name in fake["writes"]:
                path = self.output / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
''',
}
FOLDER = "epoch_0_step_{}/model/consolidated"
MODEL = {"fingerprint": "f" * 64, "path": "/data/llama", "type": "checkpoint_hf"}


class Step:
    """A run of automodel_finetune.py."""

    def __init__(self, root: Path) -> None:
        self.root, self.output = root, root / "output"
        for name, text in LIBRARY.items():
            (root / "site" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "site" / name).write_text(text)
        for folder in ("slipway", "run/0/ranks", "output"):
            (root / folder).mkdir(parents=True)
        self.config: dict[str, Any] = {"recipe": "Recipe", "checkpoint": {"checkpoint_dir": str(self.output)}}

    def run(self, rank: int = 0, **fake: Any) -> subprocess.CompletedProcess[str]:
        fake = {"first": 0, "last": 3, "max": 4, "writes": self.checkpoint(fake.get("last", 3))} | fake
        plan = {"config": config(self.config, {"fake": fake}), "inputs": {"model": MODEL}}
        (self.root / "slipway" / "plan.json").write_text(json.dumps(plan))
        env = {
            **os.environ,
            "PYTHONPATH": str(self.root / "site"),
            "SLIPWAY_DIR": str(self.root / "slipway"),
            "SLIPWAY_STATE_DIR": str(self.root / "run"),
            "RANK": str(rank),
        }
        program = [sys.executable, str(STEPS / "automodel_finetune.py")]
        return subprocess.run(program, env=env, capture_output=True, text=True, check=False)

    def checkpoint(self, step: int) -> list[str]:
        return [f"{FOLDER.format(step)}/config.json", f"{FOLDER.format(step)}/model-00001-of-00001.safetensors"]

    def read(self, name: str) -> str:
        return (self.root / "run" / name).read_text()

    @property
    def result(self) -> dict[str, Any]:
        return json.loads(self.read("result.json"))


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return Step(tmp_path)


def test_the_result_names_the_checkpoint(step: Step) -> None:
    done = step.run()
    assert done.returncode == 0, done.stderr
    assert step.result == {
        "checkpoint": str(step.output / FOLDER.format(3)),
        "type": "checkpoint_hf",
        "steps": 4,
        "total_steps": 4,
        "stopped": False,
        "steps_of_this_run": 4,
        "first_loss": 9,
        "last_loss": 6,
        "record": str(step.output / "training.jsonl"),
    }
    assert yaml.safe_load(step.read("config.yaml"))["recipe"] == "Recipe"
    assert int(step.read("0/ranks/0.pid")) > 0


def test_every_step_is_one_line_on_stdout_with_the_total(step: Step) -> None:
    out = step.run().stdout.splitlines()
    lines = [line.rpartition("root | ")[2] for line in out if "| loss" in line]
    assert re.fullmatch(r"step 1/4 \| epoch 0 \| loss 9\.0000 \| grad_norm 1\.0 \| step_s \d+\.\d{3}", lines[0])
    assert lines[3].startswith("step 4/4 | epoch 0 | loss 6.0000 | grad_norm 1.0 | step_s ")
    assert lines[4] == '[val] name "default" | step 3 | epoch 0 | loss 1.0'
    assert len(lines) == 5


def test_epochs_may_end_before_max_steps(step: Step) -> None:
    assert step.run(last=5, max=100).returncode == 0
    assert (step.result["total_steps"], step.result["stopped"]) == (6, False)


def test_a_run_that_was_told_to_stop_has_a_result_too(step: Step) -> None:
    assert step.run(last=1).returncode == 0
    assert (step.result["steps"], step.result["total_steps"], step.result["stopped"]) == (2, 4, True)


def test_other_ranks_leave_only_their_pid(step: Step) -> None:
    done = step.run(rank=1)
    assert done.returncode == 0, done.stderr
    assert "| loss" not in done.stdout
    assert sorted(p.name for p in (step.root / "run").rglob("*") if p.is_file()) == ["1.pid"]


def test_an_output_with_checkpoints_is_refused_unless_it_is_resumed(step: Step) -> None:
    assert step.run(last=1).returncode == 0
    done = step.run(first=2)
    assert done.returncode == 78
    assert "already holds epoch_0_step_1, and checkpoint.restore_from is not set" in done.stderr
    assert step.read("0/refused").startswith("checkpoint.checkpoint_dir: ")
    step.config["checkpoint"]["restore_from"] = "LATEST"
    assert step.run(first=2).returncode == 0
    assert step.result["checkpoint"].endswith(FOLDER.format(3))
    assert (step.result["steps_of_this_run"], step.result["first_loss"], step.result["last_loss"]) == (2, 7, 6)


def test_a_resumed_run_may_have_nothing_left_to_do(step: Step) -> None:
    assert step.run().returncode == 0
    step.config["checkpoint"]["restore_from"] = "LATEST"
    assert step.run(first=4).returncode == 0
    assert (step.result["steps"], step.result["steps_of_this_run"], step.result["first_loss"]) == (4, 0, None)


@pytest.mark.parametrize(
    ("writes", "reason"),
    [
        ([], "no checkpoint of step 3, the last one trained; there: none"),
        (
            ["epoch_0_step_1/model/consolidated/config.json"],
            "no checkpoint of step 3, the last one trained; there: epoch_0_step_1",
        ),
        (["epoch_0_step_3/model/shard-00001.safetensors"], "expected config.json and *.safetensors"),
        (["epoch_0_step_3/model/consolidated/config.json"], "expected config.json and *.safetensors"),
    ],
)
def test_a_missing_checkpoint_is_an_error(step: Step, writes: list[str], reason: str) -> None:
    done = step.run(writes=writes)
    assert done.returncode == 1
    assert reason in done.stderr
    assert reason in step.read("0/reason")
    assert not (step.root / "run" / "result.json").exists()


def test_a_checkpoint_that_was_not_finished_is_an_error(step: Step) -> None:
    done = step.run(writes=[*step.checkpoint(3), "epoch_0_step_3/.incomplete"])
    assert done.returncode == 1
    assert "did not finish writing this checkpoint" in done.stderr


def test_every_adapter_says_beside_itself_which_base_it_was_trained_on(step: Step) -> None:
    step.config["peft"] = {"dim": 4}
    files = ("adapter_config.json", "adapter_model.safetensors")
    done = step.run(writes=[f"epoch_0_step_{n}/model/{name}" for n in (1, 3) for name in files])
    assert done.returncode == 0, done.stderr
    adapter = step.output / "epoch_0_step_3" / "model"
    assert (step.result["checkpoint"], step.result["type"]) == (str(adapter), "checkpoint_lora")
    records = [step.output / f"epoch_0_step_{n}" / "model" / "slipway.json" for n in (1, 3)]
    assert [json.loads(r.read_text()) for r in records] == [{"base": "f" * 64, "base_path": "/data/llama"}] * 2


def test_an_adapter_without_its_weights_is_an_error(step: Step) -> None:
    step.config["peft"] = {"dim": 4}
    done = step.run(writes=["epoch_0_step_3/model/adapter_config.json"])
    assert done.returncode == 1 and not (step.root / "run" / "result.json").exists()
    assert "AutoModel has not written adapter_model.safetensors" in done.stderr


def test_what_the_recipe_raises_stays_visible(step: Step) -> None:
    done = step.run(fails="global_batch_size (16) must be divisible")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "in setup" in done.stderr
    assert step.read("0/reason") == "ValueError: global_batch_size (16) must be divisible\n"


def test_the_first_reason_is_kept(step: Step) -> None:
    step.run(fails="the cause")
    step.run(fails="a consequence", rank=1)
    assert step.read("0/reason") == "ValueError: the cause\n"


def test_our_configurations_fit_together() -> None:
    folder = STEPS.parent.parent / "launcher" / "steps" / "sft" / "automodel"
    layers = [yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("base", "default", "tiny")]
    merged = slipway_step.merge_config(config(*layers, assign=[("dataset.path_or_dataset_id", "/inputs/x")]))
    assert merged["dataset"]["seq_length"] == 128 and merged["dataset"]["truncation"] is True
    batches = merged["step_scheduler"]
    assert batches["global_batch_size"] % (4 * batches["local_batch_size"]) == 0  # four processes at most


def test_a_sealed_folder_says_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slipway_step, "OUTPUT", tmp_path)
    monkeypatch.setenv("SLIPWAY_RUN", "the-run")
    (tmp_path / "iter_0000000").mkdir()
    (tmp_path / "iter_0000000" / "w").write_bytes(b"12345")
    slipway_step.seal(None)
    assert not (tmp_path / "slipway.json").exists()
    slipway_step.seal({"folder": "model_a", "model": "/m"})
    made = json.loads((tmp_path / "slipway.json").read_text())
    assert (made.pop("finished")[-1], made) == (
        "Z",
        {"folder": "model_a", "model": "/m", "schema": 1, "run": "the-run", "files": {"iter_0000000/w": 5}},
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["iter_0000000", "slipway.json"]


def test_a_result_is_json_and_names_what_is_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slipway_step, "STATE", tmp_path)
    odd = {"last_loss": float("nan"), "info": {"ppl": [1.5, float("inf")], "low": (float("-inf"),)}, "steps": 3}
    slipway_step.write_result(odd)
    assert json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail) == {
        "last_loss": None, "info": {"ppl": [1.5, None], "low": [None]}, "steps": 3,
        "not_finite": {"last_loss": "NaN", "info.ppl.1": "Infinity", "info.low.0": "-Infinity"},
    }  # fmt: skip
    assert "not finite: last_loss is NaN, info.ppl.1 is Infinity" in capsys.readouterr().err
    slipway_step.write_result({"last_loss": 1.5})
    assert json.loads((tmp_path / "result.json").read_text()) == {"last_loss": 1.5}


def test_a_reason_that_is_no_text_is_left_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_NODE_DIR", str(tmp_path))
    slipway_step.leave("reason", "ValueError: no \udcff\n file")
    assert (tmp_path / "reason").read_text() == "ValueError: no \\udcff file\n"
