"""`launch rehearse` of NeMo RL's steps, by its own data path and its own check of the configuration.

Skipped but where NEMO_RL_SOURCE names NeMo RL's source (see nemo_rl/site.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .nemo_rl.site import Mill, milled
from .support import Done, Tree

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def mill(project: Tree, ground: Path, address: str) -> Iterator[Mill]:
    made = milled(project, ground, address)
    yield made
    made.tree.end_all()


def rehearse(mill: Mill, step: str, *words: str) -> Done:
    return mill.launch("rehearse", step, "--flavour", "cpu", "-c", "tiny", *words)


def test_what_is_learned_of_conversations_and_what_their_template_refuses(mill: Mill, place: Path) -> None:
    shutil.copytree(mill.model, place / "model")
    template = place / "model" / "chat_template.jinja"
    strict = "{% if '7' in messages[0].content %}{{ raise_exception('no sevens') }}{% endif %}"
    template.write_text(strict + template.read_text())
    train = next(word for word in mill.rows("chats") if word.startswith("train=")).removeprefix("train=")
    rows = [json.loads(line) for line in Path(train).read_text().splitlines()]
    wrong = [n for n, row in enumerate(rows, 1) if "7" in row["messages"][0]["content"]]
    done = rehearse(mill, "rl/sft", f"policy={place / 'model'}", f"train={train}")
    assert done.code == 65 and wrong, done
    assert f"error: {train}:{wrong[0]}: TemplateError: no sevens\n" in done.err
    right = next(row for n, row in enumerate(rows, 1) if n not in wrong)
    assert f"[[{right['messages'][-1]['content']}" in done.out


def test_prompts_are_read_and_nothing_of_them_is_learned(mill: Mill) -> None:
    done = rehearse(mill, "rl/grpo", f"policy={mill.model}", *mill.rows("prompts"))
    assert done.code == 0, done
    assert "train " in done.out and "[[" not in done.out and "validation " in done.out


def test_of_preferences_the_chosen_answer_is_learned(mill: Mill) -> None:
    done = rehearse(mill, "rl/dpo", f"policy={mill.model}", *mill.rows("preferences"))
    assert done.code == 0 and "[[" in done.out, done


def test_a_key_of_another_type_is_refused_in_the_librarys_words(mill: Mill) -> None:
    done = rehearse(mill, "rl/sft", f"policy={mill.model}", *mill.rows("chats"), "sft.val_batches=many")
    assert done.code == 78, done
    assert "NeMo RL refuses the configuration: sft.val_batches: Input should be a valid integer" in done.err
