"""images/locking/lock.py: from the matrix to the lock, and what is carried over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import BOATS, COMMIT, DIGEST, MATRIX_FILE, REPO, TESTED, TREE, Known, Project, relock

from images.building import render
from images.locking import groups
from images.locking import lock as locks
from images.locking.model import Identity, Matrix
from slipway import canonical, yamldoc
from slipway.errors import Exit, SlipwayError
from slipway.files import write_atomic
from slipway.project import Root

NEW_ROW = """
      0.8.0:
        base: {bootstrap: debian-12}
        python: "3.11"
        groups:
          all: {packages: [boats==0.8.0], python: "3.11", platform: linux}
        environments:
          main: {python: /opt/venv/bin/python, groups: [all]}
"""


def test_the_committed_lock_is_what_its_matrix_gives() -> None:
    root = Root(REPO)
    text = root.lock.read_text()
    lock = locks.load_lock(root)
    assert text == locks.lock_text(lock)
    new, files = locks.build_lock(root, locks.load_matrix(root), lock, Known())
    assert (locks.lock_text(new), files) == (text, {})


def test_the_lock_says_how_it_was_made_and_is_sorted() -> None:
    text = (REPO / "versions.lock").read_text()
    assert text.startswith("# Made by `images lock` from images/matrix.yaml; do not edit.\n")
    assert list(yamldoc.parse(text, "")["entries"]) == sorted(yamldoc.parse(text, "")["entries"])


def test_a_new_row_changes_no_other_entry_and_none_of_its_files(boats: Project) -> None:
    root = boats.root
    before = locks.load_lock(root)
    files = {n: render.files_of(root, before, e) for n, e in before.entries.items()}
    boats.edit(MATRIX_FILE, "\n    cuda:\n", f"{NEW_ROW}    cuda:\n")
    resolver = Known()
    after = relock(root, resolver)
    assert set(after.entries) - set(before.entries) == {"boats/0.8.0-cpu"}
    assert "pins all" in resolver.asked and len([a for a in resolver.asked if a.startswith("pins")]) == 1
    for name, entry in before.entries.items():
        assert after.entries[name].checksum == entry.checksum
        assert render.files_of(root, after, after.entries[name]) == files[name]
    assert after.matrix != before.matrix


def test_a_lock_of_another_matrix_is_refused_and_comments_do_not_count(boats: Project) -> None:
    boats.edit(MATRIX_FILE, "schema: 1", "# a comment\nschema:   1")
    assert locks.load_lock(boats.root)
    boats.edit(MATRIX_FILE, "suite: bookworm", "suite: trixie")
    with pytest.raises(SlipwayError, match="made from another matrix") as e:
        locks.load_lock(boats.root)
    assert (e.value.code, e.value.where, e.value.remedy) == (Exit.DATA, str(boats.root.lock), "run: images lock")


def test_new_wishes_are_resolved_and_the_files_are_hashed(boats: Project) -> None:
    boats.edit(MATRIX_FILE, "oars==13.0", "oars==14.0")
    resolver = Known()
    entry = relock(boats.root, resolver).entries["boats/1.0-cpu"]
    assert resolver.asked[0] == "pins torch boats"
    for name, group in entry.groups.items():
        text = (boats.path / group.file).read_bytes()
        assert group.file == f"images/boats/1.0-cpu/requirements-{name}.txt"
        assert group.sha256 == canonical.sha256(text)
    assert entry.environments["main"].packages == {"torch": "1.0", "boats": "1.0", "oars": "1.0"}


def test_a_changed_requirements_file_is_resolved_again(boats: Project) -> None:
    boats.write("images/boats/1.0-cpu/requirements-torch.txt", "torch==0\n")
    resolver = Known()
    relock(boats.root, resolver)
    assert resolver.asked[0] == "pins torch boats"


OTHER = "platforms: {linux/arm64: {torch: [torch==0.9]}}"
ENVIRONMENTS = "environments:\n          main: {python: /opt/venv/bin/python, groups: [torch, boats]}"


def test_another_processor_has_an_entry_and_pins_of_its_own(boats: Project) -> None:
    before = locks.load_lock(boats.root).entries["boats/1.0-cpu"]
    boats.edit(MATRIX_FILE, ENVIRONMENTS, f"{OTHER}\n        {ENVIRONMENTS}")
    for _ in range(2):
        boats.edit(MATRIX_FILE, "platform: linux}", "platform: x86_64-manylinux_2_36}")
    lock = relock(boats.root, Known())
    usual, other = (lock.entries[name] for name in ("boats/1.0-cpu", "boats/1.0-cpu-arm64"))
    assert [g.platform for g in usual.groups.values()] == ["x86_64-manylinux_2_36"] * 2
    assert [g.platform for g in other.groups.values()] == ["aarch64-manylinux_2_36"] * 2
    assert usual.groups["torch"].packages == before.groups["torch"].packages
    assert other.groups["torch"].packages == ["torch==0.9"]
    assert other.groups["boats"].packages == usual.groups["boats"].packages
    assert other.groups["torch"].file == "images/boats/1.0-cpu-arm64/requirements-torch.txt"
    assert usual.checksum != other.checksum
    assert lock.on("linux/arm64", usual) == other
    assert lock.on("linux/amd64", usual) == lock.on("", usual) == usual
    assert locks.select(lock, "boats", "cpu") == locks.select(lock, "boats", "cpu", "1.0") == usual
    cuda = lock.entries["boats/26.08-cuda"]
    assert lock.on("linux/arm64", cuda) == cuda, "one manifest of an official image for each"


@pytest.mark.parametrize(
    ("platforms", "what"),
    [
        ("{linux/arm64: {troch: [torch==0.9]}}", "cpu.1.0.platforms.linux/arm64.troch: unknown group"),
        ("{linux/amd64: {torch: [torch==0.9]}}", "cpu.1.0.platforms.linux/amd64: unknown platform"),
        ("{arm64: {}}", "cpu.1.0.platforms.arm64: unknown platform"),
    ],
)
def test_a_processor_that_cannot_be_locked_is_refused(boats: Project, platforms: str, what: str) -> None:
    path = boats.edit(MATRIX_FILE, ENVIRONMENTS, f"platforms: {platforms}\n        {ENVIRONMENTS}")
    with pytest.raises(SlipwayError) as e:
        locks.load_matrix(boats.root)
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "platforms:" in text)
    assert (e.value.code, e.value.what.endswith(what)) == (Exit.CONFIG, True), e.value.what
    assert e.value.where.startswith(f"{path}:{line}:")


def test_open_digests_are_asked_for_and_known_ones_are_not(boats: Project) -> None:
    resolver = Known(BOATS)
    new = relock(boats.root, resolver)
    assert resolver.asked == ["base registry.example/org/boats:26.06"]
    assert new.entries["boats/26.06-cuda"].base.digest == DIGEST
    again = Known()
    assert relock(boats.root, again) == new
    assert again.asked == [], "a digest that is in the lock stays"


def test_what_does_not_answer_stays_unresolved(boats: Project) -> None:
    assert relock(boats.root, Known()).entries["boats/26.06-cuda"].base.digest is None


def test_another_tag_does_not_keep_the_old_digest(boats: Project) -> None:
    relock(boats.root, Known(BOATS))
    boats.edit(MATRIX_FILE, 'tag: "26.06"', 'tag: "26.06.01"')
    assert relock(boats.root, Known()).entries["boats/26.06-cuda"].base.digest is None


def test_only_the_named_libraries_are_asked_for(boats: Project) -> None:
    resolver = Known()
    relock(boats.root, resolver, ask=("another",))
    assert resolver.asked == []


@pytest.mark.parametrize(("before", "kept"), [("title: Boats", True), ("torch: 2.12.0", False)])
def test_recorded_images_are_kept_while_the_entry_is_the_same(boats: Project, before: str, kept: bool) -> None:
    root, name = boats.root, "boats/26.06-cuda"
    lock = locks.load_lock(root)
    recorded = msgspec.structs.replace(lock.entries[name], image=[Identity(ids=["sha256:1"])], tested=[TESTED])
    lock = msgspec.structs.replace(lock, entries=lock.entries | {name: recorded})
    write_atomic(root.lock, locks.lock_text(lock))
    boats.edit(MATRIX_FILE, before, before + "0")
    entry = relock(root, Known()).entries[name]
    assert bool(entry.image) == bool(entry.tested) == kept


@pytest.mark.parametrize(
    ("repair", "what"),
    [
        ("program: keel.py", "cuda.26.06.repair.0.program: there is no entrypoints/repair/keel.py"),
        ("environment: mian", "cuda.26.06.repair.0.environment: unknown environment 'mian'"),
    ],
)
def test_a_repair_that_cannot_be_made_is_refused(boats: Project, repair: str, what: str) -> None:
    old = 'base: {image: registry.example/org/boats, tag: "26.06"}\n'
    path = boats.edit(MATRIX_FILE, old, f"{old}        repair: [{{why: Closed., {repair}}}]\n")
    with pytest.raises(SlipwayError) as e:
        locks.load_matrix(boats.root)
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "repair:" in text)
    assert (e.value.code, e.value.what.endswith(what)) == (Exit.CONFIG, True), e.value.what
    assert e.value.where.startswith(f"{path}:{line}:")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("boats", "cpu"), "boats/1.0-cpu"),
        (("boats", "cuda"), "boats/26.08-cuda"),
        (("boats", "cuda", "26.06"), "boats/26.06-cuda"),
    ],
)
def test_an_entry_is_chosen_by_flavour_and_release(boats: Project, words: Any, name: str) -> None:
    assert locks.select(locks.load_lock(boats.root), *words).name == name


@pytest.mark.parametrize(
    ("words", "what", "remedy"),
    [
        (("botas", "cpu"), "unknown library 'botas'", "did you mean 'boats'?"),
        (("boats", "cuda", "26.07"), "boats has no release '26.07' for flavour cuda", "did you mean '26.08'?"),
        (("boats", "cpu", "26.06"), "boats has no release '26.06' for flavour cpu", "known: 1.0"),
    ],
)
def test_an_entry_that_is_not_there_is_a_wrong_word(boats: Project, words: Any, what: str, remedy: str) -> None:
    with pytest.raises(SlipwayError) as e:
        locks.select(locks.load_lock(boats.root), *words)
    assert (e.value.code, e.value.what, e.value.remedy) == (Exit.WORDS, what, remedy)


def test_a_flavour_without_a_default_asks_for_a_release(boats: Project) -> None:
    boats.edit(MATRIX_FILE, 'cpu: "1.0", ', "")
    lock = relock(boats.root, Known())
    with pytest.raises(SlipwayError, match="boats has no default release for flavour cpu"):
        locks.select(lock, "boats", "cpu")
    assert locks.select(lock, "boats", "cpu", "1.0").release == "1.0"


def test_pins_are_read_from_requirements_with_normal_names() -> None:
    text = "# a comment==1\nA_b.C==1.0+cpu \\\n    --hash=sha256:0\nd==2 ; python_version < '3'\ne>=3\n"
    assert groups.pins_of(text) == {"a-b-c": "1.0+cpu", "d": "2"}


def test_the_checksum_of_the_matrix_does_not_depend_on_order(tmp_path: Path) -> None:
    matrix = yamldoc.load(REPO / MATRIX_FILE, Matrix)
    (tmp_path / "matrix.yaml").write_text(yamldoc.dump(msgspec.to_builtins(matrix)))
    assert locks.matrix_checksum(yamldoc.load(tmp_path / "matrix.yaml", Matrix)) == locks.matrix_checksum(matrix)


def test_a_lock_that_was_edited_by_hand_is_refused_and_nothing_of_it_is_carried_over(boats: Project) -> None:
    boats.edit("versions.lock", "oars: '1.0'", "oars: '2.0'")
    with pytest.raises(SlipwayError, match="edited by hand, or merged") as e:
        locks.load_lock(boats.root)
    assert (e.value.code, e.value.where) == (Exit.DATA, str(boats.root.lock))
    assert e.value.remedy == "edit images/matrix.yaml and run: images lock"
    said: list[str] = []
    assert locks.previous(boats.root, said.append) is None
    assert said == [f"{boats.root.lock} was edited by hand, or merged: nothing of it is carried over"]


REPOSITORY = """\
        repositories:
          charts: {url: https://example.org/charts, tag: v1, path: /opt/charts}
"""


def with_repository(boats: Project) -> None:
    boats.edit(
        MATRIX_FILE, '        python: "3.11"\n        groups', f'        python: "3.11"\n{REPOSITORY}        groups'
    )


def test_a_repositorys_tag_is_resolved_once_and_again_when_it_is_upgraded(boats: Project) -> None:
    with_repository(boats)
    asked = "repository https://example.org/charts v1"
    resolver = Known()
    assert relock(boats.root, resolver).entries["boats/1.0-cpu"].repositories["charts"].commit is None
    assert asked in resolver.asked
    found = relock(boats.root, Known("https://example.org/charts")).entries["boats/1.0-cpu"].repositories["charts"]
    assert (found.commit, found.tree) == (COMMIT, TREE)
    resolver = Known()
    assert relock(boats.root, resolver).entries["boats/1.0-cpu"].repositories["charts"] == found
    assert asked not in resolver.asked
    kept = relock(boats.root, resolver, upgrade=("boats",)).entries["boats/1.0-cpu"].repositories["charts"]
    assert asked in resolver.asked and kept == found, "a server that does not answer takes nothing away"


def test_an_upgrade_asks_everything_of_one_library_anew(boats: Project) -> None:
    boats.edit(MATRIX_FILE, f', digest: "sha256:{"8" * 64}"', "")
    boats.root.lock.unlink()
    before = relock(boats.root, Known(BOATS)).entries["boats/26.08-cuda"].base
    resolver = Known()
    assert relock(boats.root, resolver).entries["boats/26.08-cuda"].base == before and resolver.asked == []
    resolver = Known(BOATS)
    assert relock(boats.root, resolver, upgrade=("boats",)).entries["boats/26.08-cuda"].base == before
    assert [a.split()[0] for a in resolver.asked] == ["pins", "base", "base"]


def test_what_was_built_is_written_into_the_lock_and_stays_while_the_entry_does(boats: Project) -> None:
    lock = locks.load_lock(boats.root)
    name = "boats/1.0-cpu"
    once = locks.with_image(lock, name, [DIGEST], {})
    twice = locks.with_image(once, name, [DIGEST, f"sha256:{'1' * 64}"], {})
    assert [i.ids for i in twice.entries[name].image] == [[DIGEST, f"sha256:{'1' * 64}"]]
    assert twice.entries[name].checksum == lock.entries[name].checksum and twice.checksum != lock.checksum
    write_atomic(boats.root.lock, locks.lock_text(twice))
    assert locks.load_lock(boats.root) == twice
    assert relock(boats.root, Known()).entries[name].image == twice.entries[name].image
    with pytest.raises(SlipwayError, match="the image has sha256:5 in place of a:1") as e:
        locks.with_image(lock, name, [DIGEST], {"a:1": "sha256:5"})
    assert e.value.code == Exit.DATA


FROM_SOURCE = """\
          tools: {packages: [saw==1.0], python: "3.11", platform: linux}
          keel:
            packages: [keel==1.0]
            python: "3.12"
            platform: linux
            no_deps: true
            flags: [--ignore-requires-python]
            from_source: {tools: tools, debian: [g++], env: {CXXFLAGS: -g0}, expects: [keel/keel]}
"""


def test_build_tools_are_locked_alone_and_are_in_no_environment(boats: Project) -> None:
    boats.edit(MATRIX_FILE, "          boats: {packages", f"{FROM_SOURCE}          boats: {{packages")
    boats.edit(MATRIX_FILE, "groups: [torch, boats]", "groups: [torch, keel, boats]")
    resolver = Known()
    entry = relock(boats.root, resolver).entries["boats/1.0-cpu"]
    assert resolver.asked[:2] == ["pins torch keel boats", "pins tools"]
    assert entry.layers == ["torch", "keel", "boats"] and set(entry.groups) == {*entry.layers, "tools"}
    assert "saw" not in entry.environments["main"].packages and "keel" in entry.environments["main"].packages


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ("path: /opt/charts", "path: opt/charts", "charts.path: 'opt/charts' is no absolute path"),
        ("path: /opt/charts", "path: /opt/charts, commit: abc, tree: abc", "commit: 'abc' is no git object"),
        ("path: /opt/charts", f"path: /opt/charts, tree: {'e' * 40}", "charts: `commit` and `tree` belong together"),
    ],
)
def test_a_repository_of_the_matrix_that_cannot_be(boats: Project, before: str, after: str, what: str) -> None:
    with_repository(boats)
    boats.edit(MATRIX_FILE, before, after)
    with pytest.raises(SlipwayError) as e:
        locks.load_matrix(boats.root)
    assert e.value.code == Exit.CONFIG and what in e.value.what and "matrix.yaml:" in e.value.where


def test_tools_that_are_no_group(boats: Project) -> None:
    boats.edit(MATRIX_FILE, "          boats: {packages", f"{FROM_SOURCE}          boats: {{packages")
    boats.edit(MATRIX_FILE, "groups: [torch, boats]", "groups: [torch, keel, boats]")
    boats.edit(MATRIX_FILE, "{tools: tools,", "{tools: tolls,")
    with pytest.raises(SlipwayError, match=r"keel\.from_source\.tools: unknown group 'tolls'") as e:
        locks.load_matrix(boats.root)
    assert e.value.remedy == "did you mean 'tools'?"
