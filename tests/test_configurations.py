"""images/building/configurations.py, entrypoints/read_configurations.py: what files in an image say, by its Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import HERE, REPO, entry_of, record_image

from images.building import configurations, identity
from images.building.identity import BaseFile, Classes
from images.locking import lock as locks
from images.locking.model import Configurations, Entry, Environment
from launcher.catalog import commands, definitions
from launcher.catalog.definitions import Step
from slipway.errors import SlipwayError
from slipway.files import sha256_file
from slipway.project import Root

SITE = HERE / "standins" / "containers" / "site"
LOADER = f"""
import sys
sys.path.insert(0, {str(SITE)!r})
print("what a library says when it is imported")
import yaml
def load_config(path):
    path = __import__("pathlib").Path(path)
    found = yaml.safe_load(open(path))
    below = found.pop("defaults", None)
    return {{**(load_config(path.parent / below) if below else {{}}), **found}}
"""
ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)
Read = Callable[..., dict[str, BaseFile]]


def entry_with(*paths: Path, loader: str = "") -> Entry:
    main = Environment(python=sys.executable, packages={})
    return entry_of(environments={"main": main}, configurations=Configurations(paths=[*map(str, paths)], loader=loader))


def inside(words: list[str]) -> configurations.Done:
    """This machine stands for the image: the program is the very one, and the files are real."""
    return configurations.run(words, dict(os.environ))


def read_one(path: Path, loader: str = "") -> tuple[BaseFile, list[str]]:
    said: list[str] = []
    found = configurations.read(Root(REPO), entry_with(path, loader=loader), inside, said.append)
    return found[str(path)], said


def test_values_and_sha256_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "base.yaml"
    file.write_text("a: {b: [1, 2.5, x], c: null}\nd: ${a.b}\ne: 1e-5\n")
    found, said = read_one(file)
    assert found.values == {"a": {"b": [1, 2.5, "x"], "c": None}, "d": "${a.b}", "e": "1e-5"}
    assert (found.sha256, found.inherits, found.why, said) == (sha256_file(file), {}, "", [])


def test_what_a_file_inherits_is_read_as_the_library_does(tmp_path: Path) -> None:
    (tmp_path / "loader.py").write_text(LOADER)
    (tmp_path / "below.yaml").write_text("a: 1\nb: 2\n")
    (tmp_path / "base.yaml").write_text("defaults: below.yaml\nb: 3\n")
    found, said = read_one(tmp_path / "base.yaml", str(tmp_path / "loader.py"))
    assert (found.values, said) == ({"a": 1, "b": 3}, [])
    assert found.inherits == {str(tmp_path / "below.yaml"): sha256_file(tmp_path / "below.yaml")}


def unreadable(folder: Path, name: str) -> None:
    os.mkfifo(folder / name)


def too_long(folder: Path, name: str) -> None:
    (folder / name).write_text(f"a: {'x' * (1 << 20)}\n")


def absent(_folder: Path, _name: str) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "why"),
    [(unreadable, "is no regular file"), (too_long, "has more than 1048576 bytes"), (absent, "is not in the image")],
)
@pytest.mark.parametrize("name", ["base.yaml", "below.yaml"])
def test_only_regular_files_of_a_size_are_read_also_by_the_librarys_loader(
    tmp_path: Path, make: Callable[[Path, str], None], why: str, name: str
) -> None:
    (tmp_path / "loader.py").write_text(LOADER)
    (tmp_path / "base.yaml").write_text("defaults: below.yaml\n")
    (tmp_path / "below.yaml").write_text("a: 1\n")
    (tmp_path / name).unlink()
    make(tmp_path, name)
    found, said = read_one(tmp_path / "base.yaml", str(tmp_path / "loader.py"))
    assert (found.values, found.why) == (None, f"{tmp_path / name} {why}")
    assert len(said) == 1 and "not known when planning, since " in said[0] and why in said[0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: {1: x}", "a: the key 1 is no text"),
        ("a: [2026-01-01]", "a.0: datetime.date(2026, 1, 1) is nothing that JSON has"),
        ("a: .inf", "a: inf is nothing that JSON has"),
        ("- a", "is no mapping"),
        ("a: [", "ParserError"),
        ('a: "\\ud800"', "UnicodeEncodeError"),
        (ALIASES, "more than 50000 values"),
        ("a: &a [*a]", "deeper than 64"),
    ],
)
def test_what_a_record_cannot_say_is_unknown(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "base.yaml").write_text(text)
    found, said = read_one(tmp_path / "base.yaml")
    assert found.values is None and why in found.why and len(said) == 1, found


def test_one_file_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "there.yaml").write_text("a: 1")
    entry = entry_with(tmp_path / "absent.yaml", tmp_path / "there.yaml")
    found = configurations.read(Root(REPO), entry, inside, lambda _: None)
    assert [f.values for f in found.values()] == [None, {"a": 1}]


def test_an_interpreter_that_is_not_there_stops_nothing(tmp_path: Path) -> None:
    main = Environment(python=str(tmp_path / "python"), packages={})
    entry = entry_of(environments={"main": main}, configurations=Configurations(paths=["/opt/base.yaml"]))
    said: list[str] = []
    found = configurations.read(Root(REPO), entry, inside, said.append)
    assert found["/opt/base.yaml"].values is None and "its Python ended with 127" in said[0]


def test_a_record_gets_what_it_lacks_once(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("a: 1")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "entrypoints").symlink_to(REPO / "entrypoints")
    root, entry = Root(tmp_path / "project"), entry_with(tmp_path / "base.yaml")
    asked: list[int] = []

    def counted(words: list[str]) -> configurations.Done:
        asked.append(1)
        return inside(words)

    for _ in range(2):
        (record,) = identity.records(root, entry) or [record_image(root, entry)]
        configurations.remember(root, entry, record, counted, lambda _: None)
    (record,) = identity.records(root, entry)
    assert record.configurations[str(tmp_path / "base.yaml")].values == {"a": 1}
    assert len(asked) == 1


def test_the_lock_names_every_base_in_an_image_that_a_step_of_the_catalogue_starts_from() -> None:
    root = Root(REPO)
    for entry in locks.load_lock(root).entries.values():
        steps = [s for s in definitions.all_steps(root) if s.library == entry.library and runs(s, entry)]
        named = {base["path"] for s in steps if "path" in (base := commands.base_config(s, entry))}
        assert named == set(entry.configurations.paths if entry.configurations else ()), entry.name


def runs(step: Step, entry: Entry) -> bool:
    try:
        return bool(commands.choose_command(step, entry) and commands.base_config(step, entry))
    except SlipwayError:
        return False


def classes_of(said: list[str] | None = None, **wish: Any) -> Classes:
    main = Environment(python=sys.executable, packages={})
    entry = entry_of(environments={"main": main}, configurations=Configurations(**wish))
    found = configurations.read_classes(Root(REPO), entry, inside, (said if said is not None else []).append)
    assert found is not None
    return found


def test_what_a_class_takes_is_read_of_the_class_itself() -> None:
    found = classes_of(
        classes={"launch": "launcher.planning.preparation.Options"},
        targets=["launcher.engines.Status", "json.dumps"],
    )
    assert found.sections == {"launch": "launcher.planning.preparation.Options"} and found.why == {}
    options = found.known["launcher.planning.preparation.Options"]
    assert {"step", "words", "nodes"} <= options.keys.keys() and not options.open
    assert {"step", "nodes", "resume"} <= {*options.plain} and "words" not in options.plain  # a tuple
    status, ended = found.known[found.targets["launcher.engines.Status"]], "launcher.records.outcome.Ended"
    assert (status.keys["end"], status.keys["detail"]) == ([ended], [])
    assert "detail" in found.known[ended].keys  # what a field is made of is known, too
    assert found.known["json.dumps"].open  # **kw


def test_a_class_that_is_not_there_is_said_and_hides_no_other() -> None:
    said: list[str] = []
    found = classes_of(said, classes={"a": "no.such.Class", "b": "json.JSONEncoder"}, targets=["json.Absent"])
    assert found.sections == {"b": "json.encoder.JSONEncoder"}
    assert "No module named 'no'" in found.why["a"] and "json.Absent: AttributeError" in found.why["json.Absent"]
    assert len(said) == 2 and said[0].endswith(": a")


def test_a_record_gets_the_classes_that_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "entrypoints").symlink_to(REPO / "entrypoints")
    main = Environment(python=sys.executable, packages={})
    entry = entry_of(environments={"main": main}, configurations=Configurations(targets=["json.dumps"]))
    record = record_image(Root(tmp_path), entry)
    assert configurations.wanted(entry, record)
    record = configurations.remember(Root(tmp_path), entry, record, inside, lambda _: None)
    assert record.classes and record.classes.targets == {"json.dumps": "json.dumps"}
    assert not configurations.wanted(entry, record) and identity.records(Root(tmp_path), entry) == [record]
