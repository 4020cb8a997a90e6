"""entrypoints/repair/nemo_rl_patches.py, over stand-ins of NeMo RL that patch vLLM as v0.4.0, v0.6.0 and v0.7.0 do."""

from __future__ import annotations

import os
import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import REPO

PROGRAM = REPO / "entrypoints" / "repair" / "nemo_rl_patches.py"
CONTAINERS = REPO / "tests" / "standins" / "containers"
NEMO_RL, VLLM = CONTAINERS / "nemo-rl", CONTAINERS / "site" / "vllm"
BY_IMPORT, IN_INIT = ((NEMO_RL / release / "vllm_worker.py").read_text() for release in ("v0.4.0", "v0.6.0"))
WITH_LOCKS = (NEMO_RL / "repository" / "nemo_rl" / "models" / "generation" / "vllm" / "patches.py").read_text()
LOCKED = ("v1/executor/ray_executor.py", "model_executor/models/llama_eagle3.py", "tool_parsers/hermes_tool_parser.py")
OLD = ("executor/ray_distributed_executor.py", "v1/sample/sampler.py")
NOT_RUN = "raise SystemExit('nothing of it is imported')\n"
WORKERS = ("a.Worker", "b.Worker")


@dataclass(frozen=True)
class Venvs:
    """Two workers' environments whose vLLM is one, by links, as uv's cache makes it; and one without vLLM."""

    folder: Path

    def site(self, name: str) -> Path:
        return next((self.folder / name / "lib").glob("python3*/site-packages"))

    def vllm(self, name: str) -> str:
        """What is in the one file that all environments have."""
        return (self.folder / "cache" / name).read_text()

    def of_release(self, file: str, text: str) -> None:
        for worker in (*WORKERS, "c.Trainer"):
            (self.site(worker) / "nemo_rl" / "models" / "generation" / "vllm" / file).write_text(text)

    def patch(self) -> subprocess.CompletedProcess[str]:
        words = [self.folder / "b.Worker" / "bin" / "python", "-B", PROGRAM]
        env = {**os.environ, "NEMO_RL_VENV_DIR": str(self.folder)}
        return subprocess.run(words, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def venvs(tmp_path: Path) -> Venvs:
    made = Venvs(tmp_path)
    for worker in (*WORKERS, "c.Trainer"):
        venv.create(tmp_path / worker, with_pip=False, symlinks=True)
        (made.site(worker) / "nemo_rl" / "models" / "generation" / "vllm").mkdir(parents=True)
        (made.site(worker) / "nemo_rl" / "__init__.py").write_text(NOT_RUN)
    for source in VLLM.rglob("*.py"):
        name = source.relative_to(VLLM)
        real = tmp_path / "cache" / name
        real.parent.mkdir(parents=True, exist_ok=True)
        real.write_text(NOT_RUN + source.read_text())
        for worker in WORKERS:
            link = made.site(worker) / "vllm" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(real)
    return made


@pytest.mark.parametrize(
    ("file", "text", "patched"),
    [
        ("vllm_worker.py", BY_IMPORT, OLD),
        ("vllm_worker.py", IN_INIT, LOCKED[:1]),
        ("patches.py", WITH_LOCKS, LOCKED),
    ],
    ids=["v0.4.0", "v0.6.0", "v0.7.0"],
)
def test_what_a_worker_would_patch_is_patched_for_the_one_that_runs_it(
    venvs: Venvs, file: str, text: str, patched: tuple[str, ...]
) -> None:
    venvs.of_release(file, text)
    done = venvs.patch()
    assert done.returncode == 0, done.stderr
    said = [f"patched {venvs.site('b.Worker')}/vllm/{name}" for name in patched]
    assert [line.partition(" (for ")[0] for line in done.stdout.splitlines()] == said, "once: the files are shared"
    assert f'start("{venvs.folder}/b.Worker/bin/python")' in venvs.vllm(patched[0])


def test_locks_lead_where_anybody_may_write_in_every_environment(venvs: Venvs) -> None:
    venvs.of_release("patches.py", WITH_LOCKS)
    assert venvs.patch().returncode == 0
    locks = [venvs.site(worker) / "vllm" / f"{name}.patch_lock" for worker in WORKERS for name in LOCKED]
    assert [str(lock.readlink()) for lock in locks] == ["/dev/null"] * 6


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("patches.py", WITH_LOCKS.replace('if "start()" in content:', "if True:"),
         "would be written each time a worker starts: "),
        ("vllm_worker.py", IN_INIT.replace("start()", "begin()"), "nothing of it was patched"),
        ("patches.py", WITH_LOCKS.replace("extra_env_vars", "options"), "_patch_vllm_init_workers_ray(options)"),
        ("elsewhere.py", WITH_LOCKS, "none of patches.py, vllm_worker.py has functions named _patch_vllm_*"),
    ],
    ids=["again", "nothing", "other arguments", "elsewhere"],
)  # fmt: skip
def test_what_workers_would_still_write_ends_the_build(venvs: Venvs, file: str, text: str, why: str) -> None:
    venvs.of_release(file, text)
    done = venvs.patch()
    assert (done.returncode, why in done.stderr) == (1, True), done.stderr


def test_no_vllm_anywhere_ends_the_build(venvs: Venvs) -> None:
    venvs.of_release("patches.py", WITH_LOCKS)
    for worker in WORKERS:
        (venvs.site(worker) / "vllm").rename(venvs.site(worker) / "gone")
    done = venvs.patch()
    assert (done.returncode, "vLLM is in none of the environments" in done.stderr) == (1, True), done.stderr
