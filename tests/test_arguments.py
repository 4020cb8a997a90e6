"""launcher/core/arguments.py: the words behind a step, sorted and typed, or refused with the nearest word."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from launcher.catalog.definitions import Parameter, Step
from launcher.core.arguments import Arguments, parse
from slipway.errors import Exit, SlipwayError

INPUTS = ("train=/data/a=b.jsonl", "model=/data/llama")


@pytest.fixture(scope="module")
def wider(step: Step) -> Step:
    """The step with a parameter of every type."""
    more = {
        "shuffle": Parameter(type="bool", keys=["dataloader.shuffle"], help=""),
        "precision": Parameter(type="str", keys=["model.torch_dtype"], help="", choices=["float32", "bfloat16"]),
        "title": Parameter(type="str", keys=["wandb.name"], help=""),
    }
    return msgspec.structs.replace(step, parameters=step.parameters | more)


def test_words_are_sorted_by_what_they_name(step: Step) -> None:
    words = parse(step, (*INPUTS, "output=/out", "max_steps=3", "optimizer.lr=1", "learning_rate=1e-5"))
    assert words == Arguments(
        inputs={"train": "/data/a=b.jsonl", "model": "/data/llama"},
        output="/out",
        parameters={"max_steps": 3, "learning_rate": 1e-5},
        overrides={"optimizer.lr": 1},
    )


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("max_steps=12", 12),
        ("max_steps=-1", -1),
        ("learning_rate=3", 3.0),
        ("learning_rate=1e-5", 1e-5),
        ("shuffle=true", True),
        ("shuffle=false", False),
        ("precision=bfloat16", "bfloat16"),
        ("title=12", "12"),
        ("title=", ""),
    ],
)
def test_a_parameter_has_its_own_type(wider: Step, word: str, value: Any) -> None:
    (found,) = parse(wider, (*INPUTS, word)).parameters.values()
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("1e-5", 1e-5),
        ("-2E6", -2e6),
        ("1.0e-5", 1e-5),
        ("true", True),
        ("null", None),
        ("", None),
        ("text", "text"),
        ('"3"', "3"),
        ("a=b", "a=b"),
        ("[1, {a: b}]", [1, {"a": "b"}]),
        ("torch.optim.AdamW", "torch.optim.AdamW"),
    ],
)
def test_an_override_is_what_it_looks_like_in_yaml(step: Step, text: str, value: Any) -> None:
    (found,) = parse(step, (*INPUTS, f"optimizer.some_key={text}")).overrides.values()
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("word", "what", "remedy"),
    [
        ("trian=x", "sft/automodel has no input or parameter 'trian'", "did you mean 'train'?"),
        ("max_step=3", "sft/automodel has no input or parameter 'max_step'", "did you mean 'max_steps'?"),
        ("outptu=x", "sft/automodel has no input or parameter 'outptu'", "did you mean 'output'?"),
        ("max_steps=ten", "'ten' is not a whole number", ""),
        ("max_steps=1.5", "'1.5' is not a whole number", ""),
        ("max_steps=", "'' is not a whole number", ""),
        ("learning_rate=fast", "'fast' is not a number", ""),
        ("learning_rate=nan", "'nan' is not a number", ""),
        ("learning_rate=inf", "'inf' is not a number", ""),
        ("shuffle=yes", "'yes' is not true or false", ""),
        ("precision=bfloat61", "'bfloat61' is not allowed", "did you mean 'bfloat16'?"),
        ("optimiser.lr=1", "sft/automodel has no configuration root 'optimiser'", "did you mean 'optimizer'?"),
        ("max_steps=1", "max_steps is given twice", ""),
        ("optimizer.lr=2", "optimizer.lr is given twice", ""),
        ("validation=", "a path is missing behind the =", ""),
        ("output=", "a path is missing behind the =", ""),
        ("output=hf://org/data", "hf:// is for inputs", "name a folder of this machine"),
    ],
)
def test_a_word_that_fits_nothing_is_named_with_what_was_meant(wider: Step, word: str, what: str, remedy: str) -> None:
    before = ("max_steps=1", "optimizer.lr=1") if "twice" in what else ()
    with pytest.raises(SlipwayError) as e:
        parse(wider, (*INPUTS, *before, word))
    assert (e.value.code, e.value.where, e.value.what, e.value.remedy) == (Exit.WORDS, word, what, remedy)


@pytest.mark.parametrize(
    "word", ["optimizer.lr", "max_steps", "=3", "a b=3", "optimizer.=3", ".lr=3", "optimizer..lr=3", "3=3", "--x"]
)
def test_a_word_of_another_form_is_refused(step: Step, word: str) -> None:
    with pytest.raises(SlipwayError, match=r"not of the form name=value or section\.key=value") as e:
        parse(step, (*INPUTS, word))
    assert (e.value.code, e.value.where) == (Exit.WORDS, word)


@pytest.mark.parametrize("word", ["+optimizer.lr=1", "++optimizer.lr=1", "~optimizer.lr", "~optimizer.lr=1"])
def test_hydras_prefixes_are_answered_with_what_to_write(step: Step, word: str) -> None:
    with pytest.raises(SlipwayError, match="automodel takes no Hydra prefixes") as e:
        parse(step, (*INPUTS, word))
    assert (e.value.code, e.value.where) == (Exit.WORDS, word)
    assert e.value.remedy.startswith("write optimizer.lr=VALUE")


@pytest.mark.parametrize(
    ("key", "owned", "remedy"),
    [
        ("model.pretrained_model_name_or_path", "model.pretrained_model_name_or_path", "set it by model="),
        ("dataset.path_or_dataset_id", "dataset.path_or_dataset_id", "set it by train="),
        ("dataset.path_or_dataset_id.x", "dataset.path_or_dataset_id", "set it by train="),
        ("checkpoint.checkpoint_dir", "checkpoint.checkpoint_dir", "set it by output="),
        ("checkpoint.enabled", "checkpoint.enabled", ""),
    ],
)
def test_keys_that_the_launcher_wires_name_the_word_that_sets_them(
    step: Step, key: str, owned: str, remedy: str
) -> None:
    with pytest.raises(SlipwayError) as e:
        parse(step, (*INPUTS, f"{key}=x"))
    assert (e.value.code, e.value.where) == (Exit.WORDS, f"{key}=x")
    assert (e.value.what, e.value.remedy) == (f"{owned} is wired by the launcher", remedy)


@pytest.mark.parametrize("text", ["[1", "{a: 1, a: 2}", "*x", ".nan", "2026-01-01", "{1: 2}"])
def test_an_override_that_is_no_plain_yaml_is_a_wrong_word(step: Step, text: str) -> None:
    with pytest.raises(SlipwayError) as e:
        parse(step, (*INPUTS, f"optimizer.lr={text}"))
    assert (e.value.code, e.value.where) == (Exit.WORDS, f"optimizer.lr={text}")


def test_an_override_below_an_input_that_is_not_given_is_refused(step: Step) -> None:
    with pytest.raises(
        SlipwayError, match=r"validation_dataset\.seq_length means nothing without validation=PATH"
    ) as e:
        parse(step, (*INPUTS, "validation_dataset.seq_length=3"))
    assert e.value.code == Exit.WORDS
    assert parse(step, (*INPUTS, "validation=/v", "validation_dataset.seq_length=3")).overrides


def test_every_input_that_is_missing_is_named_with_its_type_and_help(step: Step) -> None:
    with pytest.raises(SlipwayError) as e:
        parse(step, ("max_steps=3",))
    assert e.value.code == Exit.WORDS
    assert e.value.what == (
        f"sft/automodel needs train=PATH (chat_jsonl: {step.inputs['train'].help}); "
        f"model=PATH (checkpoint_hf: {step.inputs['model'].help})"
    )
