"""launcher/doctor: what is seen of an engine, a machine and a site; Slurm's commands are programs that say it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from helpers import REPO, Engine, Project
from slurm_site import ANSWERS, CONFIG, PROBE, SITE, say, seen
from slurm_site import site as site

from launcher import doctor
from launcher.doctor import machine, scontrol

WELL = [
    "ok sbatch slurm 22.05.8",
    "ok slurmctld Slurmctld(primary) at head is UP",
    "ok pyxis srun knows --container-image",
    "ok pyxis pyxis 0.24.0 unpacks the image on each node for every attempt; the next attempt removes what one leaves "
    "that was killed (container_scope=global)",
    "ok partition gpu, 4 nodes, UP",
    "ok time 02:00:00 of at most 1-00:00:00",
    "ok account account dept",
    "ok account qos high",
    "ok account reservation week",
    "ok accounting accounting_storage/slurmdbd, sacct answers",
    "ok mpi none; the site's default is none",
    "ok saving a step that scancel ends has 300 s to save (KillWait)",
    "ok saving jobs of urgent preempt this one (PreemptMode = REQUEUE): its step has 300 s to save (GraceTime), and "
    "its job goes back into the queue; rl/nemo_rl/dapo and 6 more save nothing then, only ahead of a time limit",
    "ok saving ahead of its time limit a job tells its step as early as that takes to save, and 90 s more",
    "ok requeue jobs ask for it themselves, and start up to 3 times (attempts; JobRequeue = 1)",
    "ok TaskProlog none",
    "ok GPUs 4 nodes with gpu:h100:8",
    "ok enroot enroot 4.1.2",
    "ok credentials no T/home/.config/enroot/.credentials: only registries that ask for no password",
    "ok squash T/shared/squash, G GiB free",
    "ok runs T/shared/runs (will be made), G GiB free",
    "ok shared T/shared, G GiB free",
]


def test_a_site_where_all_is_well(site: Project) -> None:
    assert seen(site) == (0, WELL)


@pytest.mark.parametrize(
    ("program", "answers", "line"),
    [
        (
            "sbatch",
            {"": "slurm 21.08.1"},
            "warning sbatch slurm 21.08.1; older than 22.05, the oldest that this was made for",
        ),
        (
            "srun",
            {"--help": "Usage: srun", "--mpi=list": "none"},
            "failed pyxis srun does not know --container-image",
        ),
        (
            "srun",
            ANSWERS["srun"] | {"--mpi=list": "pmi2"},
            "failed mpi srun knows no --mpi=none; the site's default is none; known: pmi2",
        ),
        ("sacctmgr", {"": "other|normal"}, "failed account account 'dept' is none of root's; known: other"),
        ("sacctmgr", {}, "unknown account account dept: exit 1"),
        ("sacct", {}, "failed accounting accounting_storage/slurmdbd, but sacct: exit 1"),
        (
            "sinfo",
            {"--noheader --format=%R": "gpu", "--noheader --format=%D %G": "4 (null)"},
            "failed GPUs no node of the partition has GPUs that Slurm knows of; gpus_by: none where its nodes",
        ),
        (
            "sinfo",
            {"--noheader --format=%R": "gpu", "--noheader --format=%D %G": "4 gpu:4(S:0-1),shard:8"},
            "warning GPUs nodes have 4 GPUs, and who wants a whole node asks for 8; gpus: 4",
        ),
        (
            "scontrol",
            ANSWERS["scontrol"] | {"show config": CONFIG.replace("slurmdbd", "none") + "MinJobAge = 300 sec\n"},
            "warning accounting none: sacct knows nothing, an ended job is forgotten after 300 sec",
        ),
        (
            "scontrol",
            {k: v for k, v in ANSWERS["scontrol"].items() if "reservation" not in k},
            "failed account reservation week: exit 1",
        ),
    ],
)
def test_what_is_not_well_is_said(site: Project, program: str, answers: dict[str, str], line: str) -> None:
    site.env["USER"] = "root"
    say(site, program, answers)
    code, lines = seen(site)
    assert any(found.startswith(line) for found in lines), lines
    codes = {"failed": 78 if line.split()[1] in ("mpi", "account") else 69}
    assert code == codes.get(line.split()[0], 0)


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("partition: gpu", "partition: gpus", "failed partition there is no partition 'gpus'; did you mean 'gpu'?"),
        ("partition: gpu", "partition: cpu", "warning partition cpu, 1 nodes, DOWN; jobs wait until it is up"),
        ("partition: gpu", "exclusive: true", "ok partition gpu, 4 nodes, UP"),
        ("account: dept", "account: depts", "failed partition gpu takes no account 'depts'; did you mean 'dept'?"),
        ("qos: high", "qos: hihg", "failed account qos 'hihg' is none of root's; did you mean 'high'?"),
        (
            "time: 02:00:00",
            "time: 2-00:00:00",
            "failed time 2-00:00:00 asked for, gpu allows 1-00:00:00: jobs would wait for ever",
        ),
        ("time: 02:00:00", "exclusive: true", "ok time the partition's default, 01:00:00"),
        (
            "mount_wait: 1",
            "mpi: pmx",
            "failed mpi srun knows no --mpi=pmx; the site's default is none; did you mean 'pmix'?",
        ),
        (
            "time: 02:00:00",
            "time: UNLIMITED",
            "failed time UNLIMITED asked for, gpu allows 1-00:00:00: jobs would wait for ever",
        ),
        ("mount_wait: 1", "gpus: 8\ngpu_type: h100", "ok GPUs 4 nodes with gpu:h100:8"),
        ("mount_wait: 1", "gpus: 4", "failed GPUs gpus: 4, and nodes have 8 GPUs; gpus: 8"),
        (
            "mount_wait: 1",
            "gpu_type: h10",
            "failed GPUs gpu_type: h10, and Slurm knows h100; did you mean 'h100'?",
        ),
        (
            "mount_wait: 1",
            "gpus_by: none",
            "warning GPUs 4 nodes with gpu:h100:8, and gpus_by: none takes whole nodes; gpus_by: gpus-per-node",
        ),
        ("squash: {T}/shared/squash", "image: registry", "ok squash not used: image: registry"),
        (
            "squash: {T}/shared/squash",
            "exclusive: true",
            "warning squash the profile names no folder for .sqsh files; squash: a folder that every node sees",
        ),
        (
            "squash: {T}/shared/squash",
            "squash: {T}/home",
            "failed squash T/home is below none of the profile's shared folders",
        ),
        (
            "runs: {T}/shared/runs",
            "runs: {T}/runs",
            "failed runs T/runs is below none of the profile's shared folders; runs: a folder below T/shared",
        ),
        (
            "shared: [{T}/shared]",
            "shared: [{T}/gone, {T}]",
            "failed shared T/gone is not there; shared: the folders that every node sees",
        ),
        (
            "shared: [{T}/shared]",
            "shared: []",
            "warning shared the profile names none; shared: the folders that every node sees",
        ),
    ],
)
def test_what_the_profile_has_wrong_is_said(site: Project, before: str, after: str, line: str) -> None:
    site.env["USER"] = "root"
    place = str(site.path.parent)
    site.edit(SITE, before.replace("{T}", place), after.replace("{T}", place))
    code, lines = seen(site)
    assert any(found.startswith(line) for found in lines), lines
    assert code == (78 if line.startswith("failed") else 0)


def test_a_machine_without_slurm_fails_once_and_what_needs_it_is_unknown(site: Project) -> None:
    (Path(site.env["PATH"]) / "sbatch").unlink()
    code, lines = seen(site)
    assert (code, lines[0]) == (69, "failed sbatch there is no sbatch here; run this where jobs are submitted from")
    assert {
        line.split()[0] for line in lines if line.split()[1] in ("slurmctld", "pyxis", "partition", "time", "mpi")
    } == {"unknown"}
    assert WELL[-1] in lines and "ok enroot enroot 4.1.2" in lines


def test_a_controller_that_is_silent_is_asked_once(site: Project, tmp_path: Path) -> None:
    site.program(
        "scontrol", f'echo "$*" >>{tmp_path}/asked; echo "slurm_load_ctl_conf error: Unable to contact" >&2; exit 1'
    )
    code, lines = seen(site)
    assert code == 69
    assert "failed slurmctld slurm_load_ctl_conf error: Unable to contact; ask the site's administrators" in lines
    assert (tmp_path / "asked").read_text() == "ping\n"


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    script = f"trap 'echo ended >{tmp_path}/ended; exit 3' TERM; until read -rt 0.05 <> <(:); do :; done"
    assert doctor.run(("bash", "-c", script), 2) == doctor.Answer(124, "", "bash did not answer within 2 s")
    assert (tmp_path / "ended").read_text() == "ended\n"


def test_gpus_that_are_no_resource_of_slurms_are_counted_by_the_probe_job(site: Project) -> None:
    say(site, "sinfo", ANSWERS["sinfo"] | {"--noheader --format=%D %G": "2 (null)"})
    site.edit(SITE, "mount_wait: 1", "gpus_by: none\ngpus: 4")
    say(site, "srun", ANSWERS["srun"], "printf 'n1\\tgpus\\t4 x H100, 560\\nn2\\tgpus\\t8 x H100, 560\\n'")
    code, lines = seen(site, "--probe", "2")
    assert "ok GPUs no resource of Slurm's, as the profile says (gpus_by: none)" in lines
    assert "failed probe n2 has 8 GPUs, the profile says gpus: 4; gpus: 8" in lines
    assert not any("n1 has" in line for line in lines) and code


@pytest.mark.parametrize(
    ("line", "machine", "said"),
    [
        ("gpus: 8", "x86_64", "ok probe amd64 on n1"),
        ("arch: arm64", "aarch64", "ok probe arm64 on n1"),
        (
            "gpu: {model: GB200}", "x86_64",
            "failed probe n1 is x86_64; the profile's nodes are arm64 (gpu.model); arch: amd64",
        ),
        ("gpus: 8", "aarch64", "failed probe n1 is aarch64; the profile's nodes are amd64 (default); arch: arm64"),
    ],
)  # fmt: skip
def test_the_nodes_processor_is_compared(site: Project, line: str, machine: str, said: str) -> None:
    site.edit(SITE, "mount_wait: 1", line)
    say(site, "srun", ANSWERS["srun"], f"printf 'n1\\tarch\\t{machine}\\n'")
    assert said in seen(site, "--probe", "1")[1]


def test_a_probe_job_shows_each_node_the_same_folders(site: Project, tmp_path: Path) -> None:
    code, lines = seen(site, "--probe")
    found = [line for line in lines if line.split()[1] == "probe"]
    assert "ok probe n1, n2 answered, of 2" in found
    assert "ok probe T/shared: the same here and on n1, n2" in found
    assert "ok probe T/shared/squash: the same here and on n1, n2" in found
    assert code == 0
    assert not list(tmp_path.rglob(".slipway-doctor-*"))


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        (
            "echo 'srun: error: Unable to allocate resources: Invalid account' >&2; exit 1",
            "failed probe no node answered, of 2: srun: error: Unable to allocate resources: Invalid account",
        ),
        (PROBE.replace("n1 n2", "n1"), "failed probe n1 answered, of 2: it said nothing; sinfo says which are free"),
        (
            "printf 'n1\\troot {T}/shared\\tok\\n'",
            "failed probe T/shared: on n1 it wrote what is not seen here; name folders that every node sees",
        ),
        (
            "printf 'n1\\troot {T}/shared\\tis not there\\n'",
            "failed probe T/shared: on n1 it is not there; name folders that every node sees",
        ),
        ("printf 'n1\\tenroot\\t4.1\\nn2\\tenroot\\t3.5\\n'", "warning probe 4.1 on n1; 3.5 on n2; the nodes differ"),
        (
            "printf 'n1\\tgpus\\t8 x H100, 560.35\\nn2\\tx\\t\\n'",
            "warning probe 8 x H100, 560.35 on n1; no driver on n2; flavour: cuda needs one",
        ),
        (
            "printf 'n1\\tfree cache /c\\t1000\\n'",
            "warning probe n1: enroot's cache /c has G GiB free, of G GiB that an image takes; enroot.conf: ",
        ),
        (
            "printf 'n1\\tfree data /d\\t60000000\\n'",
            "warning probe n1: enroot's data /d has G GiB free, of G GiB that an image takes; enroot.conf: ",
        ),
        (
            "printf 'n1\\tfree data /d\\t90000000\\nn1\\tfilesystem data /d\\ttmpfs\\n'",
            "warning probe n1: enroot's data /d is in memory (tmpfs), which an unpacked image fills; enroot.conf: ",
        ),
        (
            "printf 'n1\\tfree data /d\\t90000000\\nn1\\tfilesystem data /d\\tlustre\\n'",
            "warning probe n1: enroot's data /d is on lustre: every node unpacks its image there over the network; ",
        ),
        (
            "printf 'n1\\tclosed data /d\\t/\\nn1\\tfree data /d\\t90000000\\nn1\\tfilesystem data /d\\txfs\\n'",
            "warning probe n1: enroot's data /d cannot be made or written by you: no container starts; enroot.conf: "
            "one of each user's own",
        ),
        ("printf 'n1\\tfree runtime /run/enroot\\t1000\\n'", "ok probe room in enroot's folders"),
        (
            "printf 'n1\\tfree data /d\\t90000000\\nn1\\tfilesystem data /d\\txfs\\n'",
            "ok probe room in enroot's folders",
        ),
    ],
)
def test_what_a_probe_job_finds_is_said(site: Project, tmp_path: Path, probe: str, said: str) -> None:
    say(site, "srun", ANSWERS["srun"], probe.replace("{T}", str(tmp_path)))
    _, lines = seen(site, "--probe", "2")
    assert any(found.startswith(said) for found in lines), lines
    assert not list(tmp_path.rglob(".slipway-doctor-*"))


def test_probe_sh_tells_of_each_folder_whether_it_is_shared(tmp_path: Path) -> None:
    for name in ("shared", "other", "stale"):
        (tmp_path / name).mkdir()
    (tmp_path / "shared" / ".slipway-doctor-abc").write_text("abc")
    (tmp_path / "stale" / ".slipway-doctor-abc").write_text("another")
    roots = [tmp_path / name for name in ("shared", "other", "stale", "gone")]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SLURMD_NODENAME": "n7"}
    command = ["bash", str(REPO / "entrypoints" / "probe.sh"), "abc", "0", *map(str, roots)]
    found = machine.facts(subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout)
    assert [found["n7"][f"root {root}"] for root in roots] == [
        ["ok"],
        ["does not show what was written elsewhere"],
        ["does not show what was written elsewhere"],
        ["is not there"],
    ]
    assert (tmp_path / "shared" / ".slipway-doctor-abc-n7").read_text() == "abc"
    assert found["n7"]["arch"] == [os.uname().machine]
    assert not list((tmp_path / "other").iterdir())
    found_places = [p for p in machine.places(found["n7"]) if p.free > 0 and p.filesystem]
    assert [place.name.split()[0] for place in found_places] == ["runtime", "cache", "data", "temp"]


def test_a_password_file_that_others_may_read_fails_and_is_never_shown(site: Project, tmp_path: Path) -> None:
    file = tmp_path / "config" / ".credentials"
    file.parent.mkdir()
    file.write_text("machine nvcr.io login $oauthtoken password secret-1\n")
    file.chmod(0o640)
    site.env["ENROOT_CONFIG_PATH"] = str(file.parent)
    done = site.launch("profiles", "doctor", "site", "--json")
    (found,) = (r for r in json.loads(done.stdout) if r["check"] == "credentials")
    assert (done.code, found["state"], found["code"], found["remedy"]) == (77, "failed", 77, f"chmod 600 {file}")
    assert "secret-1" not in done.stdout + done.stderr
    file.chmod(0o600)
    assert "ok credentials T/config/.credentials, for its owner alone" in seen(site)[1]


def test_the_exit_code_is_that_of_the_first_failure() -> None:
    results = [doctor.ok(""), doctor.warning(""), doctor.failed("", code=doctor.Exit.CONFIG), doctor.failed("")]
    assert [doctor.exit_code(results[:n]) for n in (2, 3, 4)] == [0, 78, 78]


def test_a_docker_engine(project: Project, engine: Engine, tmp_path: Path) -> None:
    driver = [["driver-type", "io.containerd.snapshotter.v1"]]
    engine.holds(info={"DriverStatus": driver, "DockerRootDir": str(tmp_path)})
    code, lines = seen(project, name="docker")
    assert code == 0
    assert lines[0].startswith("ok engine Docker ") and lines[0].endswith("(from DOCKER_HOST)")
    assert "ok images images are in containerd's store" in lines and "ok images T, G GiB free" in lines
    engine.holds(info={"DockerRootDir": "/not/here"})
    code, lines = seen(project, name="docker")
    assert "warning images images are not in containerd's store; two builds there do not give one digest" in lines
    assert "unknown images /not/here is not on this machine" in lines
    project.edit("launcher/profiles/docker.yaml", "flavour: auto", "flavour: cuda")
    if not Path("/proc/driver/nvidia").exists():
        assert seen(project, name="docker")[0] == 69


def test_the_gpus_of_a_docker_engine(project: Project, engine: Engine) -> None:
    def said() -> tuple[int, list[str]]:
        code, lines = seen(project, name="docker")
        return code, [line.replace(engine.address, "ENGINE") for line in lines if "Docker 26" not in line][:2]

    assert said()[1][0].startswith("ok engine no GPUs: launches take the cpu flavour (neither /proc/driver/nvidia nor")
    project.program("nvidia-smi", "echo 'GPU 0: A (UUID: GPU-0)'; echo 'GPU 1: A (UUID: GPU-1)'")
    holds = {"State": "running", "Labels": {"slipway.run": "a", "slipway.gpus": "1"}}
    engine.holds(info={"Runtimes": {"nvidia": {}}}, containers=[holds])
    assert said()[1][0] == "ok engine 2 GPUs, served by nvidia; 1 held by run a"
    project.env["DOCKER_HOST"] = project.bridge(engine)
    code, lines = said()
    assert code == 69 and lines[0].startswith("unknown engine whether it has GPUs: only its own refusal tells")
    assert lines[1] == "failed engine it is on far.example, and `shared:` names no folder that both see; launch there"


def test_a_docker_engine_that_is_gone(project: Project) -> None:
    code, lines = seen(project, name="docker")
    assert code == 69 and lines[0].startswith("failed engine ") and lines[1].startswith("unknown images ")
    assert project.launch("profiles", "doctor", "docker", "--probe").code == 64


def test_a_machine_with_enroot(project: Project) -> None:
    project.program("enroot", "echo 4.1.2")
    project.program("unshare", "echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1")
    code, lines = seen(project, name="enroot")
    assert "ok enroot enroot 4.1.2" in lines
    assert any(
        line.startswith("failed namespaces no user namespaces for us: unshare: unshare failed") for line in lines
    )
    assert any(line.startswith("warning squashfuse there is no squashfuse") for line in lines)
    assert code == 69


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("90", 90), ("90:30", 90.5), ("2:00:00", 120), ("1-0", 1440), ("1-2:30", 1590), ("1-02:03:04", 1563 + 4 / 60),
        ("UNLIMITED", float("inf")), ("", float("inf")),
    ],
)  # fmt: skip
def test_slurms_times(text: str, number: float) -> None:
    assert scontrol.minutes(text) == pytest.approx(number)


def test_what_scontrol_and_probe_sh_print_is_read() -> None:
    assert scontrol.pairs("Configuration data as of now\nMinJobAge               = 300 sec\nX=1\n") == {
        "MinJobAge": "300 sec"
    }
    assert machine.facts("n1\tgpus\ta\nn1\tgpus\tb\nnoise\nn2\troot /x y\tok\n") == {
        "n1": {"gpus": ["a", "b"]},
        "n2": {"root /x y": ["ok"]},
    }
    assert machine.size(3 * 2**30) == "3 GiB"
    assert os.access(machine.__file__, os.R_OK)
