"""Steps: what each takes, gives and needs, read from launcher/steps/<id>/ or a user's own folder."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal

import msgspec

from images.locking.model import Flavour
from launcher.artifacts.rows import Grammar
from launcher.catalog import inheritance
from launcher.catalog.log_lines import LogLine
from launcher.catalog.samples import Sample
from launcher.catalog.trials import Selftest
from launcher.catalog.words import ArtifactType, Role
from slipway import yamldoc
from slipway.errors import Exit, SlipwayError, nearest
from slipway.files import read_text
from slipway.project import Root, user_dirs
from slipway.trust import trusted
from slipway.yamldoc import Noun


class Input(Noun, frozen=True, kw_only=True):
    """`key`: the configuration key that gets the path, where no wire does; `without`: keys that go where an optional
    input is not given.

    `layouts`: of an adapter, those that the step reads; any where none is named. `columns`: of rows, what the library
    calls a column -> the parameter that names another; `needs_columns`: columns that the rows must have besides;
    `plain`: of an adapter, LoRA alone. `quantized`: method of quantized weights that it takes -> what is said of it.
    `zstd`: files packed so are read, too. `grammar`: what a conversation may be (`rows.Grammar`). `why`: said where the
    type is wrong. `frozen`: a model that every process holds whole, and none trains.
    """

    types: list[ArtifactType]
    help: str
    key: str = ""
    optional: bool = False
    without: list[str] = []
    layouts: list[Literal["hf_peft", "megatron_bridge"]] = []
    columns: dict[str, str] = {}
    needs_columns: list[str] = []
    plain: bool = False
    quantized: dict[str, str] = {}
    zstd: bool = False
    grammar: Grammar = ""
    why: str = ""
    frozen: bool = False


class Output(Noun, frozen=True, kw_only=True):
    type: ArtifactType
    key: str
    help: str


class Parameter(Noun, frozen=True, kw_only=True):
    """A named setting that means the same in every release: `keys` are the configuration keys it sets.

    `values`: in place of keys, what each of its values sets. `instead_of`: the input that it takes the place of.
    """

    type: Literal["int", "float", "str", "bool"]
    help: str
    keys: list[str] = []
    choices: list[str] = []
    values: dict[str, dict[str, Any]] = {}
    instead_of: str = ""

    def sets(self, value: Any) -> dict[str, Any]:
        """Configuration keys and what they become."""
        return self.values[value] if self.values else dict.fromkeys(self.keys, value)


class Shape(Noun, frozen=True, kw_only=True):
    """`gpus` per node; on the cpu flavour a node has processes (`--procs`) instead. `keys`: where a library asks."""

    nodes: int
    gpus: int
    keys: dict[Literal["nodes", "gpus"], str] = {}


class Graceful(Noun, frozen=True, kw_only=True):
    """How the step is told to save and leave: which signal, to whom, and how many seconds that may take."""

    signal: Literal["TERM", "INT", "USR1"]
    to: Literal["ranks", "group"]
    seconds: int


class Resume(Noun, frozen=True, kw_only=True):
    """`where`: what is in the output once there is a checkpoint to go on from (a name or a pattern).

    `set`: keys that make the library do; none where it does by itself. `step`: a pattern whose group is the step of a
    checkpoint, in the name of what `where` names, of that to which such a link leads, or in the text of such a file;
    `first`: how the first step is counted there.
    """

    where: str
    set: dict[str, Any]
    step: str = ""
    first: Literal[0, 1] = 1


class Command(Noun, frozen=True, kw_only=True):
    """A program in entrypoints/steps/, the component versions (PEP 440) that it is for, and the flavour if only one."""

    program: str
    when: dict[str, str] = {}
    flavour: Flavour | None = None


class Rehearsal(Noun, frozen=True, kw_only=True):
    """How the step is tried out on a machine without GPUs, in the cpu image of its library.

    `commands`: the step programs for it; `launcher`: how they start, if not as the step does; `set`: configuration keys
    that it makes smaller, whoever sets them; `flavour`: one that gets the flavour of the run that is rehearsed;
    `takes`: input -> artifact types that it takes beside the step's own, so that nothing converts them first.
    """

    commands: list[Command]
    launcher: Literal["python", "torchrun"] | None = None
    set: dict[str, Any] = {}
    takes: dict[str, list[ArtifactType]] = {}
    flavour: str = ""


class BaseConfig(Noun, frozen=True, kw_only=True):
    """Where the step's configuration starts: a `path` inside the image, or a complete `file` of ours.

    For every flavour where it names none, and for the components of `when`; the first that fits is taken.
    """

    flavour: Flavour | None = None
    path: str | None = None
    file: str | None = None
    when: dict[str, str] = {}


class Wire(Noun, frozen=True, kw_only=True):
    """What the configuration gets where inputs are `given` (input -> `any`, a type, a column of its rows) or `absent`.

    `paths`: key -> the input whose path it gets; `set`: key -> value, which parameters and overrides may change;
    `remove`: keys that go, with what is below them; `note`: what the dry run says of it.
    """

    given: dict[str, str] = {}
    absent: list[str] = []
    paths: dict[str, str] = {}
    set: dict[str, Any] = {}
    remove: list[str] = []
    note: str = ""


class InputChange(Noun, frozen=True, kw_only=True):
    """What a release takes another way; what is not named stays as it is."""

    types: list[ArtifactType] = []
    optional: bool | None = None
    needs_columns: list[str] = []
    grammar: Grammar = ""
    why: str = ""


class Release(Noun, frozen=True, kw_only=True):
    """What is another way in some releases, or in one flavour; all that match apply, in their order.

    `script`: the library's own program. `presets`: what the base in the image says where its record does not: key ->
    value; `unsaid`: what the library takes where nothing says a key. `parameters`: name -> its keys, or what each of
    its values sets. `refuses`: why -> keys that cannot be taken, with what is below them; or KEY=VALUE. `metrics`: in
    place of the step's.
    """

    when: dict[str, str] = {}
    flavour: Flavour | None = None
    script: str = ""
    presets: dict[str, Any] = {}
    unsaid: dict[str, Any] = {}
    inputs: dict[str, InputChange] = {}
    parameters: dict[str, list[str] | dict[str, dict[str, Any]]] = {}
    roles: dict[Role, str] = {}
    wires: list[Wire] = []
    refuses: dict[str, list[str]] = {}
    metrics: list[LogLine] = []


class Backend(Noun, frozen=True, kw_only=True):
    """One of the library's ways to train: the key that switches it on, checkpoints it starts from, its own roles.

    `states`: bytes of a weight, its gradient and its optimizer state; `sharding`: ZeRO's stage that divides them.
    """

    enabled: str
    reads: list[ArtifactType]
    roles: dict[Role, str] = {}
    states: tuple[int, int, int] | None = None
    sharding: Literal[0, 1, 3] = 0


class Cache(Noun, frozen=True, kw_only=True):
    """Models that the library converts for itself and keeps: a backend of the same name reads them.

    `inputs`: those that it would convert where they are of Hugging Face; `by`: flavour -> the step that does it ahead.
    `forced_by`: keys that make the library convert anew; `rekeyed_by`: keys that are part of the library's own key.
    """

    inputs: list[str]
    by: dict[Flavour, str]
    forced_by: list[str] = []
    rekeyed_by: list[str] = []


class Step(Noun, frozen=True, kw_only=True):
    schema: Literal[1]
    title: str
    library: str
    launcher: Literal["python", "torchrun", "ray"]
    shape: Shape
    inputs: dict[str, Input]
    output: Output
    parameters: dict[str, Parameter]
    config_roots: list[str]
    owned_keys: list[str]
    extends: list[str] = []  # what it is made of besides (inheritance.py)
    words: dict[str, str] = {}  # what stands for <name> in that
    aliases: list[str] = []  # other names that it is found by
    roles: dict[Role, str] = {}  # what rules have to know -> the configuration key that says it
    repositories: list[str] = []  # the image's git repositories that the step runs
    env: dict[str, str] = {}
    graceful: Graceful
    resume: Resume | None = None  # without it a run that was ended starts anew, and is not requeued
    commands: list[Command]
    why: str = ""  # said where no command fits
    rehearse: Rehearsal | None = None
    selftest: Selftest | None = None  # without it `launch selftest` leaves the step out
    base: list[BaseConfig]
    caches: dict[Literal["megatron"], Cache] = {}  # of the library's own, which stay between runs
    config_class: str = ""  # of the library, whose fields the whole configuration has
    script: str = ""  # of the library's repository, which the step program runs
    template: str = ""  # the input by whose chat template rows are rendered, or the key that gets its path
    template_keys: list[str] = []  # configuration keys that name another template
    backends: dict[str, Backend] = {}
    sample: Sample = Sample()
    metrics: list[LogLine] = []  # lines of its log that tell the numbers of a step
    reports: list[str] = []  # numbers in its result.json, by dotted key, which --expect can name; NAME.*: all below
    wires: list[Wire] = []
    presets: dict[str, Any] = {}  # what the base in the image says, key by key, where the image's record does not
    unsaid: dict[str, Any] = {}  # what the library takes for a key that nothing says
    misnamed: dict[str, str] = {}  # a name that old documentation has -> the part of a key that it means
    refuses: dict[str, list[str]] = {}  # why -> configuration keys that no release can take
    policies: list[str] = []  # parts of the configuration that each describe a model and how it is spread
    conflicts: list[str] = []  # tables of what the library refuses by itself (conflicts.py)
    releases: list[Release] = []
    id: str = ""  # the folder's path below steps/; never written in the file
    folder: str = ""
    inherited: list[str] = []  # the folders of steps that it extends

    def owned(self) -> dict[str, str]:
        """Configuration keys that the launcher wires -> the word that sets each; empty where no word does."""
        keys = {i.key: f"{name}=" for name, i in self.inputs.items() if i.key}
        wires = itertools.chain(self.wires, *(r.wires for r in self.releases))
        wired = [(key, name) for wire in wires for key, name in wire.paths.items()]
        keys |= {key: f"{name}=" for key, name in reversed(wired)}
        keys |= {key: f"--{name}" for name, key in self.shape.keys.items()}
        return dict.fromkeys(self.owned_keys, "") | keys | {self.output.key: "output="}


def find_step(root: Root, name: str) -> Step:
    """The step with this id or alias. Raises SlipwayError 64 (unknown, with the nearest) or 78 (its file is wrong)."""
    known = step_folders(root)
    if name in known:
        return _load(root, name, known[name])
    if found := _by_alias(root, name, known):
        return found
    aliases = [alias for step in all_steps(root) for alias in step.aliases]
    raise SlipwayError(Exit.WORDS, f"unknown step {name!r}", remedy=nearest(name, [*known, *aliases]))


def is_step(root: Root, name: str) -> bool:
    """Whether a step has it as id or alias."""
    known = step_folders(root)
    return name in known or _by_alias(root, name, known) is not None


def all_steps(root: Root) -> list[Step]:
    """Every step, by id. Raises SlipwayError 78: a file is wrong, or one name stands for two steps."""
    steps = [_load(root, name, folder) for name, folder in sorted(step_folders(root).items())]
    _check_names(steps)
    return steps


def _by_alias(root: Root, name: str, known: dict[str, Path]) -> Step | None:
    """The step with this alias. Only files in which it stands are loaded: all would take longer than planning."""
    texts = {n: read_text(trusted(folder / "step.yaml", folder)) for n, folder in sorted(known.items())}
    steps = [step for n, text in texts.items() if name in text and name in (step := _load(root, n, known[n])).aliases]
    _check_names(steps)
    return steps[0] if steps else None


def _check_names(steps: list[Step]) -> None:
    taken = {step.id: step for step in steps}
    for step in steps:
        for alias in step.aliases:
            other = taken.setdefault(alias, step)
            if other is not step:
                file = Path(step.folder) / "step.yaml"
                what, at = f"the alias {alias!r} is taken by {other.folder}/step.yaml", yamldoc.line_of(file, "aliases")
                raise SlipwayError(Exit.CONFIG, what, where=f"{file}:{at}")


def _load(root: Root, name: str, folder: Path) -> Step:
    step, above = inheritance.load(folder, [base / "steps" for base in user_dirs(root)], Step)
    for field in ("id", "folder", "inherited"):
        if getattr(step, field):
            at = yamldoc.line_of(folder / "step.yaml", field)
            raise SlipwayError(Exit.CONFIG, f"unknown key {field!r}", where=f"{folder / 'step.yaml'}:{at}")
    return msgspec.structs.replace(step, id=name, folder=str(folder), inherited=[str(path) for path in above])


def step_folders(root: Root) -> dict[str, Path]:
    """Step id -> folder; a user's own step wins over one of the project's."""
    found: dict[str, Path] = {}
    for base in reversed(user_dirs(root)):
        steps = base / "steps"
        for file in sorted(steps.rglob("step.yaml")):
            found[file.parent.relative_to(steps).as_posix()] = file.parent
    return found


def overlay(step: Step, name: str) -> dict[str, Any]:
    """`-c NAME` (a file of the step's folder) or `-c FILE.yaml`. Raises SlipwayError 64, 66 or 78."""
    folders = [Path(folder) for folder in (step.folder, *step.inherited)]
    path = Path(name) if name.endswith((".yaml", ".yml")) else inheritance.beside(folders, f"{name}.yaml")
    if not path.is_file():
        own = {p.stem for folder in folders for p in folder.glob("*.yaml")} - {"step", "base"}
        raise SlipwayError(Exit.NO_INPUT, f"no configuration {name!r}", where="-c", remedy=nearest(name, own))
    own_file = path.parent in folders
    value = yamldoc.parse_plain(read_text(trusted(path, path.parent) if own_file else path), str(path))
    if not isinstance(value, dict):
        raise SlipwayError(Exit.CONFIG, "a configuration is a mapping", where=str(path))
    for key in value:
        if key not in step.config_roots:
            where, remedy = f"{path}:{yamldoc.line_of(path, key)}", nearest(str(key), step.config_roots)
            raise SlipwayError(Exit.CONFIG, f"unknown configuration root {key!r}", where=where, remedy=remedy)
    if not own_file:
        _check_owned(step, path, value)
    return value


def _check_owned(step: Step, path: Path, value: dict[str, Any]) -> None:
    for owned, setter in step.owned().items():
        node: Any = value
        for key in (keys := owned.split(".")):
            node = node.get(key, msgspec.UNSET) if isinstance(node, dict) else msgspec.UNSET
        if node is not msgspec.UNSET:
            raise owned_error(Exit.CONFIG, owned, setter, f"{path}:{yamldoc.line_of(path, *keys)}")


def owned_error(code: Exit, owned: str, setter: str, where: str) -> SlipwayError:
    """What is said where somebody sets a key that the launcher wires."""
    return SlipwayError(code, f"{owned} is wired by the launcher", where=where, remedy=setter and f"set it by {setter}")
