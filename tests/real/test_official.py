"""Images over stand-ins of NVIDIA's containers, which are laid out as those are: by commands, nothing substituted."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from images.building import identity
from images.locking import lock as locks
from images.locking.model import Entry
from slipway.errors import Exit
from slipway.project import Root

from .conftest import link_tar
from .official import BUILT, RELEASES, Shelf, another, checkout, image_of
from .support import Done, Tree

pytestmark = pytest.mark.real
WORKERS = "/opt/ray_venvs/nemo_rl.models"
MEGATRON = f"{WORKERS}.policy.workers.megatron_policy_worker.MegatronPolicyWorker"
VLLM = f"{WORKERS}.generation.vllm.vllm_worker.VllmGenerationWorker"
DATASETS = "/opt/Megatron-Bridge/3rdparty/Megatron-LM/megatron/core/datasets"
HELPERS = "helpers_cpp.cpython-312-x86_64-linux-gnu.so"
COMPILE = "from megatron.core.datasets.utils import compile_helpers as start; start()"
PATCH = "import sys; from nemo_rl.models.generation.vllm.patches import _apply_vllm_patches as p; p(sys.executable)"


def name_of(library: str) -> str:
    return f"{library}/{RELEASES[library]}-cuda"


def entry_of(tree: Tree, library: str) -> Entry:
    return locks.select(locks.load_lock(Root(tree.path)), library, "cuda")


def build(tree: Tree, library: str) -> Done:
    return tree.images("build", library, "--flavour", "cuda")


@pytest.fixture
def over(locked: Tree, official: Shelf, place: Path) -> Callable[..., Tree]:
    """The project, whose base of a library is the stand-in changed by a shell command, and its spec by `change`."""

    def make(library: str, changed_by: str = "", change: Callable[[dict[str, Any]], object] = dict) -> Tree:
        def both(spec: dict[str, Any]) -> None:
            image = spec["base"]["image"].rpartition("/")[2]
            if changed_by:
                spec["base"]["tag"] = place.name.lower()
                official.put(image, RELEASES[library], place.name.lower(), changed_by)
            change(spec)

        return another(locked, place / "project", library, both)

    return make


def run(tree: Tree, image: str, python: str, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Python in an image as a user whom it does not know, on a read-only root without a network."""
    words = ["docker", "run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp", "--user=65534:65534", *options]
    words += ["--workdir=/", "--entrypoint=bash", image, "-c", 'exec "$0" -B -c "$1"', python, code]
    return subprocess.run(words, env=tree.env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("library", BUILT)
def test_an_official_image_is_what_its_entry_says_for_any_user_on_a_read_only_root(
    gpu_project: Tree, library: str
) -> None:
    name = name_of(library)
    done = gpu_project.images("verify", name)
    assert done.code == 0, done
    assert f"{name}: as {name} in the lock says" in done.err
    for environment, found in entry_of(gpu_project, library).environments.items():
        rows = done.out.partition(f"{environment}: imports\n")[2].splitlines()[: len(found.imports)]
        assert [row.split() for row in rows] == [[m, "imported", "as", "expected"] for m in found.imports]


def test_the_same_is_not_so_in_the_containers_themselves(official: Shelf, gpu_project: Tree) -> None:
    """What is repaired is there to be repaired: else the tests above and below would prove nothing."""
    rl, nemo = (official.name(*at) for at in (("nemo-rl", "v0.7.0"), ("nemo", "26.06.01")))
    assert "ermission denied" in run(gpu_project, rl, "/opt/nemo_rl_venv/bin/python", "").stderr
    done = run(gpu_project, rl, f"{VLLM}/bin/python", PATCH, "--user=0")
    assert "Read-only file system" in done.stderr and ".patch_lock" in done.stderr
    assert (
        "No module named 'megatron'" in run(gpu_project, nemo, "/opt/venv/bin/python", "import megatron.bridge").stderr
    )


def test_workers_of_vllm_start_as_any_user_on_a_read_only_root(gpu_project: Tree) -> None:
    for worker in (VLLM, f"{WORKERS}.generation.vllm.vllm_worker_async.VllmAsyncGenerationWorker"):
        for user in ("0", "65534"):
            image = image_of(gpu_project, "nemo-rl")
            code = f"{PATCH}; from vllm.v1.executor import ray_executor; print(ray_executor.STARTED)"
            done = run(gpu_project, image, f"{worker}/bin/python", code, f"--user={user}")
            assert (done.returncode, done.stdout) == (0, f"{VLLM}/bin/python\n"), done.stderr


@pytest.mark.parametrize(
    ("release", "places", "patched"),
    [
        ("v0.6.0", "vllm.v1.executor.ray_executor", [f"{VLLM}/bin/python"]),
        ("v0.4.0", "vllm.executor.ray_distributed_executor, vllm.v1.sample.sampler",
         [f"{VLLM}/bin/python", "with temperature"]),
    ],
)  # fmt: skip
def test_older_releases_patch_vllm_in_other_ways(
    locked: Tree, official: Shelf, place: Path, release: str, places: str, patched: list[str]
) -> None:
    """v0.6.0 without a lock; v0.4.0 would go on unpatched where it may not write, with other log probabilities."""
    name = official.put("nemo-rl", release)
    checkout(place / "project", official, **{"nemo-rl": release})
    tree = dataclasses.replace(locked, path=place / "project")
    assert tree.images("lock").code == 0
    done = build(tree, "nemo-rl")
    assert done.code == 0, done.err
    worker = "from nemo_rl.models.generation.vllm.vllm_worker import BaseVllmGenerationWorker as W; W()"
    code = f"{worker}; import {places}; print([m.STARTED for m in ({places},)])"
    before = run(tree, name, f"{VLLM}/bin/python", code, "--user=0", "--cap-drop=DAC_OVERRIDE")
    assert repr(patched) not in before.stdout
    after = run(tree, image_of(tree, "nemo-rl"), f"{VLLM}/bin/python", code)
    assert (after.returncode, after.stdout.strip()) == (0, repr(patched)), after.stderr


def test_an_environment_that_is_missing_is_named_unless_the_base_may_come_without_it(
    over: Callable[..., Tree],
) -> None:
    def optional(spec: dict[str, Any]) -> None:
        spec["environments"]["megatron"]["required"] = False

    tree = over("nemo-rl", f"rm -r {MEGATRON}")
    done = build(tree, "nemo-rl")
    assert done.code == Exit.UNAVAILABLE
    lost = f"environment megatron: there is no interpreter {MEGATRON}/bin/python that uid 65534 gid 65534 can reach"
    assert lost in done.err and "docs/first-real-build.md says what to do; please report" in done.err, done.err
    assert build(another(tree, tree.path.with_name("optional"), "nemo-rl", optional), "nemo-rl").code == 0


def unrepaired(spec: dict[str, Any]) -> None:
    del spec["repair"]


@pytest.mark.parametrize(
    ("library", "said"),
    [
        ("nemo-rl", "/opt/nemo_rl_venv/bin/python\u2019: Permission denied"),
        ("megatron-bridge", "import megatron.core: ModuleNotFoundError: No module named 'megatron', as uid 65534"),
    ],
)
def test_a_build_ends_where_others_than_root_cannot_use_the_image(
    over: Callable[..., Tree], library: str, said: str
) -> None:
    done = build(over(library, change=unrepaired), library)
    assert done.code == Exit.UNAVAILABLE and said in done.err, done.err


@pytest.mark.parametrize(
    ("changed_by", "works"),
    [
        (f"touch -d 2020-01-01 {DATASETS}/*.so", True),
        (f"rm {DATASETS}/*.so && printf '#!/bin/sh\\ncp $2/helpers.cpp $2/{HELPERS}\\n' >/usr/local/bin/make && "
         "chmod 755 /usr/local/bin/make", True),
        (f"rm {DATASETS}/*.so", False),
    ],
    ids=["older", "missing", "missing and no make"],
)  # fmt: skip
def test_what_a_step_would_compile_is_there_and_newer_than_its_source(
    over: Callable[..., Tree], changed_by: str, works: bool
) -> None:
    tree = over("megatron-bridge", changed_by)
    done = build(tree, "megatron-bridge")
    assert (done.code == 0) == works, done.err
    if works:
        started = run(tree, image_of(tree, "megatron-bridge"), "/opt/venv/bin/python", COMPILE)
        assert started.returncode == 0, started.stderr
    else:
        assert "make: not found" in done.err


def test_a_library_whose_container_lacks_its_repository_gets_it(gpu_project: Tree, docker: Any, place: Path) -> None:
    source = place / "modelopt"
    (source / "examples").mkdir(parents=True)
    (source / "examples" / "readme").write_text("")
    for git in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "1"]):
        subprocess.run(["git", "-C", str(source), *git], check=True)
    done = gpu_project.images("build", "modelopt", "--flavour", "cuda", "--source", f"modelopt={source}")
    assert done.code == 0, done.err
    entry = entry_of(gpu_project, "modelopt")
    assert set(identity.records(Root(gpu_project.path), entry)[0].drift) == {"source modelopt"}
    command = ["stat", "-c", "%a", entry.repositories["modelopt"].path, "/opt/Megatron-Bridge/src"]
    seen = docker.containers.run(image_of(gpu_project, "modelopt"), command, entrypoint="", remove=True)
    assert seen.decode().split() == ["755", "755"]


def test_a_sqsh_of_it_is_the_same(gpu_project: Tree) -> None:
    """What pyxis starts: links into /root, modes and locks are what they are in the image."""
    done = gpu_project.images("squash", name_of("nemo-rl"))
    assert done.code == 0, done
    verified = gpu_project.images("verify", done.out.strip())
    assert verified.code == 0 and "vllm: imports" in verified.out, verified


def test_what_steps_start_from_is_read_inside_by_every_command_that_has_the_image(
    gpu_project: Tree, place: Path
) -> None:
    """NeMo RL's by its own loader, since they inherit from one another. Each command finds an older record, without."""
    shutil.copytree(gpu_project.path, place / "project", copy_function=link_tar)
    tree, name = dataclasses.replace(gpu_project, path=place / "project"), name_of("nemo-rl")
    root, entry = Root(tree.path), entry_of(tree, "nemo-rl")
    (record,) = (r for r in identity.records(root, entry) if r.inputs)
    found = record.configurations
    assert entry.configurations is not None and [*found] == entry.configurations.paths
    dapo, grpo = (next(f for f in found if name in f) for name in ("dapo", "grpo_math"))
    assert found[dapo].inherits == {grpo: found[grpo].sha256}
    below, above = found[grpo].values, found[dapo].values
    assert below and above and above == below | {"grpo": below["grpo"] | {"seed": 43}}
    file = tree.images("squash", name).out.strip()
    for words in (("verify", name), ("verify", file), ("squash", name), ("build", "nemo-rl", "--flavour", "cuda")):
        identity.save(root, msgspec.structs.replace(record, configurations={}))
        done = tree.images(*words)
        assert done.code == 0, done
        assert next(r for r in identity.records(root, entry) if r.ids == record.ids).configurations == found, words


def test_what_cannot_be_read_of_them_is_said_and_stops_no_build(over: Callable[..., Tree]) -> None:
    folder = "/opt/Automodel/examples/llm_finetune/llama3_2"
    one, other = f"{folder}/llama3_2_1b_squad.yaml", f"{folder}/llama3_2_1b_squad_peft.yaml"
    tree = over("automodel", f"rm {one} && rm {other} && mkfifo {other}")
    done = build(tree, "automodel")
    assert done.code == 0, done
    said = "not known when planning, since it is"
    assert f"{said} not in the image: {one}" in done.err and f"{said} no regular file: {other}" in done.err
    record = identity.records(Root(tree.path), entry_of(tree, "automodel"))[0]
    assert [bool(f.values) for f in record.configurations.values()] == [False, False, True]


def test_another_commit_than_the_one_that_was_read_is_named(over: Callable[..., Tree]) -> None:
    def other(spec: dict[str, Any]) -> None:
        spec["env"]["NEMO_RL_COMMIT"] = "1" * 40

    done = build(over("nemo-rl", change=other), "nemo-rl")
    assert done.code == Exit.UNAVAILABLE
    assert (
        "environment variable NEMO_RL_COMMIT: found 19244a0949fb363326f71675223da75e09d14866, expected 111" in done.err
    )
