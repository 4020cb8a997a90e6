"""What was prepared, as the files of a run directory and as the text of a dry run."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from launcher import engines
from launcher.artifacts import detection
from launcher.catalog import profiles
from launcher.core.asked import Asked
from launcher.core.plan import LaunchSpec, Plan
from launcher.engines.shell import refusing
from launcher.planning import code as codes
from launcher.planning import probe
from launcher.records import older, outputs, run_directory
from launcher.records.labels import Labels
from slipway import canonical, inbox
from slipway.errors import Exit, SlipwayError
from slipway.files import (
    PRIVATE,
    cannot_write,
    keep_private,
    make_folders,
    make_private,
    private,
    read_text,
    sha256_file,
    write_atomic,
)
from slipway.findings import Finding
from slipway.inbox import Damaged
from slipway.project import Root

ASKED = "asked.json"  # in a run directory: what `launch submit DIR` puts into the record


@dataclass(frozen=True)
class Prepared:
    """A plan, what the rules found, and the request that would be (and will be) submitted.

    `files`: what goes into the run's slipway/ folder beside plan.json -> where it is now. `code`: what writes each tree
    of --code into a folder. `hub`: the inputs of the hub, at their commits, that have to be fetched before. `spec`:
    what was asked for; None of what `-o` wrote. `asked`: what the record keeps of it; None of what is no launch of its
    own. `labels`: what the run is called. `memory`: what is estimated of a GPU's, which the run keeps.
    """

    plan: Plan
    findings: list[Finding]
    request: dict[str, Any]
    runs: Path
    notes: list[str]
    address: str
    argv: tuple[str, ...]
    files: dict[str, Path]
    code: Mapping[str, Callable[[Path], None]]
    hub: Mapping[str, str] = field(default_factory=dict)
    spec: LaunchSpec | None = None
    asked: Asked | None = None
    labels: Labels = field(default_factory=Labels)
    memory: dict[str, str] = field(default_factory=dict)

    @property
    def engine(self) -> engines.Engine:
        return engines.of(self.plan.profile.kind)


def write_run_files(prepared: Prepared, path: Path) -> None:
    """plan.json, the request and slipway/ into a run directory, which others cannot enter; raises SlipwayError 73."""
    for name, source in prepared.files.items():
        target = path / "slipway" / name
        with cannot_write(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    for name, write in prepared.code.items():
        write(path / "code" / name)
    engine = prepared.engine
    write_atomic(path / "plan.json", canonical.pretty(prepared.plan), PRIVATE)
    write_atomic(path / engine.REQUEST, engine.request_text(prepared.request), PRIVATE)
    if prepared.asked:
        write_atomic(path / ASKED, canonical.pretty(prepared.asked), PRIVATE)
    with cannot_write(path):
        shutil.copyfile(path / "plan.json", path / "slipway" / "plan.json")
        (path / "logs").mkdir(exist_ok=True)
        for name in engine.LOGS:
            open(path / "logs" / name, "ab", opener=private).close()
        keep_private(path)


def request_as(prepared: Prepared, as_json: bool, first: int = 0) -> str:
    """What a dry run prints: the very request that would be submitted; with errors, one that refuses to run.

    `first`: the exit code of what has to come first and is refused.
    """
    engine, request = prepared.engine, prepared.request
    wrong = [str(f).removeprefix("error: ") for f in prepared.findings if f.severity == "error"]
    wrong += [f"what has to be made first is refused ({first}): the dry run says why"] if first else []
    if wrong and "script" in request:
        request = request | {"script": refusing(request["script"], wrong)}
    if as_json:
        return canonical.pretty(request)
    text = engine.as_text(request)
    return text if not wrong or "script" in request else refusing(text, wrong)


def write_directory(prepared: Prepared, path: Path) -> None:
    """`-o DIR`: a complete run directory, for `launch submit DIR`. Raises SlipwayError 73 where DIR is not empty."""
    with cannot_write(path):
        make_folders(path.parent)
        with contextlib.suppress(FileExistsError):
            make_private(path)
        if not path.is_dir() or any(path.iterdir()):
            raise SlipwayError(Exit.CANNOT_WRITE, "is not an empty folder", where=f"-o {path}")
        keep_private(path)  # an empty folder that was there: before anything is written into it
    write_run_files(prepared, path)


def from_directory(
    root: Root, path: Path, runs_dir: str | None, argv: tuple[str, ...], interactive: bool = False
) -> Prepared:
    """What `-o` wrote, ready to submit. Raises SlipwayError 65 where the files are not those that were written.

    `interactive`: of a run that has ended, as it was. An input that was changed since is told then; one that is gone is
    refused (66).
    """
    try:
        plan = older.decode(read_text(path / "plan.json").encode(), Plan, path)
    except Damaged as e:
        raise SlipwayError(Exit.DATA, f"not a run directory: {e.what}", where=str(path)) from e
    for name in {*plan.secrets, *plan.profile.secrets}:
        if why := profiles.secret_fault(name):
            raise SlipwayError(Exit.DATA, f"secret {name!r}: {why}", where=str(path / "plan.json"))
    engine = engines.of(plan.profile.kind)
    request = engine.render(plan)
    if read_text(path / engine.REQUEST) != engine.request_text(request):
        raise SlipwayError(Exit.DATA, f"{engine.REQUEST} is not what plan.json says", where=str(path))
    files = {name: path / "slipway" / name for name in plan.files}
    for name, source in files.items():
        if not source.is_file() or sha256_file(source) != plan.files[name]:
            raise SlipwayError(Exit.DATA, "was changed since it was written", where=str(source))
    for name, tree in plan.code.items():
        codes.check_written(tree, path / "code" / name, Exit.DATA, "was changed since it was written")
    notes = []
    for name in _changed(plan):
        where = f"{name}={plan.inputs[name].path}"
        if not interactive:
            raise SlipwayError(Exit.DATA, "was changed since this was planned", where=where)
        if not Path(plan.inputs[name].path).exists() and not plan.inputs[name].files:
            raise SlipwayError(Exit.NO_INPUT, "is not there any more", where=where)
        notes.append(f"drift: {where} was changed since the run")
    output = Path(plan.output)
    if not interactive and output.is_dir() and not plan.resume and not outputs.is_empty(output):
        raise SlipwayError(Exit.CANNOT_WRITE, "is not empty any more", where=f"output={output}")
    found = probe.engine(root, plan.profile)
    if found.error:
        raise SlipwayError(Exit.UNAVAILABLE, found.error, where=found.address, remedy=found.remedy)
    runs = run_directory.runs_dir(root, runs_dir, plan.profile.runs)
    writers = {name: partial(codes.copy, tree, path / "code" / name) for name, tree in plan.code.items()}
    said = inbox.read(path, ASKED)
    asked = None if said is None else inbox.decode(said, Asked, path / ASKED)
    return Prepared(plan, [], request, runs, notes, found.address, argv, files, writers, asked=asked)


def _changed(plan: Plan) -> list[str]:
    """The inputs that are not what was planned; but for those that are made first."""
    there = {name: planned for name, planned in plan.inputs.items() if not planned.expected}
    return [n for n, planned in there.items() if detection.inspect(n, Path(planned.path), planned.rows) != planned]
