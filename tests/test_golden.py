"""Plans, requests and scripts of every step, line by line; tests/golden/ is reviewed like code.

A difference that is wanted is accepted with: SLIPWAY_ACCEPT=1 pytest tests/test_golden.py
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import HERE, IMAGE, MODEL, REPO, TRAIN, SpecOf, engine_of, entry_of, output_of, seen_of

from images.locking.model import Environment, Repository
from launcher.artifacts.detection import Artifact
from launcher.catalog import cache_location, commands, definitions, profiles, releases
from launcher.catalog.definitions import Step
from launcher.catalog.fabrics import Network
from launcher.core.arguments import Arguments
from launcher.core.plan import ImageInfo, Plan
from launcher.engines import docker, slurm
from launcher.planning.planner import make_plan
from slipway import canonical
from slipway.project import Root

VERSIONS = {
    "automodel": {"nemo-automodel": "0.7.0"},
    "megatron-bridge": {"megatron-bridge": "0.6.2", "megatron-core": "0.19.2"},
    "modelopt": {"nvidia-modelopt": "0.47.0"},
    "nemo-rl": {"nemo-rl": "0.7.0"},
}
REPOSITORIES = {
    "modelopt": Repository(url="https://git.example/modelopt", tag="0.46.0", path="/opt/modelopt", commit="d" * 40)
}
ACCEPT = "SLIPWAY_ACCEPT=1 pytest tests/test_golden.py"
FILES = {name: n * 64 for name, n in (("supervisor/main.py", "1"), ("entrypoint.sh", "2"), ("verify.py", "3"))}
SHAPES: dict[str, dict[str, Any]] = {"cpu": {"gpus": 0, "procs": 2}, "cuda": {"gpus": 4, "procs": 4}}
LARGE: dict[str, Any] = {"nodes": 4, "gpus": 8, "procs": 8}
HASH = "0" * 64
STEPS = sorted(definitions.step_folders(Root(REPO)))


def compare(path: Path, text: str, accept: str = ACCEPT) -> None:
    """Fails with `line k: old -> new` where `text` is not what the file holds."""
    if os.environ.get("SLIPWAY_ACCEPT"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    old = path.read_text() if path.is_file() else ""
    lines = itertools.zip_longest(old.splitlines(), text.splitlines(), fillvalue="(nothing)")
    changes = [f"line {n}: {a} -> {b}" for n, (a, b) in enumerate(lines, 1) if a != b]
    if changes or old != text:
        pytest.fail(
            "\n".join([f"{path.relative_to(REPO)} differs:", *changes, f"accept with: {accept}"]), pytrace=False
        )


def without_hash(text: str, plan: Plan) -> str:
    """A script's text, of which a change of plan.json alone makes no other: it is seen there."""
    return text.replace(plan.hash, HASH).replace(plan.hash[:12], HASH[:12])


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=STEPS)
def plan(request: pytest.FixtureRequest, shape: str, spec_of: SpecOf) -> Plan:
    """Of a step and the docker profile."""
    step = definitions.find_step(Root(REPO), request.param)
    if not has_base(step, shape):
        pytest.skip(f"{step.id} has no base for {shape}")
    return plan_of(step, shape, spec_of, **SHAPES[shape])


def has_base(step: Step, flavour: str) -> bool:
    return any(base.flavour in (None, flavour) for base in step.base)


def plan_of(step: Step, flavour: str, spec_of: SpecOf, image: str = "", **changes: Any) -> Plan:
    """With paths, pins and versions that are none of a real machine."""
    main = Environment(python="/opt/venv/bin/python", packages=VERSIONS[step.library])
    brought = {n: r for n, r in REPOSITORIES.items() if n in step.repositories and flavour == "cuda"}
    entry = entry_of(flavour, library=step.library, environments={"main": main}, repositories=brought)
    program = commands.choose_command(step, entry).program
    step = releases.at_release(step, entry)
    overlays = [(name, definitions.overlay(step, name)) for name in ("default", "tiny")]
    artifacts = {name: artifact(name, i.types[0]) for name, i in step.inputs.items() if not i.optional}
    words = Arguments(inputs={n: a.path for n, a in artifacts.items()}, output="/data/out")
    base = commands.base_config(step, entry)
    wired = releases.wired(step, artifacts)
    facts = {"program": program, "overlays": overlays, "base": base, "words": words, "wired": wired}
    cache = cache_location.choose("/data/megatron", None, {}, "", entry) if step.caches else None
    spec = spec_of(step=step, entry=entry, megatron_cache=cache, **facts, **changes)
    engine, found = engine_of(gpus=4), ImageInfo(id=IMAGE, source=image, recorded=1)
    return make_plan(spec, seen_of(artifacts=artifacts, engine=engine, image=found, output=output_of()), FILES)


def artifact(name: str, type_: str) -> Artifact:
    """An input of that type: a file for what is one, else a folder."""
    known = {"train": TRAIN, "model": MODEL}.get(name)
    if known and known.type == type_:
        return known
    kind = "file" if type_.endswith("_jsonl") else "folder"
    return Artifact(name=name, path=f"/data/{name}", kind=kind, type=type_, fingerprint="c" * 64, bytes=1000)


def folder(plan: Plan, shape: str) -> Path:
    return HERE / "golden" / plan.step / f"docker-{shape}"


def test_the_plan_is_the_golden_one(plan: Plan, shape: str) -> None:
    compare(folder(plan, shape) / "plan.json", canonical.pretty(plan))


def test_the_request_is_the_golden_one(plan: Plan, shape: str) -> None:
    compare(folder(plan, shape) / "request.json", docker.request_text(docker.render(plan)))


def test_the_text_of_the_request_is_the_golden_one(plan: Plan, shape: str) -> None:
    compare(folder(plan, shape) / "request.txt", docker.as_text(docker.render(plan)))


def scripts() -> list[tuple[str, str, dict[str, Any]]]:
    """Step, flavour and shape: every step as cuda, where it has that, and one in all shapes."""
    found = [(definitions.find_step(Root(REPO), name), "cuda") for name in STEPS]
    chosen = [(s.id, f if has_base(s, f) else "cpu", SHAPES[f if has_base(s, f) else "cpu"]) for s, f in found]
    return [*chosen, ("sft/automodel", "cuda", LARGE), ("sft/automodel", "cpu", SHAPES["cpu"])]


def script_file(step: str, flavour: str, shape: dict[str, Any]) -> Path:
    size = f"-{shape['nodes']}x{shape['gpus']}" if "nodes" in shape else ""
    return HERE / "golden" / step / f"slurm-pyxis-{flavour}{size}" / "script.sh"


@pytest.mark.parametrize(("step", "flavour", "shape"), scripts(), ids=lambda v: v if isinstance(v, str) else "")
def test_the_script_is_the_golden_one(step: str, flavour: str, shape: dict[str, Any], spec_of: SpecOf) -> None:
    profile = profiles.find_profile(Root(REPO), "slurm-pyxis")
    profile = msgspec.structs.replace(profile, file="/project/launcher/profiles/slurm-pyxis.yaml")
    found = definitions.find_step(Root(REPO), step)
    plan = plan_of(found, flavour, spec_of, image="/shared/squash/image.sqsh", profile=profile, **shape)
    text = str(slurm.render(plan)["script"])
    assert f"PLAN={plan.hash}\n" in text
    compare(script_file(step, flavour, shape), without_hash(text, plan))


# A job of two nodes for each network that a site may have.
NETWORKS = {
    "ib": Network(fabric="ib", interface="ib0", devices=["mlx5_0", "mlx5_1"]),
    "roce": Network(fabric="roce", interface="bond0", devices=["mlx5_0"], gid_index=3),
    "efa": Network(fabric="efa", interface="enp71s0"),
    "tcp": Network(fabric="tcp", interface="eth0"),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_the_script_of_each_network_is_the_golden_one(network: str, spec_of: SpecOf) -> None:
    profile = profiles.find_profile(Root(REPO), "slurm-pyxis")
    file = "/project/launcher/profiles/slurm-pyxis.yaml"
    profile = msgspec.structs.replace(profile, file=file, network=NETWORKS[network])
    step, shape = definitions.find_step(Root(REPO), "sft/automodel"), {"nodes": 2, "gpus": 8, "procs": 8}
    plan = plan_of(step, "cuda", spec_of, image="/shared/squash/image.sqsh", profile=profile, **shape)
    path = HERE / "golden" / "sft/automodel" / f"slurm-pyxis-{network}" / "script.sh"
    compare(path, without_hash(str(slurm.render(plan)["script"]), plan))


def test_shellcheck_has_nothing_to_say_of_any_script(tmp_path: Path) -> None:
    (tmp_path / "slipway").symlink_to(REPO / "entrypoints")
    files = [script_file(*one) for one in scripts()]
    program = Path(sys.executable).with_name("shellcheck")
    command = [program, "--external-sources", f"--source-path={tmp_path}:{tmp_path}/slipway", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(files) > 10) == (0, "", True)


def test_a_difference_is_told_by_line_with_how_to_accept_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIPWAY_ACCEPT", raising=False)
    path = HERE / "golden" / "sft/automodel" / "docker-cpu" / "request.txt"
    text = path.read_text()
    compare(path, text)
    changed = text.replace("--init", "--no-init") + "more\n"
    with pytest.raises(pytest.fail.Exception) as e:
        compare(path, changed)
    last = len(text.splitlines()) + 1
    assert str(e.value).splitlines() == [
        "tests/golden/sft/automodel/docker-cpu/request.txt differs:",
        "line 2:   --init \\ ->   --no-init \\",
        f"line {last}: (nothing) -> more",
        f"accept with: {ACCEPT}",
    ]
    assert path.read_text() == text and not list(tmp_path.iterdir())
