"""launcher/catalog/profiles.py: finding a profile and reading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import PROFILE_FILE, Project

from launcher.catalog import profiles
from slipway.errors import Exit, SlipwayError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8g", 8 * 1024**3),
        ("512m", 512 * 1024**2),
        ("64K", 65536),
        ("1tb", 1024**4),
        ("100", 100),
        ("100b", 100),
        ("80GiB", 80 * 1024**3),
    ],
)
def test_sizes_are_written_as_docker_writes_them(text: str, size: int) -> None:
    assert profiles.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "lots", "8 g", "-1g", "1.5g", "g", "8gg"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size; expected such as 8g or 512m"):
        profiles.parse_size(text)


def test_the_docker_profile_is_whole_and_knows_its_name(project: Project) -> None:
    found = profiles.find_profile(project.root, "docker")
    assert (found.name, found.kind, found.file) == ("docker", "docker", str(project.path / PROFILE_FILE))
    assert found.shm_bytes == profiles.parse_size(found.shm_size)


def test_a_users_own_profile_wins(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    project.own(PROFILE_FILE)
    places = [project.path / "launcher", tmp_path / "config" / "slipway", tmp_path / "slipway.d"]
    for place in places:
        (place / "profiles").mkdir(parents=True, exist_ok=True)
        (place / "profiles" / "docker.yaml").write_text("schema: 1\nkind: docker\n")
        assert profiles.find_profile(project.root, "docker").file == str(place / "profiles" / "docker.yaml")
    (tmp_path / "slipway.d" / "profiles" / "mine.yaml").write_text("schema: 1\nkind: docker\nflavour: cpu\n")
    assert profiles.find_profile(project.root, "mine").flavour == "cpu"


def test_an_unknown_profile_is_a_wrong_word(project: Project) -> None:
    with pytest.raises(SlipwayError, match="unknown profile 'dokcer'") as e:
        profiles.find_profile(project.root, "dokcer")
    assert (e.value.code, e.value.remedy) == (Exit.WORDS, "did you mean 'docker'?")


@pytest.mark.parametrize(
    ("line", "where", "what", "remedy"),
    [
        ("flavor: cpu", "3:1", "unknown key 'flavor'", "did you mean 'flavour'?"),
        ("flavour: gpu", "3:1", "flavour: 'gpu' is not allowed", "did you mean 'cpu'?"),
        ("shm_size: lots", "3:1", "shm_size: 'lots' is no size; expected such as 8g or 512m", ""),
        ("shm_size: 8", "3:1", "shm_size: Expected `str`, got `int`", "write it in quotes"),
        ("gpu: {model: H100, memory: much}", "3:20", "gpu.memory: 'much' is no size; expected such as 8g or 512m", ""),
        ("gpu: {model: H10}", "3:7", "gpu.model: 'H10' is not allowed", "did you mean 'H100'?"),
        ("ulimits: {memlok: -1}", "3:11", "ulimits.memlok: 'memlok' is not allowed", "did you mean 'memlock'?"),
        ("ulimits: {memlock: unlimited}", "3:11", "ulimits.memlock: Expected `int`, got `str`", ""),
        ("mounts: [{source: /a, readonyl: true}]", "3:23", "unknown key 'readonyl'", "did you mean 'readonly'?"),
        (
            "mounts: [{source: '', target: /data}]", "3:11", "mounts.0.source: '': expected a path",
            "leave the key out, or write null",
        ),
        ("mounts: [{source: /data, target: data}]", "3:1", "mounts: target 'data' is no absolute path", ""),
        (
            "mounts: [{source: /data, target: /inputs/mine}]",
            "3:1", "mounts: target '/inputs/mine': /inputs is the launcher's own", "",
        ),
        ("env: {A: 1}", "3:7", "env.A: Expected `str`, got `int`", "write it in quotes"),
        ("name: mine", "3:1", "unknown key 'name'", ""),
        ("file: mine", "3:1", "unknown key 'file'", ""),
        ("kind: docker", "3:1", "not valid YAML: the key 'kind' stands twice", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(project: Project, line: str, where: str, what: str, remedy: str) -> None:
    path = project.write(PROFILE_FILE, f"schema: 1\nkind: docker\n{line}\n")
    with pytest.raises(SlipwayError) as e:
        profiles.find_profile(project.root, "docker")
    assert (e.value.code, e.value.where) == (Exit.CONFIG, f"{path}:{where}")
    assert (e.value.what, e.value.remedy) == (what, remedy)


def test_a_profile_is_written_to_a_plan_and_read_from_it(project: Project) -> None:
    found = profiles.find_profile(project.root, "docker")
    assert msgspec.json.decode(msgspec.json.encode(found), type=profiles.Profile) == found


MINE = "slipway.d/profiles/mine.yaml"
BASE = """\
schema: 1
kind: slurm
account: dept
time: "60"
exclusive: true
env: {A: base, B: base}
sbatch: {comment: base, nice: 3}
secrets: {HF_TOKEN: env}
gpu: {model: H100, memory: 80GiB}
setup: [one, two]
shared: [/shared]
"""


@pytest.fixture
def site(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project that is the working directory, with the profile `base`."""
    monkeypatch.chdir(project.path)
    project.write("launcher/profiles/base.yaml", BASE)
    return project


def test_a_profile_has_what_it_says_and_the_rest_of_what_it_extends(site: Project) -> None:
    site.write(MINE, "schema: 1\nkind: slurm\nextends: base\naccount: mine\nexclusive: false\n")
    found = profiles.find_profile(site.root, "mine")
    assert isinstance(found, profiles.SlurmProfile)
    assert (found.account, found.time, found.exclusive, found.extends) == ("mine", "60", False, "base")
    assert (found.name, found.file) == ("mine", str(site.path / MINE))


def test_mappings_are_joined_key_by_key_and_lists_are_replaced(site: Project) -> None:
    own = "env: {B: mine, C: mine}\nsbatch: {nice: 5}\nsecrets: {WANDB: env}\ngpu: {model: H200}\nsetup: []\n"
    site.write(MINE, f"schema: 1\nkind: slurm\nextends: base\n{own}")
    found = profiles.find_profile(site.root, "mine")
    assert isinstance(found, profiles.SlurmProfile)
    assert found.env == {"A": "base", "B": "mine", "C": "mine"}
    assert found.sbatch == {"comment": "base", "nice": 5}
    assert found.secrets == {"HF_TOKEN": "env", "WANDB": "env"}
    assert found.gpu == profiles.Gpu(model="H200")
    assert (found.setup, found.shared) == ([], ["/shared"])


def test_a_chain_is_followed_and_every_key_knows_its_file(site: Project) -> None:
    site.write(
        "slipway.d/profiles/middle.yaml", "schema: 1\nkind: slurm\nextends: base\naccount: middle\nenv: {B: middle}\n"
    )
    site.write(MINE, "schema: 1\nkind: slurm\nextends: middle\nqos: high\n")
    found, origins = profiles.with_origins(site.root, "mine")
    assert isinstance(found, profiles.SlurmProfile)
    assert (found.account, found.qos, found.time, found.extends) == ("middle", "high", "60", "middle")
    names = {key: path.stem for key, path in origins.items()}
    keys = ("qos", "account", "time", "env.A", "env.B", "gpu.model")
    assert [names[k] for k in keys] == ["mine", "middle", "base", "base", "middle", "base"]


def test_a_users_docker_profile_extends_the_projects(site: Project) -> None:
    site.write("slipway.d/profiles/docker.yaml", "schema: 1\nkind: docker\nextends: docker\nulimits: {nofile: 65536}\n")
    found = profiles.find_profile(site.root, "docker")
    assert isinstance(found, profiles.DockerProfile)
    assert found.ulimits["nofile"] == 65536 and found.ulimits["memlock"] == -1
    assert found.file == str(site.path / "slipway.d/profiles/docker.yaml")


@pytest.mark.parametrize(
    ("files", "where", "what", "remedy"),
    [
        ({"mine": "extends: bsae"}, "mine:3:1", "extends the unknown profile 'bsae'", "did you mean 'base'?"),
        ({"mine": "extends: mine"}, "mine:3:1", "extends itself", ""),
        ({"mine": "extends: other", "other": "extends: mine"}, "other:3:1", "extends itself", ""),
        ({"mine": "extends: docker"}, "mine:3:1", "extends 'docker', a profile of another kind (docker)", ""),
        (
            {"mine": "extends: other", "other": "extends: base\nacount: x"},
            "other:4:1", "unknown key 'acount'", "did you mean 'account'?",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_extended_is_refused(
    site: Project, files: dict[str, str], where: str, what: str, remedy: str
) -> None:
    for name, text in files.items():
        site.write(f"slipway.d/profiles/{name}.yaml", f"schema: 1\nkind: slurm\n{text}\n")
    with pytest.raises(SlipwayError) as e:
        profiles.find_profile(site.root, "mine")
    file, _, position = where.partition(":")
    assert (e.value.code, e.value.what) == (Exit.CONFIG, what)
    assert e.value.where == f"{site.path}/slipway.d/profiles/{file}.yaml:{position}"
    assert remedy in e.value.remedy


@pytest.mark.parametrize("time", ["60", "30:00", "12:00:00", "2-0", "2-12:00", "2-12:00:00", "UNLIMITED"])
def test_slurms_times_are_taken(site: Project, time: str) -> None:
    site.write(MINE, f"schema: 1\nkind: slurm\ntime: '{time}'\n")
    found = profiles.find_profile(site.root, "mine")
    assert isinstance(found, profiles.SlurmProfile) and found.time == time


@pytest.mark.parametrize(
    ("line", "where", "what", "remedy"),
    [
        ("time: 2h", "3:1", "time: '2h'; expected such as 30 (minutes), 4:00:00, 1-12 or UNLIMITED", ""),
        ("time: unlimited", "3:1", "time: '", ""),
        ("gpus: 0", "3:1", "gpus: Expected `int` >= 1", ""),
        ("arch: x86_64", "3:1", "arch: 'x86_64' is not allowed", "known: amd64, arm64"),
        ("time: '1:2'", "3:1", "time: '", ""),
        ("time: 2:00:00", "3:1", "time: Expected `str | null`, got `int`", "write it in quotes"),
        ("time: 60", "3:1", "time: Expected `str | null`, got `int`", "write it in quotes"),
        ("partiton: gpu", "3:1", "unknown key 'partiton'", "did you mean 'partition'?"),
        ("shm_size: 8g", "3:1", "unknown key 'shm_size'", "known: "),
        ("flavour: auto", "3:1", "flavour: 'auto' is not allowed", "known: cpu, cuda"),
        ("gpus_by: gres-flags", "3:1", "gpus_by: 'gres-flags' is not allowed", ""),
        ("attempts: 0", "3:1", "attempts: Expected `int` >= 1", ""),
        ("cpus: 0", "3:1", "cpus: Expected `int` >= 1", ""),
        ("stop_seconds: 0", "3:1", "stop_seconds: Expected `int` >= 1", ""),
        ("shared: /data", "3:1", "shared: Expected `array`, got `str`", ""),
        ("sbatch: {nice: 1.5}", "3:10", "sbatch.nice: Expected `bool | int | str`, got `float`", ""),
        ("secrets: {HF_TOKEN: abc}", "3:11", "secrets.HF_TOKEN: 'abc'; expected `env`", ""),
    ],
)  # fmt: skip
def test_a_slurm_profiles_keys_are_checked(site: Project, line: str, where: str, what: str, remedy: str) -> None:
    path = site.write(MINE, f"schema: 1\nkind: slurm\n{line}\n")
    with pytest.raises(SlipwayError) as e:
        profiles.find_profile(site.root, "mine")
    assert (e.value.code, e.value.where) == (Exit.CONFIG, f"{path}:{where}")
    assert e.value.what.startswith(what) and remedy in e.value.remedy


PATHS = """\
schema: 1
kind: slurm
runs: $LUSTRE/runs
hf_home: ~/hf
megatron_cache: cache
squash: ${LUSTRE}/squash
shared: [~/all, "$LUSTRE", ../all]
mounts: [{source: data/x, target: /data}]
secrets: {A: "file:$LUSTRE/a", B: file:b, C: env}
"""


def test_paths_are_whole_wherever_one_stands(site: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the shell would put in is put in; what is relative begins at the file that says it."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("LUSTRE", "/lustre")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(site.path / "config"))
    file = site.write("launcher/profiles/mine.yaml", PATHS)
    nearer = "schema: 1\nkind: slurm\nextends: mine\nhf_home: null\nsecrets: {D: file:d}\n"
    own = site.write("config/slipway/profiles/nearer.yaml", nearer)
    for place in (site.path, site.path / "launcher"):
        monkeypatch.chdir(place)
        found = profiles.find_profile(site.root, "nearer")
        assert isinstance(found, profiles.SlurmProfile)
        assert (found.runs, found.hf_home, found.squash) == ("/lustre/runs", None, "/lustre/squash")
        assert found.megatron_cache == f"{file.parent}/cache"
        assert found.shared == ["/home/me/all", "/lustre", f"{site.path}/launcher/all"]
        assert found.mounts == [profiles.ExtraMount(source=f"{file.parent}/data/x", target="/data")]
        secrets = {"A": "file:/lustre/a", "B": f"file:{file.parent}/b", "C": "env", "D": f"file:{own.parent}/d"}
        assert found.secrets == secrets


@pytest.mark.parametrize(
    ("kind", "line", "key", "value"),
    [
        ("enroot", "data: $LUSTRE/data", "data", "/lustre/data"),
        ("enroot", "squash: ~/squash", "squash", "/home/me/squash"),
        ("docker", "engine: unix://$LUSTRE/docker.sock", "engine", "unix:///lustre/docker.sock"),
        ("docker", "engine: tcp://host:2375", "engine", "tcp://host:2375"),
        ("docker", "runs: $LUSTRE/$$", "runs", "/lustre/$$"),
    ],
)
def test_paths_of_the_other_kinds(
    site: Project, monkeypatch: pytest.MonkeyPatch, kind: str, line: str, key: str, value: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("LUSTRE", "/lustre")
    site.write(MINE, f"schema: 1\nkind: {kind}\n{line}\n")
    assert getattr(profiles.find_profile(site.root, "mine"), key) == value


@pytest.mark.parametrize("value", [None, "", "  "])
@pytest.mark.parametrize(
    ("line", "where", "key", "text"),
    [
        ("runs: $LUSTRE/runs", "3:1", "runs", "$LUSTRE/runs"),
        ("shared: [/a, '${LUSTRE}']", "3:14", "shared.1", "${LUSTRE}"),
        ("mounts: [{source: $LUSTRE/a, target: /a}]", "3:11", "mounts.0.source", "$LUSTRE/a"),
        ("secrets: {A: file:$LUSTRE/a}", "3:11", "secrets.A", "$LUSTRE/a"),
    ],
)
def test_a_variable_that_is_not_set_is_refused_with_its_line(
    site: Project, monkeypatch: pytest.MonkeyPatch, line: str, where: str, key: str, text: str, value: str | None
) -> None:
    """Also one that is blank: `$LUSTRE/runs` would be /runs."""
    monkeypatch.delenv("LUSTRE", raising=False)
    if value is not None:
        monkeypatch.setenv("LUSTRE", value)
    path = site.write(MINE, f"schema: 1\nkind: slurm\n{line}\n")
    site.write("slipway.d/profiles/nearer.yaml", "schema: 1\nkind: slurm\nextends: mine\n")
    with pytest.raises(SlipwayError) as e:
        profiles.find_profile(site.root, "nearer")
    assert (e.value.code, e.value.where) == (Exit.CONFIG, f"{path}:{where}")
    assert e.value.what == f"{key}: {text!r}: the variable LUSTRE is not set here"
    assert e.value.remedy == "export LUSTRE=…, or write the path itself"


def test_a_home_that_nobody_has_is_refused(site: Project) -> None:
    site.write(MINE, "schema: 1\nkind: slurm\nruns: ~nobody-of-that-name/runs\n")
    with pytest.raises(SlipwayError, match="~nobody-of-that-name is nobody's home here"):
        profiles.find_profile(site.root, "mine")


def slurm_with(**keys: Any) -> profiles.SlurmProfile:
    return profiles.SlurmProfile(schema=1, **keys)


@pytest.mark.parametrize(
    ("has", "given"),
    [
        (None, {1: 1, 4: 4, 8: 8}),
        (4, {0: 0, 1: 1, 4: 4, 8: 4}),
        (8, {1: 1, 4: 4, 8: 8}),
        (2, {1: 1, 4: 2, 8: 2}),
        (16, {1: 1, 4: 4, 8: 16}),
    ],
)
def test_a_step_that_wants_a_whole_node_gets_what_a_node_has_and_a_smaller_one_no_more(
    has: int | None, given: dict[int, int]
) -> None:
    assert {shape: slurm_with(gpus=has).gpus_for(shape) for shape in given} == given


@pytest.mark.parametrize(
    ("model", "arch", "processor"),
    [
        (None, None, ("amd64", "")),
        ("H100", None, ("amd64", "gpu.model")),
        ("GB200", None, ("arm64", "gpu.model")),
        ("GB300", None, ("arm64", "gpu.model")),
        ("GH200", None, ("arm64", "gpu.model")),
        ("B200", "arm64", ("arm64", "arch")),
        (None, "arm64", ("arm64", "arch")),
    ],
)
def test_the_nodes_processor_is_said_or_known_by_the_gpus(model: Any, arch: Any, processor: tuple[str, str]) -> None:
    gpu = profiles.Gpu(model=model) if model else None
    assert slurm_with(gpu=gpu, arch=arch).processor == processor


@pytest.mark.parametrize(
    ("kind", "remedy"), [("slrum", "did you mean 'slurm'?"), ("podman", "known: docker, enroot, slurm")]
)
def test_a_kind_that_there_is_not_is_refused(site: Project, kind: str, remedy: str) -> None:
    path = site.write(MINE, f"schema: 1\nkind: {kind}\n")
    with pytest.raises(SlipwayError) as e:
        profiles.find_profile(site.root, "mine")
    assert (e.value.where, e.value.what) == (f"{path}:2:1", f"kind: {kind!r} is not allowed")
    assert e.value.remedy == remedy


@pytest.mark.parametrize("name", ["docker", "enroot", "slurm-pyxis"])
def test_a_profile_of_each_kind_is_written_to_a_plan_and_read_from_it(site: Project, name: str) -> None:
    found = profiles.find_profile(site.root, name)
    assert msgspec.json.decode(msgspec.json.encode(found), type=profiles.Profile) == found


@pytest.mark.parametrize(
    "name", ["../../etc/cron.d/x", "/x", "a/b", "hf_token", "1TOKEN", "A-B", "A B", "''", "'A\\n'"]
)
def test_a_secret_is_named_as_a_variable(site: Project, name: str) -> None:
    path = site.write(MINE, f"schema: 1\nkind: docker\nsecrets:\n  {name}: env\n")
    with pytest.raises(SlipwayError, match="expected the name of a variable, such as HF_TOKEN") as e:
        profiles.find_profile(site.root, "mine")
    assert (e.value.code, e.value.where) == (Exit.CONFIG, f"{path}:4:3")


OTHERS = ["PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP", "BASH_ENV", "IFS", "HOME", "HF_HOME"]
OTHERS += ["HF_TOKEN_PATH", "SLIPWAY_SECRETS", "SLURM_JOB_ID", "RANK", "NVIDIA_VISIBLE_DEVICES", "GLIBC_TUNABLES"]


@pytest.mark.parametrize("name", sorted({*OTHERS, *profiles.RESERVED_ENV}))
def test_a_secret_is_none_of_what_programs_are_loaded_by_or_the_launcher_sets(site: Project, name: str) -> None:
    site.write(MINE, f"schema: 1\nkind: docker\nsecrets: {{{name}: env}}\n")
    with pytest.raises(SlipwayError, match=f"secrets: '{name}': the launcher or the container's programs set it"):
        profiles.find_profile(site.root, "mine")


def test_secrets_that_are_usual(site: Project) -> None:
    names = ["HF_TOKEN", "WANDB_API_KEY", "NVIDIA_API_KEY", "NGC_API_KEY", "LDAP_PASSWORD", "GITHUB_TOKEN", "_X1"]
    site.write(MINE, "schema: 1\nkind: docker\nsecrets:\n" + "".join(f"  {name}: env\n" for name in names))
    assert list(profiles.find_profile(site.root, "mine").secrets) == names
