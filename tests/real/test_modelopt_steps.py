"""Model Optimizer through `launch`, in its cpu image, on a tiny real model: what comes out is read back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Work, spoil
from .support import PROJECT, Done, Run, Tree
from .tried import Tried

pytestmark = pytest.mark.real


def launch(yard: Tree, step: str, *words: str) -> tuple[Done, Run]:
    """A launch that has to succeed, and its run."""
    done = yard.launch(f"optimize/modelopt/{step}", "--flavour", "cpu", "-c", "tiny", *words)
    assert done.code == 0, (done.out[-4000:], done.err[-2000:])
    return done, yard.run_of(done)


def verify(yard: Tree, name: str, mounts: list[str], *words: Path) -> Done:
    """An example's look at what was made, which has to find nothing wrong."""
    folder = PROJECT / "examples" / name
    program = ("python", str(folder / "verify.py"), *map(str, words))
    done = yard.images("run", "modelopt", "--flavour", "cpu", "--mount", str(folder), *mounts, "--", *program)
    assert done.code == 0, (done.out[-3000:], done.err[-3000:])
    return done


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


FORMATS = {"fp8": "FP8", "int8": "W8A8_SQ_PER_CHANNEL", "nvfp4": "NVFP4"}


@pytest.mark.parametrize("format_", ["fp8", *(pytest.param(f, marks=pytest.mark.long) for f in ("int8", "nvfp4"))])
def test_what_is_quantized_is_read_back_by_its_scales(
    yard: Tree, tried: Callable[[str], Tried], place: Path, format_: str
) -> None:
    """fp8, the default, by the selftest."""
    found = tried("modelopt")
    model, run = found.material("model"), found.run("optimize/modelopt/quantize")
    if format_ != "fp8":
        words = (f"format={format_}", f"model={model}", f"calibration={found.material('chats')}")
        _, run = launch(yard, "quantize", *words, f"output={place / 'out'}")
    made = Path(run.outcome["checkpoint"])
    done = verify(yard, "quantize", [*found.mounts, "--mount", str(place)], model, made)
    assert re.findall(r"(\w+): 28 matrices with scales, 11 tensors without", done.out) == [FORMATS[format_]]
    result = run.outcome["result"]
    assert (result["format"], result["quantized_layers"]) == (format_, 28)
    assert (result["calibration"], result["calibration_samples"]) == ("chat_jsonl", 16)


def test_without_conversations_it_calibrates_on_random_tokens_and_says_so(yard: Tree, work: Work, place: Path) -> None:
    done, run = launch(yard, "quantize", f"model={work.model}", "format=mxfp8", f"output={place / 'out'}")
    assert "calibration: random tokens say little about the model" in done.out
    assert (run.outcome["result"]["calibration"], run.outcome["result"]["algorithm"]) == ("random tokens", "MXFP8")


def test_a_layer_that_cannot_be_packed_is_refused_in_one_line(yard: Tree, work: Work, place: Path) -> None:
    words = ("optimize/modelopt/quantize", "--flavour", "cpu", "-c", "tiny", "format=int4_awq", f"model={work.model}")
    done = yard.launch(*words, f"output={place / 'out'}")
    assert done.code == 78 and "Traceback" not in done.out
    assert "int4_awq takes groups of 128 input features, and model.layers.0." in done.out
    assert not list((place / "out").iterdir())


def test_a_pruned_model_is_smaller_and_learns_from_the_whole_one(yard: Tree, tried: Callable[[str], Tried]) -> None:
    found = tried("modelopt")
    pruning, distilling = found.run("optimize/modelopt/prune"), found.run("optimize/modelopt/distill")
    pruned, student = (Path(run.outcome["checkpoint"]) for run in (pruning, distilling))
    result = pruning.outcome["result"]
    assert "method: importance hooks with slicing of our own, not Minitron" in pruning.log
    assert (config_of(pruned)["intermediate_size"], config_of(pruned)["num_hidden_layers"]) == (128, 3)
    # An MLP of 3 x 64 x 192 becomes one of 128; one layer with its attention (12,288) and norms (128) goes.
    assert result["parameters_before"] - result["parameters"] == 3 * 3 * 64 * 64 + 3 * 64 * 192 + 12_288 + 128
    assert len(result["layers_kept"]) == 3 and result["loss"] < result["loss_before"] + 0.5

    assert (distilling.path / "container" / "0" / "ranks" / "0.pid").is_file()
    assert distilling.outcome["result"]["steps"] == 20 and "loss on the assistant's tokens" in distilling.log
    assert config_of(student)["num_hidden_layers"] == 3
    chats, model = found.material("chats_validation"), found.material("model")
    done = verify(yard, "distill", found.mounts, chats, model, pruned, student)
    before, after = re.findall(r"divergence from the teacher ([0-9.]+) -> ([0-9.]+) per token", done.out)[0]
    assert 0 < float(after) < 0.75 * float(before)


def test_a_quantization_is_rehearsed_to_its_export(yard: Tree, work: Work, place: Path) -> None:
    """Every row of the calibration, beyond those that it takes; then the format on a small model."""
    spoil(work, place)
    words = (f"calibration={place / 'chats.jsonl'}", "calibration_samples=3", "format=nvfp4", f"output={place / 'out'}")
    done = yard.launch("rehearse", "optimize/modelopt/quantize", "--flavour", "cpu", f"model={place / 'llama'}", *words)
    assert done.code == 65, done
    assert f"error: {place / 'chats.jsonl'}:5: TemplateError: too many\n" in done.err
    assert "calibration 12 rows, of which the first 3 are taken; tokens a row: " in done.out
    assert "steps       calibrated by 2 samples of chat_jsonl; nvfp4: 14 layers quantized" in done.out
    assert re.search(r"^steps       exported as NVFP4: .*hf_quant_config\.json, model\.safetensors", done.out, re.M)
    assert "[[" not in done.out and not (place / "out").exists()  # nothing is learned


@pytest.mark.long
def test_a_distillation_is_rehearsed_by_two_small_models(yard: Tree, work: Work) -> None:
    words = (f"teacher={work.model}", f"student={work.model}", f"train={work.train}", "seq_length=64")
    done = yard.launch("rehearse", "optimize/modelopt/distill", "--flavour", "cpu", *words, "--json")
    assert done.code == 0, done
    found = json.loads(done.out)
    first = json.loads(work.train.read_text().splitlines()[0])["messages"]
    learned = [p["text"] for p in found["data"]["train"]["samples"][0]["pieces"] if p["learned"]]
    assert learned == [first[-1]["content"] + "<|im_end|>"]
    assert len(found["steps"]["losses"]) == 2 and all(loss > 0 for loss in found["steps"]["losses"])
    assert {d["what"] for d in found["differs"]} >= {"weights of teacher", "weights of student", "training.max_steps"}


@pytest.mark.long
def test_a_pruning_is_rehearsed_by_the_rules_of_the_run(yard: Tree, work: Work) -> None:
    words = ("optimize/modelopt/prune", "--flavour", "cpu", f"model={work.model}", f"calibration={work.train}")
    done = yard.launch("rehearse", *words, "ffn_hidden_size=128", "num_layers=3")
    assert done.code == 0 and "steps       ffn_hidden_size and num_layers cut to half, by importance hooks" in done.out
    done = yard.launch("rehearse", *words, "ffn_hidden_size=4096")
    assert done.code == 78 and "prune.ffn_hidden_size: 4096 is more than the model's 192" in done.err
