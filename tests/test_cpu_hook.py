"""entrypoints/cpu/automodel/: the hook, on modules that are only outlines of torch and nemo-automodel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "entrypoints" / "cpu" / "automodel"
LOAD = f"import site; site.addsitedir({str(FOLDER)!r})\n"
MODULES = {
    "torch/__init__.py": (
        "import os\nfrom torch import cuda, distributed\ndef device(name): return f'device {name}'\n"
    ),
    "torch/cuda.py": (
        "import os\n"
        "def is_available(): return os.environ.get('CUDA') == '1'\n"
        "def current_device(): raise AssertionError('Torch not compiled with CUDA enabled')\n"
        "def reset_peak_memory_stats(): raise AttributeError('no CUDA')\n"
    ),
    "torch/distributed.py": (
        "def barrier(group=None, **kwargs):\n"
        "    if kwargs: raise ValueError(f'gloo refuses {sorted(kwargs)}')\n"
        "    return f'barrier {group}'\n"
    ),
    "nemo_automodel/__init__.py": "",
    "nemo_automodel/_transformers/__init__.py": "",
    "nemo_automodel/_transformers/infrastructure.py": (
        "import torch\ndef apply_model_infrastructure(model, *, device): return model, device\n"
    ),
    "nemo_automodel/_transformers/auto_model.py": (
        "import torch\n"
        "from nemo_automodel._transformers.infrastructure import apply_model_infrastructure\n"
        "def build(): return apply_model_infrastructure('model', device=torch.cuda.current_device())\n"
    ),
    "nemo_automodel/components/distributed/init_utils.py": (
        "import types, torch\n"
        "def initialize_distributed(backend):\n"
        "    return types.SimpleNamespace(backend=backend, device='cuda:0' if torch.cuda.is_available() else None)\n"
    ),
    "nemo_automodel/recipes/base_recipe.py": "import torch\n",
    "nemo_automodel/recipes/other.py": "import torch\n",
}


@pytest.fixture
def run(tmp_path: Path):
    for name, text in MODULES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def program(code: str, **env: str) -> subprocess.CompletedProcess[str]:
        everything = {**os.environ, "PYTHONPATH": f"{tmp_path}:{FOLDER.parent}", **env}
        command = [sys.executable, "-c", LOAD + code]
        return subprocess.run(command, env=everything, capture_output=True, text=True, check=False)

    program.modules = tmp_path
    return program


def test_the_pth_file_loads_the_hook_and_nothing_else(run) -> None:
    done = run("import sys; print([m for m in ('torch', 'nemo_automodel', 'importlib.util') if m in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert "slipway_cpu_automodel" in run("import sys; print(sys.modules['slipway_cpu_automodel'])").stdout


def test_the_model_is_placed_on_the_cpu_wherever_the_name_was_taken_from(run) -> None:
    done = run("from nemo_automodel._transformers import auto_model; print(auto_model.build())")
    assert done.stdout == "('model', 'device cpu')\n", done.stderr


def test_the_process_group_has_a_device_and_a_barrier(run) -> None:
    done = run(
        "from nemo_automodel.components.distributed.init_utils import initialize_distributed as f\n"
        "import torch\n"
        "print(f('gloo').device, torch.distributed.barrier('g', device_ids=[0]))"
    )
    assert done.stdout == "device cpu barrier g\n", done.stderr


def test_peak_memory_is_not_asked_for(run) -> None:
    done = run("from nemo_automodel.recipes import base_recipe; base_recipe.torch.cuda.reset_peak_memory_stats()")
    assert done.returncode == 0, done.stderr


def test_modules_that_are_not_named_change_nothing(run) -> None:
    done = run("from nemo_automodel.recipes import other; other.torch.cuda.reset_peak_memory_stats()")
    assert "AttributeError: no CUDA" in done.stderr
    assert "slipway" not in done.stderr


def test_it_does_nothing_where_cuda_is(run) -> None:
    done = run(
        "from nemo_automodel.components.distributed.init_utils import initialize_distributed as f\n"
        "from nemo_automodel._transformers.infrastructure import apply_model_infrastructure as g\n"
        "print(f('nccl').device, g('model', device='cuda:0'))",
        CUDA="1",
    )
    assert (done.stdout, done.stderr) == ("cuda:0 ('model', 'cuda:0')\n", "")


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_it_says_once_that_it_is_active(run, rank: str, lines: int) -> None:
    done = run("import nemo_automodel.recipes.base_recipe, nemo_automodel._transformers.infrastructure", RANK=rank)
    said = done.stderr.splitlines()
    assert len(said) == lines
    assert all("slipway: no CUDA device" in line and "model_on_cpu" in line for line in said)


def test_another_release_of_the_library_fails_by_name(run) -> None:
    (run.modules / "nemo_automodel/_transformers/infrastructure.py").write_text("import torch\n")
    done = run("import nemo_automodel._transformers.infrastructure")
    assert "has no 'apply_model_infrastructure'; these substitutions are for nemo-automodel 0.7.0" in done.stderr


def test_what_a_module_raises_is_left_as_it_is(run) -> None:
    (run.modules / "nemo_automodel/recipes/base_recipe.py").write_text("import nosuchmodule\n")
    done = run("import nemo_automodel.recipes.base_recipe")
    assert "ModuleNotFoundError: No module named 'nosuchmodule'" in done.stderr


def test_a_module_keeps_its_source_and_may_be_reloaded(run) -> None:
    done = run(
        "import importlib, inspect, nemo_automodel._transformers.infrastructure as m\n"
        "assert 'import torch' in inspect.getsource(m)\n"
        "importlib.reload(m)\n"
        "print(m.apply_model_infrastructure('model', device='cuda:0'))"
    )
    assert done.stdout == "('model', 'device cpu')\n", done.stderr
