"""Stand-ins of NVIDIA's containers in a registry on loopback, and a project whose matrix names that registry.

What is built over them is built as a user does it: `images lock`, `images build`, nothing substituted. The matrix is
this project's, with one release of each library: what its containers have to hold is what the real ones have to hold.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import packaging
import yaml
from helpers import PARTS

from images.building import identity
from images.locking import lock as locks
from slipway.project import Root

from .support import PROJECT, Tree

CONTAINERS = PROJECT / "tests" / "standins" / "containers"
REGISTRY = "nvcr.io"
# What stands in for a repository's server: tag and folder of the repository that is made there.
MODEL_OPTIMIZER = "0.44.0"
RELEASES = {"automodel": "26.06", "megatron-bridge": "26.06.01", "modelopt": "26.06.01", "nemo-rl": "v0.7.0"}
BUILT = ("automodel", "megatron-bridge", "nemo-rl")  # Model Optimizer's is megatron-bridge's, with a repository
DATA = tuple(name for name in PARTS if name != "versions.lock")  # the lock is another


@dataclass(frozen=True)
class Shelf:
    """The registry, and the engine that pushes to it. `context`: the files of all stand-ins, and a git repository."""

    port: int
    address: str
    context: Path

    def name(self, image: str, tag: str) -> str:
        return f"127.0.0.1:{self.port}/nvidia/{image}:{tag}"

    def put(self, image: str, release: str, tag: str = "", changed_by: str = "") -> str:
        """Builds the stand-in of an image's release and pushes it as `tag`, changed by a shell command; its name."""
        name = self.name(image, tag or release)
        text = (self.context / image / "Dockerfile").read_text() + (f"RUN {changed_by}\n" if changed_by else "")
        (self.context / "Dockerfile").write_text(text)
        output = f"type=image,name={name},push=true,compression=uncompressed"
        build = ["docker", "buildx", "build", "--quiet", "--provenance=false", "--network=none", "--output", output]
        build += ["--build-arg", f"RELEASE={release}", str(self.context)]
        subprocess.run(build, env=os.environ | {"DOCKER_HOST": self.address}, check=True, stdout=subprocess.DEVNULL)
        return name


def shelf(folder: Path, port: int, address: str) -> Shelf:
    """With nothing on it yet. The base is the one that the cpu images start from."""
    shutil.copytree(CONTAINERS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for module in (yaml, packaging):  # what libraries bring along, and Debian's Python does not have
        source = Path(str(module.__file__)).parent
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(source, folder / "vendored" / source.name, ignore=ignored)
    repository(folder / "model-optimizer", MODEL_OPTIMIZER)
    command = [str(Path(sys.executable).parent / "images"), "base"]
    made = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    shutil.copy2(made.stdout.split()[1], folder / "base.tar")
    return Shelf(port, address, folder)


def repository(folder: Path, tag: str) -> None:
    """Makes a git repository of a folder."""
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for git in (["init", "-q"], ["add", "."], [*name, "commit", "-qm", "1"], [*name, "tag", "-am", "1", tag]):
        subprocess.run(["git", "-C", str(folder), *git], check=True)


def checkout(path: Path, shelf: Shelf, registry: str = "", **releases: str) -> None:
    """This project's data, with a matrix that names the shelf, and the lock from which `images lock` starts.

    `registry`: named in place of the shelf's; `releases`: library -> another release than RELEASES has.
    """
    for name in DATA:
        ignored = shutil.ignore_patterns("*.py", "__pycache__") if name == "images" else None
        shutil.copytree(PROJECT / name, path / name, ignore=ignored)
    shutil.copy(PROJECT / "versions.lock", path)
    matrix = path / "images" / "matrix.yaml"
    wishes = matrix_of(yaml.safe_load(matrix.read_text()), shelf, registry or f"127.0.0.1:{shelf.port}", releases)
    matrix.write_text(yaml.safe_dump(wishes, sort_keys=False))


def matrix_of(matrix: dict[str, Any], shelf: Shelf, registry: str, releases: dict[str, str]) -> dict[str, Any]:
    """One official release of each library, from another registry and server of git, which nobody has asked yet."""
    for library, release in (RELEASES | releases).items():
        section = matrix["libraries"][library]
        chosen = section["cuda"][release]
        image = str(chosen["base"]["image"]).replace(REGISTRY, registry)
        chosen["base"] = {"image": image, "tag": chosen["base"]["tag"]}
        if spec := chosen.get("repositories", {}).get("modelopt"):
            url, tag = f"file://{shelf.context / 'model-optimizer'}", MODEL_OPTIMIZER
            chosen["repositories"]["modelopt"] = {"url": url, "tag": tag, "path": spec["path"]}
        section["cuda"] = {release: chosen}
        section["default"]["cuda"] = release
    return matrix


def another(tree: Tree, path: Path, library: str, change: Callable[[dict[str, Any]], object]) -> Tree:
    """A copy of a project in which the spec for the library's official image is changed, and locked anew."""
    shutil.copytree(tree.path, path)
    file = path / "images" / "matrix.yaml"
    matrix = yaml.safe_load(file.read_text())
    change(matrix["libraries"][library]["cuda"][RELEASES[library]])
    file.write_text(yaml.safe_dump(matrix, sort_keys=False))
    made = dataclasses.replace(tree, path=path)
    done = made.images("lock", library)
    assert done.code == 0, done
    return made


def image_of(tree: Tree, library: str) -> str:
    """The tag that no other build takes away of the image that a project has built."""
    entry = locks.select(locks.load_lock(Root(tree.path)), library, "cuda")
    return own_tag(identity.records(Root(tree.path), entry)[0])


def own_tag(record: identity.ImageRecord) -> str:
    return f"{record.tag}-{record.ids[0].removeprefix('sha256:')[:12]}"


def remove_images(docker: Any, port: int, ground: Path) -> None:
    """What was pushed to the registry, and what was built over it by projects below `ground`."""
    records = [msgspec.json.decode(p.read_bytes(), type=identity.ImageRecord) for p in
               ground.glob("**/.slipway/images/*/*.json")]  # fmt: skip
    built = {tag for r in records if r.name.endswith("-cuda") for tag in (own_tag(r), r.tag)}
    for tag in (t for image in docker.images.list() for t in image.tags):
        if tag in built or tag.startswith(f"127.0.0.1:{port}/"):
            docker.images.remove(tag, force=True)


def build(tree: Tree, library: str) -> str:
    """What a user types, and the name of the entry."""
    done = tree.images("build", library, "--flavour", "cuda")
    assert done.code == 0, done.err[-6000:]
    return f"{library}/{RELEASES[library]}-cuda"
