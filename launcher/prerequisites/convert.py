"""`--convert`: where an input is of another type than a step wants, the step that makes it one comes first.

What was converted stays in `<runs>/.converted/<plan hash>`, whose name says of what, with what and how it was made, and
is taken again by the next launch that needs it. It is made as what lies in a cache is: by a run, under its lease, and
whole once the marker is there (records/store.py).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec

from images.locking import lock as locks
from launcher.artifacts.detection import Artifact
from launcher.catalog import definitions, releases
from launcher.catalog.cache_location import Converted
from launcher.planning import preparation
from launcher.planning.checks import parallelism
from launcher.planning.preparation import Options
from launcher.planning.run_files import Prepared
from launcher.records import store
from slipway.errors import Exit, SlipwayError
from slipway.files import cannot_write, check_own, make_folders, own_folder
from slipway.project import Root

FOLDER = ".converted"


@dataclasses.dataclass(frozen=True)
class Conversion:
    """`input`: of the launch that needs it; `prepared`: what makes it, into `folder`."""

    input: str
    prepared: Prepared
    folder: Path

    @property
    def made(self) -> bool:
        return store.marker(self.folder) is not None

    def make_room(self) -> None:
        """The folder of all conversions, which has to be one's own: what lies in there is taken for converted."""
        with cannot_write(self.folder):
            make_folders(self.folder.parent.parent)
        own_folder(self.folder.parent)


def needed(root: Root, options: Options, prepared: Prepared) -> list[Conversion]:
    """What has to be converted for a launch. Raises SlipwayError 64 where a converting step needs what is not given."""
    entry = next(e for e in locks.load_lock(root).entries.values() if e.checksum == prepared.plan.entry)
    step = releases.at_release(definitions.find_step(root, options.step), entry)
    steps = definitions.all_steps(root)
    found = []
    for name, artifact in prepared.plan.inputs.items():
        wanted = step.inputs[name].types
        pair = (
            parallelism.converting(steps, artifact, wanted) if artifact.type and artifact.type not in wanted else None
        )
        if pair:
            words = _words(*pair, name, prepared)
            found.append(_conversion(root, options, artifact, pair[0], words))
    return found


def _conversion(
    root: Root, options: Options, of: Artifact, step: definitions.Step, words: tuple[str, ...]
) -> Conversion:
    gpu_ids = ",".join((options.gpu_ids or "").split(",")[: step.shape.gpus])
    asked = Options(
        step=step.id, words=words, profile=options.profile, flavour=options.flavour, runs_dir=options.runs_dir,
        allow_drift=options.allow_drift, argv=options.argv, gpu_ids=gpu_ids,
        gpus=0 if options.gpus == 0 else None,  # else as many as that step asks for
    )  # fmt: skip
    first = preparation.prepare(root, asked)
    check_own(first.runs / FOLDER)  # what is found in there is taken for ours
    anywhere = msgspec.structs.replace(first.plan, gpus=None)  # whichever GPUs are free now
    folder = first.runs / FOLDER / anywhere.hash[:16]
    makes = Converted(folder=folder.name, input=of.name, model=of.path, fingerprint=of.fingerprint, by=step.id)
    whole = dataclasses.replace(asked, words=(*words, f"output={folder}"), makes=makes)
    return Conversion(of.name, preparation.prepare(root, whole), folder)


def _words(step: definitions.Step, first: str, name: str, prepared: Prepared) -> tuple[str, ...]:
    """The converting step's inputs: what is converted, and what else it needs of the launch's own inputs."""
    inputs = prepared.plan.inputs
    words = [f"{first}={inputs[name].path}"]
    for other, wanted in step.inputs.items():
        if other == first or wanted.optional:
            continue
        fitting = [a.path for n, a in inputs.items() if n == other and a.type in wanted.types]
        fitting += [a.path for n, a in inputs.items() if n != name and a.type in wanted.types]
        if not fitting:
            what = f"{step.id} would make it, and has to be told {other}= ({wanted.help}), which this launch cannot say"
            remedy = f"run it first: launch {step.id} {first}={inputs[name].path} {other}=PATH output=NEW"
            raise SlipwayError(Exit.WORDS, what, where=f"--convert {name}", remedy=f"{remedy}; then say {name}=NEW")
        words.append(f"{other}={fitting[0]}")
    return tuple(words)


def converted(options: Options, conversions: list[Conversion]) -> Options:
    """The launch with what was converted in place of what was given."""
    places = {c.input: str(c.folder) for c in conversions}
    named = [word.partition("=")[0] for word in options.words]
    words = [f"{n}={places[n]}" if n in places else w for n, w in zip(named, options.words, strict=True)]
    return dataclasses.replace(options, words=tuple(words))
