"""The words behind a step on the command line: inputs, parameters, output and configuration overrides. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from launcher.artifacts import hub_cache
from launcher.catalog.definitions import Parameter, Step, owned_error
from slipway import yamldoc
from slipway.errors import Exit, SlipwayError, nearest

_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")


@dataclass(frozen=True)
class Arguments:
    """What the user said. `parameters` and `overrides` are typed values; an override's key is dotted."""

    inputs: dict[str, str] = field(default_factory=dict)
    output: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)


def parse(step: Step, words: tuple[str, ...]) -> Arguments:
    """Sorts `name=value` words. Raises SlipwayError 64 for the first word that fits nothing."""
    inputs: dict[str, str] = {}
    parameters: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
    output = None
    seen: set[str] = set()
    for word in words:
        key, value = _split(word, step)
        if key in seen:
            raise SlipwayError(Exit.WORDS, f"{key} is given twice", where=word)
        seen.add(key)
        if key in step.inputs:
            inputs[key] = _input(word, value)
        elif key in step.parameters:
            _check_parameter(step, word, key, words)
            parameters[key] = _typed(word, value, step.parameters[key])
        elif key == "output":
            output = _path(word, value)
        elif "." in key:
            overrides[key] = _override(step, word, key, value)
        else:
            known = [*step.inputs, *step.parameters, "output"]
            what = f"{step.id} has no input or parameter {key!r}"
            raise SlipwayError(Exit.WORDS, what, where=word, remedy=nearest(key, known))
    _check_absent(step, inputs, overrides)
    missing = [n for n, i in step.inputs.items() if not i.optional and n not in inputs]
    if missing:
        needed = "; ".join(f"{n}=PATH ({' or '.join(step.inputs[n].types)}: {step.inputs[n].help})" for n in missing)
        raise SlipwayError(Exit.WORDS, f"{step.id} needs {needed}")
    return Arguments(inputs=inputs, output=output, parameters=parameters, overrides=overrides)


def _check_parameter(step: Step, word: str, name: str, words: tuple[str, ...]) -> None:
    parameter = step.parameters[name]
    if not parameter.keys and not parameter.values:
        raise SlipwayError(Exit.WORDS, f"{step.id} has no such setting in this release", where=word)
    if parameter.instead_of and any(w.startswith(f"{parameter.instead_of}=") for w in words):
        what = f"{name}= takes the place of {parameter.instead_of}=, which is given, too"
        raise SlipwayError(Exit.WORDS, what, where=word, remedy="give one of them")


def _check_absent(step: Step, inputs: dict[str, str], overrides: dict[str, Any]) -> None:
    """An override below what goes away with an optional input would bring back half of it."""
    for name, wanted in step.inputs.items():
        for key in overrides:
            if name not in inputs and key.startswith(tuple(f"{w}." for w in wanted.without)):
                raise SlipwayError(Exit.WORDS, f"{key} means nothing without {name}=PATH", where=key)


def _split(word: str, step: Step) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if key.startswith(("+", "~")):
        raise SlipwayError(
            Exit.WORDS,
            f"{step.library} takes no Hydra prefixes",
            where=word,
            remedy=f"write {key.lstrip('+~')}=VALUE: a key that is not there yet is made",
        )
    if not equals or not _KEY.fullmatch(key):
        raise SlipwayError(
            Exit.WORDS, "not of the form name=value or section.key=value", where=word, remedy=f"for {step.id}"
        )
    return key, value


def _path(word: str, value: str) -> str:
    if not value:
        raise SlipwayError(Exit.WORDS, "a path is missing behind the =", where=word)
    if value.startswith("hf://"):
        raise SlipwayError(Exit.WORDS, "hf:// is for inputs", where=word, remedy="name a folder of this machine")
    return value


def _input(word: str, value: str) -> str:
    """A path, or the whole name of something on the hub."""
    return str(hub_cache.parse(value)) if value.startswith("hf://") else _path(word, value)


def _typed(word: str, value: str, parameter: Parameter) -> Any:
    """The value as its parameter's type, by YAML's rules (so `1.0e-5`, `1e-5` and `true` are what they look like)."""
    if parameter.type == "str":
        choices = [*parameter.choices, *(v for v in parameter.values if v not in parameter.choices)]
        if choices and value not in choices:
            raise SlipwayError(Exit.WORDS, f"{value!r} is not allowed", where=word, remedy=nearest(value, choices))
        return value
    convert: dict[str, Any] = {"int": int, "float": _finite, "bool": {"true": True, "false": False}.__getitem__}
    try:
        return convert[parameter.type](value)
    except (ValueError, KeyError) as e:
        names = {"int": "a whole number", "float": "a number", "bool": "true or false"}
        raise SlipwayError(Exit.WORDS, f"{value!r} is not {names[parameter.type]}", where=word) from e


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _override(step: Step, word: str, key: str, value: str) -> Any:
    first = key.partition(".")[0]
    if first not in step.config_roots:
        raise SlipwayError(
            Exit.WORDS, f"{step.id} has no configuration root {first!r}", where=word,
            remedy=nearest(first, step.config_roots),
        )  # fmt: skip
    for owned, setter in step.owned().items():
        if key == owned or owned.startswith(f"{key}.") or key.startswith(f"{owned}."):
            raise owned_error(Exit.WORDS, owned, setter, word)
    try:
        parsed = yamldoc.parse_plain(value, word) if value else None
    except SlipwayError as e:
        raise SlipwayError(Exit.WORDS, e.what, where=word, remedy=f"quote a text as YAML does: {key}='\"…\"'") from e
    if isinstance(parsed, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", parsed):
        return float(parsed)  # YAML 1.1 takes 1e-5 for a string
    return parsed
