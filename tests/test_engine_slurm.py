"""launcher/engines/slurm.py: the script is a pure function of the plan; srun gets what was meant; the rest is refused.

What follows once there is a script: test_batch.py, test_slurmjobs.py, and tests/real/slurm.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest
import rl
from helpers import HOST, IMAGE, REPO, TRAIN, SpecOf, entry_of, output_of, record_image, seen_of
from slurm_job import PROFILE, RUN_ID, Job

from launcher.catalog.fabrics import Network
from launcher.catalog.profiles import ExtraMount
from launcher.core.plan import ImageInfo, Plan
from launcher.engines import slurm
from launcher.engines.shell import quote
from launcher.planning.checks import parallelism
from launcher.planning.planner import make_plan
from launcher.records import run_directory
from slipway import canonical
from slipway.errors import Exit, SlipwayError
from slipway.project import Root

LINE = r"""it's "here", $HOME `id` $(id) \ # *=;!~ é"""
NASTY = f"{LINE}\n\\n {LINE}\n"
ODD = """it's-(here)#*=;!~&<|>{x}é"""  # what a path may hold that pyxis can mount


@pytest.fixture
def plan_of(spec_of: SpecOf) -> Any:
    def make(seen: Any = None, spec: dict[str, Any] | None = None, **profile: Any) -> Plan:
        changed = msgspec.structs.replace(PROFILE, **profile)
        return make_plan(spec_of(**({"profile": changed} | (spec or {}))), seen or seen_of(), {})

    return make


def script(plan: Plan) -> str:
    return str(slurm.render(plan)["script"])


def directive(plan: Plan) -> dict[str, str]:
    """What stands behind #SBATCH, before the first line that is no comment: Slurm reads no further."""
    head = script(plan).partition("\n\n")[0].splitlines()
    words = [line.removeprefix("#SBATCH --") for line in head if line.startswith("#SBATCH ")]
    return dict(tuple(word.partition("=")[::2]) for word in words)


# The script


def test_rendering_is_pure_and_stable(plan_of: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = plan_of(spec={"env": {"B": NASTY, "A": "1"}}, setup=["true"], sbatch={"comment": LINE})
    before = canonical.dumps(plan)
    first = script(plan)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    again = msgspec.json.decode(before, type=Plan)
    assert script(again) == first == script(plan) and canonical.dumps(plan) == before
    assert not list(tmp_path.iterdir())


def test_it_begins_with_what_made_it_and_directives_come_before_anything_else(plan_of: Any) -> None:
    plan = plan_of()
    first, made, how, *rest = script(plan).splitlines()
    assert first == "#!/usr/bin/env bash"
    assert made == f"# sft/automodel with automodel 1.0-cpu, plan {plan.hash[:12]}; made by `launch`."
    assert how.startswith("# ") and "sbatch script.sh" in how
    last = max(n for n, line in enumerate(rest) if line.startswith("#SBATCH "))
    assert all(line.startswith("#SBATCH ") for line in rest[: last + 1])


def test_the_sites_keys_become_directives(plan_of: Any) -> None:
    keys = {"account": "dept", "partition": "a,b", "qos": "high", "reservation": "week", "constraint": "[a|b]&c"}
    more: dict[str, Any] = {"time": "1-00:00:00", "mem": "0", "cpus": 16, "exclusive": True, "stop_seconds": 33}
    found = directive(plan_of(spec={"nodes": 3}, **keys, **more, sbatch={"hold": True, "nice": 5, "spread-job": False}))
    assert found == {
        "account": "dept", "partition": "a,b", "qos": "high", "reservation": "week", "constraint": '"[a|b]&c"',
        "time": "1-00:00:00", "mem": "0", "cpus-per-task": "16", "exclusive": "", "signal": "B:USR1@33", "hold": "",
        "nice": "5", "nodes": "3", "ntasks-per-node": "1", "export": "NONE", "kill-on-invalid-dep": "yes",
        "open-mode": "append", "output": "logs/job.log", "requeue": "",
    }  # fmt: skip


def test_options_are_sorted_wherever_they_come_from(plan_of: Any) -> None:
    plan = plan_of(sbatch={"hold": True, "beta": 1}, srun={"quiet": True, "bcast": "x"})
    for option in (r"^#SBATCH --([\w-]+)", r"^    --([\w-]+)"):
        names = re.findall(option, script(plan), re.M)
        assert len(names) > 8 and names == sorted(names)


def test_what_a_profile_does_not_say_is_not_asked_for(plan_of: Any) -> None:
    assert not {"account", "partition", "time", "mem", "cpus-per-task", "exclusive", "gres"} & set(directive(plan_of()))


@pytest.mark.parametrize(
    ("profile", "name", "value"),
    [
        ({}, "gpus-per-node", "8"),
        ({"gpu_type": "h100"}, "gpus-per-node", "h100:8"),
        ({"gpus_by": "gres"}, "gres", "gpu:8"),
        ({"gpus_by": "gres", "gpu_type": "h100"}, "gres", "gpu:h100:8"),
    ],
)
def test_gpus_are_asked_for_as_the_site_knows_them(
    plan_of: Any, profile: dict[str, Any], name: str, value: str
) -> None:
    asked = {"entry": entry_of("cuda"), "gpus": 8, "procs": 8}
    found = directive(plan_of(spec=asked, **profile))
    assert {k: v for k, v in found.items() if "g" in k and k in ("gres", "gpus-per-node")} == {name: value}
    assert not {"gres", "gpus-per-node"} & set(directive(plan_of(**profile)))


def test_a_job_that_may_not_go_on_is_not_requeued(plan_of: Any) -> None:
    assert "no-requeue" in directive(plan_of(attempts=1)) and "requeue" not in directive(plan_of(attempts=1))
    assert "REQUEUE=0\n" in script(plan_of(attempts=1)) and "REQUEUE=1\n" in script(plan_of())


@pytest.mark.parametrize("value", ["plain", "a b", LINE, 'a"b', "a\\", "#", ""])
def test_a_directives_value_is_one_word_for_slurm(plan_of: Any, value: str) -> None:
    """Slurm takes away quotes and backslashes, and what follows a bare #; seen on a real one in tests/real/slurm."""
    found = directive(plan_of(sbatch={"comment": value}))["comment"]
    bare = re.sub(r'"((?:[^"\\]|\\.)*)"', "", found)
    assert "#" not in re.sub(r"\\.", "", found) and " " not in bare
    assert re.sub(r"\\(.)|\"", r"\1", found) == value


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("", "''"), ("plain", "plain"), ("$HOME", "'$HOME'"), ("${RUN_DIR}/a b", "\"${RUN_DIR}\"'/a b'"),
        ("${RUN_ID}${RUN_ID}", '"${RUN_ID}""${RUN_ID}"'), ("${RUN_IDS}", "'${RUN_IDS}'"),
    ],
)  # fmt: skip
def test_only_our_placeholders_are_left_to_the_shell(word: str, text: str) -> None:
    assert quote(word) == text


@pytest.mark.parametrize("word", ["pip install", "pip3", "uv sync", "uv pip", "apt", "conda", "npm", "git clone"])
def test_nothing_is_installed(plan_of: Any, word: str) -> None:
    text = script(plan_of(spec={"nodes": 4, "entry": entry_of("cuda"), "gpus": 8}))
    text += "".join((REPO / "entrypoints" / name).read_text() for name in slurm.FILES)
    assert not re.search(rf"\b{word}\b", text)


# What srun gets, by running the script


def test_srun_gets_what_was_meant(job: Job) -> None:
    out, mount = str(job.root / f"out{ODD}"), ExtraMount(source=f"/data/{ODD}", target=f"/more{ODD}")
    profile = {
        "mounts": [mount], "env": {"SITE": NASTY}, "setup": [f"export SET_UP={shlex.quote(NASTY)}"],
        "srun": {"comment": LINE, "immediate": 5, "exclusive": True, "overcommit": False}, "mpi": "pmix",
        "network": Network(fabric="ib", interface="ib0"), "cpus": 4, "writable": True, "mount_home": True,
    }  # fmt: skip
    plan = job.plan(profile=profile, output=out, env={"ASKED": NASTY, "EMPTY": "", "CALLED": "${RUN_ID}"})
    job.path = job.path.parent / f"run{ODD}"
    job.write(plan)
    assert job.run() == 0, job.err
    call = job.srun
    # Of values of several lines, pyxis would read each line as a variable.
    inside = ["env", f"ASKED={NASTY}", f"SITE={NASTY}", *plan.command]
    assert call.words[-len(inside) :] == inside and not {"ASKED", "SITE"} & call.env.keys()
    assert call.option("container-image") == str(job.image)
    assert call.option("container-mounts").split(",") == [
        f"{job.root}/hf/datasets:/cache/datasets:rw",
        f"{job.path}/hf:/cache/hf:rw",
        "/data/llama:/inputs/model-bbbbbbbb:ro",
        "/data/chats.jsonl:/inputs/train-aaaaaaaa/chats.jsonl:ro",
        f"/data/{ODD}:/more{ODD}:ro",
        f"{out}:/output:rw",
        f"{job.path}/container:/run/slipway:rw",
        f"{job.path}/slipway:/slipway:ro",
    ]
    assert (call.option("comment"), call.option("immediate"), call.option("mpi")) == (LINE, "5", "pmix")
    assert call.option("cpus-per-task") == "4"
    flags = {w for w in call.words if w.startswith("--") and "=" not in w}
    assert flags == {
        "--exclusive", "--container-writable", "--container-mount-home", "--no-container-entrypoint",
        "--no-container-remap-root",
    }  # fmt: skip
    env = call.env
    assert [env[n] for n in ("EMPTY", "SET_UP", "ENROOT_LOGIN_SHELL")] == ["", NASTY, "n"]
    assert (env["CALLED"], env["SLIPWAY_RUN"], env["GLOO_SOCKET_IFNAME"]) == (job.path.name, job.path.name, "ib0")
    assert Path(out).is_dir()


def test_every_variable_that_is_set_is_named_twice_but_those_of_each_rank(job: Job) -> None:
    job.write(job.plan(env={"A": "1", "HOME": "/x"}))
    assert job.run() == 0, job.err
    call = job.srun
    exported, shown = (call.option(name).split(",") for name in ("export", "container-env"))
    assert exported == sorted([*shown, "ENROOT_LOGIN_SHELL"]) and shown == sorted(set(shown))
    assert not {"RANK", "LOCAL_RANK"} & set(shown)
    ours = {n for n in call.env if n.startswith(("SLIPWAY_", "HF_")) or n in ("A", "HOME", "NVIDIA_VISIBLE_DEVICES")}
    assert len(ours) > 15 and ours <= set(shown)
    assert set(shown) <= {*call.env, *slurm.FOUND}, "what is named has to be set, or to come from the job"


def test_a_rank_is_never_named(plan_of: Any) -> None:
    """Rules refuse them; pyxis sets them for every task, and naming them would hide that."""
    named = slurm._srun(plan_of(spec={"env": {"RANK": "0", "LOCAL_RANK": "0"}}))["container-env"]
    assert not {"RANK", "LOCAL_RANK"} & set(str(named).split(","))


def test_there_is_one_srun_with_one_of_each_option(job: Job) -> None:
    job.write(job.plan(nodes=3))
    job.run()
    options = [w.partition("=")[0] for w in job.srun.words if w.startswith("--")]
    assert len(options) == len(set(options))
    assert job.srun.option("nodes") == "3" and job.srun.option("ntasks-per-node") == "1"
    assert job.srun.option("kill-on-bad-exit") == "1"


def test_a_script_without_its_image_refuses_itself(job: Job, spec_of: SpecOf) -> None:
    spec = spec_of(profile=PROFILE)
    job.write(make_plan(spec, seen_of(image=ImageInfo(missing="no file"), host=job.seen().host), {}))
    assert "IMAGE=UNRESOLVED\n" in (job.path / "script.sh").read_text()
    assert job.run() == 78
    assert "refused: the image was not resolved when this script was written" in job.err
    assert not job.calls("srun")


def test_an_image_of_a_registry_is_not_looked_for_on_the_node(job: Job, spec_of: SpecOf) -> None:
    source = f"registry.example:5000#org/name@sha256:{'1' * 64}"
    seen = msgspec.structs.replace(job.seen(), image=ImageInfo(id=IMAGE, source=source))
    job.write(make_plan(spec_of(profile=PROFILE), seen, {}))
    assert job.run() == 0, job.err
    assert job.srun.option("container-image") == source


# Images


def test_a_pushed_image_is_named_as_enroot_wants_it(tmp_path: Path) -> None:
    root, entry = Root(tmp_path), entry_of()
    profile = msgspec.structs.replace(PROFILE, image="registry")
    seen = slurm.probe(root, profile)
    assert slurm.find_image(root, entry, profile, seen).missing == "no record says that it was pushed to a registry"
    record_image(root, entry)
    found = slurm.find_image(root, entry, profile, seen)
    assert found.missing == "no record says that it was pushed to a registry"
    assert found.remedy == f"run: {entry.build_command} --push REGISTRY/NAME:TAG" and not found.id
    digest = f"sha256:{'3' * 64}"
    record_image(root, entry, pushed=[f"registry.example:5000/org/name@{digest}", "other.example/name@sha256:0"])
    found = slurm.find_image(root, entry, profile, seen)
    assert (found.id, found.source) == (IMAGE, f"registry.example:5000#org/name@{digest}")


def test_a_machine_without_slurm_can_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run and `-o` need no cluster; that there is no sbatch is said at submission (tests/test_slurmjobs.py)."""
    monkeypatch.setenv("PATH", str(tmp_path))
    seen = slurm.probe(Root(tmp_path), PROFILE)
    assert (seen.error, seen.nodes) == ("", True)


# What is refused


def found_in(plan: Plan, seen: Any = None) -> list[tuple[str, str]]:
    """Errors: where and what; the code is always 78."""
    errors = [f for f in slurm.check(plan, seen or seen_of()) if f.severity == "error"]
    assert all(f.code == Exit.CONFIG for f in errors)
    return [(f.where, f.what) for f in errors]


def test_a_plan_that_slurm_can_take_has_no_findings(plan_of: Any) -> None:
    plan = plan_of(shared=["/data", "/home", "/project"], sbatch={"comment": LINE}, srun={"slurmd-debug": "info"})
    assert list(slurm.check(plan, seen_of())) == []


@pytest.mark.parametrize("char", list(',:\n \t"$`\\'))
@pytest.mark.parametrize("place", ["output", "input", "mount source", "mount target", "hf_home", "runs directory"])
def test_a_path_that_pyxis_cannot_write_is_refused(plan_of: Any, place: str, char: str) -> None:
    path = f"/data/a{char}b"
    seen, profile = seen_of(), {}
    where = {"output": "mount /output", "hf_home": "mount /cache/datasets", "runs directory": "runs directory"}.get(
        place, ""
    )
    if place == "output":
        seen = seen_of(output=output_of(path=path))
    elif place == "input":
        seen = seen_of(artifacts={"train": msgspec.structs.replace(TRAIN, path=path, kind="folder")})
        where = "mount /inputs/train-aaaaaaaa"
    elif place.startswith("mount"):
        mount = {"source": "/data/x", "target": "/x"} | {place.removeprefix("mount "): path}
        profile, where = {"mounts": [ExtraMount(**mount)]}, f"mount {mount['target']}"
    else:
        key = {"hf_home": "hf_home", "runs directory": "runs"}[place]
        seen = seen_of(host=msgspec.structs.replace(HOST, **{key: path}))
    path += "/datasets" * (place == "hf_home")
    what = (
        f"{path!r} holds white space, a comma, colon, quote, dollar, backquote or backslash, which pyxis cannot mount"
    )
    assert found_in(plan_of(seen, **profile), seen) == [(where, what)]


def test_a_run_directory_that_pyxis_cannot_mount_is_refused_at_submission(plan_of: Any) -> None:
    request = slurm.render(plan_of())
    with pytest.raises(SlipwayError, match="the path of the run directory holds white space, a comma") as e:
        slurm.fill(request, run_directory.Run(Path("/runs/a:b") / RUN_ID))
    assert (e.value.code, e.value.remedy) == (Exit.CONFIG, "name another: --runs-dir")


def test_the_script_is_submitted_as_it_was_shown_and_its_hash_recorded(plan_of: Any) -> None:
    request = slurm.render(plan_of())
    filled = slurm.fill(request, run_directory.Run(Path("/runs") / RUN_ID))
    assert filled == request | {"sha256": canonical.sha256(request["script"].encode())}
    assert slurm.request_text(request) == slurm.as_text(request) == slurm.request_text(filled) == request["script"]


@pytest.mark.parametrize(
    ("what", "where", "key"),
    [
        ({"output": output_of(path="/scratch/out")}, "mount /output", "output=PATH"),
        ({"artifacts": {"train": msgspec.structs.replace(TRAIN, path="/tmp/chats.jsonl")}},
         "mount /inputs/train-aaaaaaaa/chats.jsonl", ""),
        ({"image": ImageInfo(id=IMAGE, source="/local/a.sqsh")}, "image", "squash: in the profile"),
        ({"host": msgspec.structs.replace(HOST, runs="/local/runs")}, "runs directory",
         "runs: in the profile, or --runs-dir"),
        ({"host": msgspec.structs.replace(HOST, hf_home="/datasets/hf")}, "mount /cache/datasets",
         "hf_home: in the profile, or HF_HOME"),
    ],
)  # fmt: skip
def test_what_other_nodes_will_not_see_is_refused(plan_of: Any, what: dict[str, Any], where: str, key: str) -> None:
    seen = seen_of(**what)
    plan = plan_of(seen, shared=["/data", "/home", "/project"])
    (found,) = slurm.check(plan, seen)
    assert (found.where, found.code) == (where, Exit.CONFIG)
    assert "is under no shared folder: other nodes will not see it" in found.what
    remedy = f"; name a folder below one of them: {key}" if key else ""
    assert found.remedy == f"shared are: /data, /home, /project ({PROFILE.file}: shared){remedy}"


def test_a_site_that_names_no_shared_folders_is_warned_for_several_nodes(plan_of: Any) -> None:
    assert not list(slurm.check(plan_of(), seen_of()))
    (found,) = slurm.check(plan_of(spec={"nodes": 2}), seen_of())
    assert (found.severity, found.where) == ("warning", f"{PROFILE.file}: shared")


OURS = {
    "sbatch": ["export", "nodes", "output", "open-mode", "signal", "requeue", "account", "gres", "array", "chdir",
               "ntasks", "job-name", "wrap", "error", "container-image", "container-mounts"],
    "srun": ["container-image", "container-mounts", "container-env", "container-name", "container-save", "export",
             "kill-on-bad-exit", "mpi", "nodes", "no-container-entrypoint", "output", "ntasks", "chdir"],
}  # fmt: skip


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, names in OURS.items() for name in names])
def test_the_launchers_own_options_are_refused(plan_of: Any, key: str, name: str) -> None:
    where = f"{PROFILE.file}: {key}.{name}"
    assert found_in(plan_of(**{key: {name: "x"}})) == [(where, "is set by the launcher")]


@pytest.mark.parametrize("key", ["sbatch", "srun"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("--comment", "x"),
        ("c", "x"),
        ("com ment", "x"),
        ("comment=x", "y"),
        ("Comment", "x"),
        ("comment", "a\nrm -rf b"),
    ],
)
def test_what_is_no_option_is_refused(plan_of: Any, key: str, name: str, value: str) -> None:
    where = f"{PROFILE.file}: {key}.{name}"
    assert found_in(plan_of(**{key: {name: value}})) == [(where, "is no long option of one line, without its dashes")]


@pytest.mark.parametrize("name", ["ALL", "NONE", "NIL"])
def test_a_variable_that_means_something_else_to_srun_is_refused(plan_of: Any, name: str) -> None:
    found = found_in(plan_of(spec={"env": {name: "1"}}))
    assert found == [(f"variable {name}", "is no name that Slurm's --export can say")]


@pytest.mark.parametrize("key", ["account", "partition", "qos", "reservation", "constraint", "mem"])
def test_a_key_of_two_lines_would_be_a_line_of_the_script(plan_of: Any, key: str) -> None:
    found = found_in(plan_of(**{key: "a\nrm -rf b"}))
    assert found == [(f"{PROFILE.file}: {key}", "'a\\nrm -rf b' is more than one line")]


@pytest.mark.parametrize(("head", "of_job"), [("shared", 2), ("dedicated", 3)])
def test_a_dedicated_head_of_ray_is_one_node_more(spec_of: SpecOf, head: str, of_job: int) -> None:
    """The library, and all estimates with it, knows of those alone that work."""
    profile = msgspec.structs.replace(PROFILE, ray_head=head)
    found = rl.launch(spec_of, "grpo", "v0.7.0", rl.usual("grpo"), profile=profile, nodes=2)
    assert found.config["cluster.num_nodes"] == 2
    assert (directive(found.plan)["nodes"], found.plan.env["SLIPWAY_NODES"].value) == (str(of_job), str(of_job))
    assert f"\nNODES={of_job}\n" in script(found.plan)
    assert ("SLIPWAY_RAY_HEAD" in found.plan.env) == (head == "dedicated")
    (note,) = [line for line in parallelism.notes(found.spec) if line.startswith("shape: Ray with 2 x 8 workers")]
    assert note.startswith("shape: Ray with 2 x 8 workers, and a node for its head") == (head == "dedicated")


def test_a_dedicated_head_makes_a_job_of_several_nodes_of_one_that_works(spec_of: SpecOf) -> None:
    profile = msgspec.structs.replace(PROFILE, ray_head="dedicated")
    plan = rl.launch(spec_of, "grpo", "v0.7.0", rl.usual("grpo"), profile=profile).plan
    assert plan.shape.nodes == 2 and "/output" in plan.env["SLIPWAY_SHARED"].value.split()


def test_a_step_without_ray_has_no_head(plan_of: Any) -> None:
    assert plan_of(ray_head="dedicated").shape.nodes == 1
