"""launcher/artifacts/{row_numbers,tokens,duplicates}.py: what `launch check PATH` says of rows, from the shell."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from helpers import Project
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from launcher.artifacts import duplicates, row_numbers
from launcher.artifacts.duplicates import Duplicates

TEMPLATE = (
    "{% if messages[0].role == 'assistant' %}{{ raise_exception('the user begins') }}{% endif %}"
    "{% for m in messages %}{{ bos_token }} {{ m.role }} "
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %} "
    "{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
)


def words_of(folder: Path, template: str = TEMPLATE) -> Path:
    """A tokenizer for which every word is a token."""
    folder.mkdir(parents=True)
    made = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.enable_truncation(3)  # which is not to count
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}}))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def chat(question: str, answer: str, **more: Any) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages, **more}) + "\n"


def check(project: Project, *words: object, code: int = 0) -> dict[str, Any]:
    done = project.launch("check", "--json", *map(str, words))
    assert done.code == code, done
    (found,) = json.loads(done.stdout)["checked"]
    return dict(found["numbers"] or {})


def test_rows_roles_tokens_and_duplicates_of_conversations(project: Project, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    one, other = tmp_path / "parts" / "a.jsonl", tmp_path / "parts" / "b.jsonl.gz"
    one.write_text(chat("a b", "c") + chat("a", "b " * 30) + chat("a b", "c"))
    other.write_bytes(gzip.compress((chat("x", "y") + chat("a b", "c")).encode()))
    words = (tmp_path / "parts", f"tokenizer={words_of(tmp_path / 'words')}", "--length", "7")
    found = check(project, *words)
    assert (found["rows"], found["roles"]) == (5, {"assistant": 5, "user": 5})
    assert (found["duplicates"], found["repeated"]) == (2, [[f"{one}:3", f"{one}:1"], [f"{other}:2", f"{one}:1"]])
    assert found["tokens"] == {"p50": 7, "p99": 35, "most": 35, "total": 7 * 3 + 35 + 6}
    assert (found["over"], found["long"]) == (1, [f"{one}:2 (35)"])
    assert project.launch("check", *map(str, words)).stdout.endswith(
        "  rows: 5\n  messages: assistant 5, user 5\n"
        "  tokens a row: 7 (p50), 35 (p99), 35 at most; 62 in all\n"
        f"  rows of more than 7 tokens: 1: {one}:2 (35)\n"
        "  rows that came before, byte for byte: 2\n"
        f"    {one}:3 repeats {one}:1\n    {other}:2 repeats {one}:1\n"
    )


@pytest.mark.parametrize(
    ("row", "tokens"),
    [
        ({"input": "a b c", "output": " d"}, 4),
        ({"prompt": "a b", "chosen": " c d e", "rejected": " f"}, 5),
        ({"prompt": "a b", "chosen": [{"role": "assistant", "content": "c"}], "rejected": "d e"}, 7),
        ({"context": [{"role": "user", "content": "a"}], "completions": [
            {"rank": 0, "completion": [{"role": "assistant", "content": "b c d"}]},
            {"rank": 1, "completion": [{"role": "assistant", "content": "b"}]}]}, 8),
        (json.loads(chat("a", "b", tools=[{"name": "f g"}])), 9),
    ],
    ids=["prompt", "preference", "preference with messages", "ranked", "tools"],
)  # fmt: skip
def test_every_type_of_rows_has_a_length(project: Project, tmp_path: Path, row: dict[str, Any], tokens: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    found = check(project, path, f"tokenizer={words_of(tmp_path / 'words')}")
    assert (found["rows"], found["tokens"]["most"], found["untold"]) == (1, tokens, 0)


def test_what_the_template_refuses_is_an_error_with_its_line(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    wrong = json.dumps({"messages": [{"role": "assistant", "content": "x"}]}) + "\n"
    path.write_text(chat("a", "b") + wrong * 25)
    words = (str(path), f"tokenizer={words_of(tmp_path / 'words')}")
    found = check(project, *words, code=65)
    assert (found["untold"], found["tokens"]["most"]) == (25, 6)
    out = project.launch("check", *words).stdout
    assert f"  error: {path}:2: the chat template refuses it: TemplateError: the user begins\n" in out
    assert out.endswith("  and 5 more rows without a number of tokens\n")


def test_many_rows_are_only_read_where_that_is_asked_for(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(chat("a", "b" * 1000) * 5000)
    assert check(project, path) == {}
    assert check(project, path, "--rows")["duplicates"] == 4999


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--length", "5"), 64, "--length counts tokens\n  name tokenizer=PATH or tokenizer=hf://…"),
        (("tokenizer=T/none",), 66, "tokenizer=T/none: has no tokenizer.json, by which tokens are counted"),
        (("tokenizer=T/bare",), 65, "tokenizer=T/bare: has no chat template, by which conversations become text"),
        (("tokenizer=T/broken",), 65, "tokenizer=T/broken: its chat template is broken: "),
        (("tokenizer=hf://org/absent",), 66, "tokenizer=hf://org/absent: is not in the cache "),
    ],
)
def test_what_cannot_be_counted_says_why(
    project: Project, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(chat("a", "b"))
    (tmp_path / "none").mkdir()
    words_of(tmp_path / "bare", "")
    words_of(tmp_path / "broken", "{% for %}")
    done = project.launch("check", str(path), *(w.replace("T/", f"{tmp_path}/") for w in words))
    assert done.code == code and said.replace("T/", f"{tmp_path}/") in done.stderr, done


def test_a_tokenizer_of_the_hubs_cache(project: Project, tmp_path: Path) -> None:
    home, commit = tmp_path / "home" / ".cache" / "huggingface", "a" * 40
    repository = home / "hub" / "models--org--words"
    words_of(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    path = tmp_path / "rows.jsonl"
    path.write_text(chat("a", "b"))
    project.env.update(HF_HOME=str(home))
    assert check(project, path, "tokenizer=hf://org/words")["tokens"]["most"] == 6


@pytest.mark.parametrize("held", [duplicates.HELD, 3 * duplicates.RECORD])
@given(rows=st.lists(st.binary(max_size=2), max_size=20), most=st.integers(0, 5))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_duplicates_are_those_that_a_dictionary_finds(
    monkeypatch: pytest.MonkeyPatch, held: int, rows: list[bytes], most: int
) -> None:
    """In memory, and in files."""
    monkeypatch.setattr(duplicates, "HELD", held)
    first: dict[bytes, int] = {}
    expected = [(n, first[row]) for n, row in enumerate(rows) if first.setdefault(row, n) != n]
    with Duplicates() as found:
        for row in rows:
            found.add(row)
        assert found.found(most) == (len(expected), expected[:most])


@given(st.lists(st.integers(0, 50), min_size=1, max_size=200))
def test_percentiles_are_those_of_the_sorted_lengths(lengths: list[int]) -> None:
    measured = row_numbers._Measured("chat_jsonl", None, None)
    measured.counts.update(lengths)
    told, ordered = measured.lengths(), sorted(lengths)
    assert told is not None and (told.most, told.total) == (ordered[-1], sum(lengths))
    assert told.p50 == ordered[math.ceil(0.5 * len(lengths)) - 1]
    assert told.p99 == ordered[math.ceil(0.99 * len(lengths)) - 1]
