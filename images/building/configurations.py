"""What an image knows of configurations: what the files say that steps start from, and which keys the library takes.

Both are read inside it, and kept in its record. Which files and classes these are is data: `configurations:` of the
entry. What cannot be read is unknown, and said; it stops nothing. Inside run entrypoints/read_configurations.py,
read_classes.py, which imports classes, and read_types.py, which parses sources. Their text is an argument: an engine on
another machine, and a file that is mounted read-only, need nothing brought in.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from images.bootstrap import debian
from images.building import identity, render
from images.building.identity import BaseFile, Classes, ImageRecord
from images.locking.model import Entry
from slipway.files import read_text
from slipway.project import Root

USER = 12345  # whom no image knows; chroot.sh has it too
_MOST = 16 << 20  # bytes of what the program prints
Done = subprocess.CompletedProcess[bytes]
# Runs the image's main Python with these words, as nobody and without a network.
Inside = Callable[[list[str]], Done]
Say = Callable[[str], None]


class Told(NamedTuple):
    """What an image knows, as fields of its record."""

    configurations: dict[str, BaseFile]
    classes: Classes | None

    def into(self, record: ImageRecord, **changes: Any) -> ImageRecord:
        return msgspec.structs.replace(record, **self._asdict(), **changes)


NOTHING = Told({}, None)


def wanted(entry: Entry, record: ImageRecord) -> bool:
    """Whether the entry names what the record says nothing of; what the lock carries of an image is no record."""
    said = entry.configurations
    if said is None or not record.inputs:
        return False
    told = record.classes or Classes()
    unread = {*said.classes, *said.targets, *said.types} - {*told.sections, *told.targets, *told.why}
    return bool(unread) or not set(said.paths) <= record.configurations.keys()


def look(root: Root, entry: Entry, inside: Inside, say: Say) -> Told:
    """All that the entry asks of an image; `say` gets what is not known, and why."""
    return Told(read(root, entry, inside, say), read_classes(root, entry, inside, say))


def read_classes(root: Root, entry: Entry, inside: Inside, say: Say) -> Classes | None:
    """Which keys the library takes; None where the entry names no class and no type."""
    said = entry.configurations
    if said is None or not (said.classes or said.targets or said.types):
        return None
    found = Classes()
    if said.classes or said.targets:
        asked = [*(f"{section}={name}" for section, name in said.classes.items()), *said.targets]
        found = _ask(root, entry, inside, "read_classes.py", asked, [*said.classes, *said.targets])
    if said.types:
        typed = _ask(root, entry, inside, "read_types.py", [said.tree, *said.types], said.types)
        found = Classes(
            sections=found.sections,
            targets=found.targets | typed.targets,
            known=found.known | typed.known,
            why=found.why | typed.why,
            read=typed.read,
        )
    for why in dict.fromkeys(found.why.values()):
        names = ", ".join(name for name, other in found.why.items() if other == why)
        say(f"{entry.name}: which keys it takes is not known when planning, since {why}: {names}")
    return found


def _ask(root: Root, entry: Entry, inside: Inside, program: str, asked: list[str], names: list[str]) -> Classes:
    """What a program in the image says; where it cannot, why none of `names` is known."""
    text = read_text(root.file(f"entrypoints/{program}"))
    done = inside([render.main_environment(entry).python, "-I", "-B", "-c", text, *asked])
    try:
        found: Classes = _decoded(done, Classes)
    except (ValueError, RecursionError) as e:
        found = Classes(why=dict.fromkeys(names, f"it could not be read: {e}"))
    return found


def _decoded(done: Done, type_: Any) -> Any:
    """What a program has printed. Raises ValueError where it failed, or printed something else."""
    if done.returncode or len(done.stdout) > _MOST:
        last = (done.stderr or b"").decode(errors="replace").strip().splitlines()[-1:]
        raise ValueError(f"its Python ended with {done.returncode}: {' '.join(last)}")
    return msgspec.json.decode(done.stdout, type=type_)


def words(root: Root, entry: Entry) -> list[str]:
    """The image's main interpreter, and what it has to be told; `entry` names files."""
    assert entry.configurations is not None
    program = read_text(root.file("entrypoints/read_configurations.py"))
    python = render.main_environment(entry).python
    return [python, "-I", "-B", "-c", program, entry.configurations.loader, *entry.configurations.paths]


def read(root: Root, entry: Entry, inside: Inside, say: Say) -> dict[str, BaseFile]:
    """Every file that the entry names, by its path; `say` gets what is not known, and why."""
    if entry.configurations is None or not entry.configurations.paths:
        return {}
    done = inside(words(root, entry))
    try:
        found: dict[str, BaseFile] = _decoded(done, dict[str, BaseFile])
    except (ValueError, RecursionError) as e:
        found = {path: BaseFile(why=f"it could not be read: {e}") for path in entry.configurations.paths}
    found = {path: found.get(path, BaseFile(why="it was not told")) for path in entry.configurations.paths}
    unknown: dict[str, list[str]] = {}
    for path, file in found.items():
        if file.values is None:
            unknown.setdefault(file.why.replace(path, "it"), []).append(path)
    for why, paths in unknown.items():
        say(f"{entry.name}: not known when planning, since {why}: {', '.join(paths)}")
    return found


def remember(root: Root, entry: Entry, record: ImageRecord, inside: Inside, say: Say) -> ImageRecord:
    """The record with what its image knows, read and saved where it lacks that. Raises SlipwayError 73."""
    if not wanted(entry, record):
        return record
    record = look(root, entry, inside, say).into(record)
    identity.save(root, record)
    return record


def in_engine(address: str, image: str) -> Inside:
    """By an engine, of an image that it has."""

    def inside(command: list[str]) -> Done:
        docker = [debian.which("docker") or "docker", "run", "--rm", "--network", "none", "--read-only"]
        docker += ["--tmpfs", "/tmp", "--env", "HOME=/tmp", "--user", f"{USER}:{USER}", "--entrypoint", command[0]]
        return run([*docker, image, *command[1:]], {**os.environ, "DOCKER_HOST": address})

    return inside


def run(command: list[str], env: dict[str, str]) -> Done:
    """A command and what it prints; one that is not there ends with 127."""
    try:
        return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as e:
        return subprocess.CompletedProcess(command, 127, b"", str(e).encode())


def of_ids(root: Root, entry: Entry, ids: set[str]) -> ImageRecord | None:
    """The record of an image that is known by one of these ids; None where there is none. Raises SlipwayError 65."""
    return next((r for r in identity.records(root, entry) if ids & set(r.ids)), None)
