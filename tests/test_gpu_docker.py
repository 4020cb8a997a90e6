"""A launch with GPUs on Docker is planned by the command that a user types; nothing of a probe is made by hand."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import IMAGE, REPO, Engine, Inputs, Project, Refused, errors, record_image

from images.locking import lock as locks
from launcher.catalog import definitions, releases
from slipway.project import Root

# The engine answers as engines do (its API's history says what each version shows); nvidia-smi is a program.
UUIDS = [f"GPU-0000000{n}-5714-4d1e-8f00-000000000000" for n in range(8)]
MIG = [f"MIG-0000000{n}-5714-4d1e-8f00-000000000000" for n in range(2)]
TOOLKIT = {"Runtimes": {"runc": {}, "nvidia": {"path": "nvidia-container-runtime"}}}
CDI = [f"nvidia.com/gpu={name}" for name in [*map(str, range(8)), *UUIDS, "all"]]
SHOWN = {"CDISpecDirs": ["/etc/cdi", "/var/run/cdi"], "DiscoveredDevices": [{"Source": "cdi", "ID": i} for i in CDI]}
WSL = {"KernelVersion": "6.6.87.2-microsoft-standard-WSL2"}
HERE = {"Name": os.uname().nodename}


@pytest.fixture
def asked(project: Project, inputs: Inputs, engine: Engine, tmp_path: Path) -> tuple[str, ...]:
    """A launch of the cuda flavour, whose image is recorded and on the engine."""
    record_image(project.root, locks.select(locks.load_lock(project.root), "automodel", "cuda"))
    engine.holds(images={IMAGE: IMAGE})
    return ("sft/automodel", "--flavour", "cuda", *inputs.words, f"output={tmp_path}/out")


def driver(project: Project, lines: list[str] | None = None) -> None:
    """The machine has NVIDIA's driver: `nvidia-smi -L` lists eight GPUs, or `lines`."""
    listed = lines or [f"GPU {n}: NVIDIA H100 80GB HBM3 (UUID: {uuid})" for n, uuid in enumerate(UUIDS)]
    project.program("nvidia-smi", "\n".join(f"echo '{line}'" for line in listed))


DIVIDED = [
    f"GPU 0: NVIDIA A100-SXM4-40GB (UUID: {UUIDS[0]})",
    f"  MIG 3g.20gb     Device  0: (UUID: {MIG[0]})",
    f"  MIG 3g.20gb     Device  1: (UUID: {MIG[1]})",
    f"GPU 1: NVIDIA A100-SXM4-40GB (UUID: {UUIDS[1]})",
]


def test_an_engine_of_another_processor_gets_the_image_of_that_ones_entry(
    project: Project, inputs: Inputs, engine: Engine, tmp_path: Path
) -> None:
    words = ("--flavour", "cpu", "sft/automodel", *inputs.words, f"output={tmp_path}/out", "--dry-run", "--json")
    other = locks.load_lock(project.root).entries["automodel/0.7.0-cpu-arm64"]
    engine.holds(images={IMAGE: IMAGE}, version={"Arch": "arm64", "Os": "linux"})
    record_image(project.root, locks.load_lock(project.root).entries["automodel/0.7.0-cpu"])
    refused = project.launch(*words)
    assert refused.code == 66
    remedy = "run: images build automodel --release 0.7.0 --flavour cpu --platform linux/arm64"
    assert f"image of {other.name}: has not been built\n  {remedy}\n" in refused.stderr
    record_image(project.root, other)
    planned = project.launch(*words)
    assert planned.code == 0, planned.stderr
    assert json.loads(planned.stdout)["Labels"]["slipway.entry"] == other.checksum


def running(run: str, gpus: str, state: str = "running") -> dict[str, Any]:
    return {"Id": run, "State": state, "Labels": {"slipway.run": run, "slipway.gpus": gpus}}


OTHERS = [running("a", "0,2"), running("b", "3")]


def nvidia(*ids: str) -> dict[str, Any]:
    return {"Driver": "nvidia", "Capabilities": [["gpu"]], "DeviceIDs": list(ids)}


def cdi(*names: str) -> dict[str, Any]:
    return {"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={name}" for name in names]}


@pytest.mark.parametrize(
    ("words", "facts", "request_"),
    [
        (("--gpus", "2"), {"info": TOOLKIT}, nvidia("0", "1")),
        (("--gpus", "2"), {"info": TOOLKIT | SHOWN}, cdi("0", "1")),  # what the engine has read is certain
        (("--gpus", "2"), {"info": SHOWN}, cdi("0", "1")),
        (("--gpu-ids", "2,3"), {"info": TOOLKIT}, nvidia("2", "3")),
        (("--gpu-ids", f"{UUIDS[4]},1"), {"info": SHOWN}, cdi("4", "1")),
        (("--gpus", "4"), {"info": TOOLKIT, "containers": OTHERS}, nvidia("1", "4", "5", "6")),
        (("--gpus", "8"), {"info": TOOLKIT | WSL}, {"Driver": "nvidia", "Capabilities": [["gpu"]], "Count": -1}),
        (("--gpus", "8"), {"info": WSL | {"DiscoveredDevices": SHOWN["DiscoveredDevices"][-1:]}}, cdi("all")),
    ],
)  # fmt: skip
def test_docker_is_asked_for_the_gpus_that_were_named_or_are_free(
    project: Project, engine: Engine, asked: tuple[str, ...], words: tuple[str, ...], facts: Any, request_: Any
) -> None:
    driver(project)
    engine.holds(images={IMAGE: IMAGE}, **facts)
    done = project.launch(*asked, *words, "--dry-run", "--json")
    assert done.code == 0, done.stderr
    request = json.loads(done.stdout)
    assert request["HostConfig"]["DeviceRequests"] == [request_]
    known = {str(n): uuid for n, uuid in enumerate(UUIDS)}
    assert all(i in known for i in request["Labels"]["slipway.gpus"].split(","))


def test_the_toolkits_hook_serves_requests_without_a_configured_runtime(
    project: Project, engine: Engine, asked: tuple[str, ...]
) -> None:
    driver(project)
    project.program("nvidia-container-runtime-hook", "exit 1")
    for info in ({}, SHOWN):
        engine.holds(images={IMAGE: IMAGE}, info=info)
        done = project.launch(*asked, "--gpu-ids", "3", "--dry-run", "--json")
        assert json.loads(done.stdout)["HostConfig"]["DeviceRequests"] == [nvidia("3")], done.stderr


def test_a_gpu_that_is_divided_is_asked_for_by_its_instances(
    project: Project, engine: Engine, asked: tuple[str, ...], tmp_path: Path
) -> None:
    driver(project, DIVIDED)
    engine.holds(images={IMAGE: IMAGE}, info=TOOLKIT, containers=[running("a", "0:0")])
    written = project.launch(*asked, "--gpus", "2", "-o", str(tmp_path / "run"))
    assert written.code == 0, written.stderr
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["gpus"] == {"all": False, "driver": "nvidia", "ids": ["0:1", "1"], "uuids": [MIG[1], UUIDS[1]]}
    done = project.launch(*asked, "--gpu-ids", MIG[1], "--dry-run")
    assert """--gpus '"device=0:1",driver=nvidia'""" in done.stdout
    refused = project.launch(*asked, "--gpu-ids", "0", "--dry-run")
    assert refused.code == 64 and f"it has: 0:0 ({MIG[0]}), 0:1 ({MIG[1]}), 1 ({UUIDS[1]})" in refused.stderr


def test_a_profile_names_the_gpus_that_its_runs_get(project: Project, engine: Engine, asked: tuple[str, ...]) -> None:
    driver(project)
    engine.holds(images={IMAGE: IMAGE}, info=TOOLKIT, containers=[running("a", "5")])
    profile = "schema: 1\nkind: docker\nextends: docker\ngpu_ids: [{}]\n"
    file = project.write("slipway.d/profiles/mine.yaml", profile.format(f"5, 6, {UUIDS[7]}"))
    launch = (*asked, "--profile", "mine", "--dry-run", "--json")
    some = project.launch(*launch, "--gpus", "2")
    assert json.loads(some.stdout)["HostConfig"]["DeviceRequests"] == [nvidia("6", "7")], some.stderr
    refused = project.launch(*launch)
    assert refused.code == 75 and "--gpus: 3 asked for, 2 of 3 free: run a has 5" in refused.stderr
    more = project.launch(*launch, "--gpus", "4")
    assert more.code == 64 and f"--gpus: 4 asked for, {file} names 3" in more.stderr
    file.write_text(profile.format("5, nine"))
    wrong = project.launch(*launch)
    assert wrong.code == 78 and f"{file}:4" in wrong.stderr


@pytest.mark.parametrize(
    ("facts", "has_driver", "code", "said"),
    [
        ({}, False, 69, "neither /proc/driver/nvidia nor nvidia-smi shows a GPU on this machine\n  install and"),
        ({"info": TOOLKIT}, False, 69, "the engine has a runtime `nvidia`, but neither /proc/driver/nvidia nor nvidia"),
        ({}, True, 69, "the engine has no runtime `nvidia`, and reads no CDI specification\n  install nvidia-"),
        (
            {"info": {"CDISpecDirs": ["/nowhere"], "DiscoveredDevices": []}}, True, 69,
            "no CDI specification in /nowhere names a GPU\n  as root: nvidia-ctk cdi generate --output=/nowhere/",
        ),
        (
            {"info": TOOLKIT, "version": {"Components": [{"Name": "Podman Engine"}]}}, True, 69,
            "Podman's Docker socket ignores requests for GPUs",
        ),
        ({"info": TOOLKIT | WSL}, True, 64, "2 asked for, this engine gives a container all 8 GPUs or none (WSL2)"),
        (
            {"info": TOOLKIT, "containers": [running("a", "0,1,2,3"), running("b", "4,5,6", "created")]}, True, 75,
            "--gpus: 2 asked for, 1 of 8 free: run a has 0\n  wait until it has ended, or end it: launch cancel a",
        ),
        (
            {"info": TOOLKIT, "platform": "linux/arm64"}, True, 65,
            "is for linux/arm64; containers run on linux/amd64 (the engine's machine)",
        ),
    ],
)  # fmt: skip
def test_what_docker_cannot_give_is_refused_with_its_cause(
    project: Project, engine: Engine, asked: tuple[str, ...], refused: Refused, facts: Any, has_driver: bool, code: int,
    said: str,
) -> None:  # fmt: skip
    if has_driver:
        driver(project)
    version = {"Os": "linux", "Arch": "amd64"} | facts.get("version", {})
    engine.holds(images={IMAGE: IMAGE}, **(facts | {"version": version}))
    assert said in refused(code, *asked, "--gpus", "2")


def test_specifications_are_read_where_the_engine_does_not_tell_what_is_in_them(
    project: Project, engine: Engine, asked: tuple[str, ...], refused: Refused, tmp_path: Path
) -> None:
    """Engines before 28.2, with features.cdi."""
    driver(project)
    folder = tmp_path / "cdi"
    engine.holds(images={IMAGE: IMAGE}, info={"CDISpecDirs": [str(folder)]})
    devices = "".join(f"- name: '{n}'\n  containerEdits: {{}}\n" for n in (0, 1, UUIDS[0], "all"))
    project.write(f"{folder}/nvidia.yaml", f"cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n{devices}")
    done = project.launch(*asked, "--gpus", "2", "--dry-run", "--json")
    assert json.loads(done.stdout)["HostConfig"]["DeviceRequests"] == [cdi("0", "1")], done.stderr
    assert "3 asked for, the machine has 2" in refused(64, *asked, "--gpus", "3")
    (folder / "nvidia.yaml").write_text("kind: [")
    assert "names a GPU; T/cdi/nvidia.yaml: not valid YAML" in refused(69, *asked, "--gpus", "1")


def test_gpu_ids_are_for_docker_and_the_cuda_flavour(
    project: Project, words: tuple[str, ...], built: Engine, inputs: Inputs, refused: Refused
) -> None:
    slurm = project.launch("--profile", "slurm-pyxis", *words, "--gpu-ids", "1", "--dry-run")
    assert slurm.code == 64 and "--gpu-ids: a slurm profile does not choose among GPUs" in slurm.stderr
    said = refused(64, "sft/automodel", "--flavour", "cpu", *inputs.words, "--gpu-ids", "1")
    assert built and "error: --gpus: the cpu flavour has none; say --procs" in said


def test_the_flavour_follows_what_is_certain(
    project: Project, engine: Engine, asked: tuple[str, ...], inputs: Inputs
) -> None:
    driver(project)
    launch = (*(w for w in asked if w not in ("--flavour", "cuda")), "--gpus", "1", "--dry-run")
    engine.holds(images={IMAGE: IMAGE}, info=TOOLKIT)
    assert "flavour cuda: the engine has 8 GPUs" in project.launch(*launch).stderr
    project.env["DOCKER_HOST"] = project.bridge(engine)
    assert inputs and "flavour cpu: the engine does not tell whether it has GPUs" in project.launch(*launch).stderr


def test_an_engine_elsewhere_is_asked_through_ssh_and_mounts_what_both_see(
    project: Project, engine: Engine, asked: tuple[str, ...], refused: Refused, tmp_path: Path
) -> None:
    engine.holds(images={IMAGE: IMAGE}, info=SHOWN | {"Name": "far7"})
    project.env["DOCKER_HOST"] = project.bridge(engine)
    assert (
        "docker.yaml: shared: the engine is on far7, and mounts that machine's folders: not the inputs and runs here"
        in refused(78, *asked, "--gpus", "2")
    )
    assert (
        "-l me -p 2222 -o ConnectTimeout=30 -T -- far.example docker system dial-stdio\n"
        in (tmp_path / "requests").read_text()
    )
    profile = project.write(
        "slipway.d/profiles/far.yaml", f"schema: 1\nkind: docker\nextends: docker\nshared: [{tmp_path}]\n"
    )
    done = project.launch(*asked, "--profile", "far", "--gpus", "2", "--dry-run", "--json")
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["HostConfig"]["DeviceRequests"] == [cdi("0", "1")]
    profile.write_text(profile.read_text().replace(str(tmp_path), f"{tmp_path}/project"))
    other = project.launch(*asked, "--profile", "far", "--gpus", "2", "--dry-run")
    assert other.code == 78
    assert f"mount /output: {tmp_path}/out is under no shared folder: the engine, on far7" in other.stderr


def test_an_engine_behind_an_ssh_that_fails_is_said_to_be_unreachable(
    project: Project, asked: tuple[str, ...], refused: Refused
) -> None:
    project.program("ssh", "echo 'ssh: no route' >&2; exit 255")
    project.env["DOCKER_HOST"] = "ssh://far.example"
    said = refused(69, *asked)
    assert "ssh: no route" in said and "ssh -o ConnectTimeout=30 -T -- far.example docker version" in said


@pytest.mark.parametrize(
    ("options", "user", "userns"),
    [
        (["name=seccomp,profile=builtin"], f"{os.getuid()}:{os.getgid()}", None),
        (["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"], "0:0", None),
        (["name=seccomp,profile=builtin", "name=userns"], f"{os.getuid()}:{os.getgid()}", "host"),
    ],
)
def test_what_a_run_writes_is_the_callers_whatever_the_engine_makes_of_users(
    project: Project, engine: Engine, asked: tuple[str, ...], options: list[str], user: str, userns: str | None
) -> None:
    driver(project)
    engine.holds(images={IMAGE: IMAGE}, info=TOOLKIT | {"SecurityOptions": options})
    done = project.launch(*asked, "--gpus", "1", "--dry-run", "--json")
    request = json.loads(done.stdout)
    assert (done.code, request["User"], request["HostConfig"].get("UsernsMode")) == (0, user, userns), done.stderr
    text = project.launch(*asked, "--gpus", "1", "--dry-run").stdout
    assert (" --userns host " in text.replace("\\\n", "")) == bool(userns)


def test_a_run_without_gpus_gets_none_and_a_variable_chooses_none(
    project: Project, engine: Engine, asked: tuple[str, ...], refused: Refused
) -> None:
    """Where NVIDIA's runtime is the engine's default, it gives what the image's NVIDIA_VISIBLE_DEVICES says: all."""
    driver(project)
    engine.holds(images={IMAGE: IMAGE}, info=TOOLKIT | {"DefaultRuntime": "nvidia"})
    done = project.launch(*asked, "--gpus", "0", "--procs", "1", "--dry-run", "--json")
    assert "NVIDIA_VISIBLE_DEVICES=void" in json.loads(done.stdout)["Env"], done.stderr
    said = refused(64, *asked, "--gpus", "1", "--env", "NVIDIA_VISIBLE_DEVICES=3")
    assert "--gpu-ids: NVIDIA_VISIBLE_DEVICES=3 (command line) does not choose GPUs here: the request names" in said


def test_a_rootless_engine_of_another_user_cannot_write_the_callers_files(
    project: Project, engine: Engine, asked: tuple[str, ...], refused: Refused
) -> None:
    if os.getuid():
        pytest.skip("only root can give the socket to somebody else")
    os.chown(engine.folder / "socket", 12345, 12345)
    engine.holds(images={IMAGE: IMAGE}, info=TOOLKIT | {"SecurityOptions": ["name=rootless"]})
    driver(project)
    assert "this rootless engine is uid 12345's: its containers cannot write what is yours" in refused(77, *asked)


STEPS = sorted(
    {step.id for step in definitions.all_steps(Root(REPO))} - {"optimize/modelopt/prune"}
)  # without a cuda one


@pytest.mark.parametrize("name", STEPS)
def test_every_step_gets_the_gpus_that_it_usually_has(project: Project, engine: Engine, name: str) -> None:
    """Its inputs are not there, which is all that is said of it: what can be rendered is."""
    step = definitions.find_step(project.root, name)
    entry = locks.select(locks.load_lock(project.root), step.library, "cuda")
    step = releases.at_release(step, entry)
    record_image(project.root, entry)
    driver(project)
    engine.holds(images={IMAGE: IMAGE}, info=TOOLKIT)
    words = [f"{n}=/nowhere/{n}" for n, i in step.inputs.items() if not i.optional]
    done = project.launch(name, "--flavour", "cuda", *words, "--dry-run", "--json")
    said = [line for line in errors(done.stderr).splitlines() if line.startswith("error: ")]
    assert said == [f"error: {word}: there is nothing there" for word in words], done.stderr
    wanted = [nvidia(*map(str, range(step.shape.gpus)))] if step.shape.gpus else None
    assert json.loads(done.stdout)["HostConfig"].get("DeviceRequests") == wanted


@pytest.mark.parametrize(
    ("release", "word", "said"),
    [
        ("26.04.01", "packing.loss=full", "cannot take it: Megatron-Bridge has it from 0.6 on"),
        ("26.04.01", "loss=last_turn", "cannot take it: Megatron-Bridge has it from 0.6 on"),
        ("26.04.01", "packing.loss=assistant", ""),
        ("26.08.01", "packing.loss=full", ""),
        ("26.04.01", "packing.writer=offline", "is wired by the launcher"),
    ],
)
def test_what_packs_is_the_releases_own(
    project: Project, engine: Engine, inputs: Inputs, release: str, word: str, said: str
) -> None:
    record_image(project.root, locks.load_lock(project.root).entries[f"megatron-bridge/{release}-cuda"])
    engine.holds(images={IMAGE: IMAGE}, info=TOOLKIT)
    words = (inputs.words[0], f"tokenizer={inputs.model}", "output=packed", "--gpus", "0", "--dry-run")
    done = project.launch("data_prep/sft_packing", "--flavour", "cuda", "--release", release, *words, word)
    assert (done.code, said in done.stderr) == (64 if said else 0, True), done.stderr


def test_a_conversion_is_the_same_one_on_whatever_gpus(project: Project, engine: Engine, inputs: Inputs) -> None:
    record_image(project.root, locks.select(locks.load_lock(project.root), "megatron-bridge", "cuda"))
    driver(project)
    engine.holds(images={IMAGE: IMAGE}, info=TOOLKIT)
    words = (f"model={inputs.model}", f"tokenizer={inputs.model}", inputs.words[0], "--convert", "--dry-run")
    alone, folders = ("tensor_parallel=1", "model.sequence_parallel=false"), []
    for gpu in ("1", "2"):
        done = project.launch("sft/megatron_bridge", "--flavour", "cuda", *words, *alone, "--gpu-ids", gpu)
        assert done.code == 0 and f"device={gpu}" in done.stdout, done.stderr
        folders += re.findall("^model: first convert/hf_to_megatron, into (.*)$", done.stderr, re.M)
    assert len(folders) == 2 and len(set(folders)) == 1


SIZES = {"architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 16, "vocab_size": 128256,
         "num_attention_heads": 32, "intermediate_size": 8192, "torch_dtype": "bfloat16"}  # fmt: skip


def test_memory_is_estimated_for_the_gpus_that_the_engines_machine_has(
    project: Project, engine: Engine, asked: tuple[str, ...], inputs: Inputs
) -> None:
    """By what the driver calls them; a profile's word goes before it, and without any it is said what to write."""
    (inputs.model / "config.json").write_text(json.dumps(SIZES))
    engine.holds(images={IMAGE: IMAGE}, info=TOOLKIT)
    driver(project)
    words = (*asked, "--gpus", "2", "local_batch_size=1", "--dry-run")
    assert " of 80 GiB a GPU: weights " in project.launch(*words).stderr
    driver(project, [f"GPU {n}: NVIDIA H200 (UUID: {uuid})" for n, uuid in enumerate(UUIDS)])
    done = project.launch(*words)
    assert "note: memory: not estimated, since nothing here says the memory of NVIDIA H200 (" in done.stderr
    assert "docker.yaml: gpu: {model: H200, memory: …})\n" in done.stderr
    project.write("slipway.d/profiles/big.yaml", "schema: 1\nkind: docker\ngpu: {model: H200, memory: 141GiB}\n")
    assert " of 141 GiB a GPU: weights " in project.launch("--profile", "big", *words).stderr
