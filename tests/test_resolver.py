"""slipway/resolver.py: one configuration of many, and what is known of it where the base stands in an image."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway import resolver
from slipway.resolver import ABSENT, UNKNOWN, Assignment, Configuration, Mark

NAMES = st.sampled_from(["a", "b", "c", "_target_"])
LEAVES = st.one_of(st.none(), st.integers(0, 3), st.sampled_from(["x", "y"]), st.lists(st.integers(0, 1), max_size=2))
TREES = st.recursive(LEAVES, lambda below: st.dictionaries(NAMES, below, max_size=3), max_leaves=8)
MAPPINGS = st.dictionaries(NAMES, TREES, max_size=3)
KEYS = st.lists(NAMES, min_size=1, max_size=3).map(".".join)
LAYERS = st.lists(MAPPINGS, max_size=3)
ASSIGNED = st.lists(st.tuples(KEYS, TREES), max_size=4)


def resolve(base: Any, *layers: Any, removed: Any = (), assigned: Any = ()) -> Configuration:
    words = [Assignment(key, value, key) for key, value in assigned]
    return resolver.resolve(base, [(f"layer {n}", layer) for n, layer in enumerate(layers)], removed, words)


def merged(below: Any, above: Any) -> Any:
    """The rule in its shortest form."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    if None not in (below.get("_target_"), above.get("_target_")) and below["_target_"] != above["_target_"]:
        return above
    return {**below, **{key: merged(below[key], value) if key in below else value for key, value in above.items()}}


def cut(config: Any, key: str) -> None:
    *parents, last = key.split(".")
    for name in parents:
        config = config.get(name) if isinstance(config, dict) else None
    if isinstance(config, dict):
        config.pop(last, None)


def put(config: Any, key: str, value: Any) -> bool:
    *parents, last = key.split(".")
    for name in parents:
        if config.get(name) is None:
            config[name] = {}
        config = config[name]
        if not isinstance(config, dict):
            return False
    config[last] = value
    return True


@given(base=MAPPINGS, layers=LAYERS, removed=st.lists(KEYS, max_size=3), assigned=ASSIGNED)
@settings(max_examples=300, deadline=None)
def test_it_is_what_the_short_rule_makes(base: Any, layers: Any, removed: Any, assigned: Any) -> None:
    expected = base
    for layer in layers:
        expected = merged(expected, layer)
    expected = copy.deepcopy(expected)
    for key in removed:
        cut(expected, key)
    failed = [key for key, value in assigned if not put(expected, key, copy.deepcopy(value))]
    found = resolve(base, *layers, removed=removed, assigned=assigned)
    assert [wrong.assignment.key for wrong in found.impossible] == failed
    assert resolver.plain(found.root) == expected


@given(base=MAPPINGS, data=st.data(), layers=LAYERS, removed=st.lists(KEYS, max_size=3), assigned=ASSIGNED)
@settings(max_examples=600, deadline=None)
def test_what_is_known_without_the_base_is_true_with_it(
    base: Any, data: Any, layers: Any, removed: Any, assigned: Any
) -> None:
    """Whatever the base has; what is said of it is a part of its values."""
    values = {key: leaf.value for key, leaf in resolver.leaves(resolve(base).root) if key}
    stated = data.draw(st.sets(st.sampled_from(sorted(values)))) if values else set()
    known = resolve(
        resolver.in_image({key: values[key] for key in stated}, "image"), *layers, removed=removed, assigned=assigned
    )
    true = resolve(base, *layers, removed=removed, assigned=assigned)
    if true.impossible:
        return  # no configuration comes of it
    assert not known.impossible
    holds(known.root, true.root)


def holds(known: resolver.Node, true: resolver.Node) -> None:
    """`known` says nothing of `true` that is not so."""
    if isinstance(known, resolver.Section):
        assert isinstance(true, resolver.Section)
        for name, node in known.items.items():
            holds(node, true.get(name))
        assert known.open or {n for n, node in known.items.items() if node is not ABSENT} == set(true.items)
    elif known is not UNKNOWN:
        assert resolver.plain(known) == resolver.plain(true)


def test_every_value_knows_who_set_it() -> None:
    found = resolve({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, assigned=[("a.d.e", 4)])
    by = {key: leaf.by for key, leaf in resolver.leaves(found.root)}
    assert by == {"a.b": "base", "a.c": "layer 0", "a.d.e": "a.d.e"}


def test_of_an_image_only_what_is_stated_is_known() -> None:
    found = resolve(resolver.in_image({"a.b": 1}, "image"), {"x": {"y": 2}}, removed=["gone"], assigned=[("m.n", 3)])
    assert [found.value(k) for k in ("a.b", "x.y", "m.n")] == [1, 2, 3]
    assert [found.value(k) for k in ("a.c", "x.z", "q", "m.o")] == [UNKNOWN] * 4
    assert found.value("gone") is ABSENT and found.value("a.b.c") is ABSENT
    assert found.value("m") == {"n": 3}


@pytest.mark.parametrize(
    ("stated", "left"), [({}, UNKNOWN), ({"a._target_": "one"}, ABSENT), ({"a._target_": "two"}, 5)]
)
def test_a_mapping_for_another_target_replaces_the_images(stated: dict[str, Any], left: Any) -> None:
    found = resolve(resolver.in_image({"a.kept": 5} | stated, "image"), {"a": {"_target_": "two", "new": 1}})
    assert (found.value("a.new"), found.value("a.kept")) == (1, left)


def test_a_target_that_is_known_in_part_may_be_the_same() -> None:
    """A mapping for a target is nothing that a library has, and nothing is claimed of it."""
    found = resolve(resolver.in_image({"_target_.a": 1, "kept": 5}, "image"), {"_target_": {"a": 1, "b": 2}})
    assert found.value("kept") is UNKNOWN


@pytest.mark.parametrize("there", [7, "text", [1], True])
def test_nothing_can_be_set_below_a_value(there: Any) -> None:
    (wrong,) = resolve({"a": {"b": there}}, assigned=[("a.b.c", 1)]).impossible
    assert str(wrong) == f"a.b.c: cannot be set, since a.b is {there!r} and not a mapping"
    assert wrong.found.by == "base"


def test_what_an_assignment_takes_away_is_told() -> None:
    found = resolve({"a": {"b": 1}}, assigned=[("a.c", 2), ("a", {"d": 3}), ("e", None), ("e.f", 4)])
    assert [(lost.key, lost.by, lost.assignment.key) for lost in found.lost] == [
        ("a.b", "base", "a"), ("a.c", "a.c", "a"), ("e", "e", "e.f"),
    ]  # fmt: skip


def test_marks_say_what_they_are() -> None:
    assert (repr(UNKNOWN), repr(ABSENT)) == ("UNKNOWN", "ABSENT") and isinstance(UNKNOWN, Mark)
