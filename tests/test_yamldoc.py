"""slipway/yamldoc.py: YAML into nouns, and the line, column and nearest word for whatever is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from slipway import yamldoc
from slipway.errors import Exit, SlipwayError
from slipway.yamldoc import Noun

Colour = Literal["red", "green"]


class Leaf(Noun, frozen=True, kw_only=True):
    size: int
    tint: Colour = "red"


class Tree(Noun, frozen=True, kw_only=True):
    schema: Literal[1]
    name: str
    best: Leaf | None = None
    leaves: dict[str, Leaf] = {}
    rows: list[Leaf] = []
    branches: dict[str, dict[str, list[Leaf]]] = {}
    colours: dict[Colour, int] = {}


QUOTE = "write it in quotes"
GOOD = "schema: 1\nname: elm\n"


def test_a_whole_document_becomes_a_noun(tmp_path: Path) -> None:
    (tmp_path / "tree.yaml").write_text(f"{GOOD}leaves: {{a: {{size: 1}}}}\ncolours: {{green: 3}}\n")
    assert yamldoc.load(tmp_path / "tree.yaml", Tree) == Tree(
        schema=1, name="elm", leaves={"a": Leaf(size=1)}, colours={"green": 3}
    )


@pytest.mark.parametrize(
    ("text", "where", "what", "remedy"),
    [
        ("schema: 1\nnmae: elm", "2:1", "unknown key 'nmae'", "did you mean 'name'?"),
        (f"{GOOD}best: {{size: 1, tnit: red}}", "3:17", "unknown key 'tnit'", "did you mean 'tint'?"),
        (f"{GOOD}rows:\n- size: 1\n- szie: 2", "5:3", "unknown key 'szie'", "did you mean 'size'?"),
        (f"{GOOD}leaves:\n  a: {{size: 1}}\n  b: {{siez: 1}}", "5:7", "unknown key 'siez'", "did you mean 'size'?"),
        (
            f"{GOOD}branches:\n  up:\n    a: [{{size: 1}}]\n    b: [{{size: 1}}, {{size: 1, tnit: red}}]",
            "6:30", "unknown key 'tnit'", "did you mean 'tint'?",
        ),
        (
            f"{GOOD}leaves: {{a: {{size: 1}}, b: {{siez: 1}}}}\nrows: [{{size: big}}]",
            "3:28", "unknown key 'siez'", "did you mean 'size'?",
        ),
        (f"{GOOD}leaves:\n  a: {{size: big}}", "4:7", "leaves.a.size: Expected `int`, got `str`", ""),
        (f"{GOOD}leaves:\n  0.7.0: {{size: big}}", "4:11", "leaves.0.7.0.size: Expected `int`, got `str`", ""),
        (f"{GOOD}leaves: {{26.10: {{size: 1}}}}", "3:10", "leaves.26.1: Expected `str`, got `float`", QUOTE),
        ("schema: 1\nname: 26.10", "2:1", "name: Expected `str`, got `float`", QUOTE),
        (f"{GOOD}best: {{size: 1, tint: grean}}", "3:17", "best.tint: 'grean' is not allowed", "did you mean 'green'?"),
        (f"{GOOD}colours: {{red: 1, gren: 2}}", "3:19", "colours.gren: 'gren' is not allowed", "did you mean 'green'?"),
        ("schema: 2\nname: elm", "1:1", "schema: '2' is not allowed", "known: 1"),
        ("schema: 1", "1:1", "Object missing required field `name`", ""),
        (f"{GOOD}leaves:\n  a: {{}}", "4:3", "leaves.a: Object missing required field `size`", ""),
        ("", "1:1", "Expected `object`, got `null`", ""),
        ("- 1", "1:1", "Expected `object`, got `array`", ""),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_line_and_column(text: str, where: str, what: str, remedy: str) -> None:
    with pytest.raises(SlipwayError) as e:
        yamldoc.convert(text, Tree, "tree.yaml")
    assert (e.value.code, e.value.where, e.value.what) == (Exit.CONFIG, f"tree.yaml:{where}", what)
    assert e.value.remedy == remedy


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: [1", ":2:1", "did not find expected ',' or ']'"),
        ("a: 1\nb: 2\na: 3", ":3:1", "the key 'a' stands twice"),
        ("a:\n  b: 1\n  b: 2", ":3:3", "the key 'b' stands twice"),
        ("{[a, b]: c}", ":1:2", "found unhashable key"),
        ("a: 1\n---\nb: 2", ":2:1", "but found another document"),
        ("a: !mine 1", ":1:4", "could not determine a constructor for the tag '!mine'"),
        ("a: *b", ":1:4", "found undefined alias"),
        ("a: \0", "", "unacceptable character"),
    ],
)
def test_what_is_no_yaml_is_refused(text: str, where: str, what: str) -> None:
    with pytest.raises(SlipwayError) as e:
        yamldoc.parse(text, "some.yaml")
    assert (e.value.code, e.value.where) == (Exit.CONFIG, f"some.yaml{where}")
    assert e.value.what.startswith(f"not valid YAML: {what}")


def test_merge_keys_may_stand_beside_each_other_and_be_overridden() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  <<: *a\n  <<: *b\n  x: 3"
    assert yamldoc.parse(text, "")["c"]["x"] == 3


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("lr: .nan", ":1:1", "nan is neither text nor a finite number"),
        ("a:\n  b: [1, -.inf]", ":2:10", "-inf is neither text nor a finite number"),
        ("a:\n  day: 2026-01-01", ":2:3", "2026-01-01 is neither text nor a finite number"),
        ("a: {x: 1, 2: 3}", ":1:11", "the key 2 is no text"),
        ("a: !!binary aGk=", ":1:1", "b'hi' is neither text nor a finite number"),
        ("a: &a {b: *a}", "", "an anchor stands inside itself"),
    ],
)
def test_a_configuration_holds_only_what_json_has(text: str, where: str, what: str) -> None:
    with pytest.raises(SlipwayError) as e:
        yamldoc.parse_plain(text, "c.yaml")
    assert (e.value.code, e.value.where, e.value.what) == (Exit.CONFIG, f"c.yaml{where}", what)


def test_what_json_has_is_left_as_it_is() -> None:
    text = "a: {b: [1, 1.5, true, null, text], c: '2026-01-01', d: {}}"
    assert yamldoc.parse_plain(text, "") == {
        "a": {"b": [1, 1.5, True, None, "text"], "c": "2026-01-01", "d": {}}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "where"), [(["b"], "3:1"), (["a", "x"], "2:3"), (["a", "nowhere"], "1:1"), (["nowhere"], "1:1")]
)
def test_a_key_is_found_as_near_as_it_is_written(tmp_path: Path, keys: list[str], where: str) -> None:
    (tmp_path / "a.yaml").write_text("a:\n  x: 1\nb: 2\n")
    assert yamldoc.line_of(tmp_path / "a.yaml", *keys) == where


@pytest.mark.parametrize("value", [{"b": 1, "a": ["x" * 300, "26.10", "no", None, 1.5]}, {"ü": {}}, []])
def test_what_is_dumped_is_read_back_and_dumped_the_same(value: Any) -> None:
    text = yamldoc.dump(value)
    assert yamldoc.parse(text, "") == value
    assert yamldoc.dump(yamldoc.parse(text, "")) == text


def test_a_dump_is_sorted_and_does_not_wrap() -> None:
    assert yamldoc.dump({"b": 1, "a": "x " * 100}) == f"a: '{'x ' * 100}'\nb: 1\n"


def test_a_missing_file_is_a_missing_input(tmp_path: Path) -> None:
    with pytest.raises(SlipwayError) as e:
        yamldoc.load(tmp_path / "nothing.yaml", Tree)
    assert e.value.code == Exit.NO_INPUT
