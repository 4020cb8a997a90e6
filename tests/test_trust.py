"""slipway/trust.py: what others may write decides nothing of what runs; found by its rules and by the attack itself."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPO, Done, Engine, Inputs, Project, script, tree

from slipway.errors import Exit, SlipwayError
from slipway.trust import trusted

MALLORY, VICTIM, GROUP = 65534, 12345, 54321
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
# It may read what is root's, as if pytest's folder were open to all, and has no other right.
BECOME = [
    str(shutil.which("setpriv")),
    f"--reuid={VICTIM}",
    f"--regid={VICTIM}",
    "--clear-groups",
    "--inh-caps=-all,+dac_read_search",
]
BECOME += ["--ambient-caps=+dac_read_search", "--"]
OPENED = f"""
import sys
sys.path.insert(0, {str(REPO)!r})
program, *words = sys.argv[1:]
def note(event, values):
    if event == "open" and isinstance(values[0], str):
        print(values[0], file=sys.stderr)
from {{}} import main
sys.addaudithook(note)
main(words)
"""


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIPWAY_TRUST", raising=False)


def refusal(path: Path, top: Path | None = None) -> SlipwayError:
    with pytest.raises(SlipwayError) as e:
        trusted(path, top)
    assert e.value.code == Exit.NOT_PERMITTED
    return e.value


def test_what_is_mine_passes_and_so_does_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o755)
    (tmp_path / "loop").symlink_to("loop")
    for name in ("mine", "absent", "absent/deep", "loop"):
        assert trusted(tmp_path / name, tmp_path) == tmp_path / name


@pytest.mark.parametrize("name", ["top", "top/middle", "top/middle/file"])
def test_everybody_may_write_to_no_step_of_the_way(tmp_path: Path, name: str) -> None:
    file = tmp_path / "top" / "middle" / "file"
    file.parent.mkdir(parents=True)
    file.touch()
    trusted(file, tmp_path / "top")
    (tmp_path / name).chmod(0o757)
    error = refusal(file, tmp_path / "top")
    assert error.where == str(tmp_path / name)
    assert "mode 0757: everybody may write there what would run as you" in error.what
    elsewhere = "go elsewhere, or name another project: SLIPWAY_ROOT=…"
    assert error.remedy == f"chmod o-w {tmp_path / name}; or {elsewhere}"
    (tmp_path / name).chmod(0o1757)
    assert refusal(file, tmp_path / "top").remedy == elsewhere, "nobody is to close /tmp"


def test_folders_above_are_not_asked(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    tmp_path.chmod(0o1777)
    trusted(tmp_path / "project" / "file", tmp_path / "project")


@AS_ROOT
def test_another_users_file_and_another_users_link(tmp_path: Path) -> None:
    mine, link = tmp_path / "mine", tmp_path / "link"
    mine.touch()
    link.symlink_to("mine")
    trusted(link)
    os.chown(link, MALLORY, -1, follow_symlinks=False)  # which of my files is read here was her choice
    assert refusal(link).where == str(link)
    os.chown(link, 0, -1, follow_symlinks=False)
    os.chown(mine, MALLORY, -1)
    error = refusal(link)
    assert error.what == "belongs to nobody (uid 65534), mode 0644: what it says would run as root (uid 0)"
    assert error.remedy == (
        f"go elsewhere, or name a project of your own: SLIPWAY_ROOT=…; if it is yours: chown 0 {link}; "
        "if nobody (uid 65534) may run what he likes as you: SLIPWAY_TRUST=65534"
    )
    mine.unlink()
    os.chown(link, MALLORY, -1, follow_symlinks=False)
    assert refusal(link).where == str(link), "and may lead somewhere any moment"


@AS_ROOT
@pytest.mark.parametrize("trust", ["65534", "nobody", "daemon, nobody"])
def test_whom_this_shell_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: str) -> None:
    os.chown(tmp_path, MALLORY, -1)
    refusal(tmp_path)
    monkeypatch.setenv("SLIPWAY_TRUST", trust)
    assert trusted(tmp_path) == tmp_path
    os.chown(tmp_path, VICTIM, -1)
    refusal(tmp_path)


def test_a_user_whom_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_TRUST", "no-such-user")
    with pytest.raises(SlipwayError) as e:
        trusted(tmp_path)
    assert (e.value.code, e.value.where) == (Exit.CONFIG, "SLIPWAY_TRUST")


@AS_ROOT
def test_a_group_may_write_where_it_is_one_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With umask 002 all that a user writes can be written by his group, in which useradd puts nobody else."""
    tmp_path.chmod(0o775)
    trusted(tmp_path)  # root's own
    os.chown(tmp_path, -1, GROUP)
    error = refusal(tmp_path)
    assert "mode 0775: the group gid 54321 may write there" in error.what
    assert error.remedy.startswith(f"chmod g-w {tmp_path}; ") and error.remedy.endswith("name him in SLIPWAY_TRUST")
    monkeypatch.setenv("SLIPWAY_TRUST", str(GROUP))
    trusted(tmp_path)  # the host's user of a container, whose names are unknown there
    os.chown(tmp_path, -1, 1)
    assert "the group daemon (gid 1) may write there" in refusal(tmp_path).what
    monkeypatch.setenv("SLIPWAY_TRUST", "daemon")
    trusted(tmp_path)


@AS_ROOT
def test_a_list_of_others_behind_the_groups_bits(tmp_path: Path) -> None:
    """acl(5) as setfacl writes it: version; tag, permissions and id of user, user VICTIM, group, mask, other."""
    entries = [(1, 7, -1), (2, 7, VICTIM), (4, 5, -1), (16, 7, -1), (32, 5, -1)]
    blob = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(tmp_path, "system.posix_acl_access", blob)
    error = refusal(tmp_path)
    assert "whoever its access control list names may write" in error.what
    assert error.remedy.startswith(f"setfacl -b {tmp_path}; ")


def opened(project: Project, program: str, *words: str) -> set[Path]:
    """The project's files that a command opens, and the folders on the way to them."""
    code = OPENED.format({"images": "images.cli", "launch": "launcher.cli"}[program])
    command = [sys.executable, "-c", code, program, *words]
    done = subprocess.run(command, cwd=project.path, env=project.env, capture_output=True, text=True, check=False)
    files = {Path(line) for line in done.stderr.splitlines() if line.startswith(f"{project.path}/")}
    return files | {f for file in files for f in file.parents if f.is_relative_to(project.path)}


def assert_each_is_asked(project: Project, found: set[Path], program: str, *words: str) -> None:
    run = project.launch if program == "launch" else project.images
    before = run(*words)
    for path in sorted(found):
        mode = path.stat().st_mode
        path.chmod(mode | 0o002)
        done = run(*words)
        assert (done.code, done.stdout) == (77, ""), path
        assert done.stderr.startswith(f"error: {path}: belongs to "), done
        path.chmod(mode)
    assert run(*words) == before and before.code != 77


def test_no_file_is_read_for_a_launch_that_others_may_write(
    project: Project, inputs: Inputs, built: Engine, tmp_path: Path
) -> None:
    """Whatever is opened below the project has been asked for: a file that comes to it later, too."""
    project.write("slipway.d/profiles/mine.yaml", "schema: 1\nkind: docker\nextends: docker\n")
    project.write("launcher/steps/sft/automodel/own.yaml", "step_scheduler: {max_steps: 3}\n")
    words = ["--profile", "mine", "--dry-run", "sft/automodel", *inputs.words, f"output={tmp_path}/out", "-c", "own"]
    found = opened(project, "launch", *words)
    names = {str(path.relative_to(project.path)) for path in found}
    assert names >= {
        *(".", "versions.lock", "images/matrix.yaml", "slipway.d", "slipway.d/profiles/mine.yaml", ".slipway"),
        *("launcher/profiles/docker.yaml", "launcher/steps/sft", "launcher/steps/sft/automodel/own.yaml"),
        *(
            "entrypoints",
            "entrypoints/automodel.sh",
            "entrypoints/supervisor/main.py",
            "entrypoints/steps/automodel_finetune.py",
        ),
    }
    assert any(name.startswith(".slipway/images/") and name.endswith(".json") for name in names)
    assert_each_is_asked(project, found, "launch", *words)
    assert all(line.startswith("GET ") for line in built.asked)


def test_no_file_is_read_for_a_job_with_ray_that_others_may_write(project: Project, inputs: Inputs) -> None:
    """What its script and its containers run; the launch ends with findings, after it has read all of this."""
    words = ["--profile", "slurm-pyxis", "rl/grpo", f"policy={inputs.model}", f"train={inputs.train}", "--dry-run"]
    places = ("entrypoints", "supervisor")
    found = {path for path in opened(project, "launch", *words) if path.parent.name in places}
    assert {path.name for path in found} >= {"batch.sh", "outside.sh", "ray_cluster.py", "ray_watch.py", "nemo-rl.sh"}
    assert_each_is_asked(project, found, "launch", *words)


def test_no_file_is_read_for_rendering_that_others_may_write(boats: Project) -> None:
    found = opened(boats, "images", "render", "--check")
    assert boats.path / "templates" / "Dockerfile.j2" in found
    assert_each_is_asked(boats, found, "images", "render", "--check")


def test_the_record_of_an_engine_is_asked_before_the_engine(
    project: Project, inputs: Inputs, engine: Engine, tmp_path: Path
) -> None:
    del project.env["DOCKER_HOST"]
    record = project.write(".slipway/engine.json", f'{{"address": "{engine.address}"}}')
    words = ["check", "sft/automodel", *inputs.words, f"output={tmp_path}/out"]
    record.chmod(0o646)
    done = project.launch(*words)
    assert done.code == 77 and done.stderr.startswith(f"error: {record}: belongs to ") and not engine.asked
    record.chmod(0o644)
    project.launch(*words)
    assert engine.asked


def give(folder: Path, uid: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)


@pytest.fixture
def planted(project: Project, tmp_path: Path) -> Project:
    """Mallory's project: a profile whose line of shell sends the caller's secrets to her, and an sbatch to run it."""
    project.write(
        "launcher/profiles/evil.yaml",
        "schema: 1\nkind: slurm\nextends: slurm-pyxis\nsecrets: {HF_TOKEN: env}\nsetup: [cp ~/.ssh/id_ed25519 /tmp]\n",
    )
    (tmp_path / "asked").touch(mode=0o666)
    (tmp_path / "asked").chmod(0o666)
    for name in ("sbatch", "squeue", "scontrol", "sinfo", "docker"):
        project.program(name, f"echo {name} $* >> {tmp_path}/asked")
    give(project.own("."), MALLORY)
    return project


def launch_as(uid: int, planted: Project, here: Path, inputs: Inputs, **env: str) -> Done:
    """The attack: somebody stands below Mallory's folder and launches."""
    words = [script("launch"), "--profile", "evil", "sft/automodel", *inputs.words, "--flavour", "cpu"]
    command = [*(BECOME if uid else []), *words]
    done = subprocess.run(
        command,
        cwd=here,
        env=planted.env | {"HF_TOKEN": "hf_secret"} | env,
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@AS_ROOT
@pytest.mark.parametrize("uid", [0, VICTIM])
@pytest.mark.parametrize("sticky", [False, True])
def test_who_writes_in_a_parent_folder_does_not_own_the_launch(
    planted: Project, inputs: Inputs, tmp_path: Path, uid: int, sticky: bool
) -> None:
    """Her home; or a folder like /tmp, where anybody may put a versions.lock."""
    here = planted.path / "shared" / "mine"
    here.mkdir(parents=True)
    os.chown(here, uid, uid)
    if sticky:
        os.chown(planted.path, 0, 0)
        planted.path.chmod(0o1777)
    before = tree(tmp_path)
    done = launch_as(uid, planted, here, inputs)
    assert (done.code, done.stdout) == (77, "")
    owner = "root (uid 0), mode 1777" if sticky else "nobody (uid 65534), mode 0755"
    assert done.stderr.startswith(f"error: {planted.path}: belongs to {owner}: ")
    assert "SLIPWAY_ROOT=…" in done.stderr
    assert tree(tmp_path) == before and (tmp_path / "asked").read_text() == ""


@AS_ROOT
def test_a_project_that_the_shell_names_is_the_project(planted: Project, inputs: Inputs) -> None:
    here = planted.path / "mine"
    here.mkdir()
    done = launch_as(0, planted, here, inputs, SLIPWAY_ROOT=str(REPO))
    assert done.code == 64 and "unknown profile 'evil'" in done.stderr
    assert done.stderr.startswith(f"project {REPO}: SLIPWAY_ROOT\n")
    done = launch_as(0, planted, here, inputs, SLIPWAY_ROOT=str(planted.path))
    assert done.code == 77 and done.stderr.startswith(f"error: {planted.path}: belongs to nobody ")


@AS_ROOT
@pytest.mark.parametrize("place", ["slipway.d", "home/.config/slipway"])
def test_others_own_no_profiles_or_steps_of_mine(project: Project, inputs: Inputs, tmp_path: Path, place: str) -> None:
    project.env["SLIPWAY_ROOT"] = str(project.path)
    (tmp_path / place / "profiles").mkdir(parents=True)
    words = ["--dry-run", "sft/automodel", *inputs.words]
    assert project.launch(*words, cwd=tmp_path).code == 69, "no engine: all else is well"
    os.chown(tmp_path / place, MALLORY, MALLORY)
    done = project.launch(*words, cwd=tmp_path)
    assert done.code == 77 and f"error: {tmp_path / place}: belongs to nobody (uid 65534)" in done.stderr
