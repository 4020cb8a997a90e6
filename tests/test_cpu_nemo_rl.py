"""entrypoints/cpu/nemo-rl/: the hook, on modules that are only outlines of torch, Ray, vLLM and NeMo RL."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "entrypoints" / "cpu" / "nemo-rl"
LOAD = f"import site; site.addsitedir({str(FOLDER)!r})\n"
WORKER = "nemo_rl.models.policy.workers.dtensor_policy_worker"
MODULES = {
    "torch/__init__.py": (
        "import torch.overrides\n"
        "from torch import cuda, distributed, nn\n"
        "class device:\n"
        "    def __init__(self, name): self.type = name.split(':')[0]\n"
        "    def __repr__(self): return f'device {self.type}'\n"
        "def _function(function):\n"
        "    def called(*args, **kwargs):\n"
        "        mode = torch.overrides.mode\n"
        "        return mode.__torch_function__(function, (), args, kwargs) if mode else function(*args, **kwargs)\n"
        "    return called\n"
        "class Tensor:\n"
        "    @_function\n"
        "    def to(self, *args, **kwargs): return args, kwargs\n"
        "    @_function\n"
        "    def cuda(self): raise AssertionError('no CUDA')\n"
        "    @_function\n"
        "    def pin_memory(self): raise AssertionError('no CUDA')\n"
        "    def detach(self): return self\n"
        "    def clone(self): return 'the bytes'\n"
        "class autocast:\n"
        "    def __init__(self, device_type, dtype=None): self.said = device_type, dtype\n"
        "@_function\n"
        "def tensor(*args, **kwargs): return args, kwargs\n"
    ),
    "torch/overrides.py": (
        "mode = None\n"
        "class TorchFunctionMode:\n"
        "    def __enter__(self):\n"
        "        global mode\n"
        "        mode = self\n"
    ),
    "torch/cuda.py": (
        "import os, types\n"
        "def is_available(): return os.environ.get('CUDA') == '1'\n"
        "def _fail(*args): raise AssertionError('no CUDA')\n"
        "current_device = current_stream = synchronize = reset_peak_memory_stats = get_device_name = _fail\n"
        "profiler = types.SimpleNamespace(start=_fail, stop=_fail)\n"
        "nvtx = types.SimpleNamespace(range_push=_fail, range_pop=_fail)\n"
    ),
    "torch/nn.py": "class Module: pass\n",
    "torch/distributed/__init__.py": "def init_process_group(backend=None, **kwargs): return backend, kwargs\n",
    "torch/distributed/device_mesh.py": "def init_device_mesh(kind, *args, **kwargs): return kind, args, kwargs\n",
    "ray.py": (
        "class _Context:\n"
        "    def get_node_id(self): return 'abcdef' * 10\n"
        "def get_runtime_context(): return _Context()\n"
    ),
    "typing_extensions.py": "NotRequired, TypedDict, override = 'NotRequired', 'TypedDict', 'override'\n",
    "nemo_rl/__init__.py": "import typing\nSEEN = typing.TypedDict, getattr(typing, 'override', None)\n",
    "nemo_rl/distributed/ray_actor_environment_registry.py": (
        "ACTOR_ENVIRONMENT_REGISTRY = {'a.Worker': 'uv run --extra fsdp', 'an.Environment': '/system/python'}\n"
    ),
    "nemo_rl/utils/nsys.py": (
        "import torch\n"
        "def wrap_with_nvtx_name(name):\n"
        "    def wrapper(function):\n"
        "        def wrapped():\n"
        "            torch.cuda.nvtx.range_push(name)\n"
        "            return function()\n"
        "        return wrapped\n"
        "    return wrapper\n"
    ),
    "nemo_rl/utils/nvml.py": (
        "def device_id_to_physical_device_id(device): return device + 3\n"
        "def get_device_uuid(device_idx): raise RuntimeError('NVML')\n"
        "def get_free_memory_bytes(device_idx): raise RuntimeError('NVML')\n"
    ),
    "nemo_rl/models/policy/utils.py": (
        "import torch\n"
        "def get_handle_from_tensor(tensor): raise AssertionError('no CUDA')\n"
        "def rebuild_cuda_tensor_from_ipc(handle, device_id): raise AssertionError('no CUDA')\n"
    ),
    "nemo_rl/models/policy/workers/dtensor_policy_worker.py": "import torch\nimport nemo_rl.models.policy.utils\n",
    "nemo_rl/models/generation/vllm/vllm_worker.py": (
        "import nemo_rl.models.policy.utils\n"
        "def _apply_vllm_patches(executable, *, extra_env_vars=None): raise RuntimeError('no such file')\n"
        "def start(): return _apply_vllm_patches('python', extra_env_vars=[])\n"
    ),
    "nemo_rl/models/generation/vllm/quantization/fp8.py": "import no_such_name_in_this_vllm\n",
    "nemo_rl/other.py": "import torch\n",
    "vllm/entrypoints/llm.py": (
        "class LLM:\n"
        "    def __init__(self, model, **kwargs): self.said = model, kwargs\n"
    ),
    "vllm/model_executor/layers/utils.py": (
        "def dispatch_cpu_unquantized_gemm(layer, remove_weight): return layer, remove_weight\n"
    ),
}  # fmt: skip
Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Program:
    for name, text in MODULES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def program(code: str, **env: str) -> subprocess.CompletedProcess[str]:
        everything = {**os.environ, "PYTHONPATH": f"{tmp_path}:{FOLDER.parent}", **env}
        command = [sys.executable, "-c", LOAD + code]
        return subprocess.run(command, env=everything, capture_output=True, text=True, check=False)

    return program


def test_the_pth_file_loads_the_hook_and_nothing_else(run: Program) -> None:
    done = run("import sys; print('slipway_cpu_nemo_rl' in sys.modules, 'torch' in sys.modules, 'ray' in sys.modules)")
    assert (done.stdout, done.stderr) == ("True False False\n", "")


def test_the_package_gets_what_its_python_has_not_and_its_actors_the_settings(run: Program) -> None:
    code = (
        "import os, sys, nemo_rl\nprint(nemo_rl.SEEN, os.environ['TORCHDYNAMO_DISABLE'], os.environ['OMP_NUM_THREADS'])"
    )
    done = run("import sys; sys.version_info = (3, 11, 2)\n" + code, OMP_NUM_THREADS="4")
    assert done.stdout == "('TypedDict', 'override') 1 4\n", done.stderr
    done = run("import sys; sys.version_info = (3, 13, 1)\n" + code, OMP_NUM_THREADS="4")
    assert "'TypedDict'" not in done.stdout and done.returncode == 0, done.stderr


def test_every_actor_runs_in_this_python(run: Program) -> None:
    done = run("import nemo_rl.distributed.ray_actor_environment_registry as m; print(m.ACTOR_ENVIRONMENT_REGISTRY)")
    assert done.stdout == f"{dict.fromkeys(('a.Worker', 'an.Environment'), sys.executable)}\n", done.stderr


def test_a_workers_call_has_no_range(run: Program) -> None:
    done = run("from nemo_rl.utils.nsys import wrap_with_nvtx_name as f; print(f('x')(lambda: 'called')())")
    assert done.stdout == "called\n", done.stderr


def test_trainer_and_vllm_name_one_socket(run: Program) -> None:
    done = run("from nemo_rl.utils import nvml as m; print(m.get_device_uuid(0), m.get_device_uuid(None))")
    assert done.stdout == "cpu-abcdefabcdef-3 cpu-abcdefabcdef-3\n", done.stderr


def test_weights_go_through_the_socket(run: Program) -> None:
    done = run(
        "import torch, nemo_rl.models.policy.utils as m\n"
        "print(m.rebuild_cuda_tensor_from_ipc(m.get_handle_from_tensor(torch.Tensor()), 0))\n"
        "torch.cuda.current_stream().synchronize()\n"
        "print(torch.cuda.current_device())"
    )
    assert done.stdout == "the bytes\n0\n", done.stderr


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("torch.tensor([1], device='cuda')", "(([1],), {'device': device cpu})"),
        ("torch.tensor(2, device=0, pin_memory=True)", "((2,), {'device': device cpu})"),
        ("torch.tensor(2, device=torch.device('cuda:1'))", "((2,), {'device': device cpu})"),
        ("torch.tensor(2, device='meta')", "((2,), {'device': 'meta'})"),
        ("torch.Tensor().to('cuda', non_blocking=True)", "((device cpu,), {'non_blocking': True})"),
        ("torch.Tensor().to(torch.device('cuda'), False)", "((device cpu, False), {})"),
        ("torch.Tensor().to('meta')", "(('meta',), {})"),
        ("type(torch.Tensor().cuda().pin_memory()).__name__", "Tensor"),
        ("torch.distributed.init_process_group(backend='nccl', rank=0)", "('gloo', {'rank': 0})"),
        ("torch.distributed.device_mesh.init_device_mesh('cuda', (1, 1))", "('cpu', ((1, 1),), {})"),
        ("torch.autocast(device_type='cuda', dtype='bf16').said", "('cpu', 'bf16')"),
        ("torch.autocast('cuda').said", "('cpu', None)"),
        ("torch.cuda.synchronize(), torch.cuda.max_memory_allocated()", "None 0"),
        ("torch.cuda.profiler.start(), torch.cuda.get_device_name(0)", "None cpu"),
    ],
)  # fmt: skip
def test_what_a_trainer_does_on_cuda_it_does_on_the_cpu(run: Program, code: str, said: str) -> None:
    done = run(f"import torch, {WORKER}\nprint({code})")
    assert done.stdout == said + "\n", done.stderr


def test_torchs_own_functions_stay(run: Program) -> None:
    """Hidden by others, `with torch.device("meta")` would not know them, and a new head would not be initialized."""
    code = f"own = torch.tensor, torch.Tensor.to\nimport {WORKER}\nprint(own == (torch.tensor, torch.Tensor.to))"
    done = run("import torch\n" + code)
    assert done.stdout == "True\n", done.stderr


def test_vllm_stays_as_it_is_installed(run: Program) -> None:
    done = run(
        "from nemo_rl.models.generation.vllm import vllm_worker\n"
        "from nemo_rl.models.generation.vllm.quantization import fp8\n"
        "print(vllm_worker.start(), fp8.is_fp8_model('config'))"
    )
    assert done.stdout == "None False\n", done.stderr


def test_vllms_weights_can_be_loaded_anew(run: Program) -> None:
    done = run(
        "from vllm.entrypoints.llm import LLM\n"
        "from vllm.model_executor.layers import utils\n"
        "print(LLM('m', enable_sleep_mode=True, seed=1).said)\n"
        "print(utils.dispatch_cpu_unquantized_gemm('l', remove_weight=True))"
    )
    assert done.stdout == "('m', {'seed': 1})\n('l', False)\n", done.stderr


def test_modules_that_are_not_named_change_nothing(run: Program) -> None:
    done = run("from nemo_rl import other; other.torch.cuda.synchronize()")
    assert "AssertionError: no CUDA" in done.stderr


def test_it_does_nothing_where_cuda_is(run: Program) -> None:
    code = f"import os, torch, {WORKER}\nprint(torch.tensor(1, device='cuda'), 'TORCHDYNAMO_DISABLE' in os.environ)"
    done = run(code, CUDA="1")
    assert (done.stdout, done.stderr) == ("((1,), {'device': 'cuda'}) False\n", "")


def test_it_says_once_that_it_is_active_for_the_actors_too(run: Program) -> None:
    done = run(
        f"import subprocess, sys, {WORKER}\n"
        f"subprocess.run([sys.executable, '-c', {LOAD + 'import nemo_rl'!r}], check=True)"
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("slipway: no CUDA device: nemo-rl runs with substitutions (one_environment, ")


def test_another_release_of_the_library_fails_by_name(run: Program, tmp_path: Path) -> None:
    (tmp_path / "nemo_rl/utils/nvml.py").write_text("")
    done = run("import nemo_rl.utils.nvml")
    assert "has no 'get_device_uuid'; these substitutions are for nemo-rl v0.7.0" in done.stderr


def test_a_module_keeps_its_source_and_may_be_reloaded(run: Program) -> None:
    done = run(
        "import importlib, inspect, nemo_rl.utils.nvml as m\n"
        "assert 'NVML' in inspect.getsource(m)\n"
        "print(importlib.reload(m).get_device_uuid(0))"
    )
    assert done.stdout == "cpu-abcdefabcdef-3\n", done.stderr
