"""slipway/canonical.py: one text for one value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from slipway import canonical


class Point(msgspec.Struct):
    y: int
    x: str


def test_the_text_has_sorted_keys_no_spaces_and_the_characters_themselves() -> None:
    assert canonical.dumps({"b": [1, None, True], "a": "ü"}) == '{"a":"ü","b":[1,null,true]}'


def test_a_struct_is_the_mapping_of_its_fields() -> None:
    assert canonical.dumps(Point(y=1, x="a")) == canonical.dumps({"x": "a", "y": 1})


@pytest.mark.parametrize("value", [{"b": {"d": 1, "c": 2}, "a": [3]}, Point(y=2, x="ß"), [], "text"])
def test_pretty_is_the_same_value_for_people(value: Any) -> None:
    text = canonical.pretty(value)
    assert text.endswith("\n") and not text.endswith("\n\n")
    assert canonical.dumps(json.loads(text)) == canonical.dumps(value)


def test_order_of_keys_does_not_change_the_hash_and_any_value_does() -> None:
    assert canonical.sha256({"a": 1, "b": 2}) == canonical.sha256({"b": 2, "a": 1})
    assert canonical.sha256({"a": 1, "b": 2}) != canonical.sha256({"a": 1, "b": 3})


def test_bytes_are_hashed_as_they_are() -> None:
    assert canonical.sha256(b"abc") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("write", [canonical.dumps, canonical.pretty])
def test_what_json_does_not_have_is_not_written(write: Callable[[Any], str], value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write({"loss": value})
