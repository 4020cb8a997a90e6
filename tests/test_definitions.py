"""launcher/catalog/definitions.py: steps, their configurations, and which command fits which image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import REPO, STEP_FILE, Project, entry_of

from images.locking import lock as locks
from images.locking.model import Environment
from launcher.catalog import commands, definitions
from launcher.catalog.definitions import BaseConfig, Command, Step
from slipway import yamldoc
from slipway.errors import Exit, SlipwayError
from slipway.files import read_text
from slipway.project import Root

STEPS = sorted(definitions.step_folders(Root(REPO)))


def carrying(**packages: str) -> Any:
    """An entry with these claims, `_` for `-`."""
    named = {name.replace("_", "-"): claim for name, claim in packages.items()}
    return entry_of(environments={"main": Environment(python="/p", packages=named)})


def with_commands(step: Step, *whens: dict[str, str]) -> Step:
    commands = [Command(program=f"{n}.py", when=when) for n, when in enumerate(whens)]
    return msgspec.structs.replace(step, commands=commands)


@pytest.mark.parametrize(
    ("claim", "when", "matches"),
    [
        ("0.7.0", ">=0.5", True),
        ("0.5", ">=0.5,<0.6", True),
        ("0.4.9", ">=0.5", False),
        ("0.6.0", ">=0.5,<0.6", False),
        ("0.6.0rc1", ">=0.5", True),
        ("0.7.0+cpu", ">=0.7", True),
        ("==0.6.0", ">=0.5,<0.7", True),
        ("==2.13.0a0", ">=2.12", True),
        ("==0.6.*", ">=0.6,<0.7", True),
        (">=0.5,<0.6", ">=0.5,<0.7", True),
        (">=0.5,<0.9", ">=0.5,<0.7", False),
        ("~=0.4", ">=0.5", False),
        (">= 0.5", ">=0.5", True),
        (None, ">=0.5", False),
    ],
)
def test_a_command_is_for_the_versions_that_are_claimed(
    step: Step, claim: str | None, when: str, matches: bool
) -> None:
    entry = carrying(**({"nemo_automodel": claim} if claim else {}))
    chosen = with_commands(step, {"nemo-automodel": when}, {})
    assert commands.choose_command(chosen, entry).program == ("0.py" if matches else "1.py")


def test_the_first_command_that_fits_is_taken_and_all_its_components_have_to_fit(step: Step) -> None:
    chosen = with_commands(step, {"a": ">=1", "b": ">=1"}, {"a": ">=1"}, {"a": ">=0"})
    for entry, program in (
        (carrying(a="1", b="1"), "0.py"), (carrying(a="1", b="0.9"), "1.py"), (carrying(a="1"), "1.py"),
        (carrying(a="0.5"), "2.py"),
    ):  # fmt: skip
        assert commands.choose_command(chosen, entry).program == program


def test_the_main_environment_speaks_first(step: Step) -> None:
    environments = {
        "main": Environment(python="/p", packages={"a": "1"}),
        "worker": Environment(python="/q", packages={"a": "2", "b": "3"}),
    }
    entry = entry_of(environments=environments)
    assert commands.choose_command(with_commands(step, {"a": "<2", "b": ">=3"}), entry).program == "0.py"


def test_where_nothing_fits_the_claims_and_the_choices_are_named(step: Step) -> None:
    chosen = with_commands(step, {"nemo-automodel": ">=0.9", "torch": ">=2"}, {"nemo-automodel": "<0.5"})
    with pytest.raises(SlipwayError) as e:
        commands.choose_command(chosen, carrying(nemo_automodel="0.7.0"))
    assert e.value.code == Exit.CONFIG
    claims = "nemo-automodel 0.7.0, torch unknown"
    assert e.value.what == f"sft/automodel has no command for automodel/1.0-cpu ({claims})"
    remedy = "it has commands for nemo-automodel >=0.9, torch >=2 or nemo-automodel <0.5"
    assert e.value.remedy == remedy
    with pytest.raises(SlipwayError) as e:
        commands.choose_command(msgspec.structs.replace(chosen, why="too old"), carrying(nemo_automodel="0.7.0"))
    assert e.value.remedy == f"{remedy}: too old"


def test_a_wrong_specifier_is_named_with_its_file(project: Project) -> None:
    path = project.edit(STEP_FILE, '">=0.2"', '"from 0.5"')
    with pytest.raises(SlipwayError, match=r"'from 0\.5' is no version specifier") as e:
        commands.choose_command(definitions.find_step(project.root, "sft/automodel"), entry_of())
    line = path.read_text().splitlines().index("commands:") + 1
    assert (e.value.code, e.value.where) == (Exit.CONFIG, f"{path}:{line}:1")


@pytest.mark.parametrize("name", STEPS)
def test_every_step_has_a_command_and_a_base_for_each_cpu_entry(name: str) -> None:
    root = Root(REPO)
    step = definitions.find_step(root, name)
    for entry in locks.load_lock(root).entries.values():
        if entry.library == step.library and entry.flavour == "cpu":
            program = commands.choose_command(step, entry).program
            assert (REPO / "entrypoints" / "steps" / program).is_file()
            assert commands.base_config(step, entry)


@pytest.mark.parametrize("name", STEPS)
def test_every_key_that_a_step_names_is_below_one_of_its_roots(name: str) -> None:
    step = definitions.find_step(Root(REPO), name)
    parameters = [key for p in step.parameters.values() for key in p.keys]
    without = [key for i in step.inputs.values() for key in i.without]
    for key in [*step.owned(), *parameters, *(step.resume.set if step.resume else ()), *without]:
        assert key.partition(".")[0] in step.config_roots, key
    assert not set(step.parameters) & set(step.inputs) and "output" not in {*step.parameters, *step.inputs}


@pytest.mark.parametrize("name", STEPS)
def test_every_configuration_of_a_step_can_be_laid_over(name: str) -> None:
    step = definitions.find_step(Root(REPO), name)
    for path in Path(step.folder).glob("*.yaml"):
        if path.stem not in ("step", "base"):
            assert definitions.overlay(step, path.stem)


def test_an_unknown_step_is_a_wrong_word(project: Project) -> None:
    with pytest.raises(SlipwayError, match="unknown step 'sft/automodle'") as e:
        definitions.find_step(project.root, "sft/automodle")
    assert (e.value.code, e.value.remedy) == (Exit.WORDS, "did you mean 'sft/automodel'?")


def test_a_users_own_step_is_found_below_the_working_directory_and_wins(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my/step", "sft/automodel"):
        folder = tmp_path / "slipway.d" / "steps" / name
        folder.mkdir(parents=True)
        (folder / "step.yaml").write_text((project.path / STEP_FILE).read_text().replace("Supervised", "My"))
        found = definitions.find_step(project.root, name)
        assert (found.id, found.folder) == (name, str(folder)) and found.title.startswith("My")


@pytest.mark.parametrize("field", ["id", "folder"])
def test_what_a_step_gets_from_its_place_is_not_written_in_it(project: Project, field: str) -> None:
    path = project.edit(STEP_FILE, "schema: 1", f"schema: 1\n{field}: mine")
    with pytest.raises(SlipwayError, match=f"unknown key '{field}'") as e:
        definitions.find_step(project.root, "sft/automodel")
    assert (e.value.code, e.value.where) == (Exit.CONFIG, f"{path}:2:1")


def test_a_configuration_is_named_or_a_file(step: Step, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("optimizer: {lr: 0.1}\n")
    assert definitions.overlay(step, str(tmp_path / "mine.yaml")) == {"optimizer": {"lr": 0.1}}
    tiny = Path(step.folder) / "tiny.yaml"
    assert definitions.overlay(step, "tiny") == yamldoc.parse(read_text(tiny), "")


@pytest.mark.parametrize(
    ("text", "code", "where", "what", "remedy"),
    [
        ("optimiser: {}", 78, ":1:1", "unknown configuration root 'optimiser'", "did you mean 'optimizer'?"),
        ("seed: 1\nseed: 2", 78, ":2:1", "not valid YAML: the key 'seed' stands twice", ""),
        ("- seed", 78, "", "a configuration is a mapping", ""),
        ("seed: .inf", 78, ":1:1", "inf is neither text nor a finite number", "write it in quotes"),
        (
            "seed: 1\nmodel:\n  pretrained_model_name_or_path: x", 78, ":3:3",
            "model.pretrained_model_name_or_path is wired by the launcher", "set it by model=",
        ),
        ("checkpoint: {enabled: null}", 78, ":1:14", "checkpoint.enabled is wired by the launcher", ""),
        (None, 66, None, "no configuration {name!r}", "known: default, tiny"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_wrong_is_said_with_its_place(
    step: Step, tmp_path: Path, text: str | None, code: int, where: str | None, what: str, remedy: str
) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SlipwayError) as e:
        definitions.overlay(step, str(path))
    assert (e.value.code, e.value.where) == (code, "-c" if where is None else f"{path}{where}")
    assert (e.value.what, e.value.remedy) == (what.format(name=str(path)), remedy)


def test_a_named_configuration_that_is_not_there_is_answered_with_the_nearest(step: Step) -> None:
    with pytest.raises(SlipwayError, match="no configuration 'tiyn'") as e:
        definitions.overlay(step, "tiyn")
    assert (e.value.code, e.value.where, e.value.remedy) == (Exit.NO_INPUT, "-c", "did you mean 'tiny'?")


def test_the_base_is_a_path_in_the_image_or_whole_values_of_ours(step: Step) -> None:
    assert list(commands.base_config(step, entry_of("cuda"))) == ["path"]
    assert list(commands.base_config(step, entry_of("cpu"))) == ["values"]
    only = msgspec.structs.replace(step, base=[BaseConfig(flavour="cuda", path="/x")])
    with pytest.raises(SlipwayError, match="has no base configuration for flavour cpu") as e:
        commands.base_config(only, entry_of("cpu"))
    assert e.value.code == Exit.CONFIG
