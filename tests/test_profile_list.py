"""launcher/lists/profile_list.py and `launch profiles`: which there are, and what each says and where."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers import Project

from launcher.lists import profile_list
from launcher.lists.profile_list import Key

SITE = """\
schema: 1
kind: slurm
extends: slurm-pyxis
account: dept
gpu: {model: H100, memory: 80GiB}
sbatch:
  comment: two words
  nice: 3
setup: [module load cuda]
env: {A.B: ""}
gpus: 4
time: UNLIMITED
runs: $LUSTRE/me/runs
squash: squash
"""


@pytest.fixture
def site(project: Project) -> Project:
    project.write("slipway.d/profiles/site.yaml", SITE)
    project.env["LUSTRE"] = "/lustre"
    return project


def test_a_path_with_a_variable_that_is_not_set_is_an_error_with_its_line(site: Project) -> None:
    del site.env["LUSTRE"]
    for words in (("profiles", "show", "site"), ("--profile", "site", "sft/automodel", "--dry-run")):
        done = site.launch(*words)
        assert (done.code, done.stdout) == (78, "")
        assert done.stderr == (
            f"error: {site.path}/slipway.d/profiles/site.yaml:13:1: runs: '$LUSTRE/me/runs': the variable LUSTRE is "
            "not set here\n  export LUSTRE=…, or write the path itself\n"
        )


def lines(text: str, project: Project) -> list[str]:
    return [" ".join(line.split()) for line in text.replace(str(project.path), "P").splitlines()]


def test_every_profile_is_listed_and_one_that_is_wrong_hides_none(site: Project) -> None:
    site.write("slipway.d/profiles/docker.yaml", "schema: 1\nkind: docker\nextends: docker\nflavour: cpu\n")
    site.write("slipway.d/profiles/bad.yaml", "schema: 1\nkind: slrum\n")
    done = site.launch("profiles")
    assert done.code == 0
    assert lines(done.stdout, site) == [
        "PROFILE KIND FLAVOUR EXTENDS FILE",
        "bad wrong - - P/slipway.d/profiles/bad.yaml:2:1: kind: 'slrum' is not allowed; did you mean 'slurm'?",
        "docker docker cpu docker P/slipway.d/profiles/docker.yaml",
        "enroot enroot auto - P/launcher/profiles/enroot.yaml",
        "site slurm cuda slurm-pyxis P/slipway.d/profiles/site.yaml",
        "slurm-pyxis slurm cuda - P/launcher/profiles/slurm-pyxis.yaml",
    ]
    listed = json.loads(site.launch("profiles", "--json").stdout)
    assert [(p["name"], p["kind"]) for p in listed][:2] == [("bad", ""), ("docker", "docker")]
    assert "slrum" in listed[0]["error"]


def test_each_key_is_shown_with_the_line_that_says_it(site: Project) -> None:
    done = site.launch("profiles", "show", "site")
    assert done.code == 0
    shown = lines(done.stdout, site)
    for line in (
        "kind slurm P/slipway.d/profiles/site.yaml:2:1",
        "extends slurm-pyxis P/slipway.d/profiles/site.yaml:3:1",
        "account dept P/slipway.d/profiles/site.yaml:4:1",
        "gpu.memory 80GiB P/slipway.d/profiles/site.yaml:5:20",
        "sbatch.comment two words P/slipway.d/profiles/site.yaml:7:3",
        "sbatch.nice 3 P/slipway.d/profiles/site.yaml:8:3",
        'setup ["module load cuda"] P/slipway.d/profiles/site.yaml:9:1',
        'env.A.B "" P/slipway.d/profiles/site.yaml:10:7',
        "exclusive true P/launcher/profiles/slurm-pyxis.yaml:6:1",
        "partition - default",
        "gpus 4 P/slipway.d/profiles/site.yaml:11:1",
        "time UNLIMITED P/slipway.d/profiles/site.yaml:12:1",
        "runs /lustre/me/runs P/slipway.d/profiles/site.yaml:13:1",
        "squash P/slipway.d/profiles/squash P/slipway.d/profiles/site.yaml:14:1",
        "arch - default",
        "srun {} default",
        "shared [] default",
        "attempts 3 default",
    ):
        assert line in shown
    assert not {"name", "file"} & {line.split()[0] for line in shown}


def test_as_json_values_keep_their_types(site: Project) -> None:
    found = {k["name"]: k for k in json.loads(site.launch("profiles", "show", "site", "--json").stdout)}
    assert (found["sbatch.nice"]["value"], found["exclusive"]["value"], found["partition"]["value"]) == (3, True, None)
    assert found["partition"]["origin"] == "" and found["account"]["origin"].endswith("site.yaml:4:1")


@pytest.mark.parametrize("verb", ["show", "doctor"])
def test_an_unknown_profile_is_refused(site: Project, verb: str) -> None:
    done = site.launch("profiles", verb, "sit")
    assert (done.code, done.stdout) == (64, "")
    assert done.stderr == "error: unknown profile 'sit'\n  did you mean 'site'?\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), ("", '""'), (" a", '" a"'), (None, "-"), (True, "true"), (3, "3"), ([], "[]"), ({"a": 1}, '{"a":1}')],
)
def test_values_are_shown_so_that_they_can_be_told_apart(value: Any, text: str) -> None:
    assert profile_list.details([Key(name="k", value=value)]) == f"k  {text}  default\n"
