"""launcher/engines/docker.py: the request is a pure function of the plan, and its text means the same.

What needs an engine (submit, status, logs, signals) is in tests/real.
"""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import MODEL, TRAIN, Project, SpecOf, engine_of, output_of, seen_of

from launcher.catalog.profiles import DockerProfile, ExtraMount, Profile
from launcher.core.arguments import Arguments
from launcher.engines import docker
from launcher.planning.planner import make_plan
from launcher.records import run_directory
from slipway.errors import SlipwayError
from slipway.project import Root

NASTY = 'it\'s "here", $HOME `id` \\ ${RUN_ID} *\n=,;'


def as_argv(request: dict[str, Any]) -> list[str]:
    """What `docker run` has to be told for `request`."""
    host = request["HostConfig"]
    words = ["run", "--name", f"slipway-{request['Labels']['slipway.run']}", "--init", "--user", request["User"]]
    words += ["--network", host["NetworkMode"], "--ipc", host["IpcMode"], "--shm-size", str(host["ShmSize"])]
    for limit in host["Ulimits"]:
        words += ["--ulimit", f"{limit['Name']}={limit['Soft']}:{limit['Hard']}"]
    for device in host.get("DeviceRequests", []):
        words += ["--gpus", f'"device={",".join(device["DeviceIDs"])}",driver=nvidia']
    for mount in host["Mounts"]:
        fields = ["type=bind", f"source={mount['Source']}", f"target={mount['Target']}"]
        words += ["--mount", *fields, *(["readonly"] if mount["ReadOnly"] else [])]
    for variable in request["Env"]:
        words += ["--env", variable]
    for name, value in request["Labels"].items():
        words += ["--label", f"{name}={value}"]
    command, *rest = request["Entrypoint"]
    return [
        *words,
        "--workdir",
        request["WorkingDir"],
        "--entrypoint",
        command,
        request["Image"],
        *rest,
        *request["Cmd"],
    ]


@pytest.mark.parametrize("gpus", [0, 4])
def test_the_text_is_the_command_that_makes_the_same_container(
    project: Project, docker_stand_in: Path, spec_of: SpecOf, profile: Profile, gpus: int
) -> None:
    """A shell that has RUN_ID and RUN_DIR runs it; the docker command writes down what it was told."""
    profile = msgspec.structs.replace(profile, mounts=[ExtraMount(source='/a,b "c"', target="/d e,f")])
    spec = spec_of(profile=profile, gpus=gpus, procs=gpus or 1, env={"NASTY": NASTY, "EMPTY": ""})
    seen = seen_of(output=None, artifacts={"train": msgspec.structs.replace(TRAIN, path="/a b/c'd.jsonl")})
    request = docker.render(make_plan(spec, seen, {}))
    run_id = "20260101T000000Z-a-b"
    run_dir = Path("/runs of mine") / run_id

    shell = project.env | {"RUN_ID": run_id, "RUN_DIR": str(run_dir)}
    subprocess.run(["/bin/sh", "-eu", "-c", docker.as_text(request)], env=shell, cwd=project.path, check=True)
    (told,) = map(json.loads, (docker_stand_in / "calls").read_text().splitlines())
    split: list[str] = []
    for before, word in zip(["", *told], told, strict=False):
        split += next(csv.reader([word])) if before == "--mount" else [word]
    assert split == as_argv(docker.fill(request, run_directory.Run(run_dir)))


def test_the_request_is_what_the_plan_says(spec_of: SpecOf) -> None:
    plan = make_plan(spec_of(env={"A": "1"}), seen_of(), {})
    request = docker.render(plan)
    assert (request["Image"], request["User"]) == (plan.image, "1000:1000")
    assert [*request["Entrypoint"], *request["Cmd"]] == plan.command
    assert request["Labels"] == {"slipway.run": "${RUN_ID}", "slipway.plan": plan.hash, "slipway.entry": plan.entry}
    assert "A=1" in request["Env"] and request["Env"] == sorted(request["Env"])
    assert request["HostConfig"]["Ulimits"] == [
        {"Name": n, "Soft": v, "Hard": v} for n, v in sorted(plan.limits.items())
    ]  # fmt: skip
    assert "DeviceRequests" not in request["HostConfig"]


def test_submitting_fills_in_two_names_and_nothing_else(spec_of: SpecOf) -> None:
    plan = make_plan(spec_of(words=Arguments(inputs={"train": "", "model": ""})), seen_of(output=None), {})
    request = docker.render(plan)
    before = docker.request_text(request)
    filled = docker.fill(request, run_directory.Run(Path("/runs/the-id")))
    assert docker.request_text(request) == before, "the plan's own request stays as it is"
    text = before.replace("${RUN_ID}", "the-id").replace("${RUN_DIR}", "/runs/the-id")
    assert docker.request_text(filled) == text
    assert "${" not in text


def test_the_text_of_a_request_is_stable_json(spec_of: SpecOf) -> None:
    texts = {docker.request_text(docker.render(make_plan(spec_of(), seen_of(), {}))) for _ in range(2)}
    assert len(texts) == 1
    (text,) = texts
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def test_a_container_is_named_after_its_run() -> None:
    assert docker.container_name("20260101T000000Z-a-b") == "slipway-20260101T000000Z-a-b"


def test_an_engine_that_is_dead_is_seen_with_its_error(tmp_path: Path) -> None:
    seen = docker.probe(Root(tmp_path), DockerProfile(schema=1, engine=f"unix://{tmp_path}/dead"))
    assert (seen.error, seen.address) == ("no Docker engine answers", f"unix://{tmp_path}/dead")
    with pytest.raises(SlipwayError, match="no Docker engine answers"), docker.connect(f"unix://{tmp_path}/dead"):
        pass


def test_an_output_is_mounted_to_be_written_and_inputs_are_not(spec_of: SpecOf) -> None:
    mounts = docker.render(make_plan(spec_of(), seen_of(output=output_of(path="/out")), {}))["HostConfig"]["Mounts"]
    readonly = {m["Source"]: m["ReadOnly"] for m in mounts}
    assert (readonly["/out"], readonly[TRAIN.path], readonly[MODEL.path]) == (False, True, True)


@pytest.mark.parametrize(("wanted", "asked"), [(-1, "unlimited"), (9, "9")])
def test_a_limit_that_was_lowered_is_reported(spec_of: SpecOf, profile: Profile, wanted: int, asked: str) -> None:
    spec = spec_of(profile=msgspec.structs.replace(profile, ulimits={"memlock": wanted, "nofile": 4}))
    seen = seen_of(engine=engine_of(hard_limits={"memlock": 8, "nofile": 8}))
    what = f"{asked} asked for, this engine can give 8: lowered"
    (finding,) = docker.check(make_plan(spec, seen, {}), seen)
    assert (finding.severity, finding.where, finding.what) == ("warning", "ulimit memlock", what)
