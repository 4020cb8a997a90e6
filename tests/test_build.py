"""images/building/build.py: what goes into a build, what BuildKit is asked for, and what is refused before it.

The engine and the docker command are stand-ins, which see what they are asked; images are built in tests/real.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import IMAGE, MATRIX_FILE, Engine, Known, Project, relock, tree

from images.building import base, build, identity
from images.building.build import Context
from images.locking import lock as locks
from slipway.errors import Exit, SlipwayError

FROM = "registry.example/org/boats:26.08@sha256:8888888888888888888888888888888888888888888888888888888888888888"
CONFIG, MANIFEST, STAND_IN = (f"sha256:{c * 64}" for c in "cde")


@pytest.fixture
def docker(docker_stand_in: Path, engine: Engine) -> Path:
    """A docker command, and an engine that has what it builds; the command's folder."""
    facts = {"containerimage.config.digest": CONFIG, "containerimage.digest": MANIFEST}
    (docker_stand_in / "metadata.json").write_text(json.dumps(facts))
    tags = {f"slipway/boats:{t}": IMAGE for t in ("26.08-cuda", "26.06-cuda", "1.0-cpu")}
    engine.holds(images={IMAGE: IMAGE, "local/base:1": STAND_IN} | tags)
    return docker_stand_in


def calls(docker: Path) -> list[list[str]]:
    lines = (docker / "calls").read_text().splitlines()
    return [words for words in map(json.loads, lines) if words[1] not in ("version", "imagetools", "inspect")]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository with one file, and the tag v1."""
    folder = tmp_path / "charts"
    folder.mkdir()
    (folder / "chart").write_text("one")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "chart"], [*who, "commit", "-qm", "one"], ["tag", "v1"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return folder


def pin_repository(boats: Project, checkout: Path) -> None:
    """The newest cuda release brings `checkout` at v1."""
    row = f"        repositories: {{charts: {{url: 'file://{checkout}', tag: v1, path: /opt/charts}}}}\n"
    boats.edit(MATRIX_FILE, '        python: "3.12"\n', f'{row}        python: "3.12"\n')
    boats.program("git", f'exec {shutil.which("git")} "$@"')
    boats.images("lock")
    assert boats.images("render").code == 0


def option(words: list[str], name: str) -> list[str]:
    return [value for word, value in itertools.pairwise(words) if word == name]


def test_a_cuda_image_is_built_from_its_rendered_files_and_recorded(boats: Project, docker: Path) -> None:
    done = boats.images("build", "boats")
    assert (done.code, done.stdout) == (0, f"{CONFIG}\n"), done
    (words,) = calls(docker)
    assert words[:5] == ["buildx", "build", "--network", "host", "--provenance=false"]
    assert option(words, "--tag") == ["slipway/boats:26.08-cuda"]
    assert "--load" in words and option(words, "--build-context") == []
    context = docker / "context"
    assert sorted(p.name for p in context.iterdir()) == ["Dockerfile", "entry.json", "path.sh", "verify.py"]
    for name, source in (
        ("Dockerfile", "images/boats/26.08-cuda/Dockerfile"), ("verify.py", "entrypoints/verify.py")
    ):  # fmt: skip
        assert (context / name).read_bytes() == (boats.path / source).read_bytes()

    entry = locks.load_lock(boats.root).entries["boats/26.08-cuda"]
    (record,) = identity.records(boats.root, entry)
    assert record.ids == [CONFIG, MANIFEST, IMAGE]
    assert (record.name, record.entry, record.reproducible) == (entry.name, entry.checksum, False)
    assert [(layer.bytes, layer.made_by) for layer in record.layers] == [(20, "RUN something")]


def test_proxies_reach_a_build_and_no_credentials_its_arguments(boats: Project, docker: Path) -> None:
    boats.env |= {"HTTP_PROXY": "http://p.example:1", "HTTPS_PROXY": "http://me:canary-7@p.example:1", "no_proxy": "x"}
    assert boats.images("build", "boats").code == 0
    (words,) = calls(docker)
    assert option(words, "--build-arg") == ["HTTP_PROXY", "no_proxy"]
    assert any(secret.startswith("id=pip,") for secret in option(words, "--secret"))
    assert not any("canary-7" in word for word in words)


def test_nothing_is_built_twice_until_something_changes_or_it_is_wished(boats: Project, docker: Path) -> None:
    first, second = boats.images("build", "boats"), boats.images("build", "boats")
    assert (second.code, second.stdout) == (0, first.stdout)
    assert second.stderr == f"slipway/boats:26.08-cuda: unchanged ({IMAGE})\n"
    assert len(calls(docker)) == 1
    shutil.rmtree(docker / "context")
    assert boats.images("build", "boats", "--no-cache").code == 0
    assert ["--no-cache" in words for words in calls(docker)] == [False, True]
    shutil.rmtree(docker / "context")
    boats.edit("entrypoints/verify.py", "import argparse", "import argparse  # changed")
    assert boats.images("build", "boats").code == 0
    assert len(calls(docker)) == 3


def test_another_processor_is_asked_of_buildkit_and_recorded(boats: Project, docker: Path, engine: Engine) -> None:
    """What was built for one is not what is wanted for the other; and who has no word for it wants the engine's own."""
    has = json.loads((engine.folder / "has.json").read_text())
    engine.holds(**has, version={"Arch": "amd64"})
    platforms = "Nodes:\nPlatforms: linux/amd64, linux/amd64/v2, linux/arm64\n"
    (docker / "inspect").write_text(platforms)
    entry = locks.load_lock(boats.root).entries["boats/26.08-cuda"]
    for words, asked in (((), []), (("--platform", "linux/arm64"), ["linux/arm64"])):
        shutil.rmtree(docker / "context", ignore_errors=True)
        done = boats.images("build", "boats", *words)
        assert (done.code, "unchanged" in done.stderr) == (0, False), done
        (record, *_) = identity.records(boats.root, entry)
        assert option(calls(docker)[-1], "--platform") == asked
        assert record.platform == (asked or ["linux/amd64"])[0]
    assert "unchanged" in boats.images("build", "boats", "--platform", "linux/arm64").stderr


@pytest.mark.usefixtures("bootstrapped")
def test_a_processor_is_refused_that_the_lock_or_the_engine_does_not_have(
    boats: Project, docker: Path, engine: Engine
) -> None:
    has = json.loads((engine.folder / "has.json").read_text())
    engine.holds(**has, version={"Arch": "amd64"})
    done = boats.images("build", "boats", "--platform", "linux/arm64")
    assert (done.code, done.stdout) == (69, "")
    assert f"error: {engine.address}: " in done.stderr
    assert "runs programs of linux/amd64, linux/386, not of linux/arm64\n  build on such a machine, or" in done.stderr
    boats.edit(MATRIX_FILE, "platform: linux}", "platform: x86_64-manylinux_2_36}")
    boats.edit(MATRIX_FILE, "platform: linux}", "platform: x86_64-manylinux_2_36}")
    relock(boats.root, Known())
    done = boats.images("build", "boats", "--flavour", "cpu", "--platform", "linux/arm64")
    assert (done.code, done.stdout) == (65, "")
    assert done.stderr.startswith("error: boats/1.0-cpu: is locked for linux/amd64, not for linux/arm64: ")
    assert not any("build" in words[:2] for words in calls(docker))


def test_another_processor_has_an_entry_of_its_own(
    boats: Project, docker: Path, engine: Engine, bootstrapped: Path
) -> None:
    """Asked for by name, or because the engine is of that processor; its image is another one, and is run there."""
    has = json.loads((engine.folder / "has.json").read_text())
    has["images"]["slipway/boats:1.0-cpu-arm64"] = IMAGE
    engine.holds(**has, version={"Arch": "amd64"})
    (docker / "inspect").write_text("Platforms: linux/amd64, linux/arm64\n")
    for _ in range(2):
        boats.edit(MATRIX_FILE, "platform: linux}", "platform: x86_64-manylinux_2_36}")
    boats.edit(
        MATRIX_FILE, "  environments:\n", "  platforms: {linux/arm64: {torch: [torch==0.9]}}\n        environments:\n"
    )
    shutil.copytree(bootstrapped.parent, f"{bootstrapped.parent}-arm64")
    lock = relock(boats.root, Known())
    other = lock.entries["boats/1.0-cpu-arm64"]
    assert boats.images("build", "boats", "--flavour", "cpu", "--platform", "linux/arm64").code == 0
    context = docker / "context"
    assert (context / "requirements-torch.txt").read_bytes() == (boats.path / other.groups["torch"].file).read_bytes()
    assert json.loads((context / "entry.json").read_text())["platform"] == "linux/arm64"
    assert 'slipway.platform="linux/arm64"' in (context / "Dockerfile").read_text()
    (record,) = identity.records(boats.root, other)
    assert (record.name, record.platform, record.tag) == (other.name, "linux/arm64", "slipway/boats:1.0-cpu-arm64")
    assert identity.records(boats.root, lock.entries["boats/1.0-cpu"]) == []
    engine.holds(**has, version={"Arch": "arm64"})
    assert "unchanged" in boats.images("build", "boats", "--flavour", "cpu").stderr


def test_an_image_that_is_gone_from_the_engine_is_built_again(boats: Project, docker: Path, engine: Engine) -> None:
    assert boats.images("build", "boats").code == 0
    shutil.rmtree(docker / "context")
    engine.holds(images={STAND_IN: STAND_IN, "slipway/boats:26.08-cuda": STAND_IN})
    assert boats.images("build", "boats").code == 0
    assert len(calls(docker)) == 2


@pytest.mark.usefixtures("bootstrapped")
def test_a_cpu_image_gets_base_requirements_and_substitutes(boats: Project, docker: Path, engine: Engine) -> None:
    done = boats.images("build", "boats", "--flavour", "cpu")
    assert done.code == 0, done
    assert "no containerd image store: the digest is not reproducible here" in done.stderr
    (words,) = calls(docker)
    assert "SOURCE_DATE_EPOCH=1790000000" in option(words, "--build-arg")
    context = docker / "context"
    assert {p.name for p in context.iterdir()} == {
        "Dockerfile", "base.tar", "cpu", "entry.json", "path.sh", "requirements-boats.txt",
        "requirements-torch.txt", "verify.py",
    }  # fmt: skip
    assert {p.name for p in (context / "cpu").iterdir()} == {"boats.pth", "slipway_cpu.py"}
    assert engine.asked


@pytest.mark.usefixtures("bootstrapped")
def test_torch_comes_from_a_folder_of_this_machine_or_else_from_its_own_index(boats: Project, docker: Path) -> None:
    boats.env |= {"PIP_CONFIG_FILE": "/dev/null"}
    assert boats.images("build", "boats", "--flavour", "cpu", "--no-cache").code == 0
    shutil.rmtree(docker / "context")
    wheels = boats.write("wheels/torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl", "").parent
    boats.env |= {"PIP_FIND_LINKS": str(wheels)}
    assert boats.images("build", "boats", "--flavour", "cpu", "--no-cache").code == 0
    elsewhere, here = calls(docker)
    assert [a for a in option(elsewhere, "--build-arg") if a.startswith("INDEX_TORCH=https://")]
    assert option(elsewhere, "--build-context") == []
    assert not [a for a in option(here, "--build-arg") if a.startswith("INDEX_")]
    assert option(here, "--build-context") == [f"wheels={wheels}"]


@pytest.mark.usefixtures("bootstrapped")
def test_the_machines_own_index_and_bundle_travel_as_secrets(boats: Project, docker: Path) -> None:
    bundle = boats.write("ca.pem", "a bundle")
    boats.env |= {
        "PIP_CONFIG_FILE": "/dev/null", "PIP_CERT": str(bundle), "PIP_INDEX_URL": "https://user:word@index.example/simple"
    }  # fmt: skip
    assert boats.images("build", "boats", "--flavour", "cpu").code == 0
    assert (docker / "secrets" / "ca").read_text() == "a bundle"
    assert "index-url = https://user:word@index.example/simple" in (docker / "secrets" / "pip").read_text()
    assert "word" not in (docker / "calls").read_text()


@pytest.mark.usefixtures("bootstrapped")
def test_on_a_containerd_store_the_image_is_exported_reproducibly(boats: Project, docker: Path, engine: Engine) -> None:
    images = {IMAGE: IMAGE, "slipway/boats:1.0-cpu": IMAGE}
    engine.holds(images=images, info={"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]})
    done = boats.images("build", "boats", "--flavour", "cpu")
    assert (done.code, "not reproducible" in done.stderr) == (0, False), done
    (words,) = calls(docker)
    (output,) = option(words, "--output")
    assert output.startswith("type=oci,dest=") and "rewrite-timestamp=true" in output.split(",")
    assert "--load" not in words and "POST /images/load" in engine.asked
    assert identity.records(boats.root, locks.load_lock(boats.root).entries["boats/1.0-cpu"])[0].reproducible


def test_a_base_may_be_replaced_by_a_local_image_and_the_image_says_so(boats: Project, docker: Path) -> None:
    assert boats.images("build", "boats", "--base", f"{FROM}=local/base:1").code == 0
    (words,) = calls(docker)
    assert option(words, "--build-context") == [f"{FROM}=docker-image://local/base:1"]
    assert option(words, "--label") == [f"slipway.substituted={FROM}={STAND_IN}"]
    entry = locks.load_lock(boats.root).entries["boats/26.08-cuda"]
    assert identity.records(boats.root, entry)[0].substitutions == {FROM: STAND_IN}


def test_an_unresolved_base_may_be_replaced_by_a_local_image(boats: Project, docker: Path) -> None:
    reference = "registry.example/org/boats:26.06"
    done = boats.images("build", "boats", "--release", "26.06", "--base", f"{reference}=local/base:1")
    assert done.code == 0, done
    assert option(calls(docker)[0], "--build-context") == [f"{reference}=docker-image://local/base:1"]


def test_a_build_that_fails_ends_with_69_and_leaves_no_record(boats: Project, docker: Path) -> None:
    (docker / "code").write_text("17")
    done = boats.images("build", "boats")
    assert (done.code, done.stdout) == (69, "")
    assert done.stderr == "error: the build of boats/26.08-cuda failed (buildx exited 17)\n"
    assert not (boats.root.state / "images").exists()


UNRESOLVED = (
    "error: versions.lock, boats/26.06-cuda: the base registry.example/org/boats:26.06 is unresolved: nobody "
    "has asked registry.example for its digest\n  where registry.example is reachable, run: images lock boats\n"
)


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (78, ["boats", "--release", "26.06"], UNRESOLVED),
        (64, ["botas"], "error: unknown library 'botas'\n  did you mean 'boats'?\n"),
        (
            64, ["boats", "--release", "26.07"],
            "error: boats has no release '26.07' for flavour cuda\n  did you mean '26.08'?\n",
        ),
        (64, ["boats", "--base", "local"], "error: --base local: not of the form REF=IMAGE\n"),
        (
            64, ["boats", "--base", "a=b"],
            f"error: --base: boats/26.08-cuda does not start from 'a'\n  its FROM is {FROM!r}\n",
        ),
        (
            64, ["boats", "--flavour", "cpu", "--base", "a=b"],
            "error: --base: boats/1.0-cpu does not start from 'a'\n  its base is made from Debian packages\n",
        ),
        (66, ["boats", "--base", f"{FROM}=no/image"], "error: --base: the engine has no image 'no/image'\n"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused_before_anything_is_made(
    boats: Project, docker: Path, tmp_path: Path, code: int, words: list[str], said: str
) -> None:
    before = tree(tmp_path)
    done = boats.images("build", *words)
    assert (done.code, done.stdout, done.stderr) == (code, "", said)
    assert tree(tmp_path) == before
    assert not (docker / "calls").exists()


def test_no_engine_is_said_with_its_address_and_where_that_came_from(boats: Project, tmp_path: Path) -> None:
    done = boats.images("build", "boats")
    assert (done.code, done.stdout) == (69, "")
    assert done.stderr.startswith(f"error: unix://{tmp_path}/dead (from DOCKER_HOST): no Docker engine answers\n")


def test_no_docker_command_is_said(boats: Project, engine: Engine) -> None:
    done = boats.images("build", "boats")
    assert engine.asked and done.code == 69
    assert "not installed, or too old: docker, buildx" in done.stderr


def test_a_requirements_file_that_was_edited_is_refused(boats: Project, docker: Path) -> None:
    path = boats.edit("images/boats/1.0-cpu/requirements-torch.txt", "torch", "trch")
    done = boats.images("build", "boats", "--flavour", "cpu")
    assert done.code == 65 and not (docker / "calls").exists()
    assert done.stderr.startswith(f"error: {path}: not the file that the lock names\n")


@pytest.mark.parametrize(
    ("word", "reference", "image"),
    [("a:1=b", "a:1", "b"), ("a:1@sha256:0=b:2@sha256:1", "a:1@sha256:0", "b:2@sha256:1"), ("a=b=c", "a=b", "c")],
)
def test_a_substitution_is_split_at_its_last_equals_sign(word: str, reference: str, image: str) -> None:
    assert build.substitutions((word,)) == {reference: image}


@pytest.mark.parametrize("word", ["", "=", "a", "a=", "=b"])
def test_a_substitution_of_another_form_is_a_wrong_word(word: str) -> None:
    with pytest.raises(SlipwayError, match="not of the form REF=IMAGE") as e:
        build.substitutions((word,))
    assert e.value.code == Exit.WORDS


@pytest.mark.parametrize("change", ["text", "name of a text", "file", "name of a file", "base", "substitution"])
def test_every_input_of_a_build_is_in_the_checksum_of_its_context(tmp_path: Path, change: str) -> None:
    file = tmp_path / "verify.py"
    file.write_text("1")

    def tar(checksum: str) -> base.BaseTar:
        return base.BaseTar(tmp_path / "base.tar", base.BaseFacts(sha256=checksum, packages={}))

    before = Context({"Dockerfile": "FROM a"}, {"verify.py": file}, tar("0")).checksum({})
    assert Context({"Dockerfile": "FROM a"}, {"verify.py": file}, tar("0")).checksum({}) == before
    changed: dict[str, Any] = {
        "text": Context({"Dockerfile": "FROM b"}, {"verify.py": file}, tar("0")),
        "name of a text": Context({"Containerfile": "FROM a"}, {"verify.py": file}, tar("0")),
        "file": Context({"Dockerfile": "FROM a"}, {"verify.py": file}, tar("0")),
        "name of a file": Context({"Dockerfile": "FROM a"}, {"check.py": file}, tar("0")),
        "base": Context({"Dockerfile": "FROM a"}, {"verify.py": file}, tar("1")),
        "substitution": Context({"Dockerfile": "FROM a"}, {"verify.py": file}, tar("0")),
    }
    if change == "file":
        file.write_text("2")
    assert changed[change].checksum({"a": "b"} if change == "substitution" else {}) != before


def test_a_checkout_stands_in_for_a_repository_and_is_recorded(boats: Project, docker: Path, checkout: Path) -> None:
    pin_repository(boats, checkout)
    assert boats.images("build", "boats").code == 0
    (words,) = calls(docker)
    (context,) = option(words, "--build-context")
    assert context.startswith("source-charts=") and option(words, "--label") == []
    assert (docker / "contexts" / "source-charts" / "tree" / "chart").read_text() == "one"
    told = json.loads((docker / "context" / "repositories.json").read_text())
    assert told["charts"]["clean"] and not told["charts"]["left_out"]
    shutil.rmtree(docker / "context")
    (checkout / "chart").write_text("two")
    words_of_it = ("build", "boats", "--source", f"charts={checkout}")
    done = boats.images(*words_of_it)
    assert done.code == 0, done
    entry = locks.load_lock(boats.root).entries["boats/26.08-cuda"]
    record = identity.records(boats.root, entry)[0]
    (what,) = record.drift.values()
    assert list(record.drift) == ["source charts"] and what.startswith("the tree ")
    assert boats.images(*words_of_it).stderr.startswith("slipway/boats:26.08-cuda: unchanged")
    assert boats.images("lock", "--record", "boats/26.08-cuda").code == 65, "the lock takes no image with drift"


def test_a_repository_that_is_left_out_is_on_the_label(boats: Project, docker: Path, checkout: Path) -> None:
    pin_repository(boats, checkout)
    assert boats.images("build", "boats", "--source", "charts=none").code == 0
    assert option(calls(docker)[0], "--label") == ["slipway.left-out=charts"]
    record = identity.records(boats.root, locks.load_lock(boats.root).entries["boats/26.08-cuda"])[0]
    assert (record.left_out, record.drift) == (["charts"], {})


def test_the_identity_of_a_built_image_goes_into_the_lock(boats: Project, docker: Path) -> None:
    assert boats.images("build", "boats").code == 0
    assert calls(docker)
    done = boats.images("lock", "--record", IMAGE)
    assert (done.code, done.stderr) == (0, f"versions.lock: boats/26.08-cuda is {CONFIG}\n")
    entry = locks.load_lock(boats.root).entries["boats/26.08-cuda"]
    assert [i.ids for i in entry.image] == [[CONFIG, MANIFEST, IMAGE]]
    assert boats.images("render", "--check").code == 0, "it is no part of what the image is made from"
    done = boats.images("lock", "--record", "local/base:1")
    assert done.code == 65 and "no image record names" in done.stderr
    done = boats.images("lock", "--record", "boats/26.06-cuda")
    assert done.code == 66 and "images build boats --release 26.06 --flavour cuda" in done.stderr


def test_images_run_runs_the_recorded_image_as_the_caller_without_a_network(boats: Project, docker: Path) -> None:
    assert boats.images("build", "boats").code == 0
    folder = boats.write("work/file", "").parent
    (docker / "code").write_text("7")
    done = boats.images("run", "boats", "--mount", str(folder), "python", "verify.py", "-v")
    assert done.code == 7
    words = calls(docker)[-1]
    assert words[:5] == ["run", "--rm", "--init", "--network", "none"]
    assert option(words, "--user") == [f"{os.getuid()}:{os.getgid()}"]
    assert option(words, "--volume") == [f"{folder}:{folder}"] and option(words, "--workdir") == [str(folder)]
    assert words[-4:] == [IMAGE, "python", "verify.py", "-v"]


@pytest.mark.usefixtures("docker")
def test_images_run_without_an_image_names_the_build(boats: Project) -> None:
    done = boats.images("run", "boats", "python")
    assert done.code == 66
    assert "run: images build boats --release 26.08 --flavour cuda" in done.stderr
