"""Pipelines: files that say which launches follow each other, and which output is whose input. Read, found, checked.

An input that is `steps.NAME` is what that step makes (`steps.NAME/below`: something in it), and any value that is
`params.NAME` is that parameter of the pipeline. So an order needs no key of its own.
"""

from __future__ import annotations

import graphlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from images.locking.model import Flavour
from slipway import gates, yamldoc
from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import read_text
from slipway.project import Root, user_dirs
from slipway.trust import trusted
from slipway.yamldoc import Noun

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_STEP = re.compile(r"steps\.([^/]+)(?:/(.+))?")
_PARAM = re.compile(r"params\.(\S+)")


class Param(Noun, frozen=True, kw_only=True):
    """A word of `launch pipeline`. Without a default it has to be given; null leaves out what it would set."""

    help: str
    default: str | int | float | bool | msgspec.UnsetType | None = msgspec.UNSET


class Stage(Noun, frozen=True, kw_only=True):
    """One launch of a pipeline: a step, its words, and the options of `launch`. `set`: parameters and dotted keys."""

    step: str
    inputs: dict[str, str] = {}
    set: dict[str, Any] = {}
    output: str = ""
    config: list[str] = []
    profile: str = ""
    release: str | None = None
    flavour: Flavour | None = None
    nodes: int | None = None
    gpus: int | None = None
    gpu_ids: str | None = None
    procs: int | None = None
    env: dict[str, str] = {}
    secrets: list[str] = []
    code: list[str] = []
    megatron_cache: str | None = None
    expect: dict[str, str | bool] = {}


class Pipeline(Noun, frozen=True, kw_only=True):
    """`profile`, `flavour`: of all steps that say none. `file`: where it stands, never written in it."""

    schema: Literal[1]
    title: str = ""
    params: dict[str, Param] = {}
    profile: str = ""
    flavour: Flavour | None = None
    steps: dict[str, Stage]
    file: str = ""

    @property
    def name(self) -> str:
        return Path(self.file).stem

    def place(self, *keys: str) -> str:
        """file:line of a key."""
        return f"{self.file}:{yamldoc.line_of(Path(self.file), *keys)}"

    def needs(self, name: str) -> dict[str, tuple[str, str]]:
        """Input of a step -> the step that makes it, and what below its output; empty where it is all of it."""
        found = {i: _STEP.fullmatch(value) for i, value in self.steps[name].inputs.items()}
        return {i: (match[1], match[2] or "") for i, match in found.items() if match}

    @property
    def order(self) -> list[str]:
        """Steps in an order in which each comes after those that it needs; as they are written, where that may be."""
        done: list[str] = []

        def add(name: str) -> None:
            for before, _ in self.needs(name).values():
                if before not in done:
                    add(before)
            if name not in done:
                done.append(name)

        for name in self.steps:
            add(name)
        return done

    def after(self, name: str) -> set[str]:
        """A step, and all that depend on it."""
        found = {name}
        for step in self.order:
            if found & {before for before, _ in self.needs(step).values()}:
                found.add(step)
        return found

    def before(self, name: str) -> set[str]:
        """A step, and all that it depends on."""
        found = {name}
        for step in reversed(self.order):
            if step in found:
                found |= {before for before, _ in self.needs(step).values()}
        return found


def files(root: Root) -> dict[str, Path]:
    """Name -> file, of those that are found by name; a user's own wins over one of the project's."""
    found: dict[str, Path] = {}
    for base in reversed(user_dirs(root)):
        found |= {file.stem: file for file in sorted((base / "pipelines").glob("*.yaml"))}
    return found


def find(root: Root, name: str) -> Pipeline:
    """Of a name, or of a file that ends with .yaml. Raises SlipwayError 64, 66, 77 or 78."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return load(Path(name).expanduser().absolute())
    known = files(root)
    if name not in known:
        remedy = f"{nearest(name, known)}; or name a file: {name}.yaml"
        raise SlipwayError(Exit.WORDS, f"there is no pipeline {name!r}", where=name, remedy=remedy)
    return load(trusted(known[name], known[name].parent))


def load(file: Path) -> Pipeline:
    """A pipeline whose references all lead somewhere, and never in a circle. Raises SlipwayError 66 or 78."""
    text = read_text(file)
    found = yamldoc.convert(text, Pipeline, str(file))
    if found.file:
        raise SlipwayError(Exit.CONFIG, "unknown key 'file'", where=f"{file}:{yamldoc.line_of(file, 'file')}")
    found = msgspec.structs.replace(found, file=str(file))
    yamldoc.parse_plain(text, str(file))  # no dates, no NaN: all of it becomes words and records
    if not found.steps:
        raise SlipwayError(Exit.CONFIG, "has no steps", where=found.place("steps"))
    for keys, what, remedy in _faults(found):
        raise SlipwayError(Exit.CONFIG, what, where=f"{found.place(*keys)}: {'.'.join(keys)}", remedy=remedy)
    return found


Fault = tuple[tuple[str, ...], str, str]


def _faults(found: Pipeline) -> Iterator[Fault]:
    for kind in ("params", "steps"):
        for name in getattr(found, kind):
            if not _NAME.fullmatch(name):
                yield (kind, name), f"{name!r} is no name", "begin with a letter; letters, digits, '_' and '-' follow"
    used = set()
    for name, stage in found.steps.items():
        for kind, key, value in _values(stage):
            keys = ("steps", name, kind, key) if key else ("steps", name, kind)
            if match := _PARAM.fullmatch(value):
                used.add(match[1])
                if match[1] not in found.params:
                    yield keys, f"there is no parameter {match[1]!r}", nearest(match[1], found.params)
            elif match := _STEP.fullmatch(value):
                if kind != "inputs":
                    yield keys, f"{value} is what a step makes, which only an input can be", "name it under inputs:"
                elif match[1] not in found.steps:
                    yield keys, f"there is no step {match[1]!r}", nearest(match[1], found.steps)
        for key in stage.inputs.keys() & stage.set.keys():
            yield ("steps", name, "set", key), f"{key} is among the inputs, too", "say it once"
        yield from _expected(name, stage)
    for name in found.params.keys() - used:
        yield ("params", name), "no step uses it", f"say params.{name} where it belongs, or leave it out"
    yield from _circle(found)


def _expected(name: str, stage: Stage) -> Iterator[Fault]:
    for key, value in stage.expect.items():
        keys = ("steps", name, "expect", key)
        if (key == gates.LEARNS) != isinstance(value, bool):
            yield keys, f"{value!r} is no condition", f"{gates.LEARNS}: true or false; of a number such as loss: '<2.0'"
            continue
        try:
            gates.parse(key if value is True else f"{key}{value}") if value is not False else None
        except ValueError:
            yield keys, f"{value!r} is no condition", "such as '<2.0', '>= 100', in quotes"


def _circle(found: Pipeline) -> Iterator[Fault]:
    graph = {name: {before for before, _ in found.needs(name).values()} for name in found.steps}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as e:
        circle = e.args[1]
        yield ("steps", circle[0]), f"the steps need each other: {' -> '.join(circle)}", "one of them has to come first"


def _values(stage: Stage) -> Iterator[tuple[str, str, str]]:
    """Each text that may be a reference, with the keys under which it stands."""
    yield from (("inputs", key, value) for key, value in stage.inputs.items())
    yield from (("set", key, value) for key, value in stage.set.items() if isinstance(value, str))
    yield from (("env", key, value) for key, value in stage.env.items())
    yield from (("config", "", name) for name in stage.config)
    yield "output", "", stage.output


def given(found: Pipeline, words: tuple[str, ...]) -> dict[str, Any]:
    """Parameter -> its value: of `name=value` words, which are texts, else the default. Raises SlipwayError 64."""
    values: dict[str, Any] = {n: p.default for n, p in found.params.items() if p.default is not msgspec.UNSET}
    said: set[str] = set()
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in found.params:
            what = f"pipeline {found.name} has no parameter {name!r}"
            raise SlipwayError(Exit.WORDS, what, where=word, remedy=nearest(name, found.params))
        if name in said:
            raise SlipwayError(Exit.WORDS, f"{name} is given twice", where=word)
        said.add(name)
        values[name] = value
    if missing := [f"{n}=… ({p.help})" for n, p in found.params.items() if n not in values]:
        raise SlipwayError(Exit.WORDS, f"pipeline {found.name} needs {'; '.join(missing)}")
    return values


def words(found: Pipeline, name: str, values: Mapping[str, Any], said: frozenset[str] = frozenset()) -> list[str]:
    """The words of a step's launch, but for inputs that steps make. Raises SlipwayError 78.

    `said`: parameters of the command line, whose paths are the shell's; those of the file are relative to it.
    """
    stage, result = found.steps[name], []
    for key, text in [*stage.inputs.items(), *([("output", stage.output)] if stage.output else [])]:
        if _STEP.fullmatch(text):
            continue
        param = _PARAM.fullmatch(text)
        value = values[param[1]] if param else text
        if value is not None:
            own = not (param and param[1] in said)
            result.append(f"{key}={_path(str(value), Path(found.file).parent) if own else value}")
    for key, value in stage.set.items():
        param = _PARAM.fullmatch(value) if isinstance(value, str) else None
        value = values[param[1]] if param else value
        if value is None and param:
            continue
        given_as_text = param and param[1] in said
        result.append(f"{key}={value if given_as_text else _text(key, value)}")
    return result


def overlays(found: Pipeline, name: str, values: Mapping[str, Any], said: frozenset[str] = frozenset()) -> list[str]:
    """`-c` of a step's launch; files of the pipeline's own are relative to it."""
    result = []
    for text in found.steps[name].config:
        param = _PARAM.fullmatch(text)
        value = values[param[1]] if param else text
        own = str(value).endswith((".yaml", ".yml")) and not (param and param[1] in said)
        if value is not None:
            result.append(_path(value, Path(found.file).parent) if own else str(value))
    return result


def env(found: Pipeline, name: str, values: Mapping[str, Any]) -> list[str]:
    """`--env` of a step's launch."""
    pairs = {key: _PARAM.fullmatch(text) for key, text in found.steps[name].env.items()}
    said = {key: values[m[1]] if m else found.steps[name].env[key] for key, m in pairs.items()}
    return [f"{key}={value}" for key, value in said.items() if value is not None]


def expected(stage: Stage, trains: bool) -> list[str]:
    """The conditions of a step, as `--expect` has them: what trains has to learn, unless the file says otherwise."""
    default = {gates.LEARNS: True} if trains else {}
    said: dict[str, str | bool] = {**default, **stage.expect}
    return [key if value is True else f"{key}{value}" for key, value in said.items() if value is not False]


def _text(key: str, value: Any) -> str:
    """As a word has it: a dotted key's value is read as YAML, a parameter's as what it is."""
    if "." in key:
        return yamldoc.flow(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _path(text: str, folder: Path) -> str:
    """A path of the file; a run and what is on the hub as they are."""
    if text.startswith(("hf://", "run:")):
        return text
    path = Path(os.path.expandvars(text)).expanduser()
    return str(path if path.is_absolute() else folder / path)
