"""What the run's slipway/ folder gets beside its plan: the entrypoint, and the step programs with what they import."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher import engines
from launcher.catalog.definitions import Step
from slipway import resolver
from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import read_text
from slipway.project import Root


def files(root: Root, step: Step, programs: Sequence[str], engine: engines.Engine) -> dict[str, Path]:
    """Name below slipway/ -> where it is now. `programs`: those of entrypoints/steps that the container runs.

    Raises SlipwayError 78 for an unknown program, 65 for lines that a shell misreads, 77.
    """
    folder = root.file("entrypoints")
    with_ray = step.launcher == "ray"  # a change there is none of the other steps' plans
    supervisor = [f"supervisor/{p.name}" for p in sorted(root.file(folder / "supervisor").glob("*.py"))]
    names = [*supervisor, "gpus.py", "verify.py", "ray_watch.py", *engine.FILES]
    found = {n: root.file(folder / n) for n in names if with_ray or not Path(n).name.startswith("ray_")}
    found["entrypoint.sh"] = root.file(folder / f"{step.library}.sh")
    there = {p.stem: p for p in root.file(folder / "steps").glob("*.py")}
    for program in programs:
        if Path(program).stem not in there:
            what = f"{step.id}: there is no step program {program!r} in entrypoints/steps"
            remedy = nearest(program, [f"{name}.py" for name in there])
            raise SlipwayError(Exit.CONFIG, what, where=f"{step.folder}/step.yaml", remedy=remedy)
    found |= with_imports(root, programs)
    for path in found.values():
        _refuse_crlf(path)
    return found


def with_imports(root: Root, programs: Sequence[str]) -> dict[str, Path]:
    """Programs of entrypoints/steps and what they import, as `files` has them."""
    there = {p.stem: p for p in root.file(root.file("entrypoints") / "steps").glob("*.py")}
    imported = sorted(set().union(*(_imported(there, Path(program).stem) for program in programs)))
    # The resolver: the very code that this plan was made with.
    return {f"steps/{n}.py": root.file(there[n]) for n in imported} | {
        "steps/slipway_resolver.py": Path(resolver.__file__)
    }


def _refuse_crlf(path: Path) -> None:
    """A shell takes the carriage return of a CRLF line for a part of its last word. Raises SlipwayError 65."""
    if b"\r\n" in path.read_bytes():
        remedy = "check it out with LF: git config core.autocrlf false; git rm --cached -r -q . && git reset --hard"
        raise SlipwayError(Exit.DATA, "its lines end with CRLF, expected LF", where=str(path), remedy=remedy)


def _imported(there: Mapping[str, Path], name: str) -> set[str]:
    """A step program, and those beside it that it imports: another one's change is no change of this plan."""
    found, to_read = {name}, [name]
    while to_read:
        text = read_text(there[to_read.pop()])
        new = {m for m in re.findall(r"^\s*(?:import|from) (\w+)", text, re.M) if m in there} - found
        found |= new
        to_read += new
    return found
