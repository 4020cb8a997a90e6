"""Fixtures of the fast tests: a project of their own, inputs that are whole, an engine that can only be asked."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import (
    HERE,
    IMAGE,
    MATRIX,
    MATRIX_FILE,
    MODEL,
    PARTS,
    REPO,
    TRAIN,
    Engine,
    Inputs,
    Known,
    Project,
    Refused,
    SpecOf,
    Template,
    entry_of,
    only_wheels,
    record_image,
    relock,
    render_all,
    squash,
    tree,
    wheel,
    write_chat_model,
    write_chats,
)
from slurm_job import Job

from images.building import base
from images.locking import lock as locks
from images.squashing import sidecar
from launcher.catalog import definitions, profiles
from launcher.catalog.definitions import Step
from launcher.catalog.profiles import Profile
from launcher.core.arguments import Arguments
from launcher.core.plan import LaunchSpec
from launcher.planning import configuration
from slipway import canonical
from slipway.files import write_atomic
from slipway.project import Root

# A shell that starts us in the background has us ignore Ctrl-C, which every process of a test would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """What the projects of all tests are made of: their files are links to those here."""
    return Template(tmp_path_factory.mktemp("template") / "project", PARTS)


@pytest.fixture
def project(tmp_path: Path, _template: Template) -> Iterator[Project]:
    """A project of this test's own, on a machine where no engine answers and no program is installed.

    A file of it that is to be written in place, or given another mode or owner, is made the test's own first: `own`.
    """
    copy = tmp_path / "project"
    shutil.copytree(_template.folder, copy, copy_function=os.link)
    (tmp_path / "bin").mkdir()
    env = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path / "home"), "DOCKER_HOST": f"unix://{tmp_path}/dead"}
    yield Project(copy, env)
    changed = _template.restored()
    assert not changed, f"changed in place, which other tests' projects would see: {changed}; see Project.own"


@pytest.fixture
def boats(project: Project) -> Project:
    """That project with pins of this test's own: helpers.MATRIX, locked and rendered."""
    shutil.rmtree(project.path / "images" / "automodel")
    (project.path / "entrypoints" / "automodel.sh").unlink()
    project.root.lock.unlink()
    project.write(MATRIX_FILE, MATRIX)
    project.write("entrypoints/cpu/boats/boats.pth", "")
    relock(project.root, Known())
    render_all(project.root)
    return project


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose pip knows one folder of wheels and nothing else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX", "UV_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in only_wheels(folder).items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def harbour(boats: Project, docker_stand_in: Path, wheels: Path) -> Project:
    """That project, locked by the real uv from that folder of wheels: `boats` asks for `rope`, of which 1.0 is there.

    Its registry answers, and nothing is unresolved.
    """
    boats.env |= only_wheels(wheels) | {"UV_CACHE_DIR": str(wheels.parent / "uv")}
    for name, version, *requires in (
        ("torch", "2.13.0+cpu"),
        ("boats", "1.0", "rope"),
        ("oars", "13.0"),
        ("rope", "1.0"),
    ):
        wheel(wheels, name, version, *requires)
    manifest = {"digest": f"sha256:{'d' * 64}", "manifests": []}
    (docker_stand_in / "manifest.json").write_text(json.dumps({"manifest": manifest}))
    for words in (("lock", "--upgrade"), ("render",)):
        done = boats.images(*words)
        assert done.code == 0, done
    return boats


@pytest.fixture
def bootstrapped(boats: Project) -> Path:
    """The base of the cpu image, as if it had been made."""
    spec = locks.load_lock(boats.root).entries["boats/1.0-cpu"].base.bootstrap
    folder = boats.root.state / "base" / canonical.sha256(spec)[:12]
    write_atomic(folder / "base.tar", "a tar")
    facts = base.BaseFacts(sha256="5" * 64, packages={"bash": "5.2"})
    write_atomic(folder / "base.json", canonical.pretty(facts))
    return folder / "base.tar"


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return Inputs(write_chats(tmp_path / "chats.jsonl"), write_chat_model(tmp_path / "llama"))


@pytest.fixture
def refused(project: Project, tmp_path: Path) -> Refused:
    """Runs a command (`launch` unless named) that must end with `code`, print no result and make nothing.

    Returns what it said on stderr, with the test's own folder as `T`.
    """

    def run(code: int, *words: str, program: str = "launch") -> str:
        before = tree(tmp_path)
        done = project.launch(*words) if program == "launch" else project.images(*words)
        assert (done.code, done.stdout) == (code, ""), done
        assert tree(tmp_path) == before
        return done.stderr.replace(str(tmp_path), "T")

    return run


@pytest.fixture
def engine(tmp_path: Path, project: Project) -> Iterator[Engine]:
    """An engine that answers questions and starts nothing; the project's commands talk to it."""
    folder = tmp_path / "engine"
    folder.mkdir()
    found = Engine(f"unix://{folder}/socket", folder)
    found.holds()
    (folder / "requests").touch()
    project.env["DOCKER_HOST"] = found.address
    command = [sys.executable, "-IS", str(HERE / "standins" / "engine.py"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        yield found
        program.terminate()


@pytest.fixture
def built(project: Project, engine: Engine) -> Engine:
    """That engine with the recorded image of the cpu entry."""
    record_image(project.root, locks.select(locks.load_lock(project.root), "automodel", "cpu"))
    engine.holds(images={IMAGE: IMAGE})
    return engine


@pytest.fixture
def docker_stand_in(tmp_path: Path, project: Project) -> Path:
    """A docker command that writes down its words (standins/docker.py), for the project's commands; its folder."""
    folder = tmp_path / "docker"
    folder.mkdir()
    project.program("docker", f'exec {sys.executable} -IS {HERE / "standins" / "docker.py"} {folder} "$@"')
    return folder


@pytest.fixture(scope="session")
def step() -> Step:
    return definitions.find_step(Root(REPO), "sft/automodel")


@pytest.fixture(scope="session")
def profile() -> Profile:
    """The docker profile, as if it stood in /project."""
    found = profiles.find_profile(Root(REPO), "docker")
    return msgspec.structs.replace(found, file="/project/launcher/profiles/docker.yaml")


@pytest.fixture
def spec_of(step: Step, profile: Profile) -> SpecOf:
    """Makes what `launch sft/automodel train=… model=… output=…` asks for, with changes."""

    def make(**changes: Any) -> LaunchSpec:
        facts: dict[str, Any] = {
            "step": step,
            "profile": profile,
            "entry": entry_of(),
            "words": Arguments(inputs={"train": TRAIN.path, "model": MODEL.path}, output="/data/out"),
            "overlays": [("default", {"seed": 42})],
            "base": {"path": "/opt/base.yaml"},
            "program": "automodel_finetune.py",
            "nodes": 1,
            "gpus": 0,
            "procs": 1,
            "env": {},
            "resume": False,
            "allow_drift": False,
            "lock_checksum": "c" * 64,
        }
        spec = LaunchSpec(**(facts | changes))
        return configuration.resolved(spec, {name: f"/inputs/{name}" for name in spec.words.inputs})

    return make


@pytest.fixture
def words(project: Project, inputs: Inputs, tmp_path: Path) -> tuple[str, ...]:
    """The README's `launch rl/grpo policy=… train=…`, with the recorded .sqsh of NeMo RL's default cuda release."""
    entry = locks.select(locks.load_lock(project.root), "nemo-rl", "cuda")
    record = record_image(project.root, entry)
    squash(sidecar.folder(project.root), record)
    (Path(inputs.model) / "chat_template.jinja").write_text("{{ messages }}")
    rows = tmp_path / "prompts.jsonl"
    rows.write_text(json.dumps({"input": "2 + 2", "output": "4"}) + "\n")
    return ("rl/grpo", f"policy={inputs.model}", f"train={rows}", f"output={tmp_path}/out")


@pytest.fixture
def job(tmp_path: Path, spec_of: SpecOf) -> Iterator[Job]:
    """A job of Slurm that is not written yet; its processes end with the test."""
    found = Job(tmp_path, spec_of)
    yield found
    found.end()
