"""What bad input gets from the real commands: one message with its place, the nearest valid name, the documented exit
code, and nothing made.

`T` stands for the test's own folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from helpers import (
    CHAT,
    MATRIX_FILE,
    PROFILE_FILE,
    REPO,
    SHARDS,
    STEP_FILE,
    Engine,
    Inputs,
    Project,
    Refused,
    errors,
    tree,
)

from images.locking import lock as locks
from slipway.project import Root

STEP = "sft/automodel"
CPU = locks.select(locks.load_lock(Root(REPO)), "automodel", "cpu")
DEFAULT = "launcher/steps/sft/automodel/default.yaml"


def message(what: str, remedy: str = "") -> str:
    return f"error: {what}\n" + (f"  {remedy}\n" if remedy else "")


NOTHING_YET = "nothing has been launched from here yet; see also --runs-dir"


@pytest.mark.parametrize(
    ("code", "words", "what", "remedy"),
    [
        (64, ["sft/automodle"], "unknown step 'sft/automodle'", "did you mean 'sft/automodel'?"),
        (64, ["run", "sft_automodel"], "unknown step 'sft_automodel'", "did you mean 'sft/automodel'?"),
        (64, ["--profile", "dokcer", STEP, "+"], "unknown profile 'dokcer'", "did you mean 'docker'?"),
        (
            64, [STEP, "+", "trian=x"],
            "trian=x: sft/automodel has no input or parameter 'trian'", "did you mean 'train'?",
        ),
        (
            64, [STEP, "+", "optimiser.lr=1"],
            "optimiser.lr=1: sft/automodel has no configuration root 'optimiser'", "did you mean 'optimizer'?",
        ),
        (
            64, [STEP, "+", "model.pretrained_model_name_or_path=x"],
            "model.pretrained_model_name_or_path=x: model.pretrained_model_name_or_path is wired by the launcher",
            "set it by model=",
        ),
        (
            64, [STEP, "+", "+optimizer.lr=1"],
            "+optimizer.lr=1: automodel takes no Hydra prefixes",
            "write optimizer.lr=VALUE: a key that is not there yet is made",
        ),
        (
            64, [STEP, "+", "optimizer.lr"],
            "optimizer.lr: not of the form name=value or section.key=value", "for sft/automodel",
        ),
        (64, [STEP, "+", "max_steps=ten"], "max_steps=ten: 'ten' is not a whole number", ""),
        (66, [STEP, "+", "-c", "tiyn"], "-c: no configuration 'tiyn'", "did you mean 'tiny'?"),
        (66, [STEP, "+", "-c", "a.yaml"], "-c: no configuration 'a.yaml'", "known: default, tiny"),
        (64, [STEP, "+", "--env", "NOPE"], "--env: NOPE is not set here", "--env NOPE=VALUE"),
        (
            64, [STEP, "+", "--flavour", "cpu", "--release", f"{CPU.release}1"],
            f"automodel has no release '{CPU.release}1' for flavour cpu", f"did you mean {CPU.release!r}?",
        ),
        (66, ["show"], "T/project/runs: there is no run 'last'", NOTHING_YET),
        (66, ["cancel", "x"], "T/project/runs: there is no run 'x'", NOTHING_YET),
        (66, ["logs", "./x"], "./x: there is no such run directory", ""),
        (66, ["submit", "images"], "images/plan.json: cannot read: No such file or directory", ""),
    ],
)  # fmt: skip
def test_a_wrong_word(refused: Refused, inputs: Inputs, code: int, words: list[str], what: str, remedy: str) -> None:
    """`+` stands for good inputs."""
    given = [w for word in words for w in (inputs.words if word == "+" else [word])]
    assert refused(code, *given) == message(what, remedy)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lunch"], "there is no command 'lunch'; a step is named with its folder"),
        (["stop", "last"], "there is no command 'stop'; did you mean `launch cancel`?"),
        (["tail"], "there is no command 'tail'; did you mean `launch logs -f`?"),
        (["rnus"], "there is no command 'rnus'; did you mean 'runs'?"),
        ([STEP, "--bogus"], "No such option '--bogus'"),
        ([STEP, "--nodes", "0"], "Invalid value for '--nodes'"),
        (["submit", "versions.lock"], "'versions.lock' is a file"),
    ],
)
def test_what_click_refuses_is_2(refused: Refused, words: list[str], said: str) -> None:
    assert said in refused(2, *words)


def test_a_missing_input_names_its_type_and_help(refused: Refused, inputs: Inputs) -> None:
    said = refused(64, STEP, inputs.words[0])
    assert said == (
        "error: sft/automodel needs model=PATH (checkpoint_hf: the model to start from, with its tokenizer)\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "changes", "what", "remedy"),
    [
        (
            66, {"train": "{T}/nothing", "model": "llama2"},
            ["train=T/nothing: there is nothing there", "model=T/project/llama2: there is nothing there"],
            ["expected: chat_jsonl", "expected: checkpoint_hf"],
        ),
        (
            65, {"train": "{T}/llama", "model": "{T}/chats.jsonl"},
            [
                "train=T/llama: is no chat_jsonl: found checkpoint_hf",
                "model=T/chats.jsonl: is no checkpoint_hf: found chat_jsonl",
            ],
            [
                "expected: a file with one JSON object a line that has `messages`",
                "expected: a folder with config.json, tokenizer and *.safetensors",
            ],
        ),
        (
            65, {"validation": "{T}/project/versions.lock"},
            ["validation=T/project/versions.lock: is no chat_jsonl: found no JSON on its first line"],
            ["expected: a file with one JSON object a line that has `messages`"],
        ),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("built")
def test_an_input_of_another_kind(
    refused: Refused,
    inputs: Inputs,
    tmp_path: Path,
    code: int,
    changes: dict[str, str],
    what: list[str],
    remedy: list[str],
) -> None:
    """A missing one, a folder where a file is wanted, a file where a folder is, and a file of something else."""
    given = {"train": str(inputs.train), "model": str(inputs.model)} | changes
    words = [f"{name}={value.format(T=tmp_path)}" for name, value in given.items()]
    assert errors(refused(code, STEP, *words)) == "".join(map(message, what, remedy))


@pytest.mark.usefixtures("built")
def test_every_fault_of_every_input_is_named_at_once(refused: Refused, inputs: Inputs) -> None:
    """Broken lines of a dataset; a checkpoint without tokenizer, with a missing and a truncated shard."""
    good = json.dumps(CHAT)
    inputs.train.write_text("\n".join([good, '{"messages": [', good, '{"messages": []}', good]) + "\n")
    shard = inputs.model / SHARDS[0]
    size = shard.stat().st_size
    os.truncate(shard, size - 1)
    (inputs.model / SHARDS[1]).unlink()
    (inputs.model / "tokenizer.json").unlink()
    assert errors(refused(65, STEP, *inputs.words)) == (
        "error: T/chats.jsonl:2: not a conversation: Input data was truncated\n"
        "error: T/chats.jsonl:4: `messages` is empty\n"
        "error: T/llama: there is no tokenizer (tokenizer.json, tokenizer_config.json)\n"
        f"error: T/llama/{SHARDS[1]}: a shard of the index is missing\n"
        f"error: T/llama/{SHARDS[0]}: {size - 1} bytes, its header says {size}: the file is cut off\n"
    )


@pytest.mark.parametrize(
    ("code", "output", "said"),
    [
        (
            73, "{T}/full",
            "error: output=T/full: is not empty: it holds an earlier run's output\n"
            "  continue that run with --resume, or name another folder\n",
        ),
        (73, "{T}/full/file", "error: output=T/full/file: is not a folder\n"),
        (
            64, "{T}/llama/out",
            "error: output=T/llama/out: lies inside the input model=T/llama, which is mounted read-only\n",
        ),
        (
            73, "/proc/out",
            "error: output=/proc/out: one checkpoint needs about {need}, 0 B are free there\n"
            "  free space there, or name a folder elsewhere: output=PATH\n",
        ),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("built")
def test_an_output_that_cannot_be_one(
    refused: Refused, inputs: Inputs, tmp_path: Path, code: int, output: str, said: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    need = 2 * sum(p.stat().st_size for p in inputs.model.glob("*.safetensors")) + 8 * 10
    found = errors(refused(code, STEP, *inputs.words, f"output={output.format(T=tmp_path)}"))
    assert found == said.format(need=f"{need} B")


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("/", "/: holds "),
        ("{T}/home", "T/home: is your home"),
        ("{T}/home/../home/", "T/home: is your home"),
        ("{T}/link", "T/home: is your home"),
        ("{T}", "T: holds "),
        (".", "T/project: is the project"),
        ("{T}/project/runs", "T/project/runs: is the folder of all runs"),
        ("{T}/project/runs/.secrets", "T/project/runs/.secrets: is in .secrets/ of the folder of all runs"),
        ("{T}/project/runs/.converted/x", "T/project/runs/.converted/x: is in .converted/ of the folder of all"),
        ("{T}/home/.cache/huggingface", "T/home/.cache/huggingface: is HF_HOME"),
        ("{T}/home/.cache", "T/home/.cache: holds HF_HOME"),
    ],
)
@pytest.mark.parametrize("resume", [[], ["--resume"]])
@pytest.mark.usefixtures("built")
def test_an_output_that_holds_what_is_not_a_runs(
    refused: Refused, inputs: Inputs, tmp_path: Path, output: str, said: str, resume: list[str]
) -> None:
    """Refused when planning, by its own name, empty or not."""
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    found = errors(refused(64, *resume, STEP, *inputs.words, f"output={output.format(T=tmp_path)}"))
    assert found.startswith(f"error: output={said}"), found
    assert found.endswith("  name a folder of its own: output=PATH\n")


@pytest.mark.usefixtures("built")
def test_an_output_beside_them_is_taken(project: Project, inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    for output in (f"{tmp_path}/home/out", "out", "runs/out", "runs2", f"{tmp_path}/home2"):
        done = project.launch("--dry-run", STEP, *inputs.words, f"output={output}")
        assert (done.code, errors(done.stderr)) == (0, ""), done


@pytest.mark.usefixtures("built")
def test_an_output_of_an_earlier_run_is_taken_with_resume(project: Project, inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "LATEST").touch()
    words = [STEP, *inputs.words, f"output={tmp_path}/out", "--dry-run", "--json"]
    assert project.launch(*words).code == 73
    done = project.launch(*words, "--resume")
    unknown = "whether model, data and library are those of its checkpoint is not known"
    note = f"note: --resume: no run has left its name in {tmp_path}/out: {unknown}\n"
    assert (done.code, errors(done.stderr)) == (0, note)


@pytest.mark.usefixtures("built")
def test_options_that_cannot_be_followed(refused: Refused, project: Project, inputs: Inputs) -> None:
    project.write("file", "")
    words = ["--resume", "--env", "SLIPWAY_RUN=x", "--env", "A B=x", "--nodes", "2", "--runs-dir", "file/runs"]
    assert errors(refused(73, STEP, *inputs.words, *words)) == (
        "error: T/project/file/runs: the runs directory cannot be written\n  name another: --runs-dir\n"
        "error: --resume: needs output=PATH, the output of the run that goes on\n"
        "error: --env: SLIPWAY_RUN: is set by the launcher\n"
        "error: --env: 'A B': is no name of a variable\n"
        "error: --nodes: a docker profile runs on one machine\n"
    )


LAUNCH = [STEP, "train=x", "model=x"]
RENDER = ["render", "--check"]


@pytest.mark.parametrize(
    ("file", "before", "after", "what", "remedy"),
    [
        (STEP_FILE, "library: ", "libary: ", "unknown key 'libary'", "did you mean 'library'?"),
        (STEP_FILE, "optional: ", "optinal: ", "unknown key 'optinal'", "did you mean 'optional'?"),
        (
            STEP_FILE, "types: [chat_jsonl]", "types: [chat_json]",
            "inputs.train.types.0: 'chat_json' is not allowed", "did you mean 'chat_jsonl'?",
        ),
        (STEP_FILE, "title: ", "title: a\ntitle: ", "not valid YAML: the key 'title' stands twice", ""),
        (PROFILE_FILE, "flavour: ", "flavor: ", "unknown key 'flavor'", "did you mean 'flavour'?"),
        (PROFILE_FILE, "memlock: ", "memlok: ", "ulimits.memlok: 'memlok' is not allowed", "did you mean 'memlock'?"),
        (DEFAULT, "seed: ", "sede: ", "unknown configuration root 'sede'", "did you mean 'seed'?"),
        (MATRIX_FILE, "title: ", "titel: ", "unknown key 'titel'", "did you mean 'title'?"),
        (MATRIX_FILE, "python: ", "pyhton: ", "unknown key 'pyhton'", "did you mean 'python'?"),
        (MATRIX_FILE, "suite: ", "siute: ", "unknown key 'siute'", "did you mean 'suite'?"),
        ("versions.lock", "release: ", "relaese: ", "unknown key 'relaese'", "did you mean 'release'?"),
        ("versions.lock", "schema: 1", "schema: 2", "schema: '2' is not allowed", "known: 1"),
    ],
)  # fmt: skip
def test_a_wrong_key_in_a_file_of_the_project(
    refused: Refused, project: Project, file: str, before: str, after: str, what: str, remedy: str
) -> None:
    lines = (project.path / file).read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if before in text)
    column = lines[line - 1].index(before) + 1
    line, column = line + after.count("\n"), column + after.find("[") + 1  # of the second key; of a list's item
    project.edit(file, before, after)
    pins = file in (MATRIX_FILE, "versions.lock")
    said = refused(78, *(RENDER if pins else LAUNCH), program="images" if pins else "launch")
    assert said == message(f"T/project/{file}:{line}:{column}: {what}", remedy)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optimiser: {lr: 1}", "mine.yaml:1:1: unknown configuration root 'optimiser'\n  did you mean 'optimizer'?"),
        ("seed: 1\nseed: 2", "mine.yaml:2:1: not valid YAML: the key 'seed' stands twice"),
        ("seed: [1", "mine.yaml:2:1: not valid YAML: did not find expected ',' or ']'"),
        (
            "dataset:\n  path_or_dataset_id: x",
            "mine.yaml:2:3: dataset.path_or_dataset_id is wired by the launcher\n  set it by train=",
        ),
        ("optimizer: {lr: .nan}", "mine.yaml:1:13: nan is neither text nor a finite number\n  write it in quotes"),
    ],
)
def test_a_wrong_configuration_file(refused: Refused, project: Project, text: str, said: str) -> None:
    project.write("mine.yaml", text)
    assert refused(78, *LAUNCH, "-c", "mine.yaml") == f"error: {said}\n"


def test_a_folder_is_no_configuration_file(refused: Refused, project: Project) -> None:
    (project.path / "mine.yaml").mkdir()
    assert (
        refused(66, *LAUNCH, "-c", "mine.yaml") == "error: -c: no configuration 'mine.yaml'\n  known: default, tiny\n"
    )


def test_a_step_program_that_is_not_there(refused: Refused, project: Project, inputs: Inputs) -> None:
    project.edit(STEP_FILE, "program: automodel_finetune.py", "program: automodel_finetun.py")
    assert refused(78, STEP, *inputs.words) == (
        "error: T/project/launcher/steps/sft/automodel/step.yaml: sft/automodel: there is no step program "
        "'automodel_finetun.py' in entrypoints/steps\n  did you mean 'automodel_finetune.py'?\n"
    )


@pytest.mark.parametrize("program", ["images", "launch"])
def test_a_lock_of_another_matrix(refused: Refused, project: Project, program: str) -> None:
    project.edit(MATRIX_FILE, "suite: bookworm", "suite: trixie")
    said = "error: T/project/versions.lock: the lock was made from another matrix\n  run: images lock\n"
    assert refused(65, *(LAUNCH if program == "launch" else RENDER), program=program) == said


def test_no_engine(refused: Refused, inputs: Inputs) -> None:
    assert errors(refused(69, STEP, *inputs.words)) == (
        "error: unix://T/dead (from DOCKER_HOST): no Docker engine answers\n"
        "  start one, set DOCKER_HOST, or run: images engine up\n"
    )


def test_an_image_that_was_not_built(refused: Refused, inputs: Inputs, engine: Engine) -> None:
    assert errors(refused(66, STEP, *inputs.words)) == (
        f"error: image of {CPU.name}: has not been built\n"
        f"  run: images build automodel --release {CPU.release} --flavour cpu\n"
    )
    assert not [line for line in engine.asked if not line.startswith("GET ")]


def test_an_image_that_only_has_the_right_name(refused: Refused, inputs: Inputs, engine: Engine) -> None:
    engine.holds(images={f"slipway/automodel:{CPU.release}-cpu": "sha256:9"})
    assert errors(refused(65, STEP, *inputs.words)) == (
        f"error: image of {CPU.name}: the engine's slipway/automodel is sha256:9, which no record of this lock entry "
        f"names\n  build it from the lock: images build automodel --release {CPU.release} --flavour cpu\n"
    )


@pytest.mark.parametrize("name", ["supervisor/main.py", "verify.py", "steps/automodel_finetune.py", "automodel.sh"])
def test_a_program_that_was_checked_out_with_carriage_returns(
    refused: Refused, project: Project, inputs: Inputs, name: str
) -> None:
    file = project.own(f"entrypoints/{name}")
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert errors(refused(65, STEP, *inputs.words)) == (
        f"error: T/project/entrypoints/{name}: its lines end with CRLF, expected LF\n"
        "  check it out with LF: git config core.autocrlf false; git rm --cached -r -q . && git reset --hard\n"
    )


def test_a_refused_container_leaves_no_run_and_no_folders(
    project: Project, inputs: Inputs, built: Engine, tmp_path: Path
) -> None:
    (project.path / "runs").mkdir()
    before = tree(tmp_path)
    done = project.launch(STEP, *inputs.words, f"output={tmp_path}/new/out")
    assert (done.code, errors(done.stderr)) == (
        69,
        "error: the engine refused the container: a stand-in makes nothing\n",
    )
    after = tree(tmp_path)
    assert built.refused and after.pop("engine/refused")
    assert after == before
