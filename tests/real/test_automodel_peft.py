"""LoRA with AutoModel through `launch`, and its merging: compared with what PEFT itself makes of the adapter."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from .conftest import Work
from .support import PROJECT, Run, Running, Tree

pytestmark = pytest.mark.real
BIN = Path(sys.executable).parent
EXAMPLE = PROJECT / "examples" / "peft" / "run.sh"
# Prints the largest differences of logits: merged - PEFT's model of base and adapter, and that - the base.
COMPARE = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, merged = sys.argv[1:]
def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
ids = torch.arange(3, 120)[None]
with torch.no_grad():
    start, ours = load(base)(input_ids=ids).logits, load(merged)(input_ids=ids).logits
    theirs = PeftModel.from_pretrained(load(base), adapter).eval()(input_ids=ids).logits
print(json.dumps([(ours - theirs).abs().max().item(), (theirs - start).abs().max().item()]))
"""


def words(work: Work, output: Path, *more: str) -> tuple[str, ...]:
    step = ("peft/automodel", "--flavour", "cpu", "-c", "tiny")
    return (*step, f"train={work.train}", f"model={work.model}", f"output={output}", *more)


def train(yard: Tree, work: Work, output: Path, *more: str) -> Run:
    done = yard.launch(*words(work, output, *more))
    assert done.code == 0, done
    return yard.run_of(done)


def test_an_adapter_knows_its_base_and_is_merged_as_peft_does(yard: Tree, work: Work, place: Path) -> None:
    command = ["bash", str(EXAMPLE), str(work.folder / "data"), str(work.model), str(place)]
    before = yard.all_runs()
    done = Running(command, yard.path, {**yard.env, "PATH": f"{BIN}:{yard.env['PATH']}"}).finish()
    assert done.code == 0, (done.out[-3000:], done.err[-3000:])
    run, merging = yard.since(before)
    adapter, merged = Path(run.outcome["checkpoint"]), place / "merged"
    assert (adapter, run.outcome["result"]["type"]) == (place / "lora" / "epoch_0_step_39" / "model", "checkpoint_lora")
    options = json.loads((adapter / "adapter_config.json").read_text())
    assert (options["r"], options["lora_alpha"], len(options["target_modules"])) == (8, 32, 28)
    model = run.record["plan"]["inputs"]["model"]
    record = {"base": model["fingerprint"], "base_path": str(work.model)}
    assert json.loads((adapter / "slipway.json").read_text()) == record
    assert run.outcome["result"]["last_loss"] < run.outcome["result"]["first_loss"]
    assert "28 of 39 tensors merged" in done.out and merging.outcome["result"]["base_compared"] is True
    off = re.search(r"28 of 39 tensors have changed; largest error of a merged weight: (\S+)", done.out)
    assert off and float(off[1]) < 1e-6, done.out  # it is computed with other instructions than in a run

    mounts = [word for p in (work.model, adapter, merged) for word in ("--mount", str(p))]
    program = ["python", "-c", COMPARE, str(work.model), str(adapter), str(merged)]
    told = yard.images("run", "modelopt", "--flavour", "cpu", *mounts, "--", *program)
    difference, change = json.loads(told.out.splitlines()[-1])
    assert difference < 1e-5 < 1e-2 < change, told.out  # PEFT's own merge_and_unload differs by some 1e-7

    step = ("convert/merge_lora_hf", "--flavour", "cpu", f"adapter={adapter}")
    done = yard.launch(*step, f"base={merged}", f"output={place / 'never'}")
    assert done.code in (65, 78), done  # by the rule before the launch, else by the program
    assert "was trained on" in done.err + done.out and "Traceback" not in done.out
    assert not list(place.glob("never/*"))


def test_two_processes_train_one_adapter(yard: Tree, work: Work, place: Path) -> None:
    run = train(yard, work, place / "lora", "max_steps=2", "checkpoint_every=1", "--procs", "2")
    assert (run.path / "container" / "0" / "ranks" / "1.pid").is_file()
    adapters = sorted(p.parent for p in (place / "lora").glob("epoch_*/model/adapter_model.safetensors"))
    assert [p.parent.name for p in adapters] == ["epoch_0_step_0", "epoch_0_step_1"]
    assert all((p / "slipway.json").is_file() for p in adapters)
