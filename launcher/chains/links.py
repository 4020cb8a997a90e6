"""What each step of a pipeline is now: done before, running, to be run, or not what was expected; and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from launcher.artifacts import detection
from launcher.artifacts.datasets import USUAL
from launcher.artifacts.detection import Artifact
from launcher.catalog import definitions, pipelines, profiles
from launcher.catalog.pipelines import Pipeline, Stage
from launcher.chains import keys
from launcher.core.asked import Former
from launcher.core.plan import RUN_DIR
from launcher.planning import preparation, run_inputs
from launcher.planning.checks import preflight
from launcher.planning.preparation import Options
from launcher.planning.probe import Looks
from launcher.planning.run_files import Prepared
from launcher.prerequisites import requirements
from launcher.records import run_directory
from launcher.records.outcome import End
from launcher.records.pipeline_state import Book
from launcher.records.run_directory import Record, Run
from launcher.runs import lifecycle
from slipway import gates, yamldoc
from slipway.errors import Exit, SlipwayError
from slipway.findings import Finding
from slipway.project import Root

Stands = Literal["to run", "running", "done", "not met"]

LINK = "container/made"  # in a run directory: the container leaves it, and it leads to what its step has made


@dataclass(frozen=True)
class Asked:
    """What the command line says of all steps; `said`: the parameters that it gives."""

    values: Mapping[str, Any]
    said: frozenset[str]
    profile: str | None = None
    flavour: Any = None
    runs_dir: str | None = None
    allow_drift: bool = False
    anew: frozenset[str] = frozenset()
    argv: tuple[str, ...] = ()


@dataclass
class Link:
    """A step of a pipeline, as it stands. `needs`: input -> step, and what below its output.

    `checked`: the launch as it would be now, with what is there of its inputs; None where it is not to be run. `made`:
    what it has made, on the host; of a run that goes on the link that its container will leave, to something `within`
    its output.
    """

    name: str
    stage: Stage
    options: Options
    needs: Mapping[str, tuple[str, str]]
    planned: Prepared
    parts: dict[str, str]
    key: str
    stands: Stands = "to run"
    why: str = ""
    run: Run | None = None
    made: str = ""
    within: str = ""
    checked: Prepared | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def former(self) -> Former | None:
        return Former(run=self.run.id, directory=str(self.run.path)) if self.run else None

    def awaits(self, run: Run, record: Record) -> None:
        """It is what this run will have made."""
        self.made = self.made or str(run.path / LINK)
        self.within = record.plan.output.replace(RUN_DIR, str(run.path))


class Chain:
    """The steps of a pipeline that were asked for, in order."""

    def __init__(self, root: Root, pipeline: Pipeline, asked: Asked, book: Book, looks: Looks) -> None:
        self.root, self.pipeline, self.asked, self.book, self.looks = root, pipeline, asked, book, looks
        self.links: dict[str, Link] = {}

    def look(self, names: list[str], fetch: bool = False) -> None:
        """Plans and checks each, and finds what is there of it. Raises SlipwayError where one cannot be planned.

        `fetch`: brings inputs of the hub into HF_HOME.
        """
        for name in names:
            link = self.links[name] = self._planned(name, fetch)
            self._stand(link)
            if link.stands == "to run":
                self._check(link)

    def look_again(self, link: Link) -> bool:
        """Plans a step anew that is about to start, hours after it was checked; whether it is what it was."""
        self.looks, before = Looks(), link.key
        now = self._planned(link.name)
        link.options, link.planned, link.parts, link.key = now.options, now.planned, now.parts, now.key
        return link.key == before

    def _planned(self, name: str, fetch: bool = False) -> Link:
        """With all that steps make taken to be what it will be."""
        stage, needs = self.pipeline.steps[name], self.pipeline.needs(name)
        with_steps = {i: self.links[before] for i, (before, _) in needs.items()}
        expected = {i: self._predicted(i, link, needs[i][1]) for i, link in with_steps.items()}
        try:
            step = definitions.find_step(self.root, stage.step)
            options = dataclasses.replace(self._options(name, bool(step.metrics)), expected=expected)
            words = (*options.words, *(f"{i}={artifact.path}" for i, artifact in expected.items()))
            whole = dataclasses.replace(options, words=words)
            planned = preparation.prepare(self.root, whole, self.looks)
            planned = preparation.fetched(self.root, whole, planned, self.looks) if fetch else planned
        except SlipwayError as e:
            raise self.placed(name, e) from e
        parts = keys.parts(planned.plan)
        return Link(name, stage, options, needs, planned, parts, keys.key(parts))

    def _predicted(self, name: str, link: Link, below: str) -> Artifact:
        run = link.planned.runs / f"steps.{link.name}"
        found = keys.predicted(name, link.planned.plan, link.key, str(run / LINK / below), below)
        return msgspec.structs.replace(found, within=link.planned.plan.output.replace(RUN_DIR, str(run)))

    def _options(self, name: str, trains: bool) -> Options:
        stage, asked, pipeline = self.pipeline.steps[name], self.asked, self.pipeline
        overlays = pipelines.overlays(pipeline, name, asked.values, asked.said)
        return Options(
            step=stage.step, words=tuple(self._up_to_date(pipelines.words(pipeline, name, asked.values, asked.said))),
            profile=asked.profile or stage.profile or pipeline.profile or "docker", release=stage.release,
            flavour=asked.flavour or stage.flavour or pipeline.flavour, overlays=tuple(overlays),
            nodes=stage.nodes, gpus=stage.gpus, gpu_ids=stage.gpu_ids, procs=stage.procs,
            env=tuple(pipelines.env(pipeline, name, asked.values)), secret=tuple(stage.secrets), code=tuple(stage.code),
            megatron_cache=stage.megatron_cache, allow_drift=asked.allow_drift, runs_dir=asked.runs_dir,
            argv=asked.argv, expect=tuple(pipelines.expected(stage, trains)),
        )  # fmt: skip

    def _up_to_date(self, words: list[str]) -> Iterator[str]:
        """`input=run:RUN` with the run's directory for its name; a run that has ended is collected."""
        for word in words:
            name, _, value = word.partition("=")
            if value.startswith(run_inputs.PREFIX):
                run = run_inputs.find(self.root, value.removeprefix(run_inputs.PREFIX), self.asked.runs_dir)
                lifecycle.refresh(run)
                word = f"{name}={run_inputs.PREFIX}{run.path}"
            yield word

    def _stand(self, link: Link) -> None:
        run = self.book.made(link.key)
        record, state = lifecycle.refresh(run) if run and run.ours else (None, "")
        if link.name in self.asked.anew and not (record and record.outcome is None):
            link.why = "--from"
        elif run is None or record is None:
            link.why = self._changed(link)
        elif record.outcome is None:
            link.stands, link.run, link.why = "running", run, state
            link.awaits(run, record)
        else:
            self._ended(link, run, record)

    def _changed(self, link: Link) -> str:
        """Why no run of before stands for it."""
        before = self.book.state.steps.get(link.name)
        if before is None:
            return "has not run yet"
        if before.key == link.key:
            return "the directory of its run is gone" if before.run else "was not started the last time"
        steps = {i: step for i, (step, _) in link.needs.items()}
        return "; ".join(keys.changes(before.parts, link.parts, steps)) or "has not run yet"

    def _ended(self, link: Link, run: Run, record: Record) -> None:
        """By its record, which is judged anew: what is expected may be other than it was."""
        outcome = record.outcome
        assert outcome is not None
        if outcome.end not in (End.DONE, End.NOT_MET):
            link.why = f"{outcome.word} before: {run.id} ({outcome.reason})"
            return
        wrong = gates.judge(outcome.result, [gates.parse(text) for text in link.options.expect])
        if wrong:
            link.stands, link.run, link.why = "not met", run, f"in {run.id}: {'; '.join(wrong)}"
        elif not outcome.checkpoint or not Path(outcome.checkpoint).exists():
            link.why = f"what {run.id} has made is not there any more"
        else:
            link.stands, link.run, link.made = "done", run, outcome.checkpoint
            link.why = "unchanged" if outcome.end is End.DONE else "what is expected has changed, and is met"

    def _check(self, link: Link) -> None:
        """The rules, with what is there of its inputs."""
        ready = all(self.links[before].stands == "done" for before, _ in link.needs.values())
        link.checked = self.prepare(link) if link.needs and ready else link.planned
        link.findings = self.told(link, [*link.checked.findings, *self._of_needs(link, link.checked)])

    def _of_needs(self, link: Link, prepared: Prepared) -> Iterator[Finding]:
        """Of what a launch has made first, as a conversion for the library's own cache."""
        try:
            for need in requirements.missing(prepared.plan):
                first = requirements.prepare(self.root, prepared, need, self.looks)
                yield from first.findings
                yield from self._of_needs(link, first)
        except SlipwayError as e:
            raise self.placed(link.name, e) from e

    def prepare(self, link: Link, fetch: bool = False) -> Prepared:
        """The launch with its inputs as they are: of runs that are done, and of jobs that it waits for."""
        words, former, expected = list(link.options.words), dict[str, Former](), dict[str, Artifact]()
        for name, (before, below) in link.needs.items():
            made = self.links[before]
            path = str(Path(made.made, below)) if made.made else link.options.expected[name].path
            words.append(f"{name}={path}")
            if made.former:
                former[name] = made.former
            if made.stands != "done":
                within = made.within or link.options.expected[name].within
                expected[name] = msgspec.structs.replace(link.options.expected[name], path=path, within=within)
            elif link.planned.plan.profile.kind == "slurm":
                expected[name] = self._keyed(name, path, link.options.expected[name].fingerprint)
        options = dataclasses.replace(link.options, words=tuple(words), from_run=former, expected=expected)
        try:
            found = preparation.prepare(self.root, options, self.looks)
            found = preparation.fetched(self.root, options, found, self.looks) if fetch else found
        except SlipwayError as e:
            raise self.placed(link.name, e) from e
        return dataclasses.replace(found, labels=self.book.labels(link.name, link.key))

    def _keyed(self, name: str, path: str, key: str) -> Artifact:
        """What is there, under the key by which a job names it that was planned before: one chain, one name."""
        found, _ = self.looks.once(lambda: (detection.inspect(name, Path(path)), None), path, "", str(USUAL))
        return msgspec.structs.replace(found, name=name, fingerprint=key, expected=path)

    def told(self, link: Link, findings: list[Finding]) -> list[Finding]:
        """Findings with the place in the pipeline, in which what is not there has the name of its step."""
        names = {a.path: f"steps.{link.needs[i][0]}" for i, a in link.options.expected.items()}
        return [self._told(link, finding, names) for finding in findings]

    def _told(self, link: Link, finding: Finding, names: Mapping[str, str]) -> Finding:
        remedy = finding.remedy.replace("say --convert, or run first: ", "put a step between: ")
        texts = {"where": finding.where, "what": finding.what, "remedy": remedy}
        for path, name in names.items():
            texts = {key: text.replace(path, name) for key, text in texts.items()}
        texts["where"] = f"{self._place(link.name, finding.where)}: {texts['where']}"
        return msgspec.structs.replace(finding, **texts)

    def placed(self, name: str, error: SlipwayError) -> SlipwayError:
        """An error of a step's launch, with the place in the pipeline."""
        where = f"{self._place(name, error.where)}{f': {error.where}' if error.where else ''}"
        return SlipwayError(error.code, error.what, where=where, remedy=error.remedy)

    def _place(self, name: str, where: str) -> str:
        """file:line of the key that a word of a launch is of, else of the step."""
        stage, word = self.pipeline.steps[name], where.partition("=")[0]
        kind = "inputs" if word in stage.inputs else "set" if word in stage.set else ""
        kind = "expect" if where.startswith("--expect ") and stage.expect else kind
        keys_ = ("steps", name, kind, word) if word in stage.inputs | stage.set else ("steps", name, kind or "step")
        return f"{self.pipeline.file}:{yamldoc.line_of(Path(self.pipeline.file), *keys_)}: steps.{name}"

    def error(self) -> Finding | None:
        """The first that stops it."""
        return preflight.first_error([f for link in self.links.values() for f in link.findings])


def book_of(root: Root, pipeline: Pipeline, profile: str | None, runs_dir: str | None) -> Book:
    """Where its state is: in the folder of runs that the command line or the pipeline names."""
    of_profile = profiles.find_profile(root, profile or pipeline.profile or "docker").runs
    return Book(run_directory.runs_dir(root, runs_dir, of_profile), pipeline.name, pipeline.file)


def chosen(pipeline: Pipeline, first: str, last: str) -> tuple[list[str], frozenset[str]]:
    """The steps that are asked for, in order, and those that run again (--from). Raises SlipwayError 64."""
    for option, name in (("--from", first), ("--until", last)):
        if name and name not in pipeline.steps:
            remedy = f"its steps: {', '.join(pipeline.order)}"
            raise SlipwayError(Exit.WORDS, f"there is no step {name!r}", where=f"{option} {name}", remedy=remedy)
    wanted = pipeline.before(last) if last else set(pipeline.steps)
    if first and first not in wanted:
        raise SlipwayError(Exit.WORDS, f"{last} does not need it", where=f"--from {first}")
    return [n for n in pipeline.order if n in wanted], frozenset(pipeline.after(first) & wanted if first else ())
