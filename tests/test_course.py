"""launcher/selftest/course.py: which steps a selftest runs, in which order and with which words, and which not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from helpers import IMAGE, REPO, engine_of

from images.locking import lock as locks
from images.locking.model import Flavour
from launcher.catalog import definitions
from launcher.catalog.definitions import Step
from launcher.catalog.trials import Selftest
from launcher.core.plan import ImageInfo
from launcher.selftest import course, materials
from launcher.selftest.course import Lesson, Place
from slipway.errors import SlipwayError
from slipway.project import Root

ROOT = Root(REPO)
STEPS = {step.id: step for step in definitions.all_steps(ROOT)}
BUILT = ImageInfo(id=IMAGE, recorded=1)


def lessons(
    flavour: Flavour, gpus: int | None = 8, image: ImageInfo = BUILT, steps: dict[str, Step] = STEPS, error: str = ""
) -> dict[str, Lesson]:
    """By step, in their order."""
    lock = locks.load_lock(ROOT)
    places = {
        name: Place(locks.select(lock, name, flavour), engine_of(error=error), image, gpus)
        for name in {step.library for step in steps.values()}
    }
    return {lesson.step: lesson for lesson in course.course(list(steps.values()), places)}


@pytest.mark.parametrize("name", STEPS)
def test_every_step_says_what_its_selftest_takes(name: str) -> None:
    """A new step needs `selftest:`, with all that it cannot do without, and a `tiny` configuration."""
    step = STEPS[name]
    assert step.selftest is not None, "say it in step.yaml: docs/step-yaml.md"
    assert {n for n, wanted in step.inputs.items() if not wanted.optional} <= step.selftest.inputs.keys()
    assert definitions.overlay(step, course.TINY)


@pytest.mark.parametrize("flavour", ["cpu", "cuda"])
def test_each_comes_behind_those_whose_outputs_it_takes(flavour: Flavour) -> None:
    found = lessons(flavour)
    assert found.keys() == STEPS.keys()
    order = list(found)
    for name, lesson in found.items():
        taken = [order.index(of) for of in lesson.inputs.values() if of in STEPS]
        assert all(n < order.index(name) for n in taken), name
    libraries = [STEPS[name].library for name in order]
    assert libraries == sorted(libraries)  # one image after the other


def test_what_is_made_of_another_step_s_output_is_said_by_its_step() -> None:
    lesson = lessons("cpu")["sft/megatron_bridge"]
    assert lesson.inputs["model"] == "convert/hf_to_megatron" and lesson.inputs["tokenizer"] == "model"
    assert lesson.options == ["--flavour", "cpu", "--release", "0.6.2", "--procs", "2", "-c", "tiny"]
    assert lessons("cuda")["sft/megatron_bridge"].options[4:6] == ["--gpus", "1"]
    assert lessons("cuda")["data_prep/sft_packing"].options[4:6] == ["--gpus", "0"]


def test_what_a_run_cannot_have_is_left_out() -> None:
    left = {name: lesson.why for name, lesson in lessons("cuda", gpus=1).items() if lesson.why}
    assert left == {"rl/nemo_rl/rlhf": "takes 2 GPUs, and a run can have 1"}
    assert not any(lesson.why for lesson in lessons("cuda", gpus=None).values())  # the queue will tell
    assert lessons("cuda", gpus=0)["sft/automodel"].why == "takes 1 GPU, and a run can have none"
    assert not lessons("cuda", gpus=0)["data_prep/sft_packing"].why


@pytest.mark.parametrize(
    ("image", "step", "why"),
    [
        (ImageInfo(), "sft/automodel", "no image: it has not been built; images build automodel --release 0.7.0"),
        (ImageInfo(missing="no .sqsh", remedy="run: x"), "sft/automodel", "no image: no .sqsh; run: x"),
        (ImageInfo(id=IMAGE, left_out=["nemo-rl"]), "rl/nemo_rl/grpo", "its image was built without nemo-rl"),
        (ImageInfo(id=IMAGE, left_out=["nemo-rl"]), "data_prep/rl_prep", ""),
        (ImageInfo(id=IMAGE, drift={"a": "b"}), "sft/automodel", "its image has b in place of a"),
    ],
)
def test_what_no_image_can_run_is_left_out(image: ImageInfo, step: str, why: str) -> None:
    found = lessons("cpu", image=image)[step]
    assert found.why.startswith(why) and bool(found.why) == bool(why) and found.fits


def test_an_engine_that_does_not_answer_holds_none() -> None:
    assert {lesson.why for lesson in lessons("cpu", error="it is gone").values()} == {"it is gone"}


def test_a_step_that_the_entry_does_not_run_is_no_part_of_it() -> None:
    steps = {"x": msgspec.structs.replace(STEPS["sft/automodel"], id="x", commands=[])}
    assert not lessons("cpu", steps=steps)["x"].fits
    steps = {"x": msgspec.structs.replace(STEPS["sft/automodel"], id="x", selftest=None)}
    assert lessons("cpu", steps=steps)["x"].why == "its step.yaml has no `selftest:`"


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"trian": "chats"}, "selftest.inputs.trian: sft/automodel has no input 'trian'\n  did you mean 'train'?"),
        ({"train": "chat"}, "selftest.inputs.train: unknown input 'chat'\n  did you mean 'chats'?"),
        ({"train": "model"}, "selftest.inputs.train: model is checkpoint_hf, expected chat_jsonl"),
        ({"model": "optimize/modelopt/prune"}, "selftest.inputs.model: optimize/modelopt/prune runs in modelopt's"),
        ({"model": "peft/automodel"}, "selftest.inputs.model: peft/automodel is checkpoint_lora, expected"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named_with_its_line(inputs: dict[str, str], said: str) -> None:
    step = msgspec.structs.replace(STEPS["sft/automodel"], selftest=Selftest(inputs=inputs))
    with pytest.raises(SlipwayError) as e:
        lessons("cpu", steps={**STEPS, step.id: step})
    where, _, rest = str(e.value).partition(": ")
    assert e.value.code == 78 and rest.startswith(said), str(e.value)
    file, line, _ = where.rsplit(":", 2)
    assert Path(file).name == "step.yaml" and "selftest:" in Path(file).read_text().splitlines()[int(line) - 1]


def test_a_circle_is_refused() -> None:
    step = msgspec.structs.replace(STEPS["sft/automodel"], selftest=Selftest(inputs={"model": "sft/automodel"}))
    with pytest.raises(SlipwayError, match="in a circle: sft/automodel -> sft/automodel"):
        lessons("cpu", steps={step.id: step})


def test_every_material_is_taken_by_some_step() -> None:
    taken = {of for step in STEPS.values() for of in (step.selftest or Selftest()).inputs.values()}
    assert materials.MATERIALS.keys() <= taken
