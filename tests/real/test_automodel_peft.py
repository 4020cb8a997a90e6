"""LoRA with AutoModel through `launch`, and its merging: compared with what PEFT itself makes of the adapter."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from .support import PROJECT, Tree
from .tried import Tried

pytestmark = pytest.mark.real
EXAMPLE = PROJECT / "examples" / "peft"
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


def test_an_adapter_knows_its_base_and_is_merged_as_peft_does(
    yard: Tree, tried: Callable[[str], Tried], place: Path
) -> None:
    """What a selftest has made of both, and the example's own look at it."""
    found = tried("automodel")
    run, merging = found.run("peft/automodel"), found.run("convert/merge_lora_hf")
    base, adapter, merged = found.material("model"), found.made("peft/automodel"), found.made("convert/merge_lora_hf")
    assert (adapter.name, run.outcome["result"]["type"]) == ("model", "checkpoint_lora")
    options = json.loads((adapter / "adapter_config.json").read_text())
    assert (options["r"], options["lora_alpha"], len(options["target_modules"])) == (4, 8, 28)
    model = run.record["plan"]["inputs"]["model"]
    assert json.loads((adapter / "slipway.json").read_text()) == {"base": model["fingerprint"], "base_path": str(base)}
    assert run.outcome["result"]["last_loss"] < run.outcome["result"]["first_loss"]
    assert "28 of 39 tensors merged" in merging.log and merging.outcome["result"]["base_compared"] is True
    example = ["--mount", str(EXAMPLE), *found.mounts]
    program = ["python", str(EXAMPLE / "verify.py"), str(base), str(adapter), str(merged)]
    done = yard.images("run", "automodel", "--flavour", "cpu", *example, "--", *program)
    off = re.search(r"28 of 39 tensors have changed; largest error of a merged weight: (\S+)", done.out)
    assert off and float(off[1]) < 1e-6, done  # it is computed with other instructions than in a run

    program = ["python", "-c", COMPARE, str(base), str(adapter), str(merged)]
    told = yard.images("run", "modelopt", "--flavour", "cpu", *found.mounts, "--", *program)
    difference, change = json.loads(told.out.splitlines()[-1])
    assert difference < 1e-5 < 1e-2 < change, told.out  # PEFT's own merge_and_unload differs by some 1e-7

    step = ("convert/merge_lora_hf", "--flavour", "cpu", f"adapter={adapter}")
    done = yard.launch(*step, f"base={merged}", f"output={place / 'never'}")
    assert done.code in (65, 78), done  # by the rule before the launch, else by the program
    assert "was trained on" in done.err + done.out and "Traceback" not in done.out
    assert not list(place.glob("never/*"))


def test_two_processes_train_one_adapter(tried: Callable[[str], Tried]) -> None:
    """By the selftest, which has two."""
    found = tried("automodel")
    assert (found.run("peft/automodel").path / "container" / "0" / "ranks" / "1.pid").is_file()
    saved = sorted(found.output("peft/automodel").glob("epoch_*/model/adapter_model.safetensors"))
    assert len(saved) > 1 and all(path.with_name("slipway.json").is_file() for path in saved)
