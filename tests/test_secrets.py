"""What looks like a secret comes into no plan: names of variables, `--secret`, and what a dry run says of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from helpers import Engine, Inputs, Project, Refused, errors, tree

from launcher.catalog.profiles import looks_secret

STEP = "sft/automodel"
CANARY = "canary-5f1e"


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "hf_token", "GITHUB_TOKEN", "TOKEN", "WANDB_API_KEY", "NGC_API_KEY", "OPENAI_KEY", "APIKEY"),
        *("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "MY_SECRET", "SECRETS", "DB_PASSWORD"),
        *("PASSWORD_OF_DB", "MYSQL_PWD", "REDIS_PASS", "SSH_PRIVATE_KEY", "AZURE_STORAGE_CONNECTION_STRING"),
        *("SLURM_JWT", "GH_PAT", "GIT_CREDENTIALS"),
    ],
)  # fmt: skip
def test_names_of_what_opens_something(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        *("TOKENIZERS_PARALLELISM", "MAX_TOKENS", "HF_TOKEN_PATH", "PAD_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL_S3"),
        *("AWS_SHARED_CREDENTIALS_FILE", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "PATH", "PWD", "COMPASS", "KEY", "MONKEY"),
        *("WANDB_PROJECT", "NCCL_DEBUG", "SSH_AUTH_SOCK", "GOOGLE_APPLICATION_CREDENTIALS", "KEYBOARD", "AUTHOR"),
        *("VLLM_USE_V1", "PYTORCH_CUDA_ALLOC_CONF"),
    ],
)
def test_names_of_what_does_not(name: str) -> None:
    assert not looks_secret(name)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("word", ["HF_TOKEN", f"HF_TOKEN={CANARY}", f"wandb_api_key={CANARY}"])
@pytest.mark.parametrize("way", [["--dry-run"], ["--dry-run", "--json"], [], ["-o", "written"]])
def test_an_env_that_looks_like_a_secret_is_refused_and_said_nowhere(
    refused: Refused, project: Project, inputs: Inputs, word: str, way: list[str]
) -> None:
    project.env["HF_TOKEN"] = CANARY
    said = errors(refused(77, *way, STEP, *inputs.words, "--env", word))
    name = word.partition("=")[0]
    assert said == (
        f"error: --env: {name} looks like a secret, and what is said here is written into plan, request and record\n"
        f"  --secret {name.upper()}, which takes this shell's variable, or --secret {name.upper()}=file:PATH\n"
    )


@pytest.mark.parametrize("command", ["check", "env", "config"])
@pytest.mark.usefixtures("built")
def test_commands_that_only_look_refuse_it_too(refused: Refused, inputs: Inputs, command: str) -> None:
    assert CANARY not in refused(77, command, STEP, *inputs.words, "--env", f"DB_PASSWORD={CANARY}")


@pytest.mark.parametrize("words", [["--profile", "mine", STEP, "+"], ["profiles", "show", "mine"]])
@pytest.mark.usefixtures("built")
def test_a_profile_whose_env_holds_one_is_refused(
    refused: Refused, project: Project, inputs: Inputs, words: list[str]
) -> None:
    text = f"schema: 1\nkind: docker\nenv:\n  NCCL_DEBUG: INFO\n  WANDB_API_KEY: {CANARY}\n"
    project.write("slipway.d/profiles/mine.yaml", text)
    given = [w for word in words for w in (inputs.words if word == "+" else [word])]
    assert errors(refused(77, *given)) == (
        "error: T/project/slipway.d/profiles/mine.yaml:5:3: WANDB_API_KEY looks like a secret, and what is said "
        "here is written into plan, request and record\n"
        "  declare it in place of that: `secrets: {WANDB_API_KEY: env}`, or `file:PATH`\n"
    )
    listed = project.launch("profiles")
    assert listed.code == 0 and CANARY not in listed.stdout


@pytest.mark.usefixtures("built")
def test_a_step_whose_env_holds_one_is_refused(refused: Refused, project: Project, inputs: Inputs) -> None:
    project.edit("launcher/steps/sft/automodel/step.yaml", "\nenv:\n", f"\nenv:\n  MY_SECRET: {CANARY}\n")
    said = refused(77, "--dry-run", STEP, *inputs.words)
    assert "sft/automodel/step.yaml: env: MY_SECRET looks like a secret" in said and CANARY not in said


@pytest.mark.parametrize("word", ["HF_TOKEN", "HF_TOKEN=env", "HF_TOKEN=file:{T}/token"])
@pytest.mark.usefixtures("built")
def test_a_secret_of_the_command_line_travels_as_one_of_a_profile(
    project: Project, inputs: Inputs, tmp_path: Path, word: str
) -> None:
    (tmp_path / "token").write_text(CANARY)
    project.env |= {"HF_TOKEN": CANARY}
    words = [STEP, *inputs.words, "--secret", word.format(T=tmp_path)]
    done = project.launch("--dry-run", "--json", *words)
    request = json.loads(done.stdout)
    assert done.code == 0 and "SLIPWAY_SECRETS=HF_TOKEN" in request["Env"]
    assert [m["Target"] for m in request["HostConfig"]["Mounts"] if ".secrets" in m["Source"]] == ["/run/secrets"]
    assert project.launch("-o", str(tmp_path / "written"), *words).code == 0
    (tmp_path / "token").unlink()
    assert CANARY not in done.stdout + done.stderr
    assert not [name for name, (_, content) in tree(tmp_path).items() if CANARY.encode() in content]


@pytest.mark.parametrize(
    ("code", "word", "said"),
    [
        (66, "HF_TOKEN", "--secret HF_TOKEN: the variable is not set here\n  export HF_TOKEN, or"),
        (66, "HF_TOKEN=file:{T}/none", "--secret HF_TOKEN: T/none is no file that can be read"),
        (66, "HF_TOKEN=file:{T}", "--secret HF_TOKEN: T is no file that can be read"),
        (64, f"HF_TOKEN={CANARY}", "--secret HF_TOKEN: expected the place of its value, not the value\n"),
        (64, "HF_TOKEN=file:", "--secret HF_TOKEN: expected the place of its value"),
        (64, "../../etc/x", "--secret ../../etc/x: expected the name of a variable"),
        (64, "PATH", "--secret PATH: the launcher or the container's programs set it"),
        (64, "LD_PRELOAD", "--secret LD_PRELOAD: the launcher or the container's programs set it"),
        (64, "", "--secret : expected the name of a variable"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("built")
def test_a_secret_that_cannot_be_one(
    refused: Refused, inputs: Inputs, tmp_path: Path, code: int, word: str, said: str
) -> None:
    found = errors(refused(code, "--dry-run", STEP, *inputs.words, "--secret", word.format(T=tmp_path)))
    assert found.startswith(f"error: {said}") and CANARY not in found


def test_names_of_secrets_are_checked_in_what_o_wrote(
    project: Project, inputs: Inputs, built: Engine, tmp_path: Path
) -> None:
    project.env["HF_TOKEN"] = CANARY
    assert project.launch("-o", str(tmp_path / "written"), STEP, *inputs.words, "--secret", "HF_TOKEN").code == 0
    for path in (tmp_path / "written").rglob("*.json"):
        path.write_text(path.read_text().replace('"HF_TOKEN": "env"', '"../../x": "env"'))
    done = project.launch("submit", str(tmp_path / "written"))
    assert done.code == 65 and "secret '../../x': expected the name of a variable" in done.stderr
    assert not [line for line in built.asked if not line.startswith("GET ")]


@pytest.mark.parametrize("what", ["none", "ours", "link", "file", "another's"])
def test_where_the_usual_folder_is_another_users_secrets_have_one_of_their_own(
    project: Project, inputs: Inputs, built: Engine, tmp_path: Path, what: str
) -> None:
    """In a folder of runs that users share whoever comes first has `.secrets`."""
    if what == "another's" and os.geteuid() != 0:
        pytest.skip("only root can make another user's folder")
    usual = project.path / "runs" / ".secrets"
    usual.parent.mkdir()
    if what == "link":
        usual.symlink_to(tmp_path)
    elif what == "file":
        usual.touch()
    elif what != "none":
        usual.mkdir()
        os.chown(usual, 65534 if what == "another's" else -1, -1)
    project.env["HF_TOKEN"] = CANARY
    words = [STEP, *inputs.words, "--secret", "HF_TOKEN"]
    request = json.loads(project.launch("--dry-run", "--json", *words).stdout)
    (source,) = (m["Source"] for m in request["HostConfig"]["Mounts"] if m["Target"] == "/run/secrets")
    name = ".secrets" if what in ("none", "ours") else f".secrets-{os.geteuid()}"
    assert source == f"${{RUN_DIR}}/../{name}/${{RUN_ID}}"
    assert project.launch(*words).code == 69 and built.refused, "it was written there, and is gone again"
    assert not [p for p in usual.parent.iterdir() if p != usual]
    enroot = project.launch("--dry-run", "--profile", "enroot", *words).stdout
    assert (f"\nSECRETS_FOLDER={name}\n" in enroot) == (name != ".secrets")
