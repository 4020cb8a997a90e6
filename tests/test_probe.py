"""launcher/planning/probe.py: looking at the output, the host and the image, and leaving everything as it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import IMAGE, Engine, Inputs, Project, engine_of, entry_of, record_image, tree

from images.locking.sources import Brought
from launcher.artifacts.detection import Artifact
from launcher.catalog import definitions
from launcher.catalog.profiles import Profile
from launcher.core.arguments import Arguments
from launcher.core.plan import EngineInfo, ImageInfo, Probed
from launcher.planning import probe

TAG = "slipway/automodel:1.0-cpu"


@pytest.fixture
def look(project: Project, profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Looks from tmp_path, at a dead engine unless one is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HOME", raising=False)

    def run(words: Arguments | None = None, found: EngineInfo | None = None, **changes: Any) -> Probed:
        found = found or engine_of(error="dead")
        changed = msgspec.structs.replace(profile, **changes)
        return probe.everything(
            project.root, changed, entry_of(), words or Arguments(inputs={}), found, tmp_path / "deep" / "runs"
        )

    return run


LEFT_OUT = Brought(commit=None, tree=None, clean=False, left_out=True)


def test_looking_makes_nothing(look: Any, inputs: Inputs, tmp_path: Path) -> None:
    before = tree(tmp_path)
    seen = look(Arguments(inputs={"train": str(inputs.train), "model": "missing"}, output="new/deep/out"))
    assert {n: a.kind for n, a in seen.artifacts.items()} == {"train": "file", "model": "missing"}
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("output", "path", "kind", "empty"),
    [
        ("new/deep/out", "new/deep/out", "missing", True),
        ("empty", "empty", "folder", True),
        ("full", "full", "folder", False),
        ("chats.jsonl", "chats.jsonl", "other", False),
        ("link", "full", "folder", False),
        ("../{name}/empty/../full", "full", "folder", False),
    ],
)
@pytest.mark.usefixtures("inputs")
def test_the_output_is_seen_where_it_really_is(
    look: Any, tmp_path: Path, output: str, path: str, kind: str, empty: bool
) -> None:
    for name in ("empty", "full/inside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("full")
    seen = look(Arguments(inputs={}, output=output.format(name=tmp_path.name))).output
    assert (seen.path, seen.kind, seen.empty) == (str(tmp_path / path), kind, empty)
    assert seen.free > 0


def test_a_home_is_written_as_a_tilde(look: Any, tmp_path: Path) -> None:
    assert look(Arguments(inputs={}, output="~/out")).output.path == str(tmp_path / "home" / "out")


def test_the_nearest_folder_that_is_there_decides_who_may_write(look: Any, tmp_path: Path) -> None:
    seen = look(Arguments(inputs={}, output="a/b/c")).output
    assert (seen.nearest, seen.writable) == (str(tmp_path), True)
    assert not look(Arguments(inputs={}, output="/proc/out")).output.free


@pytest.mark.usefixtures("inputs")
def test_a_file_cannot_have_an_output_below_it(look: Any) -> None:
    assert not look(Arguments(inputs={}, output="chats.jsonl/out")).output.writable


def test_the_host(look: Any, tmp_path: Path) -> None:
    host = look().host
    assert (host.uid, host.gid, host.cpus) == (os.getuid(), os.getgid(), len(os.sched_getaffinity(0)))
    assert (host.runs, host.runs_writable) == (str(tmp_path / "deep" / "runs"), True)
    assert host.runs_free > 0


@pytest.mark.parametrize(
    ("profile_says", "shell_says", "path"),
    [
        (None, None, "home/.cache/huggingface"),
        (None, "hf", "hf"),
        (None, " ", "home/.cache/huggingface"),
        ("~/p", "hf", "home/p"),
    ],
)
def test_the_cache_is_the_profiles_the_shells_or_the_usual_one(
    look: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile_says: Any, shell_says: str | None, path: str
) -> None:
    if shell_says:
        monkeypatch.setenv("HF_HOME", shell_says)
    assert look(hf_home=profile_says).host.hf_home == str(tmp_path / path)


def test_an_image_is_looked_for_by_the_ids_of_its_records(look: Any, project: Project, engine: Engine) -> None:
    found = engine_of(address=engine.address)
    assert look(found=found).image == ImageInfo()
    record_image(project.root, entry_of(), substitutions={"a": "b"}, sources={"c": LEFT_OUT})
    assert look(found=found).image == ImageInfo(recorded=1)
    engine.holds(images={IMAGE: IMAGE})
    assert look(found=found).image == ImageInfo(id=IMAGE, recorded=1, drift={"a": "b"}, left_out=["c"])
    engine.holds(images={TAG: "sha256:other"})
    assert look(found=found).image == ImageInfo(recorded=1, tagged="sha256:other"), "a name is seen, and is not enough"


def test_no_engine_is_asked_that_does_not_answer(look: Any, project: Project) -> None:
    record_image(project.root, entry_of())
    assert look().image == ImageInfo(recorded=1)


def test_the_catalogue_is_read_only_for_an_input_of_another_type(project: Project) -> None:
    step = definitions.find_step(project.root, "sft/automodel")
    right, wrong = (
        {"model": Artifact(name="model", path="/m", kind="folder", type=f"checkpoint_{t}")} for t in ("hf", "megatron")
    )
    assert probe.converters(project.root, step, right) == []
    assert step in probe.converters(project.root, step, wrong)
    project.edit(
        "launcher/steps/peft/automodel/step.yaml", "extends: [sft/automodel]", "extends: [sft/automodel]\nschema: 2"
    )
    assert probe.converters(project.root, step, wrong) == [], "another step's file is no reason to stop"


def test_the_files_of_a_login_are_seen(look: Any, tmp_path: Path) -> None:
    for name in ("home/.netrc", "home/.cache/huggingface/token", "hf/stored_tokens"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = look(hf_home=str(tmp_path / "hf")).host
    assert [str(Path(p).relative_to(tmp_path)) for p in found.logins] == [
        "hf/stored_tokens", "home/.cache/huggingface/token", "home/.netrc",
    ]  # fmt: skip
    assert found.home == str(tmp_path / "home")
