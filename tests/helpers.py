"""What the fast tests are written with: commands as programs, whole inputs, the nouns of a launch with changes."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import re
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from images.building import identity, render
from images.locking import lock as locks
from images.locking.model import Base, Bootstrap, Entry, Environment, Lock, MatrixGroup, Repository, Tested
from images.squashing import sidecar
from launcher.artifacts.detection import Artifact
from launcher.artifacts.nouns import Adapter, Data, Packing, Sizes, Tokenizer, Weights
from launcher.core.plan import EngineInfo, HostInfo, ImageInfo, LaunchSpec, OutputInfo, Plan, Probed
from launcher.records import run_directory
from launcher.records.run_directory import EngineUsed, Record, Run
from slipway import canonical, yamldoc
from slipway.files import write_atomic
from slipway.project import Root

HERE = Path(__file__).parent
REPO = HERE.parent
IMAGE = f"sha256:{'1' * 64}"
TESTED = Tested(
    image=IMAGE, hardware="8 x A GPU", driver="575.1", engine="docker", date="2026-01-01T00:00:00Z", slipway="0.1.0",
    steps=["sft/automodel"],
)  # fmt: skip
STEP_FILE = "launcher/steps/sft/automodel/step.yaml"
PROFILE_FILE = "launcher/profiles/docker.yaml"
MATRIX_FILE = "images/matrix.yaml"


def script(name: str) -> str:
    """The installed console script `name`."""
    return str(Path(sysconfig.get_path("scripts"), name))


class Template:
    """A copy of the repository's data, of which projects are made as links: written in place, it changes in all."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.folder = folder
        folder.mkdir()
        for name in names:
            ignored = shutil.ignore_patterns("__pycache__", *(("*.py",) if name == "images" else ()))
            if (REPO / name).is_dir():
                shutil.copytree(REPO / name, folder / name, ignore=ignored)
            else:
                shutil.copy2(REPO / name, folder / name)
        self.as_made = self._stamps()

    def _stamps(self) -> dict[str, tuple[int, int, int, int]]:
        """Of every file: mode, owner, size, and when it was last written, in nanoseconds."""
        found = {p.relative_to(self.folder): p.lstat() for p in self.folder.rglob("*") if not p.is_dir()}
        return {str(name): (s.st_mode, s.st_uid, s.st_size, s.st_mtime_ns) for name, s in found.items()}

    def restored(self) -> list[str]:
        """The files that a test has changed, after each was copied anew."""
        seen = self._stamps()
        changed = [name for name, stamp in self.as_made.items() if seen.get(name) != stamp]
        for name in changed:
            (self.folder / name).unlink(missing_ok=True)
            shutil.copy2(REPO / name, self.folder / name)
        return changed


@dataclass(frozen=True)
class Done:
    """A program that has ended."""

    code: int
    stdout: str
    stderr: str


@dataclass
class Project:
    """A copy of the project, and its commands run as processes."""

    path: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Root:
        return Root(self.path)

    def images(self, *words: str, cwd: Path | None = None) -> Done:
        return self._run("images", words, cwd)

    def launch(self, *words: str, cwd: Path | None = None) -> Done:
        return self._run("launch", words, cwd)

    def launch_dies(self, stage: int, below: Path, every: bool, *words: str) -> Done:
        """A launch that is killed at that stage, as standins/stages.py counts: its code is -9 then."""
        return self._run("launch", words, None, dies=(stage, str(below), every))

    def edit(self, name: str, before: str, after: str) -> Path:
        """Replaces the first `before` in a file of the project, which has to hold it."""
        path = self.own(name)
        text = path.read_text()
        assert before in text, f"{name} has no {before!r}"
        path.write_text(text.replace(before, after, 1))
        return path

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
        return path

    def own(self, name: str) -> Path:
        """A file, or all below a folder, no longer shared with other tests' projects."""
        path = self.path / name
        for file in [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]:
            copy = file.with_name(f"{file.name}.own")
            shutil.copy2(file, copy)
            copy.replace(file)
        return path

    def program(self, name: str, script: str) -> Path:
        """A program on the PATH of the commands, which holds nothing else."""
        path = Path(self.env["PATH"]) / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def bridge(self, engine: Engine) -> str:
        """The URL of an engine on another machine, to which `ssh` leads; its words are written down as a request is."""
        log, script = self.path.parent / "requests", HERE / "standins" / "ssh.py"
        self.program("ssh", f'echo "$@" >>{log}; exec {sys.executable} -IS {script} {engine.folder}/socket')
        return "ssh://me@far.example:2222"

    def _run(self, program: str, words: tuple[str, ...], cwd: Path | None, **how: Any) -> Done:
        with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
            command = {"program": program, "words": words, "cwd": str(cwd or self.path), "env": self.env}
            code = ask(forkserver(), command | how | {"out": out.name, "err": err.name})
            done = Done(int(code), out.read().decode(), err.read().decode())
        assert "Traceback" not in done.stderr, done.stderr
        return done


@functools.cache
def forkserver() -> subprocess.Popen[str]:
    """The process that starts the commands; it ends with this one, whose end closes its stdin."""
    program = [sys.executable, str(HERE / "forkserver.py")]
    return subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(server: subprocess.Popen[str], command: dict[str, Any]) -> str:
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(command) + "\n")
    server.stdin.flush()
    return server.stdout.readline()


@dataclass(frozen=True)
class Inputs:
    """Whole inputs of sft/automodel."""

    train: Path
    model: Path

    @property
    def words(self) -> tuple[str, str]:
        return f"train={self.train}", f"model={self.model}"


@dataclass(frozen=True)
class Engine:
    """A stand-in of a Docker engine (standins/engine.py): what it has, and what it was asked."""

    address: str
    folder: Path

    def holds(self, **facts: Any) -> None:
        """What it has and answers, where that is not the usual: see standins/engine.py."""
        (self.folder / "has.json").write_text(json.dumps(facts))

    @property
    def refused(self) -> Any:
        """The body of what it was last asked to make."""
        return json.loads((self.folder / "refused").read_text())

    @property
    def asked(self) -> list[str]:
        """METHOD PATH of every request, without the version of the API."""
        return (self.folder / "requests").read_text().splitlines()


def listed(done: Done) -> list[str]:
    """The rows of `launch runs`, below its heads."""
    heads, *rows = done.stdout.splitlines() or [""]
    assert not rows or heads.startswith("RUN  "), heads
    return rows


def rows_of(done: Done) -> dict[str, str]:
    """What `launch runs` says of each run, by its id, with single spaces and without its age."""
    words = (" ".join(line.split()).split(" ", 1) for line in listed(done))
    return {run: re.sub(r" \d+ (s|min|h|d)(?= |$)", "", row, count=1) for run, row in words}


def ask_engine(engine: Engine, path: str) -> Any:
    """What a stand-in of an engine answers to GET `path`."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(engine.address.removeprefix("unix://"))
        client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        with client.makefile("rb") as answer:
            return json.loads(answer.read().partition(b"\r\n\r\n")[2])


Tree = dict[str, tuple[int, bytes]]


def errors(stderr: str) -> str:
    """What a launch said, less the lines that tell flavour, shape and where settings are listed, and warnings."""
    lines, beside = stderr.splitlines(keepends=True), ("warning: ", "flavour ", "shape: ", "note: launch config ")
    return "".join(line for line in lines if not line.startswith(beside))


def tree(folder: Path) -> Tree:
    """Every path below `folder` with its mode and content: two that are equal mean that nothing was made or changed."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.name != "requests"):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(folder))] = (path.lstat().st_mode, content)
    return found


CHAT = {"messages": [{"role": "user", "content": "Where to?"}, {"role": "assistant", "content": "Out to sea."}]}


def write_chats(path: Path, *extra: str) -> Path:
    """Two conversations, then the lines `extra`."""
    path.write_text("".join(f"{line}\n" for line in (json.dumps(CHAT), json.dumps(CHAT), *extra)))
    return path


def write_chat_model(folder: Path) -> Path:
    """A checkpoint that can render conversations, and tools."""
    write_checkpoint(folder)
    (folder / "chat_template.jinja").write_text("{{ tools }}{{ messages }}")
    return folder


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


def write_checkpoint(folder: Path) -> Path:
    """A Hugging Face checkpoint of two shards, with 6 and 4 weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / SHARDS[0]).write_bytes(safetensors({"a": [2, 3]}))
    (folder / SHARDS[1]).write_bytes(safetensors({"b": [4]}))
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}))
    return folder


def safetensors(shapes: dict[str, list[int]]) -> bytes:
    """A safetensors file of zeros in F32: eight bytes of length, a JSON header, the data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def record_image(root: Root, entry: Entry, **changes: Any) -> identity.ImageRecord:
    """Records an image of `entry`, as `images build` does."""
    facts: dict[str, Any] = {
        "name": entry.name,
        "entry": entry.checksum,
        "ids": [IMAGE],
        "tag": f"slipway/{entry.library}:{entry.release}-{entry.flavour}",
        "inputs": "0" * 64,
        "reproducible": True,
        "seconds": 1,
        "built": "2026-01-01T00:00:00+00:00",
    }
    record = identity.ImageRecord(**(facts | changes))
    identity.save(root, record)
    return record


SQSH_BYTES = 5


def squash(folder: Path, record: identity.ImageRecord, **changes: Any) -> Path:
    """What `images squash` leaves of a record."""
    file = folder / sidecar.file_name(record)
    folder.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(SQSH_BYTES))
    facts: dict[str, Any] = {
        "name": record.name,
        "entry": record.entry,
        "ids": record.ids,
        "size": SQSH_BYTES,
        "source": "dockerd://x",
        "platform": "linux/amd64",
        "sha256": "0" * 64,
        "tool": "mksquashfs",
        "made": "now",
    }
    sidecar.path_of(file).write_text(canonical.pretty(sidecar.Sidecar(**(facts | changes))))
    return file


MATRIX = f"""\
schema: 1
bootstrap:
  debian-12: {{suite: bookworm, variant: minbase, packages: [python3], source_date_epoch: 1790000000}}
libraries:
  boats:
    title: Boats
    homepage: https://example.org/boats
    default: {{cpu: "1.0", cuda: "26.08"}}
    cpu:
      "1.0":
        base: {{bootstrap: debian-12}}
        python: "3.11"
        groups:
          torch: {{packages: [torch==2.13.0+cpu], python: "3.11", platform: linux}}
          boats: {{packages: [boats==1.0, oars==13.0], python: "3.11", platform: linux}}
        environments:
          main: {{python: /opt/venv/bin/python, groups: [torch, boats]}}
    cuda:
      "26.08":
        base: {{image: registry.example/org/boats, tag: "26.08", digest: "sha256:{"8" * 64}"}}
        python: "3.12"
        environments:
          main: {{python: /opt/venv/bin/python, packages: {{torch: ==2.13.0a0}}}}
      "26.06":
        base: {{image: registry.example/org/boats, tag: "26.06"}}
        python: "3.12"
        environments:
          main: {{python: /opt/venv/bin/python, packages: {{torch: 2.12.0}}}}
"""
BOATS = "registry.example/org/boats"


def wheel(folder: Path, name: str, version: str, *requires: str) -> Path:
    """A wheel with nothing but its metadata."""
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    files = {"METADATA": "\n".join(metadata) + "\n", "WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n"}
    hashes = {n: base64.urlsafe_b64encode(hashlib.sha256(t.encode()).digest()).decode() for n, t in files.items()}
    files["RECORD"] = "".join(f"{info}/{n},sha256={h.rstrip('=')},\n" for n, h in hashes.items())
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(f"{info}/{file}", text)
    return path


def only_wheels(folder: Path) -> dict[str, str]:
    """The environment of a machine whose pip and uv know one folder of wheels and nothing else."""
    return {"PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": str(folder), "UV_OFFLINE": "1", "UV_NO_INDEX": "1"}


class Known:
    """A resolver of `images lock` that pins every package to 1.0 and knows the digests of the `reachable` images."""

    def __init__(self, *reachable: str) -> None:
        self.reachable, self.asked = set(reachable), list[str]()

    def pins(self, groups: dict[str, MatrixGroup], before: str) -> dict[str, str]:  # noqa: ARG002
        self.asked += [f"pins {' '.join(groups)}"]
        return {
            n: "".join(f"{p.partition('==')[0]}==1.0 \\\n    --hash=sha256:0\n" for p in g.packages)
            for n, g in groups.items()
        }

    def added(self, group: MatrixGroup, *_: Any) -> dict[str, tuple[MatrixGroup, str]]:
        return {"added": (group, self.pins({"added": group}, "")["added"])}

    def base(self, base: Base) -> Base:
        self.asked += [f"base {base.reference}"]
        return msgspec.structs.replace(base, digest=DIGEST) if base.image in self.reachable else base

    def repository(self, repository: Repository) -> Repository:
        self.asked += [f"repository {repository.url} {repository.tag}"]
        found = repository.url in self.reachable
        return msgspec.structs.replace(repository, commit=COMMIT, tree=TREE) if found else repository


DIGEST, COMMIT, TREE = f"sha256:{'d' * 64}", "c" * 40, "e" * 40


def relock(root: Root, resolver: locks.Resolver, ask: tuple[str, ...] = (), upgrade: tuple[str, ...] = ()) -> Lock:
    """`images lock`, with `resolver` for the outside world."""
    old = yamldoc.load(root.lock, Lock) if root.lock.exists() else None
    new, files = locks.build_lock(root, locks.load_matrix(root), old, resolver, ask, upgrade)
    for path, text in files.items():
        write_atomic(path, text)
    write_atomic(root.lock, locks.lock_text(new))
    return new


def render_all(root: Root) -> None:
    """`images render`."""
    for name, text in render.committed(root, locks.load_lock(root)).items():
        write_atomic(root.path / name, text, mode=0o755 if name.endswith(".sh") else 0o644)


REGISTRY = Base(image="registry.example/automodel", tag="1.0", digest=f"sha256:{'2' * 64}")
BOOTSTRAP = Base(
    bootstrap=Bootstrap(suite="bookworm", variant="minbase", packages=["python3"], source_date_epoch=1_700_000_000)
)


def entry_of(flavour: str = "cpu", **changes: Any) -> Entry:
    """A lock entry with as little in it as a launch needs."""
    facts: dict[str, Any] = {
        "library": "automodel",
        "release": "1.0",
        "flavour": flavour,
        "base": BOOTSTRAP if flavour == "cpu" else REGISTRY,
        "python": "3.12",
        "environments": {"main": Environment(python="/opt/venv/bin/python", packages={"nemo-automodel": "0.7.0"})},
    }
    return Entry(**(facts | changes))


TRAIN = Artifact(
    name="train", path="/data/chats.jsonl", kind="file", type="chat_jsonl", fingerprint="a" * 64, bytes=1000
)
MODEL = Artifact(
    name="model", path="/data/llama", kind="folder", type="checkpoint_hf", fingerprint="b" * 64, bytes=400,
    parameters=100,
)  # fmt: skip
HOST = HostInfo(
    uid=1000, gid=1000, cpus=8, hf_home="/home/user/hf", runs="/project/runs", runs_writable=True, runs_free=10**12
)


def until(look: Callable[[], object], patience: float = 60) -> None:
    """Awaits a condition; what never holds is a failure after `patience` seconds."""
    end = time.monotonic() + patience
    while not look():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


# Of this project, what commands read.
PARTS = (
    "versions.lock", "images", "launcher/steps", "launcher/profiles", "launcher/pipelines", "templates", "entrypoints",
)  # fmt: skip

GROUPS = {
    "data": Data,
    "packing": Packing,
    "tokenizer": Tokenizer,
    "sizes": Sizes,
    "weights": Weights,
    "adapter": Adapter,
}


def described(packed: bool = False, **said: Any) -> dict[str, Any]:
    """An artifact's groups by the names of their fields alone; `tokenizer` and `template` are those of a packing where
    it is `packed`."""
    left = said if packed else {"vocabulary" if k == "tokenizer" else k: v for k, v in said.items()}
    found: dict[str, Any] = {}
    for name, group in GROUPS.items():
        own = {k: left[k] for k in group.__struct_fields__ if k in left and (name == "packing") <= packed}
        left = {k: v for k, v in left.items() if k not in own}
        found |= {name: group(**own)} if own else {}
    return found | left


def output_of(**changes: Any) -> OutputInfo:
    facts: dict[str, Any] = {"path": "/data/out", "kind": "missing", "empty": True, "writable": True}
    return OutputInfo(**({**facts, "free": 10**12, "nearest": "/data"} | changes))


def engine_of(**changes: Any) -> EngineInfo:
    facts: dict[str, Any] = {"kind": "docker", "address": "unix:///engine.sock", "source": "DOCKER_HOST"}
    return EngineInfo(**({**facts, "version": "26.1.5"} | changes))


def seen_of(**changes: Any) -> Probed:
    """A machine on which everything is as it should be."""
    facts: dict[str, Any] = {
        "artifacts": {"train": TRAIN, "model": MODEL},
        "output": output_of(),
        "engine": engine_of(),
        "image": ImageInfo(id=IMAGE, recorded=1),
        "host": HOST,
    }
    return Probed(**(facts | changes))


SpecOf = Callable[..., LaunchSpec]  # the fixture spec_of: makes a LaunchSpec with changes
Refused = Callable[..., str]  # the fixture refused: runs a command that must end with a code and make nothing


def record_of(run: Run, plan: Plan, address: str = "", **changes: Any) -> Record:
    """The record of a run that was submitted."""
    facts: dict[str, Any] = {"schema": 1, "run": run.id, "directory": str(run.path), "state": "submitted", "argv": []}
    facts |= {"plan_hash": plan.hash, "plan": plan, "request": {}, "slipway": "0", "submitted": run_directory.now()}
    return Record(**({**facts, "engine": EngineUsed(kind=plan.profile.kind, address=address)} | changes))


def left_by(project: Project, plan: Plan, run_id: str = "20260101T000000Z-sft.automodel-aaaaaa") -> Run:
    """A run of the project's that was started, and that nobody looks after."""
    run = Run(project.path / "runs" / run_id)
    (run.path / "logs").mkdir(parents=True)
    (run.path / "container" / "0").mkdir(parents=True)
    run.write(record_of(run, plan, project.env["DOCKER_HOST"]))
    run.event("started")
    (run.path / "lock").touch()
    return run
