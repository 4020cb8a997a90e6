"""tests/gpu, but for what needs a GPU or a library: estimates beside measurements, this machine as a lock entry."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from gpu import check, machine, report, start
from gpu.report import Memory, Part, Report, Shape
from helpers import REPO, SHARDS, write_chat_model, write_chats
from test_memory import LLAMA_1B, layout

from images.locking import lock as locks
from images.locking.model import Lock
from launcher.planning.checks import memory
from slipway.project import Root

ROOT_SH = REPO / "tests" / "gpu" / "root.sh"
SHAPE = Shape("1b", False, 2048, 1, False)


def of(estimate: float, measured: float) -> Memory:
    return Memory(SHAPE, estimate, {"weights": estimate}, measured)


def on_gpu(*found: Memory, parts: tuple[Part, ...] = ()) -> Report:
    versions = {"automodel": {"python": "3.12", "torch": "2.11.0+cu130"}}
    return Report("2026-11-26", "NVIDIA H100 80GB HBM3", "580.95.05", versions, 123.4, list(parts), list(found))


@pytest.mark.parametrize(
    ("estimate", "measured", "off", "fits"),
    [
        (10.0, 10.0, 0.0, True), (12.0, 10.0, 0.2, True), (12.1, 10.0, 0.21, False), (8.0, 10.0, -0.2, True),
        (7.9, 10.0, -0.21, False), (1.0, 0.0, float("inf"), False),
    ],
)  # fmt: skip
def test_an_estimate_may_be_a_fifth_of_what_was_measured_off(
    estimate: float, measured: float, off: float, fits: bool
) -> None:
    found = of(estimate, measured)
    assert found.off == pytest.approx(off) and found.fits is fits


def test_what_is_wrong_is_said_and_without_a_gpu_no_estimate_is() -> None:
    good = [of(10, 10)] * report.LEAST
    assert on_gpu(*good).wrong() == []
    assert on_gpu(*good[1:]).wrong() == ["memory: 5 shapes measured, expected at least 6"]
    said = "memory: 1b full, 1 x 2048: estimated 13.0 GiB, measured 10.0 (+30%), expected within 20%"
    assert on_gpu(*good, of(13, 10)).wrong() == [said]
    parts = (Part("LoRA", "failed", 1, "no"), Part("fp8", "missing", 0, "not here"), Part("a", "done", 1, "yes"))
    assert replace(on_gpu(of(13, 0), parts=parts), gpu="").wrong() == ["LoRA: no"]
    assert on_gpu(*good, parts=parts).wrong() == ["LoRA: no", "fp8: not here"], "on a GPU nothing may be missing"


def test_the_estimate_is_read_out_of_what_a_launch_says() -> None:
    said = memory.line(LLAMA_1B, layout(1, sharding=3), 80 * memory.GIB)
    total, terms = report.estimated(["note: other", f"note: memory: {said}"])
    exact = memory.estimate(LLAMA_1B, layout(1, sharding=3))
    assert terms == {name: round(size / memory.GIB, 1) for name, size in exact.items()} and len(terms) == 4
    assert total == round(sum(exact.values()) / memory.GIB, 1)
    with pytest.raises(ValueError, match="the launch says no estimate of memory: note: other"):
        report.estimated(["note: other"])


def test_the_first_step_has_no_optimizer_state_and_does_not_count() -> None:
    lines = [
        f"step {n}/9 | epoch 0 | loss 1.0 | mem {m} GiB | tps 1" for n, m in ((1, "9.99"), (2, "3.50"), (3, "3.25"))
    ]
    assert report.measured(lines) == 3.5
    with pytest.raises(ValueError, match="two steps or more, found 1"):
        report.measured(lines[:1])


def test_table_and_json() -> None:
    made = on_gpu(of(12, 10), parts=(Part("LoRA", "done", 9.6, "loss 7 -> 6"),))
    table = report.table(made)
    assert table.startswith("2026-11-26, NVIDIA H100 80GB HBM3, driver 580.95.05, 123 s. automodel: python 3.12, torch")
    assert "| LoRA | done | 10 | loss 7 -> 6 |" in table
    assert "| 1b full, 1 x 2048 | 12.0 | 0.0 | 0.0 | 0.0 | 0.0 | 12.0 | 10.0 | +20% |" in table
    (row,) = json.loads(json.dumps(report.as_json(made), allow_nan=False))["memory"]
    assert (row["name"], row["fits"], row["off"]) == ("1b full, 1 x 2048", True, pytest.approx(0.2))
    assert report.as_json(on_gpu(of(1, 0)))["memory"][0]["off"] is None


def test_the_table_replaces_what_stands_between_the_markers_of_the_page() -> None:
    page = (REPO / "docs" / "gpu.md").read_text()
    made = report.insert(page, "| new |")
    assert f"{report.BEGIN}\n\n| new |\n\n{report.END}" in made and report.insert(made, "| new |") == made
    assert page.partition(report.BEGIN)[0] == made.partition(report.BEGIN)[0]
    for wrong in ("", report.BEGIN, f"{report.END}{report.BEGIN}", f"{page}{page}"):
        with pytest.raises(ValueError, match="expected one"):
            report.insert(wrong, "")


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H100 PCIe", "H100"), ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA L40S", "L40S"), ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000"),
        ("NVIDIA GH200 480GB", "GH200"),
    ],
)  # fmt: skip
def test_what_torch_calls_a_gpu(name: str, model: str) -> None:
    assert machine.gpu_model(name) == model


def test_a_gpu_that_the_launcher_does_not_know_is_named() -> None:
    with pytest.raises(ValueError, match="'NVIDIA T4': expected one of A10, "):
        machine.gpu_model("NVIDIA T4")


@pytest.fixture(scope="module")
def pins() -> Lock:
    return locks.load_lock(Root(REPO))


@pytest.fixture
def yard(tmp_path: Path, pins: Lock, monkeypatch: pytest.MonkeyPatch) -> Root:
    """The project of a machine with an H100, whose interpreters have what the images pin, and another torch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**40))  # a checkpoint of 3B needs 36 GiB
    there = {}
    for library in machine.STEPS:
        pinned = locks.select(pins, library, "cpu").environments["main"].packages
        packages = {n: v for n, v in pinned.items() if n != "sympy"} | {"torch": "2.11.0+cu130", "triton": "3.6.0"}
        python = tmp_path / library / "bin" / "python"
        there[library] = machine.Interpreter(python, "3.12", packages, "2.11.0+cu130", "NVIDIA H100", 80 * 2**30, [])
    return machine.make_project(tmp_path / "project", there, "NVIDIA H100", 80 * 2**30)


def test_the_machine_is_an_entry_of_a_lock_that_the_entrypoint_compares(yard: Root, pins: Lock) -> None:
    entry = machine.entry_of(yard, "automodel")
    main = entry.environments["main"]
    assert (entry.python, main.python) == ("3.12", str(yard.path.parent / "automodel" / "bin" / "python"))
    pinned = locks.select(pins, "automodel", "cpu").environments["main"].packages
    assert main.packages["nemo-automodel"] == pinned["nemo-automodel"], "what pip brings has to be what the lock pins"
    assert main.packages["torch"] == "2.11.0+cu130", "torch is the machine's"
    assert not {"sympy", "triton"} & main.packages.keys(), "what the machine lacks of torch's, and what nobody pins"
    assert f"PYTHON={main.python}\n" in (yard.path / "entrypoints" / "automodel.sh").read_text()


def inputs(folder: Path, name: str) -> tuple[str, str]:
    """Arguments for conversations and a model of that name's sizes, whose weights are a hole in a file."""
    train, model = write_chats(folder / "chats.jsonl"), write_chat_model(folder / name)
    sizes = check.MODELS[name]
    (model / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]} | sizes))
    weights = sizes["num_hidden_layers"] * 12 * sizes["hidden_size"] ** 2
    text = json.dumps({"a": {"dtype": "BF16", "shape": [weights], "data_offsets": [0, 2 * weights]}}).encode()
    with (model / SHARDS[0]).open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        f.truncate(8 + len(text) + 2 * weights)
    return f"train={train}", f"model={model}"


def test_every_shape_is_planned_and_estimated_on_80_gib(yard: Root, tmp_path: Path) -> None:
    """Full and LoRA, two lengths, two batches, recomputed and not, about 1B and about 3B; all with room to spare."""
    shapes = check.WHOLE.shapes
    words = {name: inputs(tmp_path, name) for name in {s.model for s in shapes}}
    totals = {}
    for shape in shapes:
        step, more = check.asked_of(shape)
        overlays = (str(check.HERE / "cuda.yaml"), str(check.HERE / "long.yaml"))
        found = start.prepared(yard, step, (*words[shape.model], *more), overlays=overlays, gpus=1)
        totals[shape], terms = report.estimated([*found.notes, *(f.what for f in found.findings)])
        assert terms["weights"] > 0 and totals[shape] < memory.WARN * 80
        assert found.plan.flavour == "cuda" and not found.plan.allow_drift
    assert len(shapes) >= report.LEAST
    for field in ("model", "lora", "sequence", "micro", "recompute"):
        assert len({getattr(s, field) for s in shapes}) == 2, field
    plain, again = (Shape("1b", False, 2048, 4, r) for r in (False, True))
    assert totals[again] < totals[plain]


def test_what_a_launch_would_refuse_is_refused_here(yard: Root, tmp_path: Path) -> None:
    words = (*inputs(tmp_path, "1b"), "global_batch_size=3", "local_batch_size=2")
    with pytest.raises(start.Failed, match=r"refused: .*global_batch_size"):
        start.prepared(yard, "sft/automodel", words, overlays=(str(check.HERE / "cuda.yaml"),), gpus=1)


def rooted(*words: str, how: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(ROOT_SH), *how, *words], capture_output=True, text=True)


@pytest.fixture
def mounts(tmp_path: Path) -> list[str]:
    for name in ("in", "state", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "in" / "there").write_text("read\n")
    words = ["--ro", f"{tmp_path}/in", "/inputs/model-1", "--ro", f"{tmp_path}/in/there", "/inputs/train-2/a.jsonl"]
    return [*words, "--rw", f"{tmp_path}/out", "/output", "--rw", f"{tmp_path}/state", "/run/slipway", "--"]


LOOK = "pwd; cat /inputs/model-1/there /inputs/train-2/a.jsonl; touch /output/made; touch /inputs/model-1/new; exit 7"


def test_a_command_finds_the_mounts_of_a_plan_and_the_machine(mounts: list[str], tmp_path: Path) -> None:
    done = rooted(*mounts, "bash", "-c", LOOK)
    assert (done.returncode, done.stdout) == (7, "/run/slipway\nread\nread\n")
    assert "a mount namespace of its own" in done.stderr and "Read-only file system" in done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["made"]
    assert not Path("/inputs").exists() and not Path("/output").exists(), "nothing is left, and nothing was ever there"


def test_without_namespaces_the_mounts_are_links_that_go_away(mounts: list[str], tmp_path: Path) -> None:
    """In a root of its own, so that the links are not on this machine."""
    links = f"bash {ROOT_SH} --links {' '.join(mounts)} bash -c '{LOOK}'; echo $?"
    look = f"cd / && umount -R /run/slipway && rmdir /run/slipway && {links}; ls -d /in* /ou* /run/s*"
    done = rooted("--ro", "/usr", "/run/slipway", "--", "bash", "-c", look)
    assert done.stdout == "/run/slipway\nread\nread\n7\n", done
    assert {p.name for p in (tmp_path / "in").iterdir()} == {"there", "new"}, "links do not make anything read-only"


def test_a_link_hides_nothing(tmp_path: Path) -> None:
    done = rooted("--rw", str(tmp_path), str(tmp_path), "--", "true", how=("--links",))
    assert done.returncode == 78 and f"{tmp_path} is there already" in done.stderr


def test_words_that_are_no_mounts() -> None:
    for words in ((), ("--",), ("--ro", "/a", "/b", "true"), ("true",)):
        assert rooted(*words).returncode == 64, words


def test_a_signal_reaches_the_command(mounts: list[str]) -> None:
    command = [
        "bash",
        str(ROOT_SH),
        *mounts,
        "bash",
        "-c",
        "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait() == 9
