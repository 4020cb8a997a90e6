"""What the fast tests share: a project of their own, the real commands as programs, files that are real inputs."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from images import identity
from images import lock as locks
from images.model import Base, Entry, Environment
from launcher import catalogue, profiles
from launcher.artifacts import Artifact
from launcher.catalogue import Step
from launcher.plan import EngineSeen, HostSeen, ImageSeen, Observed, OutputSeen, Wish
from launcher.profiles import Profile
from launcher.words import Words
from slipway.project import Root

HERE = Path(__file__).parent
REPO = HERE.parent
PROJECT = ("versions.lock", "images", "launcher/steps", "launcher/profiles", "templates", "entrypoints")
IMAGE = f"sha256:{'1' * 64}"


@dataclass(frozen=True)
class Done:
    """A program that has ended."""

    code: int
    stdout: str
    stderr: str


@dataclass
class Project:
    """A copy of the project, and its commands run as programs on a machine where no engine answers."""

    path: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Root:
        return Root(self.path)

    def images(self, *words: str) -> Done:
        return self._run("images", words)

    def launch(self, *words: str) -> Done:
        return self._run("launch", words)

    def edit(self, name: str, before: str, after: str) -> Path:
        """Replaces the first `before` in a file of the project, which must hold it."""
        path = self.path / name
        text = path.read_text()
        assert before in text, f"{name} has no {before!r}"
        path.write_text(text.replace(before, after, 1))
        return path

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def _run(self, program: str, words: tuple[str, ...]) -> Done:
        command = [str(Path(sysconfig.get_path("scripts"), program)), *words]
        done = subprocess.run(command, cwd=self.path, env=self.env, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The user's home, which is not there until something makes it."""
    return tmp_path / "home"


@pytest.fixture
def project(tmp_path: Path, home: Path) -> Project:
    """A project of this test's own."""
    copy = tmp_path / "project"
    for name in PROJECT:
        source, target = REPO / name, copy / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.py[co]", "__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "DOCKER_HOST": f"unix://{tmp_path}/dead.sock"}
    return Project(copy, env)


@dataclass(frozen=True)
class Inputs:
    """Inputs that are whole, as words of the command line."""

    train: Path
    model: Path

    @property
    def words(self) -> tuple[str, str]:
        return f"train={self.train}", f"model={self.model}"


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Two conversations and a checkpoint of two shards."""
    return Inputs(write_chats(tmp_path / "chats.jsonl"), write_checkpoint(tmp_path / "llama"))


CHAT = {"messages": [{"role": "user", "content": "Where to?"}, {"role": "assistant", "content": "Out to sea."}]}


def write_chats(path: Path, *extra: str) -> Path:
    """Two conversations, then the lines `extra`."""
    path.write_text("".join(f"{line}\n" for line in (json.dumps(CHAT), json.dumps(CHAT), *extra)))
    return path


def write_checkpoint(folder: Path) -> Path:
    """A Hugging Face checkpoint of two shards with 6 and 4 weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "tokenizer.json").write_text("{}")
    shards = {"model-00001-of-00002.safetensors": ("a", [2, 3]), "model-00002-of-00002.safetensors": ("b", [4])}
    for name, (tensor, shape) in shards.items():
        (folder / name).write_bytes(safetensors({tensor: shape}))
    index = {"weight_map": {tensor: name for name, (tensor, _) in shards.items()}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def safetensors(shapes: dict[str, list[int]]) -> bytes:
    """A safetensors file of zeros, F32: eight bytes of length, a JSON header, the data."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4
        for n in shape:
            size *= n
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


Tree = dict[str, tuple[int, bytes]]


def tree(folder: Path) -> Tree:
    """Every path below `folder` with its mode and content, to see that nothing was created or changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(folder))] = (path.lstat().st_mode, content)
    return found


@pytest.fixture
def refused(project: Project, tmp_path: Path) -> Callable[..., str]:
    """Runs `launch WORDS`, asserts its exit code and that it made nothing; returns what it said."""

    def run(code: int, *words: str, program: str = "launch") -> str:
        before = tree(tmp_path)
        done = project.launch(*words) if program == "launch" else project.images(*words)
        assert (done.code, done.stdout) == (code, ""), done
        assert tree(tmp_path) == before
        return done.stderr

    return run


@dataclass(frozen=True)
class Engine:
    """A stand-in of a Docker engine: what it has and the requests it got."""

    address: str
    has: Path
    log: Path

    def holds(self, **facts: object) -> None:
        """Sets what it answers: `images` (reference -> id), `info`, `version`."""
        self.has.write_text(json.dumps(facts))

    @property
    def requests(self) -> list[str]:
        """METHOD PATH, without the API version."""
        return self.log.read_text().splitlines()


@pytest.fixture
def engine(tmp_path: Path, project: Project) -> Iterator[Engine]:
    """An engine that answers questions and starts nothing; the project's commands talk to it."""
    with ExitStack() as stack:
        folder = tmp_path / "engine"
        folder.mkdir()
        made = Engine(f"unix://{folder}/socket", folder / "has.json", folder / "requests")
        made.holds()
        made.log.touch()
        command = [sys.executable, str(HERE / "standins" / "engine.py"), str(folder)]
        program = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(program.terminate)
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        project.env["DOCKER_HOST"] = made.address
        yield made


@pytest.fixture
def built(project: Project, engine: Engine) -> Engine:
    """The engine, and on it the recorded image of the cpu entry."""
    entry = locks.select(locks.load_lock(project.root), "automodel", "cpu")
    record_image(project.root, entry)
    engine.holds(images={IMAGE: IMAGE})
    return engine


def record_image(root: Root, entry: Entry, **changes: object) -> identity.ImageRecord:
    """Records an image of `entry` as `images build` does."""
    facts = dict(
        name=entry.name, entry=entry.checksum, ids=[IMAGE], tag="slipway/automodel:0.7.0-cpu", inputs="0" * 64,
        reproducible=True, seconds=1, built="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    record = identity.ImageRecord(**(facts | changes))  # type: ignore[arg-type]
    identity.save(root, record)
    return record


@pytest.fixture(scope="session")
def step() -> Step:
    return catalogue.find_step(Root(REPO), "sft/automodel")


@pytest.fixture(scope="session")
def profile() -> Profile:
    return profiles.find_profile(Root(REPO), "docker")


def entry_of(flavour: str = "cpu", **changes: object) -> Entry:
    """A lock entry with as little in it as a launch needs."""
    facts: dict[str, object] = {
        "library": "automodel",
        "release": "1.0",
        "flavour": flavour,
        "base": Base(image="registry.example/automodel", tag="1.0", digest=f"sha256:{'2' * 64}"),
        "python": "3.12",
        "environments": {"main": Environment(python="/opt/venv/bin/python", packages={"nemo-automodel": "0.7.0"})},
    }
    return Entry(**(facts | changes))  # type: ignore[arg-type]


TRAIN = Artifact(
    name="train", path="/data/chats.jsonl", kind="file", type="chat_jsonl", fingerprint="a" * 64, bytes=1000
)
MODEL = Artifact(
    name="model", path="/data/llama", kind="folder", type="checkpoint_hf", fingerprint="b" * 64, bytes=400,
    parameters=100,
)  # fmt: skip


def output_of(**changes: object) -> OutputSeen:
    facts = dict(path="/data/out", kind="missing", empty=True, writable=True, free=10**12, nearest="/data")
    return OutputSeen(**(facts | changes))  # type: ignore[arg-type]


def engine_of(**changes: object) -> EngineSeen:
    facts = dict(kind="docker", address="unix:///engine.sock", source="DOCKER_HOST", version="26.1.5")
    return EngineSeen(**(facts | changes))  # type: ignore[arg-type]


def seen_of(**changes: object) -> Observed:
    """A machine on which everything is as it should be."""
    facts: dict[str, object] = {
        "artifacts": {"train": TRAIN, "model": MODEL},
        "output": output_of(),
        "engine": engine_of(),
        "image": ImageSeen(id=IMAGE, recorded=1),
        "host": HostSeen(
            uid=1000, gid=1000, cpus=8, hf_home="/home/user/.cache/huggingface", runs="/project/runs",
            runs_writable=True,
        ),
    }  # fmt: skip
    return Observed(**(facts | changes))  # type: ignore[arg-type]


WishOf = Callable[..., Wish]


@pytest.fixture
def wish_of(step: Step, profile: Profile) -> WishOf:
    """Makes what `launch sft/automodel train=… model=… output=…` asks for, with changes."""

    def make(**changes: object) -> Wish:
        entry = changes.get("entry", entry_of())
        assert isinstance(entry, Entry)
        facts: dict[str, object] = {
            "step": step,
            "profile": profile,
            "entry": entry,
            "words": Words(inputs={"train": TRAIN.path, "model": MODEL.path}, output="/data/out"),
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
        return Wish(**(facts | changes))  # type: ignore[arg-type]

    return make
