"""launcher/planning/code.py: trees of real git repositories, and what a launch says and writes of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import REPO, Engine, Inputs, Project, SpecOf, entry_of, record_image, seen_of, tree

from images.locking import lock as locks
from images.locking.model import Environment, Repository
from launcher.core.plan import ImageInfo
from launcher.planning import code as codes
from launcher.planning.checks import preflight
from launcher.planning.code import Checkout, Hidden
from slipway import canonical
from slipway.errors import Exit, SlipwayError
from slipway.files import sha256_file
from slipway.project import Root

PLACE = "/opt/boats"
ENTRY = entry_of(repositories={"boats": Repository(url="https://example.org/boats", tag="v1", path=PLACE)})
IDENTITY = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
IDENTITY |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_ALLOW_PROTOCOL": "file"}


def git(folder: Path, *words: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": str(folder)} | IDENTITY
    done = subprocess.run(["git", *words], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def repository(folder: Path, files: dict[str, str | bytes]) -> Path:
    """A checkout with one commit on `main`."""
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    write(folder, files)
    commit(folder)
    return folder


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)


def commit(folder: Path) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=next")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def boats(tmp_path: Path) -> Path:
    """A checkout with all that a tree may hold."""
    folder = tmp_path / "boats"
    files: dict[str, str | bytes] = {
        "hull.py": "HULL = 1\n",
        "run.sh": "#!/bin/sh\n",
        "a b/été.txt": "x\n",
        "empty": "",
    }
    folder = repository(folder, files | {"blob.bin": bytes(range(256)), ".gitignore": "*.log\n"})
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("a b/été.txt")
    (folder / "nowhere").symlink_to("/nowhere")
    commit(folder)
    return folder


def choose(word: str, allow_dirty: bool = False, rows: list[Hidden] | None = None) -> Checkout:
    return codes.choose(rows or [], ENTRY, (word,), allow_dirty)["boats"]


def packed(found: Checkout, tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "code" / "boats"
    found.write(folder)
    return folder


def refused(word: str, allow_dirty: bool = False) -> tuple[int, str, str]:
    with pytest.raises(SlipwayError) as e:
        codes.choose([], ENTRY, (word,), allow_dirty)
    assert e.value.where == f"--code {word}"
    return int(e.value.code), e.value.what, e.value.remedy


def content(folder: Path) -> dict[str, Any]:
    """Path -> type, data, and whether its owner may run it, of everything but git's own."""
    found = {n: (m & 0o170100, d) for n, (m, d) in tree(folder).items() if n.split("/")[0] != ".git"}
    return found | {n: str((folder / n).readlink()) for n in found if (folder / n).is_symlink()}


def test_the_commit_of_a_clean_checkout_is_packed_as_it_stands(boats: Path, tmp_path: Path) -> None:
    found = choose(f"boats={boats}")
    assert content(packed(found, tmp_path)) == content(boats)
    assert found.code.path == PLACE and found.code.diff == "" and found.code.submodules == {}
    assert found.code.commit == git(boats, "rev-parse", "HEAD")
    assert found.code.tree == found.code.files == git(boats, "rev-parse", "HEAD^{tree}")
    assert not (tmp_path / "run" / "code" / "boats.diff").exists()


def test_looking_and_packing_write_nothing_into_the_checkout(boats: Path, tmp_path: Path) -> None:
    (boats / "hull.py").write_text("HULL = 2\n")
    before = tree(boats)
    packed(choose(f"boats={boats}", allow_dirty=True), tmp_path)
    assert tree(boats) == before


@pytest.mark.parametrize("revision", ["main", "old", "v1", "HEAD~1", "{sha}", "{short}", "HEAD@{{1}}"])
def test_a_revision_is_a_branch_a_tag_or_what_else_git_knows(boats: Path, tmp_path: Path, revision: str) -> None:
    sha = git(boats, "rev-parse", "HEAD")
    git(boats, "branch", "old")
    git(boats, "tag", "--annotate", "--message=1", "v1")
    write(boats, {"hull.py": "HULL = 2\n"})
    newest = commit(boats)
    write(boats, {"hull.py": "HULL = 3\n", "new": ""})  # a commit that is named is taken, whatever stands there
    found = choose(f"boats={boats}@{revision.format(sha=sha, short=sha[:9])}")
    assert found.code.commit == (newest if revision == "main" else sha)
    assert packed(found, tmp_path).joinpath("hull.py").read_text() == f"HULL = {2 if revision == 'main' else 1}\n"
    assert not found.untracked and not found.code.diff


def test_a_detached_head_a_worktree_and_a_shallow_clone_are_checkouts(boats: Path, tmp_path: Path) -> None:
    first = git(boats, "rev-parse", "HEAD~1")
    git(boats, "worktree", "add", "--quiet", str(tmp_path / "tree@2"), "HEAD")
    git(boats, "clone", "--quiet", "--depth=1", f"file://{boats}", str(tmp_path / "shallow"))
    git(boats, "checkout", "--quiet", "--detach", "HEAD~1")
    assert choose(f"boats={boats}").code.commit == first
    for name in ("tree@2", "shallow"):
        found = choose(f"boats={tmp_path / name}")
        assert found.code.commit == git(boats, "rev-parse", "main")
        found.write(tmp_path / "run" / name)


def test_no_attribute_changes_or_leaves_out_a_file(boats: Path, tmp_path: Path) -> None:
    attributes = "*.txt eol=crlf\ntests export-ignore\nhull.py ident filter=upper export-subst\n"
    write(boats, {".gitattributes": attributes, "tests": "1\n", "w.txt": "1\n2\n", "hull.py": "$Id$ $Format:%H$\n"})
    commit(boats)
    git(boats, "config", "filter.upper.smudge", "tr a-z A-Z")
    folder = packed(choose(f"boats={boats}@HEAD"), tmp_path)
    assert (folder / "w.txt").read_bytes() == b"1\n2\n"
    assert (folder / "hull.py").read_text() == "$Id$ $Format:%H$\n"
    assert (folder / "tests").exists()


def change(folder: Path) -> None:
    """Every kind of change."""
    write(folder, {"hull.py": "HULL = 2\n", "staged": "1\n", "stray.py": "1\n", "x.log": "ignored\n"})
    (folder / "blob.bin").write_bytes(bytes(300))
    git(folder, "add", "staged")
    git(folder, "mv", "a b/été.txt", "moved.txt")
    (folder / "empty").unlink()
    (folder / "run.sh").chmod(0o644)


def test_changes_are_refused_by_name(boats: Path) -> None:
    change(boats)
    code, what, remedy = refused(f"boats={boats}")
    assert code == Exit.DATA
    assert what == "has changes (changed: blob.bin, empty, hull.py, moved.txt, run.sh and 1 more; untracked: stray.py)"
    assert f"({boats}@HEAD)" in remedy and "--allow-dirty" in remedy


def test_an_untracked_file_alone_is_a_change(boats: Path) -> None:
    write(boats, {"stray.py": ""})
    assert refused(f"boats={boats}")[:2] == (Exit.DATA, "has changes (untracked: stray.py)")


def test_with_allow_dirty_what_is_tracked_is_packed_and_the_diff_makes_it_from_the_commit(
    boats: Path, tmp_path: Path
) -> None:
    change(boats)
    found = choose(f"boats={boats}", allow_dirty=True)
    folder = packed(found, tmp_path)
    expected = {n: c for n, c in content(boats).items() if n not in ("stray.py", "x.log", "a b")}
    assert content(folder) == expected
    assert found.untracked == ["stray.py"]
    assert found.code.tree == git(boats, "rev-parse", "HEAD^{tree}") != found.code.files
    diff = tmp_path / "run" / "code" / "boats.diff"
    assert sha256_file(diff) == found.code.diff
    git(boats, "clone", "--quiet", str(boats), str(tmp_path / "again"))
    git(tmp_path / "again", "apply", str(diff))
    assert content(tmp_path / "again") == expected


def test_a_change_in_the_second_of_the_commit_is_seen(boats: Path, tmp_path: Path) -> None:
    """git then looks into the file only because its index is no newer than that."""
    git(boats, "config", "core.trustCTime", "false")
    os.utime(boats / "hull.py", (10**9, 10**9))
    git(boats, "update-index", "--refresh")
    (boats / "hull.py").write_text("HULL = 2\n")
    for path in ("hull.py", ".git/index"):
        os.utime(boats / path, (10**9, 10**9))
    found = choose(f"boats={boats}", allow_dirty=True)
    assert (packed(found, tmp_path) / "hull.py").read_text() == "HULL = 2\n"


def test_allow_dirty_of_a_clean_checkout_is_its_commit(boats: Path) -> None:
    assert choose(f"boats={boats}", allow_dirty=True) == choose(f"boats={boats}")


def test_each_change_makes_another_plan(boats: Path) -> None:
    seen = [choose(f"boats={boats}").code]
    for text in ("HULL = 2\n", "HULL = 3\n"):
        (boats / "hull.py").write_text(text)
        seen.append(choose(f"boats={boats}", allow_dirty=True).code)
    commit(boats)
    seen.append(choose(f"boats={boats}").code)
    assert len({canonical.sha256(c) for c in seen}) == 4


@pytest.fixture
def fleet(boats: Path, tmp_path: Path) -> Path:
    """A checkout whose submodule `sails` has a submodule `ropes`."""
    ropes = repository(tmp_path / "ropes", {"rope": "1\n"})
    sails = repository(tmp_path / "sails", {"sail": "1\n"})
    for folder, name, source in ((sails, "ropes", ropes), (boats, "3rd/sails", sails)):
        git(folder, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(source), name)
        commit(folder)
    return boats


def update(folder: Path) -> None:
    git(folder, "-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init", "--recursive")


def test_submodules_come_along_where_they_are_checked_out(fleet: Path, tmp_path: Path) -> None:
    update(fleet)
    found = choose(f"boats={fleet}")
    folder = packed(found, tmp_path)
    assert (folder / "3rd/sails/sail").read_text() == (folder / "3rd/sails/ropes/rope").read_text() == "1\n"
    assert list(found.code.submodules) == ["3rd/sails", "3rd/sails/ropes"] and not found.empty
    assert found.code.submodules["3rd/sails"] == git(fleet / "3rd/sails", "rev-parse", "HEAD")
    assert not list(folder.rglob(".git"))


@pytest.mark.parametrize(("path", "empty"), [("3rd/sails", ["3rd/sails"]), ("3rd/sails/ropes", ["3rd/sails/ropes"])])
def test_submodules_that_are_not_there_stay_empty_and_are_named(
    fleet: Path, tmp_path: Path, spec_of: SpecOf, path: str, empty: list[str]
) -> None:
    update(fleet)
    git(fleet / Path(path).parent, "submodule", "--quiet", "deinit", "--force", Path(path).name)
    found = choose(f"boats={fleet}")
    assert found.empty == empty
    assert list((packed(found, tmp_path) / path).iterdir()) == []
    (finding,) = codes.check(spec_of(entry=ENTRY), {"boats": found}, [])
    assert (finding.severity, finding.where) == ("warning", f"--code boats={fleet}")
    assert finding.what == f"submodules that are not checked out stay empty: {path}"
    assert "submodule update" in finding.remedy


def test_another_commit_in_a_submodule_is_a_change_and_a_file_of_its_own_cannot_be_packed(
    fleet: Path, tmp_path: Path
) -> None:
    update(fleet)
    write(fleet / "3rd/sails", {"sail": "2\n"})
    assert refused(f"boats={fleet}", allow_dirty=True)[:2] == (65, "the submodule 3rd/sails has changes of its own")
    newest = commit(fleet / "3rd/sails")
    assert refused(f"boats={fleet}")[1] == "has changes (changed: 3rd/sails)"
    found = choose(f"boats={fleet}", allow_dirty=True)
    assert found.code.submodules["3rd/sails"] == newest
    assert (packed(found, tmp_path) / "3rd/sails/sail").read_text() == "2\n"
    assert newest in (tmp_path / "run/code/boats.diff").read_text()


@pytest.mark.parametrize(
    ("word", "code", "what", "remedy"),
    [
        ("bots={T}/boats", 64, "automodel/1.0-cpu has no repository 'bots'", "did you mean 'boats'?"),
        ("boats", 64, "not of the form boats=DIR or boats=DIR@REV", ""),
        ("boats=", 64, "not of the form boats=DIR or boats=DIR@REV", ""),
        ("boats={T}/none", 66, "there is no such folder", ""),
        ("boats={T}/boats/hull.py", 66, "there is no such folder", ""),
        ("boats={T}", 66, "is not the top of a git checkout", ""),
        ("boats={T}/boats/a b", 66, "is not the top of a git checkout", ""),
        ("boats={T}/boats@mian", 64, "there is no commit mian", "did you mean 'main'?"),
        ("boats={T}/boats@--all", 64, "there is no commit --all", "known: main"),
        ("boats={T}/boats@main:hull.py", 64, "there is no commit main:hull.py", "known: main"),
    ],
)
def test_what_is_wrong_with_the_word_is_said(boats: Path, word: str, code: int, what: str, remedy: str) -> None:
    assert refused(word.format(T=boats.parent)) == (code, what, remedy)


def test_a_repository_without_a_commit_and_a_name_that_stands_twice_are_refused(boats: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    git(tmp_path / "new", "init", "--quiet")
    assert refused(f"boats={tmp_path}/new") == (64, "there is no commit HEAD", "commit something first")
    with pytest.raises(SlipwayError, match="stands twice"):
        codes.choose([], ENTRY, (f"boats={boats}", f"boats={boats}"), False)


def test_a_checkout_that_changes_while_it_is_packed_is_noticed(boats: Path, tmp_path: Path) -> None:
    (boats / "hull.py").write_text("HULL = 2\n")
    found = choose(f"boats={boats}", allow_dirty=True)
    (boats / "hull.py").write_text("HULL = 3\n")
    with pytest.raises(SlipwayError) as e:
        found.write(tmp_path / "code")
    assert (e.value.code, e.value.what) == (Exit.TRY_AGAIN, "changed while it was being packed")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: (f / "hull.py").write_text("HULL = 9\n"),
        lambda f: (f / "hull.py").unlink(),
        lambda f: (f / "more.log").write_text(""),
        lambda f: (f / "run.sh").chmod(0o644),
        lambda f: ((f / "link").unlink(), (f / "link").symlink_to("hull.py")),
        lambda f: Path(f"{f}.diff").write_text(""),
        lambda f: Path(f"{f}.diff").unlink(),
    ],
)
def test_what_was_packed_and_then_changed_is_noticed(boats: Path, tmp_path: Path, spoil: Callable[[Path], Any]) -> None:
    write(boats, {"staged": "1\n"})
    git(boats, "add", "staged")
    found = choose(f"boats={boats}", allow_dirty=True)
    folder = packed(found, tmp_path)
    codes.copy(found.code, folder, tmp_path / "copy")
    codes.check_written(found.code, tmp_path / "copy", Exit.DATA, "was changed")
    spoil(tmp_path / "copy")
    with pytest.raises(SlipwayError, match="was changed"):
        codes.check_written(found.code, tmp_path / "copy", Exit.DATA, "was changed")


NEMO = [("v0.7.0", True), ("v0.6.0", True), ("v0.5.0", True), ("v0.4.0", False), ("v0.8.0", False)]


@pytest.mark.parametrize(("release", "compares"), NEMO)
def test_a_cuda_images_own_check_is_told_for_the_releases_that_have_it(
    boats: Path, spec_of: SpecOf, release: str, compares: bool
) -> None:
    entry = locks.select(locks.load_lock(Root(REPO)), "nemo-rl", "cuda", release)
    rows = codes.known(Root(REPO), entry)
    found = codes.choose(rows, entry, (f"nemo-rl={boats}",), False)
    assert found["nemo-rl"].code.path == "/opt/nemo-rl"

    def told(**spec: Any) -> list[str]:
        return [f.what for f in codes.check(spec_of(entry=entry, **spec), found, rows)]

    assert [("fingerprint" in what) for what in told()] == [False, True][: 1 + compares]
    assert len(told(env={"NRL_IGNORE_VERSION_MISMATCH": "1"})) == 1


def test_every_row_names_a_library_of_the_lock_and_absolute_paths() -> None:
    lock = locks.load_lock(Root(REPO))
    names = {r.name for e in lock.entries.values() for r in codes.known(Root(REPO), e)}
    assert names == {"nemo-rl", "megatron-bridge", "automodel", "modelopt"}
    for entry in lock.entries.values():
        for row in codes.known(Root(REPO), entry):
            assert row.path == (entry.repositories[row.name].path if row.name in entry.repositories else row.path)
            assert row.path.startswith("/opt/")


@pytest.fixture
def harbour(project: Project, built: Engine) -> Project:  # noqa: ARG001
    """The project, whose automodel entry brings the repository `boats`; and its image."""
    lock = locks.load_lock(project.root)
    entry = locks.select(lock, "automodel", "cpu")
    changed = msgspec.structs.replace(entry, repositories=ENTRY.repositories)
    changed_lock = msgspec.structs.replace(lock, entries=lock.entries | {entry.name: changed})
    changed_lock = msgspec.structs.replace(changed_lock, checksum=changed_lock.contents)
    project.write("versions.lock", locks.lock_text(changed_lock))
    record_image(project.root, changed)
    project.env["PATH"] += f":{os.environ['PATH']}"  # for git
    return project


def test_a_launch_plans_mounts_and_writes_it_and_notices_a_change(
    harbour: Project, inputs: Inputs, boats: Path, tmp_path: Path
) -> None:
    words = ("sft/automodel", *inputs.words, f"output={tmp_path}/out", "--flavour", "cpu", "--code", f"boats={boats}")
    plain = harbour.launch(*words[:-2], "-o", str(tmp_path / "plain"))
    done = harbour.launch(*words, "-o", str(tmp_path / "with"))
    assert (plain.code, done.code) == (0, 0), done
    plan = json.loads((tmp_path / "with" / "plan.json").read_text())
    assert plan["code"]["boats"]["commit"] == git(boats, "rev-parse", "HEAD")
    mount = {"source": "${RUN_DIR}/code/boats", "target": PLACE, "readonly": True}
    assert mount in plan["mounts"]
    assert content(tmp_path / "with" / "code" / "boats") == content(boats)
    assert '"code": {}' in (tmp_path / "plain" / "plan.json").read_text() and not (tmp_path / "plain" / "code").exists()
    (tmp_path / "with" / "code" / "boats" / "hull.py").write_text("HULL = 9\n")
    done = harbour.launch("submit", str(tmp_path / "with"))
    assert done.code == 65
    assert f"error: {tmp_path}/with/code/boats: was changed since it was written" in done.stderr


NEEDED = [
    ("rl/grpo", "nemo-rl", "examples/run_grpo.py", "runs", ["policy={model}", "train={prompts}"]),
    ("rl/sft", "nemo-rl", "examples/configs/sft.yaml", "starts from", ["policy={model}", "train={chats}"]),
    ("sft/automodel", "automodel", "examples/llm_finetune/llama3_2/llama3_2_1b_squad.yaml", "starts from",
     ["model={model}", "train={chats}"]),
    ("optimize/modelopt/prune", "modelopt", "examples/megatron_bridge/prune_minitron.py", "runs",
     ["model={model}", "calibration={chats}"]),
    ("convert/nemo_rl_to_hf", "nemo-rl", "examples/converters/convert_dcp_to_hf.py", "runs",
     ["model={model}", "config={model}"]),
]  # fmt: skip


@pytest.mark.parametrize(("step", "name", "file", "why", "words"), NEEDED, ids=[n[0] for n in NEEDED])
def test_a_tree_without_what_the_step_needs_is_refused(
    project: Project, inputs: Inputs, tmp_path: Path, step: str, name: str, file: str, why: str, words: list[str]
) -> None:
    project.env["PATH"] += f":{os.environ['PATH']}"  # for git
    (tmp_path / "prompts.jsonl").write_text('{"input": "1+1", "output": "2"}\n')
    given = {"model": inputs.model, "chats": inputs.train, "prompts": tmp_path / "prompts.jsonl"}
    said = ["check", step, "--flavour", "cuda", *(w.format(**given) for w in words)]
    folder = repository(tmp_path / "mine", {"README.md": "mine"})
    done = project.launch(*said, "--code", f"{name}={tmp_path}/mine")
    what = f"error: --code {name}={tmp_path}/mine: has no {file}, which "
    line = next(line for line in done.stderr.splitlines() if line.startswith(what))
    assert f" {why} at " in line and done.code
    for needed in ("run_grpo.py", "run_sft.py", "convert_megatron_to_hf.py"):
        write(folder, {f"examples/{'converters/' if 'convert' in needed else ''}{needed}": "x"})
    write(folder, {file: "x"})
    commit(folder)
    assert f"has no {file}" not in project.launch(*said, "--code", f"{name}={tmp_path}/mine").stderr
    (folder / file).unlink()
    dirty = project.launch(*said, "--code", f"{name}={tmp_path}/mine", "--allow-dirty")
    assert f"has no {file}" in dirty.stderr, "what is deleted is not packed"


def test_a_launch_that_is_refused_writes_nothing(harbour: Project, inputs: Inputs, boats: Path, tmp_path: Path) -> None:
    write(boats, {"hull.py": "HULL = 2\n"})
    before = tree(tmp_path)
    done = harbour.launch("sft/automodel", *inputs.words, "--flavour", "cpu", "--dry-run", "--code", f"boats={boats}")
    assert (done.code, done.stdout, tree(tmp_path) == before) == (65, "", True)
    assert "has changes (changed: hull.py)" in done.stderr


def test_a_step_runs_on_a_repository_that_the_image_was_built_without(spec_of: SpecOf, boats: Path) -> None:
    seen = seen_of(image=ImageInfo(id="sha256:1", recorded=1, left_out=["boats"]))
    spec = spec_of(entry=ENTRY)
    spec = msgspec.structs.replace(spec, step=msgspec.structs.replace(spec.step, repositories=["boats"]))
    assert preflight.first_error(preflight.check(spec, seen)).code == Exit.NOT_PERMITTED  # type: ignore[union-attr]
    spec = msgspec.structs.replace(spec, code={"boats": choose(f"boats={boats}").code})
    assert preflight.first_error(preflight.check(spec, seen)) is None


def test_a_release_whose_version_nobody_has_stated_matches_no_row_that_asks_for_one() -> None:
    main = Environment(python="/x", packages={})
    entry = entry_of("cuda", library="nemo-rl", environments={"main": main})
    assert [r.when for r in codes.known(Root(REPO), entry)] == [{}]
