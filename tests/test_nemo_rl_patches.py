"""entrypoints/repair/nemo_rl_patches.py, over small NeMo RLs that patch vLLM as v0.4.0, v0.6.0 and v0.7.0 do."""

from __future__ import annotations

import os
import subprocess
import textwrap
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import REPO

PROGRAM = REPO / "entrypoints" / "repair" / "nemo_rl_patches.py"
EXECUTOR, SAMPLER = "v1/executor/ray_executor.py", "v1/sample/sampler.py"
IN_INIT = """
from importlib.util import find_spec

class BaseVllmGenerationWorker:
    def __init__(self):
        from vllm.logger import init_logger
        logger = init_logger("vllm_patch")

        def _get_vllm_file(relative_path: str) -> str:
            return os.path.join(next(iter(find_spec("vllm").submodule_search_locations)), relative_path)

        def _patch_vllm_init_workers_ray():
            file = _get_vllm_file("v1/executor/ray_executor.py")
            with open(file, "r") as f:
                content = f.read()
            if "start()" not in content:
                return
            with open(file, "w") as f:
                f.write(content.replace("start()", f"start({self.py_executable!r})"))

        _patch_vllm_init_workers_ray()
"""
BY_IMPORT = """
class BaseVllmGenerationWorker:
    def __init__(self):
        try:
            def _patch_vllm_sampler():
                try:
                    import vllm.v1.sample.sampler as sampler_module
                    with open(sampler_module.__file__, "r") as f:
                        content = f.read()
                    if "start()" not in content:
                        return
                    with open(sampler_module.__file__, "w") as f:
                        f.write(content.replace("start()", f"start({self.py_executable!r})"))
                except (ImportError, PermissionError):
                    pass
            _patch_vllm_sampler()
        except ImportError:
            pass
"""
WITH_LOCKS = """
import os
from contextlib import contextmanager
from importlib.util import find_spec

def _get_vllm_file(relative_path: str) -> str:
    return os.path.join(next(iter(find_spec("vllm").submodule_search_locations)), relative_path)

@contextmanager
def _locked_file_patch(file_path: str):
    import fcntl
    lock_fd = open(file_path + ".patch_lock", "w")
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX)
        with open(file_path, "r") as f:
            content = f.read()
        def write_back(new_content: str):
            with open(file_path, "w") as f:
                f.write(new_content)
        yield content, write_back
    finally:
        lock_fd.close()

def _patch_vllm_init_workers_ray(py_executable: str, extra_env_vars) -> None:
    with _locked_file_patch(_get_vllm_file("v1/executor/ray_executor.py")) as (content, write_back):
        if "start()" in content:
            write_back(content.replace("start()", f"start({py_executable!r})"))

def _patch_vllm_sampler(logger) -> None:
    with _locked_file_patch(_get_vllm_file("v1/sample/sampler.py")) as (content, write_back):
        logger.info("nothing to do")
"""
ALWAYS = WITH_LOCKS.replace('if "start()" in content:', "if True:")


@dataclass(frozen=True)
class Venvs:
    """Two workers' environments whose vLLM is one, by links, as uv's cache makes it; and one without vLLM."""

    folder: Path

    def site(self, name: str) -> Path:
        return next((self.folder / name / "lib").glob("python3*/site-packages"))

    def file(self, name: str) -> Path:
        return self.folder / "cache" / name

    def lock(self, worker: str, name: str) -> Path:
        return self.site(worker) / "vllm" / f"{name}.patch_lock"

    def patch(self) -> subprocess.CompletedProcess[str]:
        words = [self.folder / "b.Worker" / "bin" / "python", "-B", PROGRAM]
        env = {**os.environ, "NEMO_RL_VENV_DIR": str(self.folder)}
        return subprocess.run(words, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def venvs(tmp_path: Path) -> Venvs:
    made = Venvs(tmp_path)
    for worker in ("a.Worker", "b.Worker", "c.Trainer"):
        venv.create(tmp_path / worker, with_pip=False, symlinks=True)
        (made.site(worker) / "nemo_rl" / "models" / "generation" / "vllm").mkdir(parents=True)
        (made.site(worker) / "nemo_rl" / "__init__.py").write_text("raise SystemExit('nothing is imported')")
    for name in (EXECUTOR, SAMPLER):
        made.file(name).parent.mkdir(parents=True)
        made.file(name).write_text("raise SystemExit('nothing is imported')\nstart()\n")
        for worker in ("a.Worker", "b.Worker"):
            link = made.site(worker) / "vllm" / name
            link.parent.mkdir(parents=True)
            link.symlink_to(made.file(name))
            for package in (link.parents[2], link.parents[1], link.parent):
                (package / "__init__.py").write_text("raise SystemExit('nothing is imported')")
    return made


def of_release(venvs: Venvs, file: str, text: str) -> None:
    for worker in ("a.Worker", "b.Worker", "c.Trainer"):
        path = venvs.site(worker) / "nemo_rl" / "models" / "generation" / "vllm" / file
        path.write_text(textwrap.dedent(text))


@pytest.mark.parametrize(
    ("file", "text", "patched"),
    [
        ("vllm_worker.py", BY_IMPORT, SAMPLER),
        ("vllm_worker.py", IN_INIT, EXECUTOR),
        ("patches.py", WITH_LOCKS, EXECUTOR),
    ],
    ids=["v0.4.0", "v0.6.0", "v0.7.0"],
)
def test_what_a_worker_would_patch_is_patched_for_the_one_that_runs_it(
    venvs: Venvs, file: str, text: str, patched: str
) -> None:
    of_release(venvs, file, text)
    done = venvs.patch()
    assert done.returncode == 0, done.stderr
    assert f"patched {venvs.site('b.Worker')}/vllm/{patched} " in done.stdout
    assert venvs.file(patched).read_text().endswith(f"\nstart('{venvs.folder}/b.Worker/bin/python')\n")
    assert len(done.stdout.splitlines()) == 1, "the other environment has the same file"


def test_locks_lead_where_anybody_may_write_in_every_environment(venvs: Venvs) -> None:
    of_release(venvs, "patches.py", WITH_LOCKS)
    assert venvs.patch().returncode == 0
    locks = [venvs.lock(worker, name) for worker in ("a.Worker", "b.Worker") for name in (EXECUTOR, SAMPLER)]
    assert [str(lock.readlink()) for lock in locks] == ["/dev/null"] * 4


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("patches.py", ALWAYS, "would be written each time a worker starts: "),
        ("patches.py", WITH_LOCKS.replace("start()", "begin()"), "nothing of it was patched"),
        ("elsewhere.py", WITH_LOCKS, "none of patches.py, vllm_worker.py has functions named _patch_vllm_*"),
    ],
    ids=["again", "nothing", "unknown"],
)
def test_what_workers_would_still_write_ends_the_build(venvs: Venvs, file: str, text: str, why: str) -> None:
    of_release(venvs, file, text)
    done = venvs.patch()
    assert (done.returncode, why in done.stderr) == (1, True), done.stderr


def test_no_vllm_anywhere_ends_the_build(venvs: Venvs) -> None:
    of_release(venvs, "patches.py", WITH_LOCKS)
    for worker in ("a.Worker", "b.Worker"):
        (venvs.site(worker) / "vllm").rename(venvs.site(worker) / "gone")
    done = venvs.patch()
    assert (done.returncode, "vLLM is in none of the environments" in done.stderr) == (1, True), done.stderr
