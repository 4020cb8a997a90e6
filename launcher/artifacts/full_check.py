"""`launch check`: what paths are, and with `--full` every byte of them, in parallel and in bounded memory."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import msgspec

from launcher.artifacts import binidx, blobs, compressed, datasets, detection, hub_cache, jsonl, row_numbers
from launcher.artifacts.detection import Artifact
from launcher.artifacts.faults import MAX_FAULTS, fault, kept
from launcher.artifacts.row_numbers import Numbers
from launcher.artifacts.rows import Shape
from launcher.artifacts.tokens import Tokenizer
from slipway.errors import Exit, SlipwayError, visible
from slipway.findings import Finding
from slipway.yamldoc import Noun

PIECE = 8 * 1024 * 1024  # bytes of a file that one task checks, at least
PIECES = 2048  # tasks at most, for files that can be cut
AHEAD = 4  # tasks for each worker that are handed out at a time
_PR_SET_PDEATHSIG = 1

Progress = Callable[[int, int], None]


class Checked(Noun, frozen=True, kw_only=True):
    """A path, and the numbers of its faults, of which the artifact keeps the first 20 of each severity.

    `sha256` (hex): over the names and contents of its files, where they were hashed.
    """

    artifact: Artifact
    errors: int
    warnings: int
    lines: int = 0
    numbers: Numbers | None = None
    sha256: str = ""

    @property
    def exit(self) -> Exit:
        """66 where nothing is there, 65 for errors and for what is nothing that we know, else 0."""
        if self.artifact.kind == "missing":
            return Exit.NO_INPUT
        return Exit.DATA if self.errors or not self.artifact.type else Exit.OK


class Report(Noun, frozen=True, kw_only=True):
    """What every path is, in the order asked for."""

    full: bool
    checked: list[Checked]

    @property
    def exit(self) -> Exit:
        """The first one's that is not 0."""
        return next((c.exit for c in self.checked if c.exit), Exit.OK)


class _Piece(NamedTuple):
    """What one task reads: the lines that begin in a range of a file, or all of it where there is no shape.

    `blob`: which blob of the hub it has to be, if any.
    """

    file: Path
    shape: Shape | None
    start: int
    size: int  # of this part of the file on disk
    whole: bool
    blob: str = ""


class _Result(NamedTuple):
    scan: jsonl.Scan
    digest: str = ""
    blob: str = ""
    broken: str = ""


def look_at(paths: Sequence[Path]) -> Report:
    """What each path is, by its beginning."""
    return Report(full=False, checked=[_counted(detection.inspect(_name(p), p)) for p in paths])


def check_files(paths: Sequence[Path], workers: int, progress: Progress) -> Report:
    """Reads all of every path: each line of JSON Lines, the sha256 of anything else, and of the hub's every blob.

    `progress` is told how many bytes of how many are done. Raises SlipwayError 75 where a worker was killed.
    """
    found = [detection.inspect(_name(p), p) for p in paths]
    plans = [_pieces(a) for a in found]
    total, done = sum(p.size for plan in plans for p in plan), 0
    results: list[list[_Result]] = []
    with _workers(workers if total > PIECE else 1) as run:
        for plan in plans:
            results.append([])
            for piece, result in zip(plan, run(plan), strict=True):
                results[-1].append(result)
                done += piece.size
                progress(done, total)
    return Report(full=True, checked=[_full(*both) for both in zip(found, plans, results, strict=True)])


def with_numbers(report: Report, every: bool, tokenizer: Tokenizer | None, length: int | None) -> Report:
    """With the numbers of rows: of what was small enough to be looked at whole, or of `every` artifact with rows.

    Raises SlipwayError 65 where rows have to be rendered and the tokenizer cannot.
    """
    return msgspec.structs.replace(report, checked=[_numbered(c, every, tokenizer, length) for c in report.checked])


def _numbered(checked: Checked, every: bool, tokenizer: Tokenizer | None, length: int | None) -> Checked:
    artifact = checked.artifact
    small = artifact.checked == "whole" and artifact.bytes <= datasets.HEADS
    if not artifact.type.endswith("_jsonl") or not (every or small):
        return checked
    try:
        numbers = row_numbers.of_files(_files(artifact), artifact.type, tokenizer, length)
    except OSError:
        return checked  # broken packing, of which the artifact's faults say more
    if not numbers.rows:
        return checked
    return msgspec.structs.replace(checked, numbers=numbers, errors=checked.errors + numbers.untold)


def _name(path: Path) -> str:
    return path.name or str(path)


def _counted(artifact: Artifact) -> Checked:
    severities = [f.severity for f in artifact.faults]
    return Checked(artifact=artifact, errors=severities.count("error"), warnings=severities.count("warning"))


def _pieces(artifact: Artifact) -> list[_Piece]:
    files = _files(artifact)
    shape = datasets.shape_of(files[0])[0] if artifact.type.endswith("_jsonl") else None
    sizes = [f.stat().st_size for f in files]
    step = max(PIECE, sum(sizes) // PIECES)
    pieces = []
    place = hub_cache.place(artifact.path)
    named = blobs.expected(place, files) if place else {}
    for file, size in zip(files, sizes, strict=True):
        blob = named.get(file, "")
        if blob or shape is None:
            pieces.append(_Piece(file, None, 0, size, True, blob))
        if shape is None:
            continue
        if size <= step or compressed.packed(file):
            pieces.append(_Piece(file, shape, 0, size, True))
        else:
            pieces += [_Piece(file, shape, at, min(step, size - at), False) for at in range(0, size, step)]
    return pieces


def _files(artifact: Artifact) -> list[Path]:
    """The files that are read: none where nothing is known, or what was found cannot be read; of the hub's always."""
    path = Path(artifact.path)
    if not artifact.type and not (artifact.bytes and hub_cache.place(path)):
        return []
    if artifact.kind == "folder" and artifact.type.endswith("_jsonl"):
        return datasets.data_files(path)
    if artifact.kind == "folder":
        return detection.files_below(path)
    return [Path(f) for f in artifact.files] or [path]


@contextlib.contextmanager
def _workers(count: int) -> Iterator[Callable[[Sequence[_Piece]], Iterator[_Result]]]:
    """A map over pieces, in their order: here for one worker, else in processes that die with this one."""
    if count == 1:
        yield lambda pieces: map(_read, pieces)
        return
    context = get_context("fork")  # nothing else runs in this process yet, and nothing has to be imported again
    with ProcessPoolExecutor(count, mp_context=context, initializer=_become_worker, initargs=(os.getpid(),)) as pool:
        try:
            yield lambda pieces: _in_order(pool, pieces, AHEAD * count)
        except BrokenProcessPool as e:
            raise SlipwayError(Exit.TRY_AGAIN, "a worker was killed", remedy="out of memory? try --workers 1") from e
        finally:
            pool.shutdown(cancel_futures=True)  # waits: one that is shut down in its exit complains of a closed pipe


def _in_order(pool: Executor, pieces: Sequence[_Piece], ahead: int) -> Iterator[_Result]:
    waiting: list[Future[_Result]] = [pool.submit(_read, p) for p in pieces[:ahead]]
    for piece in pieces[ahead:]:
        yield waiting.pop(0).result()
        waiting.append(pool.submit(_read, piece))
    yield from (w.result() for w in waiting)


def _become_worker(parent: int) -> None:
    """Ctrl-C ends a worker without a word, and so does the end of the process that it works for."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _read(piece: _Piece) -> _Result:
    try:
        if piece.shape is None:
            with piece.file.open("rb") as f:
                digest = hashlib.file_digest(f, "sha256").hexdigest()
            wrong = binidx.scan(piece.file) if binidx.is_index(piece.file) and not binidx.check(piece.file)[1] else None
            if wrong:
                return _Result(jsonl.Scan(0, [], {}), digest, broken=wrong.what)
            blob = digest if len(piece.blob) == len(digest) else piece.blob and blobs.content(piece.file, piece.blob)
            return _Result(jsonl.Scan(0, [], {}), digest, blob)
        return _Result(_scan(piece, jsonl.checker(piece.shape)))
    except OSError as e:
        return _Result(jsonl.Scan(0, [], {}), broken=datasets.unreadable(piece.file, e).what)


def _scan(piece: _Piece, check: jsonl.Checker) -> jsonl.Scan:
    if piece.whole:
        with compressed.opened(piece.file) as f:
            return jsonl.scan(f, check)
    with piece.file.open("rb") as f:
        size = piece.size
        if piece.start:  # a line that began before belongs to the piece before
            f.seek(piece.start - 1)
            size -= jsonl.skip_line(f) - 1
        return jsonl.scan(f, check, size)


def _full(artifact: Artifact, plan: Sequence[_Piece], results: Sequence[_Result]) -> Checked:
    hashed = [(p, r) for p, r in zip(plan, results, strict=True) if p.shape is None]
    artifact = _of_blobs(artifact, hashed)
    if len(hashed) == len(plan):
        return _hashed(artifact, hashed) if hashed else _counted(artifact)
    return _scanned(artifact, [(p, r) for p, r in zip(plan, results, strict=True) if p.shape])


def _of_blobs(artifact: Artifact, hashed: Sequence[tuple[_Piece, _Result]]) -> Artifact:
    """With the blobs that have another content than their names say."""
    found = [f for p, r in hashed if p.blob and r.blob for f in blobs.changed(p.file, p.blob, r.blob)]
    return msgspec.structs.replace(artifact, faults=[*artifact.faults, *(f for f in found if f not in artifact.faults)])


def _scanned(artifact: Artifact, scanned: Sequence[tuple[_Piece, _Result]]) -> Checked:
    plan = [p for p, _ in scanned]
    faults: list[Finding] = [f for f in artifact.faults if not _of_data(f, plan)]
    errors, warnings = len(faults), 0
    before: dict[Path, int] = dict.fromkeys((p.file for p in plan), 0)
    blank: dict[Path, int] = {}  # at the end of what has been read of a file
    for piece, result in scanned:
        if result.scan.lines > result.scan.blank:
            numbers = range(before[piece.file] - blank.get(piece.file, 0), before[piece.file])
            faults += [fault(f"{piece.file}:{n + 1}", jsonl.EMPTY[1]) for n in numbers[:MAX_FAULTS]]
            errors += len(numbers)
            blank[piece.file] = 0
        blank[piece.file] = blank.get(piece.file, 0) + result.scan.blank
        faults += result.scan.faults(piece.file, before[piece.file])
        before[piece.file] += result.scan.lines
        errors += result.scan.counts.get("error", 0) + bool(result.broken)
        warnings += result.scan.counts.get("warning", 0)
        faults += [fault(piece.file, result.broken)] if result.broken else []
    broken = {p.file for p, r in scanned if r.broken}
    full = {f for f, lines in before.items() if lines > blank.get(f, 0)}
    empty = [fault(f, "the file is empty") for f in before if f not in full | broken]
    whole = msgspec.structs.replace(artifact, faults=kept([*faults, *empty]), checked="whole")
    return Checked(artifact=whole, errors=errors + len(empty), warnings=warnings, lines=sum(before.values()))


def _of_data(found: Finding, plan: Sequence[_Piece]) -> bool:
    """Whether reading everything finds this fault again."""
    return any(found.where == str(p.file) or found.where.startswith(f"{p.file}:") for p in plan)


def _hashed(artifact: Artifact, hashed: Sequence[tuple[_Piece, _Result]]) -> Checked:
    digest = hashlib.sha256()
    root = Path(os.path.commonpath([p.file.parent for p, _ in hashed]))
    faults = list(artifact.faults)
    for piece, result in hashed:
        digest.update(f"{piece.file.relative_to(root)}\0{result.digest}\0".encode(errors="surrogateescape"))
        faults += [fault(piece.file, result.broken)] if result.broken else []
    whole = _counted(msgspec.structs.replace(artifact, faults=faults, checked="whole"))
    return msgspec.structs.replace(whole, sha256=digest.hexdigest())


def describe(checked: Checked) -> str:
    """The lines that `launch check` prints of one path."""
    artifact = checked.artifact
    if artifact.kind == "missing":
        return visible(f"{artifact.path}: there is nothing there{f' ({artifact.note})' if artifact.note else ''}")
    what = artifact.type or artifact.note or "cannot be told"
    numbers = f"{artifact.bytes:,} bytes" + (f", {checked.lines:,} lines" if checked.lines else "")
    said = [f"  {name}: {value}" for name, value in _told(checked) if value]
    faults = [f"  {f.severity}: {f.where}: {f.what}" for f in artifact.faults]
    told = [f.severity for f in artifact.faults]
    for severity, count in (("error", checked.errors), ("warning", checked.warnings)):
        if severity == "error" and checked.numbers:
            count -= checked.numbers.untold  # which are told with the rows
        if rest := count - told.count(severity):  # type: ignore[arg-type]
            faults.append(f"  and {rest:,} more {severity}s")
    parameters = [f"  parameters: {artifact.parameters:,}"] if artifact.parameters else []
    rows = row_numbers.describe(checked.numbers) if checked.numbers else []
    lines = [f"{artifact.path}: {what} ({artifact.kind}, {numbers})", *parameters, *said]
    return "\n".join([*map(visible, lines), *rows, *map(visible, faults)])


def _told(checked: Checked) -> Iterator[tuple[str, object]]:
    """Names and values of what was found, in each of the groups that says anything."""
    found = checked.artifact
    for name in ("hub", "checked", "taken"):
        yield name, getattr(found, name)
    yield "sha256", checked.sha256
    made = (found.packing, found.documents)
    for group in (found.data, *made, found.tokenizer, found.sizes, found.weights, found.adapter):
        for name, value in msgspec.to_builtins(group).items():
            if checked.numbers and (group, name) == (found.data, "rows"):
                continue  # told with the other numbers of rows
            shown = "yes" if value is True else ", ".join(value) if isinstance(value, list | dict) else value
            yield f"{type(group).__name__.lower()}.{name}", shown
