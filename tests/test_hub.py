"""launcher/artifacts/hub.py: `launch fetch` and inputs of the hub, with the real library against a hub on loopback."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    SHARDS,
    Done,
    Engine,
    Project,
    errors,
    safetensors,
    script,
    tree,
    until,
    write_chats,
    write_checkpoint,
)
from hubs import Hub, hub_in

from launcher.artifacts.detection import Artifact
from launcher.planning.planner import container_path
from slipway.files import sha256_file

BIG, CHUNK = "model.safetensors", 10 * 1024 * 1024  # the library writes as much at a time
TOKEN = "hf_right"
MODEL = "hf://org/tiny"
TEMPLATE = "dataset.chat_template=x"  # the model has none


@pytest.fixture
def hub(tmp_path: Path, project: Project) -> Iterator[Hub]:
    """A hub with org/tiny: a checkpoint with the same weights once more; the project's commands ask it."""
    source = write_checkpoint(tmp_path / "source")
    (source / "pytorch_model.bin").write_bytes(b"the same")
    with hub_in(tmp_path / "hub") as found:
        found.add("org/tiny", source, "main", "v1", "a/b")
        project.env |= {"HF_ENDPOINT": found.url, "HF_HOME": str(tmp_path / "hf")}
        yield found


def commit_of(hub: Hub, name: str = "org/tiny", revision: str = "main", kind: str = "models") -> str:
    return str(json.loads((hub.folder / kind / name / "refs.json").read_text())[revision])


def repository(tmp_path: Path) -> Path:
    return tmp_path / "hf" / "hub" / "models--org--tiny"


def large(hub: Hub, tmp_path: Path) -> int:
    """Adds org/big, whose one shard is of three and a half chunks; returns its bytes."""
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / BIG).write_bytes(data := safetensors({"a": [7 * CHUNK // 8]}))
    hub.add("org/big", tmp_path / "big", "main")
    return len(data)


def start(project: Project, *words: str) -> subprocess.Popen[str]:
    command = [script("launch"), *words]
    return subprocess.Popen(command, cwd=project.path, env=project.env, stderr=subprocess.PIPE, text=True)


def test_what_is_needed_is_fetched_once(project: Project, hub: Hub, tmp_path: Path) -> None:
    commit, home = commit_of(hub), repository(tmp_path)
    done = project.launch("fetch", MODEL)
    assert (done.code, done.stdout) == (0, f"{home}/snapshots/{commit}\n"), done
    assert done.stderr == f"{MODEL}@{commit}: fetching 5 files, 0.0 MB into {tmp_path}/hf\n"
    links = {p.name: p.readlink() for p in (home / "snapshots" / commit).iterdir()}
    assert links.keys() == {"config.json", "tokenizer.json", *SHARDS, "model.safetensors.index.json"}
    assert all(str(link).startswith("../../blobs/") for link in links.values())
    for name in links:
        assert (home / "snapshots" / commit / name).read_bytes() == (tmp_path / "source" / name).read_bytes()
    assert (home / "refs" / "main").read_text() == commit
    assert {p.name for p in (home / "blobs").iterdir()} == {link.name for link in links.values()}

    before = tree(home)
    hub.forget()
    assert project.launch("fetch", MODEL).stderr == ""
    assert [line.split()[1] for line in hub.asked] == ["/api/models/org/tiny/revision/main"]
    assert project.launch("fetch", f"{MODEL}@{commit}") == Done(0, done.stdout, "")
    assert len(hub.asked) == 1 and tree(home) == before, "a commit that is there needs no hub"


@pytest.mark.parametrize("words", [("@v1",), ("@a%2Fb",), ("", "--revision", "a/b"), ("@{commit}",)])
def test_branch_tag_and_commit(project: Project, hub: Hub, tmp_path: Path, words: tuple[str, ...]) -> None:
    commit = commit_of(hub)
    name = MODEL + words[0].format(commit=commit)
    assert project.launch("fetch", name, *words[1:]).stdout.endswith(f"/snapshots/{commit}\n")
    refs = {str(p.relative_to(repository(tmp_path) / "refs")) for p in (repository(tmp_path)).glob("refs/**/*")}
    assert refs - {"a"} == {"v1"} if "v1" in name else refs <= {"a", "a/b"}


def test_a_moved_branch_brings_only_what_is_new(project: Project, hub: Hub, tmp_path: Path) -> None:
    project.launch("fetch", MODEL)
    (tmp_path / "source" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "vocab_size": 3}')
    (tmp_path / "source").rename(tmp_path / "second")
    hub.forget()
    commit = hub.add("org/tiny", tmp_path / "second", "main")
    assert project.launch("fetch", MODEL).stdout.endswith(f"/snapshots/{commit}\n")
    assert not any("GET /storage/" in line for line in hub.asked)
    assert (repository(tmp_path) / "refs" / "main").read_text() == commit


@pytest.mark.usefixtures("hub")
def test_into_another_home(project: Project, tmp_path: Path) -> None:
    project.write("slipway.d/profiles/site.yaml", f"schema: 1\nkind: docker\noffline: true\nhf_home: {tmp_path}/site\n")
    for words, home in ((("--profile", "site"), "site"), (("--hf-home", f"{tmp_path}/given"), "given")):
        assert project.launch("fetch", MODEL, *words).stdout.startswith(f"{tmp_path}/{home}/hub/models--org--tiny/")
    assert not (tmp_path / "hf").exists()


def test_a_connection_that_is_cut_goes_on_where_it_ended(project: Project, hub: Hub, tmp_path: Path) -> None:
    size = large(hub, tmp_path)
    (hub.folder / "cut").write_text(str(2 * CHUNK))
    done = project.launch("fetch", "hf://org/big")
    assert done.code == 0, done
    assert hub.bytes_of(BIG) == [2 * CHUNK, size - 2 * CHUNK]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, -15), (signal.SIGINT, 130)])
def test_a_fetch_that_is_ended_is_resumed(project: Project, hub: Hub, tmp_path: Path, number: int, code: int) -> None:
    size, hold = large(hub, tmp_path), hub.folder / "hold"
    hold.write_text(str(2 * CHUNK))
    with start(project, "fetch", "hf://org/big") as fetch:
        until(lambda: [p.stat().st_size for p in tmp_path.glob("hf/hub/*/blobs/*.part")] == [2 * CHUNK])
        fetch.send_signal(number)
        assert fetch.wait(60) == code, "at once, while the hub sends nothing"
    hold.unlink()
    done = project.launch("fetch", "hf://org/big")
    assert done.code == 0, done
    until(lambda: len(hub.bytes_of(BIG)) == 2)
    assert sum(hub.bytes_of(BIG)) == size
    assert (Path(done.stdout.strip()) / BIG).stat().st_size == size
    assert not list(tmp_path.glob("hf/hub/*/blobs/*.*"))


def test_two_at_once_fetch_it_once(project: Project, hub: Hub, tmp_path: Path) -> None:
    size, hold = large(hub, tmp_path), hub.folder / "hold"
    hold.write_text(str(CHUNK))
    with start(project, "fetch", "hf://org/big") as first:
        until((hub.folder / "held").exists)
        with start(project, "fetch", "hf://org/big") as second:
            until(lambda: sum("/api/models/org/big/revision/" in line for line in hub.asked) == 2)
            hold.unlink()
            assert (first.wait(60), second.wait(60)) == (0, 0)
    assert sum(hub.bytes_of(BIG)) == size
    assert not list(tmp_path.glob("hf/hub/*/blobs/*.*"))


def test_what_is_not_what_the_hub_says_is_never_in_the_cache(project: Project, hub: Hub, tmp_path: Path) -> None:
    size = large(hub, tmp_path)
    (folder := tmp_path / "hf" / "hub" / "models--org--big" / "blobs").mkdir(parents=True)
    blob = sha256_file(next((hub.folder / "models/org/big").glob(f"*/{BIG}")))
    (folder / f"{blob}.part").write_bytes(b"x" * CHUNK)
    done = project.launch("fetch", "hf://org/big")
    assert (done.code, "what came is not what the hub says it is" in done.stderr) == (75, True), done
    assert not list(folder.iterdir()) and not list(tmp_path.glob("hf/hub/*/refs/*"))
    hub.forget()
    assert project.launch("fetch", "hf://org/big").code == 0
    assert hub.bytes_of(BIG) == [size]


@pytest.mark.parametrize(
    ("name", "env", "code", "said"),
    [
        ("hf://org/none", {}, 66, "H has no such repository"),
        (f"{MODEL}@none", {}, 66, "it has no revision 'none'"),
        (f"{MODEL}/none.json", {}, 66, "there is no none.json in it"),
        ("hf://gated/model", {}, 77, "H does not let us read it (401)"),
        ("hf://gated/model", {"HF_TOKEN": "hf_wrong"}, 77, "H does not let us read it (403)"),
        ("hf://401/model", {}, 77, "H does not let us read it (401)"),
        ("hf://429/model", {}, 75, "H has had too many requests (429)"),
        ("hf://503/model", {}, 69, "H answers with 503"),
        ("hf://org/tiny", {"HF_HUB_OFFLINE": "1"}, 69, "HF_HUB_OFFLINE is set"),
        ("hf://tiny", {}, 64, "hf://tiny: names nothing on the hub"),
    ],
)
def test_what_the_hub_does_not_give_is_said_and_nothing_is_made(
    project: Project, hub: Hub, tmp_path: Path, name: str, env: dict[str, str], code: int, said: str
) -> None:
    project.env |= env
    done = project.launch("fetch", name)
    assert (done.code, done.stdout) == (code, "")
    assert said in done.stderr.replace(hub.url, "H") and len(done.stderr.splitlines()) == 2
    assert "hf_" not in done.stderr.replace("hf_home", "")
    assert not (tmp_path / "hf" / "hub").exists()


def test_a_hub_that_does_not_answer(project: Project, hub: Hub) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        project.env["HF_ENDPOINT"] = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = project.launch("fetch", MODEL)
    assert (done.code, hub.asked) == (69, [])
    assert f"{project.env['HF_ENDPOINT']} cannot be reached" in done.stderr and "HF_ENDPOINT" in done.stderr


def test_space_is_looked_at_before_anything_comes(project: Project, hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "sizes.json").write_text(json.dumps({SHARDS[0]: 10**15}))
    done = project.launch("fetch", MODEL)
    assert done.code == 73 and "1,000,000,000.0 MB are to be fetched" in done.stderr
    assert len(hub.asked) == 1 and not (tmp_path / "hf").exists()


def test_a_home_that_cannot_be_written(project: Project, hub: Hub, tmp_path: Path) -> None:
    write_chats(tmp_path / "file")
    done = project.launch("fetch", MODEL, "--hf-home", str(tmp_path / "file"))
    assert (done.code, len(hub.asked)) == (73, 1), done


@pytest.mark.parametrize("how", ["variable", "login"])
def test_a_token_reaches_the_hub_and_nobody_else(project: Project, hub: Hub, tmp_path: Path, how: str) -> None:
    """The stand-in's storage, another host, refuses whoever shows it a token."""
    hub.add("gated/tiny", tmp_path / "source", "main")
    login = tmp_path / "home" / ".cache" / "huggingface" / "token"
    login.parent.mkdir(parents=True)
    if how == "variable":
        project.env["HF_TOKEN"] = TOKEN
    else:
        login.write_text(f"{TOKEN}\n")
    done = project.launch("fetch", "hf://gated/tiny")
    assert done.code == 0 and TOKEN not in done.stderr + done.stdout, done
    assert not any(TOKEN.encode() in p.read_bytes() for p in (tmp_path / "hf").rglob("*") if p.is_file())


def plan_of(project: Project, tmp_path: Path, *words: str) -> tuple[Any, Done]:
    out = tmp_path / f"planned-{len(list(tmp_path.glob('planned-*')))}"
    done = project.launch("-o", str(out), "sft/automodel", TEMPLATE, f"train={tmp_path}/chats.jsonl", *words)
    assert done.code == 0, done
    return json.loads((out / "plan.json").read_text()), done


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    return write_chats(tmp_path / "chats.jsonl")


@pytest.mark.usefixtures("built", "chats")
def test_an_input_of_the_hub_is_its_snapshot_mounted_by_its_repository(
    project: Project, hub: Hub, tmp_path: Path
) -> None:
    commit = commit_of(hub)
    plan, done = plan_of(project, tmp_path, f"model={MODEL}@v1")
    assert f"{MODEL}@v1 is the commit {commit}\n" in done.stderr
    model = plan["inputs"]["model"]
    assert (model["type"], model["parameters"]) == ("checkpoint_hf", 10)
    target = f"/inputs/model-{model['fingerprint'][:8]}"
    assert model["hub"] == f"{MODEL}@{commit}"
    mount = {"source": str(repository(tmp_path)), "target": target, "readonly": True}
    assert [m for m in plan["mounts"] if m["target"].startswith("/inputs/model")] == [mount]
    inside = f"{target}/snapshots/{commit}"
    assert ["model.pretrained_model_name_or_path", inside] in plan["config"]["set"]
    assert not any("hf://" in str(value) for value in plan["config"]["set"])

    hub.forget()
    again = [f"model={MODEL}@{commit}", f"model={repository(tmp_path)}/snapshots/{commit}"]
    (tmp_path / "link").symlink_to(f"{repository(tmp_path)}/snapshots/{commit}")
    for word in (*again, f"model={tmp_path}/link"):
        assert plan_of(project, tmp_path, word)[0] == plan
    assert hub.asked == []


@pytest.mark.usefixtures("built")
def test_data_of_the_hub_keeps_its_name(project: Project, hub: Hub, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "llama")
    for name in ("data/a.jsonl", "data/b.jsonl", "c.jsonl"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        write_chats(tmp_path / "set" / name)
    commit = hub.add("org/chats", tmp_path / "set", "main", kind="datasets")
    for below, kind in (("data/a.jsonl", "file"), ("data/*.jsonl", "glob"), ("data", "folder")):
        out = tmp_path / kind
        words = (f"train=hf://datasets/org/chats/{below}", f"model={tmp_path}/llama")
        done = project.launch("-o", str(out), "sft/automodel", TEMPLATE, *words)
        assert done.code == 0, done
        plan = json.loads((out / "plan.json").read_text())
        train = plan["inputs"]["train"]
        assert (train["type"], train["kind"]) == ("chat_jsonl", kind)
        target = f"/inputs/train-{train['fingerprint'][:8]}"
        path = f"{target}/snapshots/{commit}/{below}"
        assert ["dataset.path_or_dataset_id", path] in plan["config"]["set"]
        source = f"{tmp_path}/hf/hub/datasets--org--chats"
        assert {"source": source, "target": target, "readonly": True} in plan["mounts"]
    assert not list(tmp_path.glob("hf/hub/*/snapshots/*/c.jsonl")), "only what was named is fetched"


@pytest.mark.parametrize(
    ("kind", "type_", "below", "files", "inside"),
    [
        ("folder", "checkpoint_hf", "", [], ""),
        ("folder", "chat_jsonl", "data", [], "/data"),
        ("glob", "chat_jsonl", "data/*.jsonl", ["data/a.jsonl", "data/b.jsonl"], "/data/*.jsonl"),
        ("file", "binidx", "data/a.bin", ["data/a.bin", "data/a.idx"], "/data/a"),
        ("glob", "binidx", "data/*", ["data/a.bin", "data/a.idx", "data/b.bin", "data/b.idx"], "/data"),
        ("missing", "", "", [], ""),
    ],
)
def test_the_container_path_goes_on_inside_the_repository(
    kind: Any, type_: str, below: str, files: list[str], inside: str
) -> None:
    commit, repository = "c0ffee00" * 5, "/hf/hub/datasets--org--chats"
    snapshot = f"{repository}/snapshots/{commit}"
    artifact = Artifact(
        name="x", path=f"{snapshot}/{below}".rstrip("/"), kind=kind, type=type_, fingerprint=commit,
        files=[f"{snapshot}/{f}" for f in files],
    )  # fmt: skip
    assert container_path(artifact) == f"/inputs/x-c0ffee00/snapshots/{commit}{inside}"


@pytest.mark.usefixtures("chats")
def test_a_launch_fetches_what_is_missing_and_a_dry_run_says_so(
    project: Project, hub: Hub, built: Engine, tmp_path: Path
) -> None:
    commit, before = commit_of(hub), tree(tmp_path / "project")
    words = ("sft/automodel", TEMPLATE, f"train={tmp_path}/chats.jsonl", f"model={MODEL}")
    dry = project.launch(*words, "--dry-run", "--json")
    assert dry.code == 66
    assert errors(dry.stderr) == (
        f"{MODEL}@main is the commit {commit}\n"
        f"error: model={MODEL}@{commit}: is not whole in {tmp_path}/hf: 5 files, 0.0 MB to fetch\n"
        f"  where the hub can be reached: launch fetch {MODEL}@{commit} --hf-home {tmp_path}/hf\n"
    )
    assert not (tmp_path / "hf").exists() and tree(tmp_path / "project") == before
    assert not any(line.startswith("HEAD") or "/resolve/" in line for line in hub.asked)

    assert project.launch(*words).code == 69, "the stand-in of the engine starts nothing"
    mounts = built.refused["HostConfig"]["Mounts"]
    dry_again = project.launch(*words, "--dry-run", "--json")
    planned = json.loads(dry_again.stdout)["HostConfig"]["Mounts"]
    assert dry_again.code == 0 and [m["Target"] for m in planned] == [m["Target"] for m in mounts]
    assert {str(repository(tmp_path)), str(tmp_path / "hf" / "hub")} <= {m["Source"] for m in mounts if m["ReadOnly"]}
    of_dry = [m["Source"] for m in json.loads(dry.stdout)["HostConfig"]["Mounts"] if "/inputs/model" in m["Target"]]
    assert of_dry == [str(repository(tmp_path))], "under which key is known when its blobs are there"


@pytest.mark.usefixtures("built", "chats")
def test_a_dry_run_without_the_hub_says_what_it_can(project: Project, hub: Hub, tmp_path: Path) -> None:
    project.env["HF_ENDPOINT"] = "http://127.0.0.1:1"
    words = ("--dry-run", "sft/automodel", TEMPLATE, f"train={tmp_path}/chats.jsonl")
    commit = commit_of(hub)
    done = project.launch(*words, f"model={MODEL}@{commit}")
    assert (done.code, f"model={MODEL}@{commit}: is not whole in {tmp_path}/hf\n" in done.stderr) == (66, True), done
    done = project.launch(*words, f"model={MODEL}")
    assert (done.code, f"model={MODEL}@main: http://127.0.0.1:1 cannot be reached" in done.stderr) == (69, True), done
    assert project.launch("--dry-run", "sft/automodel", "train=missing", f"model={MODEL}").stderr.count("error: ") == 2


@pytest.mark.usefixtures("built")
def test_what_stops_a_launch_anyway_stops_it_before_anything_is_fetched(
    project: Project, hub: Hub, tmp_path: Path
) -> None:
    done = project.launch("sft/automodel", TEMPLATE, "train=missing.jsonl", f"model={MODEL}")
    assert (done.code, done.stderr.count("error: ")) == (66, 2), done
    assert not (tmp_path / "hf").exists() and not any("/resolve/" in line for line in hub.asked)


@pytest.mark.usefixtures("built", "chats")
@pytest.mark.parametrize("by", ["profile", "variable"])
def test_offline_takes_what_is_there_and_asks_nobody(project: Project, hub: Hub, tmp_path: Path, by: str) -> None:
    commit, home = commit_of(hub), tmp_path / "hf"
    words = ["--dry-run", "sft/automodel", TEMPLATE, f"train={tmp_path}/chats.jsonl"]
    if by == "profile":
        project.write("slipway.d/profiles/site.yaml", "schema: 1\nextends: docker\nkind: docker\noffline: true\n")
        words += ["--profile", "site"]
    else:
        project.env["HF_HUB_OFFLINE"] = "1"
    command = f"launch fetch {{}} --hf-home {home}"
    done = project.launch(*words, f"model={MODEL}")
    assert done.code == 66 and command.format(f"{MODEL}@main") in done.stderr
    assert f"model={MODEL}@main: the hub is not asked offline, and {home} does not know which commit" in done.stderr
    done = project.launch(*[w for w in words if w != "--dry-run"], f"model={MODEL}@{commit}")
    assert done.code == 66 and command.format(f"{MODEL}@{commit}") in done.stderr
    assert hub.asked == [] and not home.exists()

    project.env.pop("HF_HUB_OFFLINE", None)
    assert project.launch("fetch", MODEL).code == 0
    if by == "variable":
        project.env["HF_HUB_OFFLINE"] = "1"
    hub.forget()
    done = project.launch(*words, f"model={MODEL}")
    assert done.code == 0 and f"{MODEL}@main is the commit {commit}, as the cache has it" in done.stderr
    assert project.launch(*words, f"model={MODEL}@{commit}").code == 0
    next((home / "hub").glob("*/snapshots/*/config.json")).unlink()
    done = project.launch(*words, f"model={MODEL}")
    assert done.code == 66 and "is not whole in" in done.stderr and hub.asked == []


@pytest.mark.usefixtures("built", "chats")
def test_a_blob_elsewhere_is_not_in_the_mount(project: Project, hub: Hub, tmp_path: Path) -> None:
    snapshot = Path(project.launch("fetch", MODEL).stdout.strip())
    blob = (snapshot / "config.json").resolve()
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    words = ("--dry-run", "sft/automodel", TEMPLATE, f"train={tmp_path}/chats.jsonl", f"model={MODEL}@{commit_of(hub)}")
    done = project.launch(*words)
    assert done.code == 65 and f"error: {snapshot}/config.json: a link that leaves the input" in done.stderr


@pytest.mark.usefixtures("built", "chats")
def test_blobs_that_repositories_share_are_mounted_beside_theirs(project: Project, hub: Hub, tmp_path: Path) -> None:
    """As `hf download` of today leaves a cache: moved there by the library's own function."""
    from huggingface_hub.utils import _shared_blobs

    snapshot = Path(project.launch("fetch", MODEL).stdout.strip())
    words = ("--dry-run", "sft/automodel", TEMPLATE, f"train={tmp_path}/chats.jsonl", f"model={MODEL}@{commit_of(hub)}")
    cache = tmp_path / "hf" / "hub"
    for name in SHARDS:
        blob = repository(tmp_path) / "blobs" / (snapshot / name).readlink().name
        size = blob.stat().st_size
        assert _shared_blobs.publish_blob_to_shared_store(
            blob_path=str(blob), xet_hash=sha256_file(blob), cache_dir=cache, expected_size=size
        )
        assert blob.is_symlink()
    done = project.launch(*words, "--json")
    assert (done.code, errors(done.stderr)) == (0, "")
    mounts = {m["Target"]: m["Source"] for m in json.loads(done.stdout)["HostConfig"]["Mounts"]}
    folder = next(t.removesuffix("/blobs") for t, source in mounts.items() if source == str(cache / "blobs"))
    assert mounts[f"{folder}/repository"] == str(repository(tmp_path))
    inside = tmp_path / "inside"  # what the container would see there
    inside.mkdir()
    for target, source in mounts.items():
        if target.startswith(f"{folder}/"):
            shutil.copytree(source, inside / target.removeprefix(f"{folder}/"), symlinks=True)
    for name in SHARDS:
        seen = inside / "repository" / snapshot.relative_to(repository(tmp_path)) / name
        assert seen.read_bytes() == (tmp_path / "source" / name).read_bytes()
        assert seen.resolve().is_relative_to(inside)
    assert project.launch("check", "--full", str(snapshot)).code == 0


@pytest.mark.usefixtures("hub")
def test_a_blob_in_another_store_is_not_in_the_mount(project: Project, tmp_path: Path) -> None:
    snapshot = Path(project.launch("fetch", MODEL).stdout.strip())
    blob = (snapshot / SHARDS[0]).resolve()
    (tmp_path / "other" / "blobs").mkdir(parents=True)
    blob.rename(tmp_path / "other" / "blobs" / "x")
    blob.symlink_to(tmp_path / "other" / "blobs" / "x")
    done = project.launch("check", str(snapshot))
    what = f"error: {snapshot}/{SHARDS[0]}: a link that leaves the input, to {tmp_path}/other/blobs/x, which is not"
    assert done.code == 65 and what in done.stdout and "cp -rL" in done.stdout


def test_without_the_library_it_is_said_what_to_install(project: Project, hub: Hub) -> None:
    command = [
        script("python"),
        "-c",
        "import sys; sys.modules['huggingface_hub'] = None; from launcher.cli import main; main()",
    ]
    done = subprocess.run(
        [*command, "fetch", MODEL], cwd=project.path, env=project.env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "pip install 'slipway[hub]'" in done.stderr, hub.asked) == (78, True, [])
