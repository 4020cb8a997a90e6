"""`make test-gpu` without a GPU: the same program with tiny sizes, in an environment that has the real AutoModel.

That is the cpu image's own, taken out of its .sqsh; the machine's Python runs it, which has to be of the same version.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from gpu import machine, start

from images.locking.model import Entry

from .conftest import Work
from .support import PROJECT

pytestmark = pytest.mark.real
PREFIX = "opt/venv"  # of the image


@pytest.fixture(scope="module")
def python(squashed: Path, ground: Path, entry: Entry) -> Path:
    """An interpreter over the packages of the image, and over those that the launcher needs."""
    name = f"python{entry.python}"
    if not (found := shutil.which(name)):
        pytest.skip(f"the image's packages are for Python {entry.python}, and there is no {name} here")
    unpacked, made = ground / "unpacked", ground / "environment"
    command = ["unsquashfs", "-quiet", "-no-progress", "-no-xattrs", "-d", str(unpacked), str(squashed)]
    subprocess.run([*command, f"{PREFIX}/lib/{name}"], stdout=subprocess.DEVNULL, check=True)
    subprocess.run([found, "-m", "venv", "--without-pip", str(made)], check=True)
    packages = [unpacked / PREFIX / "lib" / name / "site-packages", Path(sysconfig.get_path("purelib"))]
    text = "".join(f"import site; site.addsitedir({str(path)!r})\n" for path in packages)
    (made / "lib" / name / "site-packages" / "machine.pth").write_text(text)
    return made / "bin" / "python"


def test_all_parts_but_measuring_hold_without_a_gpu(python: Path, place: Path) -> None:
    page = place / "gpu.md"
    page.write_text("as it was")
    command = [str(python), "-m", "gpu.check", "--device", "cpu", "--tiny", "--work", str(place / "work")]
    command += ["--python", f"automodel={python}", "--json", str(place / "found.json"), "--docs", str(page)]
    env = {**os.environ, "PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout[-4000:], done.stderr[-4000:])
    found = json.loads((place / "found.json").read_text())
    states = {part["name"]: part["state"] for part in found["parts"]}
    assert states.pop("fp8") == "missing" and set(states.values()) == {"done"} and len(states) == 6
    assert "there is no environment for modelopt (--python modelopt=INTERPRETER)" in done.stdout
    (memory,) = found["memory"]
    assert memory["measured"] == 0 and memory["terms"].keys() == {"weights", "optimizer", "activations"}
    log = (place / "work" / "project" / "runs" / "sft" / "logs" / "step.log").read_text()
    assert "slipway: sft/automodel, automodel 0.7.0 (cuda), run sft, uid " in log and "drift" not in log
    assert page.read_text() == "as it was", "without a GPU there is nothing for the page"


def test_where_there_is_no_gpu_it_says_so(python: Path, place: Path) -> None:
    command = [str(python), "-m", "gpu.check", "--work", str(place / "work"), "--python", f"automodel={python}"]
    env = {**os.environ, "PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and f"{python}: torch 2.13.0+cpu finds no CUDA device" in done.stderr


def test_the_entrypoint_refuses_what_the_lock_does_not_pin(
    python: Path, work: Work, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container: a package that was changed after the lock had been made."""
    monkeypatch.chdir(place)
    root = machine.make_project(place / "project", {"automodel": machine.ask(python)}, "NVIDIA H100", 80 * 2**30)
    changed = next((python.parents[1] / "lib").glob("python*")) / "site-packages" / "nemo_automodel-0.6.9.dist-info"
    changed.mkdir()
    words = (f"train={work.train}", f"model={work.model}", f"output={place / 'out'}", "max_steps=1")
    run = start.start(root, "changed", "sft/automodel", words, gpus=1)
    changed.rmdir()
    assert run.code == 78
    assert "slipway: refused: environment main: nemo-automodel: found 0.6.9, expected 0.7.0" in run.text
    assert not any((place / "out").iterdir())
