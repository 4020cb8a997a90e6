"""The substitutions that let megatron-bridge 0.6.2 and megatron-core 0.19.2 run where there is no CUDA device.

The cpu image has this file and a .pth that imports it in its site-packages, so every interpreter start pays for it:
nothing else is imported here. Where torch finds no CUDA device, a module of Megatron named below finds stand-ins for
the packages that it imports and that are not installed, and after it has run its substitutions are made. They prove
that a configuration, its data, its checkpoints and its process group fit together; they prove nothing about GPUs,
NCCL, Transformer Engine or speed.
"""

import sys

import slipway_cpu

_take = slipway_cpu.taker("slipway_cpu_megatron", "megatron-bridge 0.6.2")

# Importing module -> what is missing where it imports it unconditionally, and does not call it here.
STAND_INS = {
    "megatron.core.transformer.moe.ops.paged_stash": ("triton",),
    "megatron.bridge.data.builders.mock_vlm_sft": ("PIL",),
    "megatron.bridge.data.datasets.gpt_sft": ("datasets",),
    "megatron.bridge.data.energon.base_energon_datamodule": ("megatron.energon",),
    "megatron.bridge.data.megatron_mimo.hf_provider": ("datasets",),
    "megatron.bridge.data.megatron_mimo.mock_provider": ("PIL",),
    "megatron.bridge.data.sources.hf": ("datasets",),
    "megatron.bridge.models.conversion.auto_bridge": ("modelopt",),
    "megatron.bridge.peft.lora_layers": ("transformer_engine",),
    "megatron.bridge.training.checkpointing": ("modelopt",),
    "megatron.bridge.training.eval": ("modelopt",),
    "megatron.bridge.training.gpt_step": ("modelopt",),
    "megatron.bridge.training.post_training.checkpointing": ("modelopt",),
    "megatron.bridge.training.post_training.distillation": ("modelopt",),
    "megatron.bridge.training.pretrain": ("nvidia_resiliency_ext",),
    "megatron.bridge.training.state": ("tensorboard",),
    "megatron.bridge.training.train": ("modelopt",),
}

FACTORIES = ("arange", "as_tensor", "empty", "empty_like", "full", "full_like", "ones", "ones_like", "rand", "randint",
             "randn", "tensor", "zeros", "zeros_like")  # fmt: skip
FUSIONS = ("apply_rope_fusion", "bias_activation_fusion", "bias_dropout_fusion", "cross_entropy_loss_fusion",
           "gradient_accumulation_fusion", "masked_softmax_fusion", "persist_layer_norm")  # fmt: skip


def no_compiler(module):
    """jit_fuser: torch.compile, which wants a C++ compiler on a CPU; it decorates functions while they are imported."""
    _take(module, "disable_jit_fuser")()


def quiet_placeholders(module):
    """The logger that shows a traceback for every name of Transformer Engine that has a placeholder instead."""
    _take(module, "logger").setLevel("WARNING")


def helpers_are_built(module):
    """compile_helpers: runs make at every start; left alone where the image does not hold what it would make."""
    from importlib.util import find_spec

    _take(module, "compile_helpers")
    if find_spec("megatron.core.datasets.helpers_cpp"):
        module.compile_helpers = lambda: None


def generator_of_the_cpu(module):
    """The state of CUDA's generator, which dropout and initialization switch: that of the CPU's."""
    import torch

    _take(module, "_get_cuda_rng_state"), _take(module, "_set_cuda_rng_state")
    torch.cuda.get_rng_state = module._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    torch.cuda.set_rng_state = module._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    torch.cuda.manual_seed = torch.cuda.manual_seed_all = lambda seed: torch.default_generator.manual_seed(int(seed))


def attention_inside_documents(module):
    """DotProductAttention: refuses packed rows, for which Megatron has Transformer Engine's kernel only."""
    attention = _take(module, "DotProductAttention")
    real = attention.forward

    def forward(self, query, key, value, *args, packed_seq_params=None, **kwargs):
        if packed_seq_params is None:
            return real(self, query, key, value, *args, **kwargs)
        padded = packed_seq_params.cu_seqlens_q_padded
        ends = (packed_seq_params.cu_seqlens_q if padded is None else padded).flatten().tolist()
        return _causal(query, key, value, ends, self.softmax_scale)

    attention.forward = forward


def tensors_on_the_cpu(_):
    """Tensors that are made for, or sent to, a CUDA device stay on the CPU; their type names say `torch.cuda`."""
    import torch

    for name in FACTORIES:
        setattr(torch, name, _without_cuda(getattr(torch, name)))
    to, kind = _without_cuda(torch.Tensor.to), torch.Tensor.type
    torch.Tensor.to = lambda self, *a, **k: to(self, *(slipway_cpu.cpu() if _is_cuda(x) else x for x in a), **k)
    torch.Tensor.cuda = torch.Tensor.pin_memory = torch.nn.Module.cuda = lambda self, *_, **__: self
    # Megatron's optimizers sort parameters by these names.
    torch.Tensor.type = lambda self, *a, **k: kind(self, *a, **k) if a or k else f"torch.cuda.{kind(self)[6:]}"


def idle_cuda(_):
    """torch.cuda's streams, events and statistics: there is nothing to wait for, and no memory is used."""
    import contextlib

    import torch

    cuda = torch.cuda
    cuda.current_device = slipway_cpu.cpu
    cuda.Stream = cuda.Event = Idle
    cuda.current_stream, cuda.stream = (lambda *_: Idle()), contextlib.nullcontext
    cuda.memory_stats = lambda *_, **__: {}
    for name in ("max_memory_allocated", "memory_allocated", "max_memory_reserved", "memory_reserved"):
        setattr(cuda, name, lambda *_, **__: 0)
    for name in ("empty_cache", "reset_peak_memory_stats", "set_device", "synchronize"):
        setattr(cuda, name, lambda *_, **__: None)


def layers_without_kernels(module):
    """GPTModelProvider: its layers and options are those of Transformer Engine and of fused kernels."""
    provider, local = _take(module, "GPTModelProvider"), _take(module, "local_layer_spec")
    real = provider.finalize

    def finalize(self):
        self.transformer_layer_spec, self.use_cpu_initialization = local, True
        self.cross_entropy_fusion_impl = "native"
        for name in FUSIONS:
            setattr(self, name, False)
        real(self)

    provider.finalize = finalize


def no_transformer_engine(module):
    """HAVE_TE: true without it, since the names that it is worked out from have placeholders."""
    _take(module, "HAVE_TE")
    module.HAVE_TE = False


def start_without_cuda(module):
    """initialize_megatron: refuses to start without CUDA, and seeds tensor-parallel layers only where a device is."""
    import torch

    real = _take(module, "initialize_megatron")
    torch.cuda.device_count = lambda: 1
    module.initialize_megatron = lambda *args, **kwargs: real(*args, **{**kwargs, "allow_no_cuda": True})


SUBSTITUTIONS = {
    "megatron.core.jit": (no_compiler,),
    "megatron.core.datasets.utils": (helpers_are_built,),
    "megatron.core.tensor_parallel.random": (generator_of_the_cpu,),
    "megatron.core.transformer.dot_product_attention": (attention_inside_documents,),
    "megatron.bridge.models.gpt_provider": (tensors_on_the_cpu, idle_cuda, layers_without_kernels),
    "megatron.bridge.utils.import_utils": (quiet_placeholders,),
    "megatron.bridge.peft.utils": (no_transformer_engine,),
    "megatron.bridge.training.initialize": (start_without_cuda,),
}


class Idle:
    """A stream or an event that has nothing to do."""

    def __init__(self, *_, **__):
        pass

    record = wait = wait_stream = wait_event = synchronize = lambda *_, **__: None

    def query(self):
        return True

    def elapsed_time(self, _):
        return 0.0


class Absent(type(sys)):
    """Stands for a package that is not installed: its classes can be inherited from and not created."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        inner = Absent(f"{self.__name__}.{name}")
        return type(name, (), {"__init__": inner._refuse}) if name[0].isupper() else inner

    def _refuse(self, *_, **__):
        raise RuntimeError(f"{self.__name__} is not installed")

    def __call__(self, *args, **_):
        """As a decorator it hands back what it decorates; as a function (save_modelopt_state) it does nothing."""
        return args[0] if len(args) == 1 and isinstance(args[0], (type, type(_before))) else None


def _prepare():
    """typing.override is new in Python 3.12; the warnings name packages that are missing by intention."""
    import typing
    import warnings

    if not hasattr(typing, "override"):
        from typing_extensions import override

        typing.override = override
    for start in ("Transformer Engine and Apex are", "Apex is", "absl.logging is", "Only transformer-engine>="):
        warnings.filterwarnings("ignore", message=start)


def _builtins_with_stand_ins(packages):
    """The builtins for one module, whose `import` takes a stand-in where one of these packages is missing."""
    import builtins

    real = builtins.__import__

    def __import__(name, globals=None, locals=None, fromlist=(), level=0):
        try:
            return real(name, globals, locals, fromlist, level)
        except ModuleNotFoundError as error:
            if error.name not in packages:
                raise
            return Absent(name if fromlist else name.partition(".")[0])

    return {**vars(builtins), "__import__": __import__}


def _causal(query, key, value, ends, scale):
    """Causal attention inside each document of one packed row; tensors are (tokens, heads, width)."""
    import itertools

    import torch

    attend = torch.nn.functional.scaled_dot_product_attention
    heads = [tensor.transpose(0, 1) for tensor in (query, key, value)]
    documents = [[t[:, a:b] for t in heads] for a, b in itertools.pairwise(ends) if b > a]
    parts = [attend(*document, is_causal=True, scale=scale, enable_gqa=True) for document in documents]
    return torch.cat(parts, dim=1).transpose(0, 1).flatten(1)


def _without_cuda(make):
    def made(*args, **kwargs):
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = slipway_cpu.cpu()
        kwargs.pop("pin_memory", None)
        return make(*args, **kwargs)

    return made


def _is_cuda(device):
    return (isinstance(device, str) and device.startswith("cuda")) or getattr(device, "type", None) == "cuda"


def _before(module):
    if module.__name__ in STAND_INS:
        module.__builtins__ = _builtins_with_stand_ins(STAND_INS[module.__name__])


slipway_cpu.Finder(
    "megatron-bridge", SUBSTITUTIONS, STAND_INS, _prepare, _before,
    ", and without " + ", ".join(sorted({package for group in STAND_INS.values() for package in group})),
)  # fmt: skip
