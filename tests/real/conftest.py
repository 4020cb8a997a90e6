"""Fixtures against the engine that this project finds: an image, data and a model that are made once, and a project."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import PARTS

from images.bootstrap import debian as packages
from images.building import identity
from images.locking import lock as locks
from images.locking.model import Entry
from images.machine import dockerhost
from images.machine.dockerhost import engine_client
from slipway.project import Root

from .official import BUILT, Shelf, build, checkout, remove_images, shelf
from .registry import registry
from .support import PROJECT, REFUSING, Proxy, Tree, encoded, told
from .tried import Tried, selftest

TOY = Path(__file__).parent / "toy"
CACHE = Path(__file__).parent / "cache"


@pytest.fixture(scope="session")
def address() -> str:
    """The engine's; `make test` has seen to it that one answers. Docker's command, which tests call, is there too."""
    packages.need(Root(PROJECT), print, "docker", "buildx")
    found = dockerhost.find(Root(PROJECT))
    assert dockerhost.answers(found.url), f"no engine answers at {found.url}; run: images engine up"
    return found.url


@pytest.fixture(scope="session")
def docker(address: str) -> Iterator[Any]:
    """The engine, asked by the tests themselves."""
    with engine_client(dockerhost.Address(address, "tests")) as client:
        yield client


@pytest.fixture(scope="session")
def no_docker(ground: Path) -> Path:
    """A folder with every program of PATH but Docker's, for a PATH; those that an import needs are among them."""
    packages.need(Root(PROJECT), print, "skopeo", "umoci", "mksquashfs", "newuidmap")
    folder = ground / "no-docker"
    folder.mkdir()
    for place in reversed(os.environ["PATH"].split(os.pathsep)):
        for program in Path(place).glob("*"):
            if program.name not in ("docker", "dockerd"):
                (folder / program.name).unlink(missing_ok=True)
                (folder / program.name).symlink_to(program)
    return folder


@pytest.fixture(scope="session")
def entry() -> Entry:
    return locks.select(locks.load_lock(Root(PROJECT)), "automodel", "cpu")


@pytest.fixture(scope="session")
def built(address: str) -> str:
    """What the command that builds the cpu image has printed: its config's digest."""
    command = [str(Path(sys.executable).parent / "images"), "build", "automodel", "--flavour", "cpu"]
    env = {**os.environ, "DOCKER_HOST": address}
    return subprocess.run(command, cwd=PROJECT, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def ground() -> Iterator[Path]:
    """A folder for everything of this session; other users may pass through, as pytest's own does not let them."""
    with tempfile.TemporaryDirectory(prefix="slipway-real-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def project(ground: Path, address: str, docker: Any, built: str) -> Tree:
    """A copy of this project with the tests' steps beside its own, and the record of the cpu image."""
    path = ground / "project"
    for name in PARTS:
        source, target = PROJECT / name, path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(
                source, target, ignore=shutil.ignore_patterns("*.py", "__pycache__") if name == "images" else None
            )
        else:
            shutil.copy(source, target)
    shutil.copytree(TOY / "step", path / "launcher" / "steps" / "test" / "toy")
    shutil.copytree(TOY / "link", path / "launcher" / "steps" / "test" / "link")
    for program in TOY.glob("*.py"):
        shutil.copy(program, path / "entrypoints" / "steps")
    for step in CACHE.glob("*/step.yaml"):
        shutil.copytree(step.parent, path / "launcher" / "steps" / "test" / step.parent.name)
    for program in CACHE.glob("cache_*.py"):
        shutil.copy(program, path / "entrypoints" / "steps")
    shutil.copytree(PROJECT / ".slipway" / "base", path / ".slipway" / "base", copy_function=link_tar)
    (record,) = (PROJECT / ".slipway" / "images").glob(f"*/{built.removeprefix('sha256:')}.json")
    (path / record.parent.relative_to(PROJECT)).mkdir(parents=True)
    shutil.copy(record, path / record.relative_to(PROJECT))
    env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    runs, hf_home = ground / "runs", ground / "huggingface"
    env |= {"DOCKER_HOST": address, "SLIPWAY_RUNS": str(runs), "HF_HOME": str(hf_home)}
    return Tree(path, runs, env, docker)


def with_image(tree: Tree, path: Path, address: str, library: str, *words: str) -> Tree:
    """A copy at `path` that has the record of a library's cpu image, too, which is built in this project."""
    command = [str(Path(sys.executable).parent / "images"), "build", library, "--flavour", "cpu", *words]
    env = {**os.environ, "DOCKER_HOST": address}
    digest = subprocess.run(command, cwd=PROJECT, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    entry = locks.select(locks.load_lock(Root(PROJECT)), library, "cpu")
    record = next(r for r in identity.records(Root(PROJECT), entry) if r.ids[0] == digest)
    shutil.copytree(tree.path, path, copy_function=link_tar)
    identity.save(Root(path), record)
    return dataclasses.replace(tree, path=path)


@pytest.fixture(scope="session")
def yard(project: Tree, ground: Path, address: str) -> Tree:
    """The project, with the record of Model Optimizer's cpu image beside AutoModel's."""
    return with_image(project, ground / "yard", address, "modelopt")


@pytest.fixture(scope="session")
def dock(yard: Tree, ground: Path, address: str) -> Tree:
    """The project, with the records of the cpu images of Megatron-Bridge, Model Optimizer and AutoModel."""
    return with_image(yard, ground / "dock", address, "megatron-bridge")


@pytest.fixture(scope="session")
def tried(dock: Tree) -> Callable[[str], Tried]:
    """Of a library, what its selftest has made; run when somebody asks first."""
    return functools.cache(functools.partial(selftest, dock))


def link_tar(source: str, target: str) -> None:
    """Copies a file; a tar or .sqsh, which nobody changes, gets a second name where that can be."""
    try:
        if not source.endswith((".tar", ".sqsh")):
            raise OSError
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture
def tree(project: Tree) -> Iterator[Tree]:
    """The project, for one test: what that has left running ends with it."""
    yield project
    project.end_all()


@pytest.fixture
def place(ground: Path, request: pytest.FixtureRequest) -> Path:
    """A folder of this test's own."""
    made = Path(tempfile.mkdtemp(prefix=f"{request.node.originalname}-", dir=ground))
    made.chmod(0o755)
    return made


@pytest.fixture
def copy(tree: Tree, place: Path) -> Tree:
    """Another checkout of the project, with image records of its own."""
    shutil.copytree(tree.path, place / "project", copy_function=link_tar)
    return dataclasses.replace(tree, path=place / "project")


Variant = Callable[..., str]


@pytest.fixture(scope="module")
def variant(docker: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Variant]:
    """Makes images that are others with something changed by a shell command; returns their tags."""
    made: list[str] = []

    def make(image: str, command: str) -> str:
        tags = [f"slipway-test/{request.module.__name__}:{len(made) + n}" for n in range(2)]
        docker.images.get(image).tag(*tags[0].split(":"))  # a build takes a local image by its tag alone
        made.extend(tags)
        build = ["docker", "buildx", "build", "--quiet", "--provenance=false", "--network=host", f"--tag={tags[1]}"]
        with tempfile.TemporaryDirectory() as context:
            Path(context, "Dockerfile").write_text(f"FROM {tags[0]}\nRUN {command}\n")
            subprocess.run([*build, context], env=os.environ | {"DOCKER_HOST": address}, check=True)
        return tags[1]

    yield make
    for tag in reversed(made):
        docker.images.remove(tag, force=True)


@pytest.fixture(scope="session")
def squashed(project: Tree, address: str) -> Path:
    """The .sqsh of the cpu image, in the project's own folder of such files."""
    return squash("automodel/0.7.0-cpu", project, address)


def squash(name: str, project: Tree, address: str) -> Path:
    """The .sqsh of an image, in a project's own folder of such files; made once for this checkout."""
    command = [str(Path(sys.executable).parent / "images"), "squash", name]
    env = {**os.environ, "DOCKER_HOST": address}
    made = subprocess.run(command, cwd=PROJECT, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    folder = project.path / ".slipway" / "squash"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (Path(made).name, f"{Path(made).name}.json"):
        with contextlib.suppress(FileExistsError):
            os.link(Path(made).with_name(name), folder / name)
    return folder / Path(made).name


@pytest.fixture(scope="session")
def debian(docker: Any, address: str) -> Iterator[str]:
    """The bootstrapped base of the cpu images, as an image of its own."""
    command = [str(Path(sys.executable).parent / "images"), "base"]
    env = os.environ | {"DOCKER_HOST": address}
    tar = subprocess.run(command, cwd=PROJECT, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[1]
    with Path(tar).open("rb") as data:
        docker.api.import_image_from_data(data, repository="slipway-test/debian", tag="1")
    yield "slipway-test/debian:1"
    docker.images.remove("slipway-test/debian:1")


@pytest.fixture(scope="session")
def official(ground: Path, address: str, docker: Any) -> Iterator[Shelf]:
    """The stand-ins of NVIDIA's containers, in a registry of this session."""
    place = ground / "registry"
    place.mkdir()
    with registry(place) as port:
        found = shelf(ground / "containers", port, address)
        for image, release in (("nemo-rl", "v0.7.0"), ("nemo-automodel", "26.06"), ("nemo", "26.06.01")):
            found.put(image, release)
        yield found
        remove_images(docker, port, ground)


@pytest.fixture(scope="session")
def locked(official: Shelf, ground: Path, address: str, docker: Any) -> Tree:
    """A project whose matrix names that registry, after `images lock`; nothing of it is built."""
    path = ground / "gpu-project"
    checkout(path, official)
    env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    env |= {"DOCKER_HOST": address, "SLIPWAY_RUNS": str(ground / "gpu-runs"), "HF_HOME": str(ground / "huggingface")}
    tree = Tree(path, ground / "gpu-runs", env, docker)
    done = tree.images("lock")
    assert done.code == 0, done
    return tree


@pytest.fixture(scope="session")
def gpu_project(locked: Tree) -> Tree:
    """That project with the cuda images of AutoModel, Megatron-Bridge and NeMo RL, built and recorded by commands.

    `gpu_project.images("squash", "nemo-rl/v0.7.0-cuda")` makes a .sqsh, and prints where.
    """
    for library in BUILT:
        build(locked, library)
    return locked


def installed(entry: Entry, changes: dict[str, str | None] | None = None) -> str:
    """A shell command after which an image seems to have what `entry` expects of its base, but for `changes`.

    Of a claim such as `>=2.1,<3` the first version in it is taken; None: it is not there. For bases with one
    environment and nothing to repair; those of the others are in standins/containers.
    """
    main = entry.environments["main"]
    claims: dict[str, str | None] = {n: re.findall(r"[0-9][^,<>=]*", c)[0] for n, c in main.packages.items()}
    claims = {n: v.removesuffix(".*") if v else v for n, v in (claims | (changes or {})).items()}
    prefix = str(Path(main.python).parents[1])
    modules = [module.replace(".", "/") for module in main.imports]
    names = [f"{name.replace('-', '_')}-{version}.dist-info" for name, version in claims.items() if version]
    return (
        f"python3 -m venv --system-site-packages --without-pip {prefix} && "
        f"cd {prefix}/lib/python3*/site-packages && mkdir {' '.join(names + modules)} && "
        f"""echo 'import sys; sys.version = "{entry.python}.0 (a stand-in)"' >version.pth"""
    )


@pytest.fixture
def proxy(ground: Path, place: Path, address: str) -> Iterator[Proxy]:
    """Another way to the engine, on which requests can be held."""
    made = Proxy(ground / place.name[-8:], address)  # a socket's path has to be short
    yield made
    made.close()


@dataclass(frozen=True)
class Work:
    """What the quickstart's programs have made: conversations and a tiny model."""

    folder: Path

    @property
    def train(self) -> Path:
        return self.folder / "data" / "train.jsonl"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def words(self, output: Path, *more: str) -> tuple[str, ...]:
        """A launch of the real step that takes seconds."""
        step = ("sft/automodel", "--flavour", "cpu", "-c", "tiny")
        return (*step, f"train={self.train}", f"model={self.model}", f"output={output}", *more)


@pytest.fixture(scope="session")
def work(ground: Path, project: Tree) -> Work:
    folder = ground / "work"
    shutil.copytree(PROJECT / "examples" / "quickstart", folder, ignore=shutil.ignore_patterns("work", "__pycache__"))
    subprocess.run([sys.executable, "make_data.py", "data"], cwd=folder, check=True)
    made = project.images(
        "run", "automodel", "--flavour", "cpu", "--mount", str(folder), "--", "python", "make_model.py", "data", "model"
    )
    assert made.code == 0, made
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)  # safetensors writes files for their owner alone
    return Work(folder)


def toy(output: Path, *more: str) -> tuple[str, ...]:
    """A launch of a step that does what it is told, in a second."""
    return ("test/toy", "--flavour", "cpu", f"output={output}", *more)


def every_command_agrees(tree: Tree, place: Path) -> None:
    """On what is done, what failed and what was refused."""
    done = tree.launch(*toy(place / "one"))
    failed = tree.launch(*toy(place / "two", "code=7"))
    refused = tree.launch(*toy(place / "three", "--env", f"TOY_RUN={encoded(REFUSING)}"))
    assert [d.code for d in (done, failed, refused)] == [0, 7, 78]
    assert told(tree, tree.run_of(done)) == ("done", 0, "done")
    assert told(tree, tree.run_of(failed)) == ("failed", 7, "the step failed: exit code 7")
    assert told(tree, tree.run_of(refused)) == ("refused", 78, "refused: this cannot be run")


def facts(log: str) -> dict[str, Any]:
    """What the toy has seen inside its container."""
    line = next(line for line in log.splitlines() if line.startswith("facts "))
    return dict(json.loads(line.removeprefix("facts ")))


@pytest.fixture(scope="session")
def _pier(project: Tree, ground: Path, address: str) -> Tree:
    """The project with NeMo RL's cpu image and a step that drives Ray."""
    from .ray.site import harboured

    return harboured(project, ground, address)


def spoil(work: Work, place: Path) -> list[dict[str, Any]]:
    """`llama`, a model whose template refuses long conversations, and `chats.jsonl`, whose fifth row of 12 is one; the
    rows."""
    shutil.copytree(work.model, place / "llama")
    template = place / "llama" / "chat_template.jinja"
    strict = "{% if messages | length > 2 %}{{ raise_exception('too many') }}{% endif %}"
    template.write_text(strict + template.read_text())
    rows = [json.loads(line) for line in work.train.read_text().splitlines()[:12]]
    rows[4] = {"messages": rows[4]["messages"] + rows[5]["messages"]}
    (place / "chats.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return rows
