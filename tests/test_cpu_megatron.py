"""entrypoints/cpu/megatron-bridge/: the hook, on modules that are only outlines of torch and Megatron."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "entrypoints" / "cpu" / "megatron-bridge"
LOAD = f"import site; site.addsitedir({str(FOLDER)!r})\n"
CORE, BRIDGE = "megatron/core", "megatron/bridge"
FACTORY_NAMES = (
    "arange as_tensor empty empty_like full full_like ones ones_like rand randint randn tensor zeros zeros_like"
)
MODULES = {
    "torch/__init__.py": (
        "from torch import cuda, nn\n"
        "class device:\n"
        "    def __init__(self, name): self.type = name.split(':')[0]\n"
        "    def __repr__(self): return f'device {self.type}'\n"
        "class Tensor:\n"
        "    def to(self, *args, **kwargs): return args, kwargs\n"
        "    def type(self, *args): return args or 'torch.FloatTensor'\n"
        "    def cuda(self): raise AssertionError('no CUDA')\n"
        "def _make(*args, **kwargs): return args, kwargs\n"
        f"for _name in {FACTORY_NAMES!r}.split(): globals()[_name] = _make\n"
        "class default_generator:\n"
        "    manual_seed = staticmethod(lambda seed: ('seeded', seed))\n"
        "def get_rng_state(): return 'state of the CPU'\n"
        "def set_rng_state(state): return state\n"
    ),
    "torch/cuda.py": (
        "import os\n"
        "def is_available(): return os.environ.get('CUDA') == '1'\n"
        "def device_count(): return 0\n"
        "def current_device(): raise AssertionError('no CUDA')\n"
        "def synchronize(): raise AssertionError('no CUDA')\n"
    ),
    "torch/nn.py": "class Module: pass\n",
    f"{CORE}/__init__.py": "",
    f"{CORE}/jit.py": (
        "jit_fuser = 'torch.compile'\ndef disable_jit_fuser():\n    global jit_fuser\n    jit_fuser = 'nothing'\n"
    ),
    f"{CORE}/datasets/__init__.py": "",
    f"{CORE}/datasets/utils.py": "def compile_helpers(): return 'make'\n",
    f"{CORE}/tensor_parallel/random.py": (
        "def _get_cuda_rng_state(device=-1, graph_safe=False): raise AssertionError('no CUDA')\n"
        "def _set_cuda_rng_state(state, device=-1, graph_safe=False): raise AssertionError('no CUDA')\n"
    ),
    f"{CORE}/transformer/dot_product_attention.py": (
        "class DotProductAttention:\n"
        "    def forward(self, query, key, value, mask, packed_seq_params=None):\n"
        "        assert packed_seq_params is None\n"
        "        return 'plain'\n"
    ),
    f"{CORE}/transformer/moe/ops/paged_stash.py": (
        "import triton\n"
        "import triton.language as tl\n"
        "@triton.jit\n"
        "def kernel(size: tl.constexpr): return 'kernel'\n"
        "def later():\n"
        "    import triton.testing\n"
        "    return triton.testing\n"
    ),
    f"{BRIDGE}/__init__.py": "",
    f"{BRIDGE}/models/gpt_provider.py": (
        "def local_layer_spec(config): return 'local'\n"
        "class Base:\n"
        "    transformer_layer_spec = 'transformer engine'\n"
        "    apply_rope_fusion = masked_softmax_fusion = True\n"
        "    def finalize(self): self.final = self.transformer_layer_spec\n"
        "class GPTModelProvider(Base): pass\n"
        "class LlamaProvider(GPTModelProvider):\n"
        "    def finalize(self): super().finalize()\n"
    ),
    f"{BRIDGE}/peft/utils.py": "HAVE_TE = True\n",
    f"{BRIDGE}/utils/import_utils.py": (
        "import logging, warnings\n"
        "logger = logging.getLogger(__name__)\n"
        "logger.setLevel(logging.INFO)\n"
        "logger.addHandler(logging.StreamHandler())\n"
        "def safe_import_from():\n"
        "    logger.info('Traceback'); logger.warning('kept'); warnings.warn('Apex is not installed.')\n"
    ),
    f"{BRIDGE}/peft/lora_layers.py": (
        "import transformer_engine.pytorch as te\nclass TELinearAdapter(te.Linear): pass\n"
    ),
    f"{BRIDGE}/training/initialize.py": (
        "import torch\ndef initialize_megatron(cfg, allow_no_cuda=False): return cfg, allow_no_cuda\n"
    ),
    f"{BRIDGE}/training/checkpointing.py": (
        "from modelopt.torch.opt.plugins import save_modelopt_state\nsaved = save_modelopt_state('model')\n"
    ),
    f"{BRIDGE}/training/pretrain.py": "import modelopt\n",
    f"{BRIDGE}/training/other.py": "from typing import override\n",
}
JIT = "from megatron.core import jit\n"


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
    done = run(
        "import sys; print([m for m in ('torch', 'megatron', 'importlib.util', 'os.path2') if m in sys.modules])"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert "slipway_cpu_megatron" in run("import sys; print(sys.modules['slipway_cpu_megatron'])").stdout


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        (JIT + "print(jit.jit_fuser)", "nothing"),
        ("from megatron.core.datasets import utils; print(utils.compile_helpers())", "make"),
        (
            "from megatron.core.tensor_parallel import random as r; import torch\n"
            "print(r._get_cuda_rng_state(graph_safe=True), torch.cuda.manual_seed(3))",
            "state of the CPU ('seeded', 3)",
        ),
        (
            "from megatron.bridge.models.gpt_provider import LlamaProvider as P; p = P(); p.finalize()\n"
            "print(p.final(p), p.apply_rope_fusion, p.masked_softmax_fusion, p.use_cpu_initialization)",
            "local False False True",
        ),
        ("from megatron.bridge.peft import utils; print(utils.HAVE_TE)", "False"),
        ("from megatron.bridge.training.initialize import initialize_megatron as f; print(f('cfg'))", "('cfg', True)"),
        (
            "from megatron.core.transformer.dot_product_attention import DotProductAttention as A\n"
            "print(A().forward('q', 'k', 'v', None))",
            "plain",
        ),
    ],
)
def test_a_substitution(run, code: str, printed: str) -> None:
    done = run(code)
    assert done.stdout == printed + "\n", done.stderr


@pytest.mark.parametrize(
    ("call", "made"),
    [
        ("torch.zeros(1, device='cuda')", "((1,), {'device': device cpu})"),
        ("torch.zeros(1, device=torch.device('cuda:1'), pin_memory=True)", "((1,), {'device': device cpu})"),
        ("torch.zeros(1, device=torch.cuda.current_device())", "((1,), {'device': device cpu})"),
        ("torch.zeros(1, device='meta')", "((1,), {'device': 'meta'})"),
        ("torch.zeros(1)", "((1,), {})"),
        ("torch.Tensor().to('cuda:0', 'float')", "((device cpu, 'float'), {})"),
        ("torch.Tensor().to(device='cuda')", "((), {'device': device cpu})"),
        ("torch.Tensor().type()", "'torch.cuda.FloatTensor'"),
        ("torch.Tensor().type('torch.HalfTensor')", "('torch.HalfTensor',)"),
        ("torch.cuda.synchronize()", "None"),
        ("torch.cuda.Event(enable_timing=True).query()", "True"),
        ("torch.cuda.is_available()", "False"),
    ],
)
def test_what_is_asked_of_cuda_goes_to_the_cpu(run, call: str, made: str) -> None:
    done = run(f"import torch, megatron.bridge.models.gpt_provider\nprint(repr({call}))")
    assert done.stdout == made + "\n", done.stderr


def test_helpers_that_the_image_holds_are_not_made_again(run) -> None:
    (run.modules / CORE / "datasets" / "helpers_cpp.py").touch()
    done = run("from megatron.core.datasets import utils; print(utils.compile_helpers())")
    assert done.stdout == "None\n", done.stderr


def test_a_missing_package_has_a_stand_in_where_it_is_imported(run) -> None:
    done = run(
        "from megatron.core.transformer.moe.ops import paged_stash as p\n"
        "from megatron.bridge.training import checkpointing as c\n"
        "import sys\n"
        "print(p.kernel(1), p.later().__name__, c.saved, [m for m in sys.modules if 'triton' in m or 'modelopt' in m])"
    )
    assert done.stdout == "kernel triton.testing None []\n", done.stderr


def test_what_a_stand_in_offers_cannot_be_created(run) -> None:
    done = run("from megatron.bridge.peft.lora_layers import TELinearAdapter as A; A()")
    assert "RuntimeError: transformer_engine.pytorch.Linear is not installed" in done.stderr


def test_an_installed_package_is_taken(run) -> None:
    (run.modules / "triton").mkdir()
    (run.modules / "triton" / "__init__.py").write_text("def jit(function): return lambda size: 'compiled'\n")
    (run.modules / "triton" / "language.py").write_text("constexpr = int\n")
    done = run("from megatron.core.transformer.moe.ops import paged_stash as p; print(p.kernel(1))")
    assert done.stdout == "compiled\n", done.stderr


@pytest.mark.parametrize(
    ("module", "missing"),
    [
        ("import megatron.bridge.training.pretrain", "modelopt"),  # a named module, and a package it is not named with
        ("import megatron.bridge.training.checkpointing, triton", "triton"),  # a named package, elsewhere
    ],
)
def test_nothing_else_gets_a_stand_in(run, module: str, missing: str) -> None:
    done = run(module)
    assert f"ModuleNotFoundError: No module named '{missing}'" in done.stderr


def test_an_installed_package_that_is_broken_stays_an_error(run) -> None:
    (run.modules / "triton.py").write_text("import nosuchmodule\n")
    done = run("import megatron.core.transformer.moe.ops.paged_stash")
    assert "ModuleNotFoundError: No module named 'nosuchmodule'" in done.stderr


def test_override_is_there_before_python_3_12(run) -> None:
    done = run(JIT + "from megatron.bridge.training.other import override; print(override.__name__)")
    assert done.stdout == "override\n", done.stderr


def test_what_is_missing_by_intention_makes_no_noise(run) -> None:
    code = "from megatron.bridge.utils.import_utils import safe_import_from; safe_import_from()"
    assert run(code).stderr.splitlines()[1:] == ["kept"]  # the first line says that the substitutions are active
    assert "Traceback" in (noise := run(code, CUDA="1").stderr) and "Apex is not installed" in noise


def test_it_does_nothing_where_cuda_is(run) -> None:
    done = run(
        JIT + "import torch, megatron.bridge.models.gpt_provider\n"
        "from megatron.bridge.training.initialize import initialize_megatron as f\n"
        "print(jit.jit_fuser, f('cfg'), torch.zeros(1, device='cuda'))",
        CUDA="1",
    )
    assert (done.stdout, done.stderr) == ("torch.compile ('cfg', False) ((1,), {'device': 'cuda'})\n", "")


def test_no_stand_in_where_cuda_is(run) -> None:
    done = run("import megatron.core.transformer.moe.ops.paged_stash", CUDA="1")
    assert "ModuleNotFoundError: No module named 'triton'" in done.stderr


def test_modules_that_are_not_named_change_nothing(run) -> None:
    done = run("import torch, megatron.bridge.training; print(torch.zeros(1, device='cuda'))")
    assert (done.stdout, done.stderr) == ("((1,), {'device': 'cuda'})\n", "")


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_it_says_once_that_it_is_active(run, rank: str, lines: int) -> None:
    code = (
        JIT + "import megatron.bridge.peft.utils, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    )
    again = LOAD + JIT
    everything = {**os.environ, "PYTHONPATH": f"{run.modules}:{FOLDER.parent}", "RANK": rank}
    command = [sys.executable, "-c", LOAD + code, again]
    said = subprocess.run(command, env=everything, capture_output=True, text=True, check=True).stderr.splitlines()
    assert len(said) == lines
    for line in said:
        assert "slipway: no CUDA device" in line and "attention_inside_documents" in line and "and without PIL" in line


def test_another_release_of_the_library_fails_by_name(run) -> None:
    (run.modules / BRIDGE / "peft" / "utils.py").write_text("")
    done = run("import megatron.bridge.peft.utils")
    assert "has no 'HAVE_TE'; these substitutions are for megatron-bridge 0.6.2" in done.stderr


def test_a_module_keeps_its_source(run) -> None:
    done = run("import inspect\n" + JIT + "print('torch.compile' in inspect.getsource(jit))")
    assert done.stdout == "True\n", done.stderr
