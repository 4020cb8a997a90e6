"""launcher/prerequisites/requirements.py on Slurm, whose commands are stand-ins: what is needed is a job of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import REPO, Done, Project, record_image, script, squash, tree, write_chat_model, write_chats
from hubs import Hub, hub_in
from slurm_job import Commands
from test_checkpoints import write_megatron

from images.locking import lock as locks
from launcher.planning import preparation
from launcher.planning.probe import Looks

# A job has the next number; it waits until the test says how it has ended.
SBATCH = 'n=100; while ! mkdir "$JOBS/$n" 2>/dev/null; do n=$((n+1)); done; echo "$n"'
SCONTROL = """
state=PENDING; [[ ! -s $JOBS/$4/state ]] || state=$(cat "$JOBS/$4/state")
echo "JobId=$4 JobState=$state ExitCode=1:0 Reason=None StartTime=Unknown EndTime=Unknown"
"""
SITE = """\
schema: 1
kind: slurm
extends: slurm-pyxis
gpu: {{model: H100, memory: 80GiB}}
gpus: 8
shared: [{place}]
runs: {place}/runs
squash: {place}/squash
"""


@dataclass(frozen=True)
class Site:
    """A cluster on which jobs wait, and the launches that the tests make there."""

    project: Project
    slurm: Commands
    place: Path

    def launch(self, *words: str) -> Done:
        return self.project.launch(*words, "--profile", "site")

    def jobs(self) -> list[tuple[str, list[str]]]:
        """Of every job, in order: its step and those that it waits for."""
        found = []
        for call in self.slurm.calls("sbatch"):
            after = [w.partition("afterany:")[2] for w in call.words if w.startswith("--dependency=")]
            found.append((self.plan(Path(call.cwd))["step"], after))
        return found

    def plan(self, run: Path) -> dict[str, Any]:
        return dict(json.loads((run / "plan.json").read_text()))

    def run(self, job: str) -> Path:
        (found,) = [p.parent for p in self.place.glob("runs/*/job") if p.read_text() == f"{job}\n"]
        return found

    def end(self, job: str, state: str = "FAILED") -> None:
        (self.place / "jobs" / job / "state").write_text(state)

    def make(self, job: str) -> Path:
        """What the job's run makes, marked as step programs mark it."""
        run = self.run(job)
        folder = Path(self.plan(run)["output"])
        write_megatron(folder, iteration=0)
        program = "import slipway_step as s; s.seal(s.load_plan()['makes'])"
        env = {"SLIPWAY_OUTPUT_DIR": str(folder), "SLIPWAY_DIR": str(run / "slipway"), "SLIPWAY_RUN": run.name}
        subprocess.run([sys.executable, "-c", program], env=env, cwd=REPO / "entrypoints" / "steps", check=True)
        return folder

    def cached(self) -> list[tuple[str, str]]:
        listed = json.loads(self.launch("cache", "list", "--json").stdout)
        return [(i["libraries"], i["state"]) for i in listed]


@pytest.fixture
def site(project: Project, tmp_path: Path) -> Site:
    slurm = Commands(tmp_path / "slurm")
    for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL)):
        slurm.does(name, f"JOBS={tmp_path}/jobs\n{text}")
    (tmp_path / "jobs").mkdir()
    project.env["PATH"] = str(slurm.bin)
    project.write("slipway.d/profiles/site.yaml", SITE.format(place=tmp_path))
    for library in ("megatron-bridge", "nemo-rl"):
        record = record_image(project.root, locks.select(locks.load_lock(project.root), library, "cuda"))
        squash(tmp_path / "squash", record)
    return Site(project, slurm, tmp_path)


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    """Fine-tuning that takes a checkpoint of Megatron, and is given one of Hugging Face."""
    model, chats = write_chat_model(tmp_path / "llama"), write_chats(tmp_path / "chats.jsonl")
    return ("sft/megatron_bridge", "--convert", f"model={model}", f"tokenizer={model}", f"train={chats}")


STEPS = ("convert/hf_to_megatron", "sft/megatron_bridge")


def launched(site: Site, *words: str) -> Path:
    """The run directory of a launch, which submits and returns."""
    done = site.launch(*words)
    assert done.code == 0, done
    return site.place / "runs" / done.stdout.strip()


def test_a_dry_run_shows_both_jobs_and_that_one_waits_for_the_other(site: Site, words: tuple[str, ...]) -> None:
    before = tree(site.place / "project")
    done = site.launch(*words, "--dry-run")
    assert done.code == 0, done
    assert [line for line in done.stdout.splitlines() if line.startswith("# ") and "made by `launch`" in line] == [
        line for step in STEPS for line in done.stdout.splitlines() if line.startswith(f"# {step} with ")
    ]
    assert done.stdout.count("#!/usr/bin/env bash") == 2
    assert f"{STEPS[1]} waits for it: sbatch gets --dependency=afterany:JOB, the job of {STEPS[0]}" in done.stderr
    assert f"sizes and tokenizer are taken to be those of {site.place}/llama" in done.stderr
    assert not (site.place / "runs").exists() and tree(site.place / "project") == before and site.jobs() == []


def test_a_launch_submits_both_jobs_and_returns(site: Site, words: tuple[str, ...]) -> None:
    run = launched(site, *words, "--detach")
    assert site.jobs() == [(STEPS[0], []), (STEPS[1], ["100"])]
    plan, first = site.plan(run), site.plan(site.run("100"))
    (need,) = plan["needs"]
    assert first["makes"] == need and first["output"] == need["place"] == plan["inputs"]["model"]["path"]
    assert Path(need["place"]).is_dir(), "it can be mounted, whatever becomes of its job"
    inside = f"/inputs/model-{need['key'][:8]}"
    assert plan["env"]["SLIPWAY_CONVERTED"]["value"] == inside in [m["target"] for m in plan["mounts"]]
    assert [v for k, v in plan["config"]["set"] if k == "checkpoint.pretrained_checkpoint"] == [inside]
    assert site.cached() == [("converted", "being made")]


def test_of_two_launches_at_once_one_makes_it(site: Site, words: tuple[str, ...]) -> None:
    command = [script("launch"), *words, "--profile", "site"]
    both = [
        subprocess.Popen([*command, f"output={site.place}/{name}"], cwd=site.project.path, env=site.project.env)
        for name in ("one", "two")
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    assert sorted(site.jobs()) == [(STEPS[0], []), (STEPS[1], ["100"]), (STEPS[1], ["100"])]


def test_what_failed_goes_aside_and_is_made_anew_in_the_same_place(site: Site, words: tuple[str, ...]) -> None:
    before = site.plan(launched(site, *words))
    (Path(before["needs"][0]["place"]) / "half").touch()
    site.end("100")
    retry = launched(site, *words)
    assert site.jobs()[2:] == [(STEPS[0], []), (STEPS[1], ["102"])]
    assert site.plan(retry) == before
    assert site.cached() == [("converted", "being made"), ("converted", "quarantined")]
    assert list((site.place / "runs" / ".converted" / ".quarantine").glob("*/half"))


def fingerprint(site: Site, folder: Path) -> str:
    (found,) = json.loads(site.project.launch("check", "--json", str(folder)).stdout)["checked"]
    return str(found["artifact"]["fingerprint"])


def test_what_is_there_is_looked_at_and_keeps_its_name(site: Site, words: tuple[str, ...]) -> None:
    """Whoever plans before it is made and whoever does later give their step the same input."""
    first = site.plan(launched(site, *words))
    made = site.make("100")
    done = site.launch(*words)
    assert done.code == 0 and f"model: {STEPS[0]} has made {made} before" in done.stderr, done
    assert [step for step, _ in site.jobs()] == [*STEPS, STEPS[1]] and site.jobs()[2][1] == []
    second = site.plan(site.place / "runs" / done.stdout.strip())
    for plan in (first, second):
        model = plan["inputs"]["model"]
        assert (model["type"], model["fingerprint"]) == ("checkpoint_megatron", plan["needs"][0]["key"])
    assert (first["config"], first["mounts"]) == (second["config"], second["mounts"])
    assert first["inputs"]["model"]["expected"] and not second["inputs"]["model"]["expected"]
    assert fingerprint(site, made) == model["fingerprint"]
    (made / "iter_0000000" / "metadata.json").write_text("{ }")
    assert fingerprint(site, made) != model["fingerprint"], "it is not what was made"


def test_a_run_goes_on_with_the_model_that_was_named(site: Site, words: tuple[str, ...]) -> None:
    """Whether that was there, converted, when the run was planned or not."""
    out = site.place / "out"
    launched(site, *words, f"output={out}")
    site.make("100")
    write_megatron(out, iteration=4)
    site.end("101")
    again = site.launch(*words, f"output={out}", "--resume")
    assert again.code == 0, again
    other = write_chat_model(site.place / "other")
    (other / "of").write_text("another")
    site.end("102")
    changed = [w.replace("model=", f"model={other}#").partition("#")[0] for w in words]
    refused = site.launch(*changed, f"output={out}", "--resume")
    assert refused.code == 65 and f"another model: {site.place}/llama, " in refused.stderr, refused


def test_a_directory_is_written_at_once_and_its_submission_makes_what_it_needs(
    site: Site, words: tuple[str, ...]
) -> None:
    done = site.launch(*words, "-o", str(site.place / "written"))
    assert done.code == 0 and site.jobs() == [], done
    done = site.project.launch("submit", str(site.place / "written"))
    assert done.code == 0 and site.jobs() == [(STEPS[0], []), (STEPS[1], ["100"])], done


def test_what_is_needed_may_need_another(site: Site) -> None:
    """A policy of NeMo RL's is made one of Hugging Face, and that is converted for the Megatron backend."""
    model, run = write_chat_model(site.place / "llama"), site.place / "run" / "step_4"
    (run / "policy" / "weights").mkdir(parents=True)
    for name in ("config.yaml", "training_info.json", "train_dataloader.pt", "policy/weights/w.safetensors"):
        (run / name).write_text("{}")
    rows = site.place / "rows.jsonl"
    rows.write_text(json.dumps({"input": "2 + 2", "output": "4"}) + "\n")
    cache = ("--megatron-cache", str(site.place / "cache"))
    words = ("rl/grpo", "--convert", f"policy={run.parent}", f"config={model}", f"train={rows}", "backend=megatron")
    planned = site.launch(*words, *cache, "--dry-run")
    assert planned.code == 0 and planned.stdout.count("#!/usr/bin/env bash") == 3, planned
    launched(site, *words, *cache)
    assert site.jobs() == [
        ("convert/nemo_rl_to_hf", []),
        ("convert/nemo_rl_megatron", ["100"]),
        ("rl/nemo_rl/grpo", ["100:101"]),
    ]
    listed = json.loads(site.launch("cache", "list", "--json", *cache).stdout)
    assert {i["state"] for i in listed} == {"being made"}
    assert [i["libraries"] == "converted" for i in listed] == [False, True]


COUNTING = """
import sys
from launcher.cli import main
opened = open(sys.argv.pop(1), "a")
def count(event, words):
    if event == "open" and str(words[0]).endswith(".safetensors"):
        print(words[0], file=opened, flush=True)
sys.addaudithook(count)
main()
"""


def opened(site: Site, *words: str) -> list[str]:
    """The files of weights that a launch opens, each time that it does."""
    log = site.place / "opened"
    log.unlink(missing_ok=True)
    program = [sys.executable, "-c", COUNTING, str(log), *words, "--profile", "site"]
    subprocess.run(program, cwd=site.project.path, env=site.project.env, check=False, capture_output=True)
    return sorted(log.read_text().splitlines())


def test_a_conversion_looks_at_nothing_that_the_launch_has_seen(site: Site, words: tuple[str, ...]) -> None:
    other = write_chat_model(site.place / "other")
    named = [f"model=/..{other}" if word.startswith("model=") else word for word in words]
    without = opened(site, named[0], *named[2:], "--dry-run")
    assert without and site.jobs() == []
    assert opened(site, *named) == without and len(site.jobs()) == 2


@pytest.fixture
def hub(site: Site) -> Iterator[Hub]:
    with hub_in(site.place / "hub") as found:
        found.add("org/tiny", write_chat_model(site.place / "source"), "main")
        site.project.env |= {"HF_ENDPOINT": found.url, "HF_HOME": str(site.place / "hf")}
        yield found


def test_the_hub_is_asked_once(site: Site, hub: Hub, words: tuple[str, ...]) -> None:
    """For the launch, its fetch and its conversion; and what is there is read as often as without a conversion."""
    named = [word.replace(f"{site.place}/llama", "hf://org/tiny") for word in words]
    launched(site, *named)
    asked = [line.rpartition(" ")[0] for line in hub.asked]
    assert sorted(asked) == sorted(set(asked))
    assert [line for line in asked if "/revision/" in line] == ["GET /api/models/org/tiny/revision/main 200 -"]
    hub.forget()
    without = opened(site, named[0], *named[2:], "--dry-run")
    hub.forget()
    assert opened(site, *named, "--dry-run") == without != []
    assert len(hub.asked) == 1


def test_what_was_seen_is_not_looked_at_again_when_a_launch_is_planned_anew(
    site: Site, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site.project.path)
    looks, options = Looks(), preparation.Options(words[0], words[2:], "site")
    first = preparation.prepare(site.project.root, options, looks)
    (site.place / "llama" / "config.json").write_text('{"architectures": ["Other"]}')
    looks.waited()
    again = preparation.prepare(site.project.root, options, looks)
    assert again.plan == first.plan
    assert preparation.prepare(site.project.root, options).plan.inputs != first.plan.inputs


def test_cache_looks_after_both_kinds(site: Site, words: tuple[str, ...]) -> None:
    launched(site, *words)
    made = site.make("100")
    verified = site.launch("cache", "verify", made.name)
    assert (verified.code, verified.stdout) == (0, ""), verified
    (shard, _) = sorted((made / "iter_0000000").glob("*.distcp"))
    shard.unlink()
    assert f"{shard}: is gone\n" in site.launch("cache", "verify").stdout
    shown = site.launch("cache", "list").stdout
    assert f"{made.name}  of {site.place}/llama, run {site.run('100').name}, " in shown
    assert site.launch("cache", "prune", made.name).code == 0 and not made.exists()


def test_how_data_are_packed_is_a_choice_and_no_conversion(site: Site, words: tuple[str, ...]) -> None:
    own = site.project.path / "slipway.d" / "steps" / "mine" / "packed"
    site.project.write(
        str(own / "step.yaml"),
        """\
extends: [sft/megatron_bridge]
title: Fine-tuning of packed rows alone
inputs:
  train: {types: [packed_parquet]}
""",
    )
    done = site.launch("mine/packed", *words[1:], "--dry-run")
    assert done.code == 65 and "run first: launch data_prep/sft_packing train=" in done.stderr, done
    assert "say --convert" not in done.stderr


def test_what_gives_the_type_that_it_takes_makes_no_other(site: Site) -> None:
    """rl_prep makes of preferences preferences, which a step that wants prompts would meet behind the queue."""
    rows = site.place / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "2 + 2", "chosen": "4", "rejected": "5"}) + "\n")
    policy = write_chat_model(site.place / "llama")
    done = site.launch("rl/grpo", "--convert", f"policy={policy}", f"train={rows}", "--dry-run")
    assert done.code == 65 and "is no prompt_jsonl or chat_jsonl: found preference_jsonl" in done.stderr, done
    assert "rl_prep" not in done.stderr
