"""What only the real AutoModel knows of rows, templates and keys: `launch rehearse`, and the image's record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from .conftest import Work
from .support import Done, Tree

pytestmark = pytest.mark.real
STRICT = (
    "{% for m in messages %}{% if loop.previtem is defined and loop.previtem.role == m.role %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% endfor %}"
)
TWICE = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]


def rehearse(tree: Tree, step: str, train: Path, model: Path, *more: str) -> Done:
    return tree.launch("rehearse", step, "--flavour", "cpu", f"train={train}", f"model={model}", *more)


def with_template(work: Work, place: Path, change: Any) -> Path:
    """The model with another chat template."""
    shutil.copytree(work.model, place / "model")
    template = place / "model" / "chat_template.jinja"
    template.write_text(change(template.read_text()))
    return place / "model"


def some_rows(work: Work, place: Path, extra: list[Any]) -> Path:
    rows = [json.loads(line) for line in work.train.read_text().splitlines()[:12]]
    rows[6:6] = extra
    (place / "chats.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return place / "chats.jsonl"


def test_a_clean_one_says_what_is_learned_and_leaves_nothing(tree: Tree, work: Work, place: Path) -> None:
    words = (f"validation={work.folder / 'data' / 'validation.jsonl'}", f"output={place / 'out'}", "seq_length=128")
    done = rehearse(tree, "sft/automodel", work.train, work.model, *words, "max_steps=1000", "--json")
    assert done.code == 0, done
    found, run = json.loads(done.out), tree.run_of(done)
    rows = len(work.train.read_text().splitlines())
    data = found["data"]["train"]
    assert (data["rows"], data["faulty"], data["silent"], data["limit"]) == (rows, 0, 0, 128)
    assert 0 < data["tokens"]["p50"] < data["tokens"]["p99"] <= data["tokens"]["most"] and 0.2 < data["share"] < 0.8
    first = json.loads(work.train.read_text().splitlines()[0])["messages"]
    pieces = data["samples"][0]["pieces"]
    learned = [p["text"] for p in pieces if p["learned"]]
    assert learned == [first[-1]["content"] + "<|im_end|>"], pieces
    assert first[0]["content"] in "".join(p["text"] for p in pieces if not p["learned"])
    assert data["samples"][0]["file"] == str(work.train) and data["samples"][0]["line"] == 1
    assert data["longer"] > 0
    assert f"{data['longer']} of {rows} rows have more than 128 tokens" in found["findings"][0]["what"]
    assert len(found["steps"]["losses"]) == 2 and all(2 < loss < 12 for loss in found["steps"]["losses"])
    assert found["data"]["validation"]["faulty"] == 0
    differs = {d["what"]: (d["run"], d["rehearsal"]) for d in found["differs"]}
    assert differs["step_scheduler.max_steps"] == ("1000", "2")
    assert differs["weights"][0] == str(work.model)
    assert "2 layers" in differs["weights"][1]
    assert not (place / "out").exists() and not any((run.path / "output").iterdir())
    assert (run.outcome["exit_code"], run.record["plan"]["flavour"]) == (0, "cpu")


def test_a_row_that_only_the_library_refuses(tree: Tree, work: Work, place: Path) -> None:
    model = with_template(work, place, lambda text: STRICT + text)
    train = some_rows(work, place, [{"messages": TWICE}])
    done = rehearse(tree, "peft/automodel", train, model)
    assert done.code == 65, done
    assert f"error: {train}:7: TemplateError: Conversation roles must alternate\n" in done.err
    assert "train       13 rows;" in done.out and "steps       loss " in done.out  # the others are good
    assert tree.run_of(done).outcome["exit_code"] == 65


def test_a_template_that_marks_nothing_stops_the_launch_that_asks_first(tree: Tree, work: Work, place: Path) -> None:
    def mute(text: str) -> str:
        for tag in ("{% generation %}", "{% endgeneration %}"):
            text = text.replace(tag, "")
        return text + "{% generation %}{% endgeneration %}"

    model, train = with_template(work, place, mute), some_rows(work, place, [])
    before = tree.all_runs()
    words = ("sft/automodel", "--flavour", "cpu", f"train={train}", f"model={model}", f"output={place / 'out'}")
    done = tree.launch("--rehearse", *words)
    assert done.code == 65, done
    assert "error: train=: none of its 12 rows has a token that is learned" in done.err
    assert done.out == "" and "train       12 rows;" in done.err  # stdout is for the run's id, or its log
    assert len(tree.since(before)) == 1 and not (place / "out").exists()  # the rehearsal; nothing was submitted


def test_keys_that_the_library_does_not_have_are_known_by_the_image(tree: Tree, work: Work) -> None:
    """And those that the steps' own configurations set are all known to it."""
    inputs = ("--flavour", "cpu", f"train={work.train}", f"model={work.model}")
    for words in (("sft/automodel",), ("peft/automodel",), ("peft/automodel", "-c", "tiny")):
        assert tree.launch("check", *words, *inputs).code == 0
    wrong = {"step_scheduler.mx_steps=20": "max_steps", "dataset.seq_len=9": "seq_length", "peft.dims=4": "dim"}
    done = tree.launch("check", "peft/automodel", *inputs, *wrong)
    assert done.code == 64, done
    for word, meant in wrong.items():
        assert f"error: {word}: " in done.err and f"did you mean '{meant}'?" in done.err
