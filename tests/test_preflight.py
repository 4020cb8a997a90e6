"""preflight.py: what must hold before anything is submitted. Pure: a spec and a sight in, findings out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers import HOST, MODEL, REPO, TRAIN, SpecOf, engine_of, entry_of, output_of, seen_of

from launcher.artifacts.detection import Artifact
from launcher.artifacts.faults import fault
from launcher.artifacts.nouns import Sizes
from launcher.catalog import definitions
from launcher.catalog.definitions import Step
from launcher.catalog.profiles import ExtraMount, Profile, SlurmProfile
from launcher.core.arguments import Arguments
from launcher.core.plan import ImageInfo
from launcher.planning.checks import preflight
from slipway.project import Root

CUDA = entry_of("cuda")
BUILD = "images build automodel --release 1.0 --flavour"


def told(findings: list[preflight.Finding]) -> list[tuple[str, int, str, str]]:
    return [(f.severity, f.code, f.where, f.what) for f in findings]


def test_where_everything_is_as_it_should_be_nothing_is_found(spec_of: SpecOf) -> None:
    assert preflight.check(spec_of(), seen_of()) == []


@pytest.mark.parametrize(
    ("found", "code", "where", "what"),
    [
        (Artifact(name="train", path="/d", kind="missing"), 66, "train=/d", "there is nothing there"),
        (
            Artifact(name="train", path="/d", kind="folder", type="checkpoint_hf"),
            65, "train=/d", "is no chat_jsonl: found checkpoint_hf",
        ),
        (
            Artifact(name="train", path="/d", kind="file", note="no JSON on its first line"),
            65, "train=/d", "is no chat_jsonl: found no JSON on its first line",
        ),
        (
            msgspec.structs.replace(TRAIN, faults=[fault("/d:7", "broken")]),
            65, "/d:7", "broken",
        ),
        (
            Artifact(name="train", path="/d", kind="file", faults=[fault("/d", "cannot be read")]),
            65, "/d", "cannot be read",
        ),
    ],
)  # fmt: skip
def test_an_input_that_is_not_what_the_step_takes(
    spec_of: SpecOf, found: Artifact, code: int, where: str, what: str
) -> None:
    findings = preflight.check(spec_of(), seen_of(artifacts={"train": found, "model": MODEL}))
    assert told(findings) == [("error", code, where, what)]


HOLDS = msgspec.structs.replace(CUDA, holds=["/root/.cache", "/root/.local"])


@pytest.mark.parametrize(
    ("keys", "hides"),
    [
        ({"mounts": [ExtraMount(source="/a", target="/root")]}, "/root/.cache and /root/.local"),
        ({"mounts": [ExtraMount(source="/a", target="/root/.cache/uv")]}, "/root/.cache"),
        ({"mounts": [ExtraMount(source="/a", target="/root/.cache")]}, "/root/.cache"),
        ({"mounts": [ExtraMount(source="/a", target="/root/.cachet"), ExtraMount(source="/a", target="/data")]}, ""),
        ({"mount_home": True, "remap_root": True}, "/root/.cache and /root/.local"),
        ({"mount_home": True}, ""),
        ({"remap_root": True}, ""),
    ],
)
def test_nothing_is_mounted_over_what_an_image_runs_with(spec_of: SpecOf, keys: dict[str, Any], hides: str) -> None:
    profile = SlurmProfile(schema=1, name="site", file="/site.yaml", **keys)
    engine = engine_of(kind="slurm", nodes=True)
    found = [
        f for f in preflight.check(spec_of(entry=HOLDS, profile=profile), seen_of(engine=engine)) if "hides" in f.what
    ]
    assert [(f.code, f.where) for f in found] == ([(78, "/site.yaml")] if hides else [])
    assert all(f" hides {hides}, where automodel/1.0-cuda has interpreters and packages" in f.what for f in found)
    assert not [f for f in preflight.check(spec_of(entry=CUDA, profile=profile), seen_of()) if "hides" in f.what]


def test_every_fault_of_every_input_is_found_at_once(spec_of: SpecOf) -> None:
    broken = msgspec.structs.replace(TRAIN, faults=[fault(f"/d:{n}", "broken") for n in (1, 2)])
    missing = Artifact(name="model", path="/m", kind="missing")
    findings = preflight.check(spec_of(), seen_of(artifacts={"train": broken, "model": missing}))
    assert [f.where for f in findings] == ["/d:1", "/d:2", "model=/m"]
    assert preflight.first_error(findings) is findings[0]


OUT = "output=/data/out"


@pytest.mark.parametrize(
    ("output", "resume", "found"),
    [
        ({}, False, []),
        ({"kind": "folder"}, False, []),
        ({"kind": "folder", "empty": False}, True, []),
        ({"kind": "other", "empty": False}, False, [("error", 73, OUT, "is not a folder")]),
        ({"writable": False}, False, [("error", 73, OUT, "cannot be written by uid 1000 (/data)")]),
        (
            {"kind": "folder", "empty": False}, False,
            [("error", 73, OUT, "is not empty: it holds an earlier run's output")],
        ),
        (
            {"kind": "folder", "checkpoint": False}, True,
            [("error", 66, OUT, "--resume: is empty; expected LATEST, which sft/automodel leaves")],
        ),
        (
            {"checkpoint": False}, True,
            [("error", 66, OUT, "--resume: there is nothing there; expected LATEST, which sft/automodel leaves")],
        ),
        (
            {"kind": "folder", "empty": False, "checkpoint": False}, True,
            [("error", 66, OUT, "--resume: has no checkpoint; expected LATEST, which sft/automodel leaves")],
        ),
        (
            {"free": 1599}, False,
            [("error", 73, OUT, "one checkpoint needs about 1.562 KiB, 1.562 KiB are free there")],
        ),
        ({"free": 1600}, False, []),
    ],
)  # fmt: skip
def test_an_output_has_to_be_new_writable_and_large_enough(
    spec_of: SpecOf, output: dict[str, Any], resume: bool, found: list[Any]
) -> None:
    assert told(preflight.check(spec_of(resume=resume), seen_of(output=output_of(**output)))) == found


def test_a_full_output_names_both_ways_out(spec_of: SpecOf) -> None:
    (finding,) = preflight.check(spec_of(), seen_of(output=output_of(kind="folder", empty=False)))
    assert finding.remedy == "continue that run with --resume, or name another folder"


def test_without_an_output_the_runs_directory_has_to_have_the_room(spec_of: SpecOf) -> None:
    host = msgspec.structs.replace(HOST, runs_free=10)
    assert preflight.check(spec_of(), seen_of(host=host)) == []
    (finding,) = preflight.check(spec_of(), seen_of(host=host, output=None))
    assert (finding.code, finding.where) == (73, "/project/runs")


def test_resuming_needs_to_be_told_what(spec_of: SpecOf) -> None:
    findings = preflight.check(spec_of(resume=True), seen_of(output=None))
    assert told(findings) == [("error", 64, "--resume", "needs output=PATH, the output of the run that goes on")]


@pytest.mark.parametrize("path", ["/data/llama", "/data/llama/out/deep", "/data/chats.jsonl"])
def test_an_output_inside_of_an_input_could_not_be_written(spec_of: SpecOf, path: str) -> None:
    (finding,) = preflight.check(spec_of(), seen_of(output=output_of(path=path)))
    assert (finding.code, finding.where) == (64, f"output={path}")
    assert finding.what.startswith("lies inside the input ")


def test_a_name_that_only_begins_like_an_input_is_no_part_of_it(spec_of: SpecOf) -> None:
    assert preflight.check(spec_of(), seen_of(output=output_of(path="/data/llama-tuned"))) == []


def test_the_runs_directory_has_to_be_writable(spec_of: SpecOf) -> None:
    findings = preflight.check(spec_of(), seen_of(host=msgspec.structs.replace(HOST, runs_writable=False)))
    assert told(findings) == [("error", 73, "/project/runs", "the runs directory cannot be written")]


@pytest.mark.parametrize(
    "name",
    [
        "SLIPWAY_RUN",
        "SLIPWAY_ANYTHING",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "HF_TOKEN_PATH",
        "RANK",
        "WORLD_SIZE",
    ],
)
def test_variables_of_the_launcher_are_set_by_nobody_else(
    spec_of: SpecOf, profile: Profile, step: Step, name: str
) -> None:
    for spec, code, where in (
        (spec_of(env={name: "x"}), 64, f"--env: {name}"),
        (spec_of(profile=msgspec.structs.replace(profile, env={name: "x"})), 78, f"{profile.file}: env: {name}"),
        (spec_of(step=msgspec.structs.replace(step, env={name: "x"})), 78, f"{step.folder}/step.yaml: env: {name}"),
    ):
        assert told(preflight.check(spec, seen_of())) == [("error", code, where, "is set by the launcher")]


@pytest.mark.parametrize("name", ["RANK_TABLE", "HF_HOMEPAGE", "MY_SLIPWAY_", "_A1"])
def test_variables_with_names_that_only_look_alike_are_free(spec_of: SpecOf, name: str) -> None:
    assert preflight.check(spec_of(env={name: "x"}), seen_of()) == []


@pytest.mark.parametrize("name", ["", "A B", "1A", "A-B", "A\n"])
def test_what_is_no_name_of_a_variable_is_refused(spec_of: SpecOf, name: str) -> None:
    findings = preflight.check(spec_of(env={name: "x"}), seen_of())
    assert told(findings) == [("error", 64, f"--env: {name!r}", "is no name of a variable")]


@pytest.mark.parametrize(
    ("spec", "engine", "found"),
    [
        ({"nodes": 2}, {}, [("error", 64, "--nodes", "a docker profile runs on one machine")]),
        ({"procs": 8}, {}, []),
        ({"procs": 9}, {}, [("warning", 0, "--procs", "9 processes on 8 cores")]),
        ({"entry": CUDA, "gpus": 4, "procs": 4}, {"gpus": 4}, []),
        (
            {"entry": CUDA, "gpus": 8, "procs": 8}, {"gpus": 4},
            [("error", 64, "--gpus", "8 asked for, the machine has 4")],
        ),
        ({"entry": CUDA, "gpus": 8, "procs": 8}, {"gpus": None}, []),  # the queue knows
    ],
)  # fmt: skip
def test_the_shape_has_to_fit_the_machine(
    spec_of: SpecOf, spec: dict[str, Any], engine: dict[str, Any], found: list[Any]
) -> None:
    assert told(preflight.check(spec_of(**spec), seen_of(engine=engine_of(**engine)))) == found


def test_gpus_are_refused_for_the_cpu_flavour(spec_of: SpecOf) -> None:
    for engine in (engine_of(gpus=1), engine_of(gpus=None), engine_of()):
        findings = preflight.check(spec_of(gpus=1), seen_of(engine=engine))
        assert told(findings) == [("error", 64, "--gpus", "the cpu flavour has none; say --procs")]


ENGINE = "unix:///engine.sock (from DOCKER_HOST)"


def test_gpus_are_refused_on_an_engine_that_would_ignore_them(spec_of: SpecOf) -> None:
    engine = engine_of(no_gpus="the engine has no runtime `nvidia`", gpu_remedy="install it")
    (finding,) = preflight.check(spec_of(entry=CUDA, gpus=1), seen_of(engine=engine))
    said = "no GPU for a container: the engine has no runtime `nvidia`"
    assert (told([finding]), finding.remedy) == ([("error", 69, ENGINE, said)], "install it")


def test_an_engine_that_does_not_answer_is_the_only_thing_said_of_it(spec_of: SpecOf) -> None:
    seen = seen_of(engine=engine_of(error="no Docker engine answers", remedy="start one"), image=ImageInfo(recorded=1))
    (finding,) = preflight.check(spec_of(entry=CUDA, gpus=1), seen)
    assert told([finding]) == [("error", 69, ENGINE, "no Docker engine answers")]
    assert finding.remedy == "start one"


@pytest.mark.parametrize(
    ("image", "code", "what", "remedy"),
    [
        (ImageInfo(), 66, "has not been built", f"run: {BUILD} cpu"),
        (ImageInfo(recorded=1), 66, "was built, but this engine does not have it", f"run: {BUILD} cpu"),
        (
            ImageInfo(tagged="sha256:9"), 65,
            "the engine's slipway/automodel is sha256:9, which no record of this lock entry names",
            f"build it from the lock: {BUILD} cpu",
        ),
        (
            ImageInfo(tagged="sha256:9", recorded=2), 65,
            "the engine's slipway/automodel is sha256:9, which no record of this lock entry names",
            f"build it from the lock: {BUILD} cpu",
        ),
    ],
)  # fmt: skip
def test_an_image_is_ours_by_identity_or_not_at_all(
    spec_of: SpecOf, image: ImageInfo, code: int, what: str, remedy: str
) -> None:
    (finding,) = preflight.check(spec_of(), seen_of(image=image))
    assert told([finding]) == [("error", code, "image of automodel/1.0-cpu", what)]
    assert finding.remedy == remedy


@pytest.mark.parametrize(
    ("allow_drift", "severity", "what"),
    [
        (False, "error", "has sha256:5 in place of a:1"),
        (True, "warning", "has sha256:5 in place of a:1 (--allow-drift)"),
    ],
)
def test_what_is_not_what_the_lock_pins_is_refused_unless_it_is_accepted(
    spec_of: SpecOf, allow_drift: bool, severity: str, what: str
) -> None:
    seen = seen_of(image=ImageInfo(id="sha256:1", recorded=1, drift={"a:1": "sha256:5"}))
    (finding,) = preflight.check(spec_of(entry=CUDA, allow_drift=allow_drift), seen)
    assert (finding.severity, finding.where, finding.what) == (severity, "image of automodel/1.0-cuda", what)


def test_what_the_image_was_built_without_is_said_and_refused_to_steps_that_run_it(spec_of: SpecOf) -> None:
    spec, seen = spec_of(), seen_of(image=ImageInfo(id="sha256:1", recorded=1, left_out=["nemo-rl"]))
    (finding,) = preflight.check(spec, seen)
    assert (finding.severity, finding.what) == ("warning", "was built without nemo-rl (--source nemo-rl=none)")
    step = msgspec.structs.replace(spec.step, repositories=["nemo-rl"])
    (finding,) = preflight.check(msgspec.structs.replace(spec, step=step), seen)
    assert (finding.severity, finding.code) == ("error", 77)
    assert "without nemo-rl (--source nemo-rl=none), which sft/automodel runs" in finding.what


def test_the_first_error_gives_the_exit_code_warnings_do_not(spec_of: SpecOf) -> None:
    findings = preflight.check(spec_of(procs=9), seen_of(image=ImageInfo()))
    assert [f.severity for f in findings] == ["warning", "error"]
    error = preflight.first_error(findings)
    assert error is not None and error.code == 66
    assert preflight.first_error(findings[:1]) is None


def test_a_finding_reads_as_one_message(spec_of: SpecOf) -> None:
    (finding,) = preflight.check(spec_of(), seen_of(image=ImageInfo()))
    assert str(finding) == (
        f"error: image of automodel/1.0-cpu: has not been built\n  run: {BUILD} cpu"
    )  # fmt: skip


def test_a_checkpoint_is_shards_twice_and_the_moments(spec_of: SpecOf) -> None:
    assert preflight.checkpoint_bytes(spec_of(), seen_of()) == 2 * MODEL.bytes + 8 * MODEL.parameters


LARGE = msgspec.structs.replace(
    MODEL, bytes=10**12, parameters=5 * 10**11,
    sizes=Sizes(layers=80, hidden=8192, vocab=128256, heads=64, kv_heads=8, intermediate=28672),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "given", "words", "least", "most"),
    [
        ("peft/automodel", {"train": TRAIN, "model": LARGE}, {"lora_rank": 8}, 1e9, 2e9),  # 104 million weights
        ("pretrain/megatron_bridge", {"tokenizer": LARGE}, {}, 0, 0),
        ("convert/hf_to_megatron", {"model": LARGE}, {}, 10**12, 10**12),
    ],
)
def test_of_an_adapter_a_tokenizer_or_a_conversion_no_trained_model_is_counted(
    spec_of: SpecOf, name: str, given: dict[str, Any], words: dict[str, Any], least: float, most: float
) -> None:
    said = Arguments(inputs={n: a.path for n, a in given.items()}, parameters=words, output="/data/out")
    spec = spec_of(step=definitions.find_step(Root(REPO), name), words=said)
    assert least <= preflight.checkpoint_bytes(spec, seen_of(artifacts=given)) <= most


def test_a_mount_of_the_profile_that_is_not_there(spec_of: SpecOf) -> None:
    host = msgspec.structs.replace(HOST, missing_mounts=["/scratch"])
    assert told(preflight.check(spec_of(), seen_of(host=host))) == [
        ("error", 66, f"{spec_of().profile.file}: mounts", "there is nothing at /scratch")
    ]


def test_a_mount_with_a_login_in_it_is_warned_of(spec_of: SpecOf, profile: Profile) -> None:
    """By a folder that holds it, and not by one whose name only begins like that."""
    host = msgspec.structs.replace(HOST, home="/home/user", logins=["/home/user/.netrc", "/home/user/hf/token"])
    mounts = [ExtraMount(source=s, target=f"/m{n}") for n, s in enumerate(("/home/user", "/home/user/h", "/home/us"))]
    spec = spec_of(profile=msgspec.structs.replace(profile, mounts=mounts))
    found = preflight.check(spec, seen_of(host=host, output=output_of(path="/home/user/hf")))
    assert [(f.severity, f.where, f.what.split()[0]) for f in found] == [
        ("warning", f"{profile.file}: mounts", "/home/user/.netrc"),
        ("warning", f"{profile.file}: mounts", "/home/user/hf/token"),
        ("warning", "output=/home/user/hf", "/home/user/hf/token"),
    ]
    assert preflight.check(spec_of(), seen_of(host=host)) == []


def test_a_mounted_home_with_a_login_in_it_is_warned_of(spec_of: SpecOf) -> None:
    host = msgspec.structs.replace(HOST, home="/home/user", logins=["/home/user/.netrc"])
    site = SlurmProfile(schema=1, name="site", file="site.yaml", mount_home=True)
    (found,) = preflight.check(spec_of(profile=site), seen_of(host=host, engine=engine_of(nodes=True)))
    assert (found.severity, found.where) == ("warning", "site.yaml: mount_home")
