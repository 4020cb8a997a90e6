"""The substitutions that let NeMo RL v0.7.0 train and generate where there is no CUDA device.

The cpu image has this file and a .pth that imports it in its site-packages, so every interpreter start pays for it,
Ray's own too: nothing else is imported here. SUBSTITUTIONS names the modules that are changed once they have run,
unless torch finds a CUDA device. What trains is DTensor's first worker, over gloo; what generates is the CPU build of
vLLM. They prove that a configuration, its data, rollouts, rewards, transfer of weights and checkpoints fit together;
they prove nothing about GPUs, NCCL, CUDA IPC, sleep mode, DTensor's second worker or Megatron.
"""

import sys

import slipway_cpu

_take = slipway_cpu.taker("slipway_cpu_nemo_rl", "nemo-rl v0.7.0")

# For this process and, since NeMo RL hands them on, its actors; where a variable is set, it stays.
SETTINGS = {
    "NRL_DISABLE_NUMA_BINDING": "1",  # there is no GPU whose neighbours could be looked up
    "OMP_NUM_THREADS": "1",  # the actors of a run share a few cores
    "TORCHDYNAMO_DISABLE": "1",  # it wants a C++ compiler
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else it wants cores that no other actor is given
}

ONE_GIB = 1 << 30


def one_environment(module):
    """ACTOR_ENVIRONMENT_REGISTRY: has uv make an environment for each kind of actor; this image has one for all."""
    registry = _take(module, "ACTOR_ENVIRONMENT_REGISTRY")
    registry.update(dict.fromkeys(registry, sys.executable))


def no_ranges(module):
    """NVTX's ranges, around each call of a worker: raise without CUDA."""
    import torch

    _take(module, "wrap_with_nvtx_name")
    torch.cuda.nvtx.range_push = torch.cuda.nvtx.range_pop = lambda *_, **__: None


def devices_by_node(module):
    """get_device_uuid, of NVML: names the socket over which a trainer hands its weights to vLLM; and free memory."""
    _take(module, "get_device_uuid"), _take(module, "get_free_memory_bytes")

    def get_device_uuid(device_idx):
        import ray

        node = ray.get_runtime_context().get_node_id()[:12]  # nodes on one machine may share /tmp
        return f"cpu-{node}-{module.device_id_to_physical_device_id(device_idx or 0)}"

    module.get_device_uuid = get_device_uuid
    module.get_free_memory_bytes = lambda _: ONE_GIB


def weights_through_the_socket(module):
    """A trainer hands its weights to vLLM as handles of CUDA memory: here the bytes themselves take that way."""
    _take(module, "get_handle_from_tensor"), _take(module, "rebuild_cuda_tensor_from_ipc")
    module.get_handle_from_tensor = lambda tensor: tensor.detach().clone()
    module.rebuild_cuda_tensor_from_ipc = lambda tensor, _: tensor


def current_device(_):
    """torch.cuda's current device and stream, which trainer and vLLM's extension ask for: the first, and one idle."""
    import torch

    torch.cuda.current_device = lambda: 0
    torch.cuda.current_stream = lambda *_: Idle()


def tensors_on_the_cpu(_):
    """Tensors that are made for, or sent to, a CUDA device stay on the CPU, in this thread: all of an actor's work.

    A mode and not functions of ours: those would hide torch's own from the contexts in which Transformers makes models.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    here = torch.device("cpu")

    class OnTheCpu(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
            if name in ("cuda", "pin_memory"):
                return args[0]
            if _is_cuda(kwargs.get("device")):
                kwargs["device"] = here
            if name == "to":
                args = args[:1] + tuple(here if _is_cuda(a) else a for a in args[1:])
            kwargs.pop("pin_memory", None)
            return func(*args, **kwargs)

    OnTheCpu().__enter__()


def idle_cuda(_):
    """torch.cuda's statistics and what is waited for: no memory is used, and nothing runs by itself."""
    import torch

    cuda = torch.cuda
    cuda.device_count, cuda.get_device_name = (lambda: 1), (lambda *_: "cpu")
    cuda.profiler.start = cuda.profiler.stop = lambda: None
    for name in ("max_memory_allocated", "memory_allocated", "max_memory_reserved", "memory_reserved"):
        setattr(cuda, name, lambda *_, **__: 0)
    for name in ("empty_cache", "reset_peak_memory_stats", "set_device", "synchronize"):
        setattr(cuda, name, lambda *_, **__: None)


def gloo(_):
    """The process group is NCCL's, the mesh and autocast are CUDA's."""
    import torch
    from torch.distributed import device_mesh

    distributed = torch.distributed
    start, mesh, autocast = distributed.init_process_group, device_mesh.init_device_mesh, torch.autocast
    distributed.init_process_group = lambda *_, **k: start(**{**k, "backend": "gloo"})
    device_mesh.init_device_mesh = distributed.init_device_mesh = lambda _, *a, **k: mesh("cpu", *a, **k)
    torch.autocast = lambda *a, **k: autocast("cpu", *a[1:], **{n: v for n, v in k.items() if n != "device_type"})


def vllm_as_installed(module):
    """_apply_vllm_patches: rewrites files of the installed vLLM, of another version, for what is not used here."""
    _take(module, "_apply_vllm_patches")
    module._apply_vllm_patches = lambda *_, **__: None


def no_fp8(_):
    """NeMo RL's fp8 module, asked whether a model is of that kind: imports names that this vLLM has elsewhere."""
    name = "nemo_rl.models.generation.vllm.quantization.fp8"
    sys.modules[name] = type(sys)(name)
    sys.modules[name].is_fp8_model = lambda _: False


def weights_that_can_change(module):
    """vLLM's layers on a CPU: pack a weight once and drop it, and then there is nothing that could be loaded anew."""
    pack = _take(module, "dispatch_cpu_unquantized_gemm")
    module.dispatch_cpu_unquantized_gemm = lambda layer, *_, **__: pack(layer, remove_weight=False)


def always_awake(module):
    """vLLM's engine: refuses a sleep mode on a CPU, where to be put to sleep, and woken, is no more than a warning."""
    engine = _take(module, "LLM")
    start = engine.__init__

    def __init__(self, *args, **kwargs):
        kwargs.pop("enable_sleep_mode", None)
        start(self, *args, **kwargs)

    engine.__init__ = __init__


SUBSTITUTIONS = {
    "nemo_rl.distributed.ray_actor_environment_registry": (one_environment,),
    "nemo_rl.utils.nsys": (no_ranges,),
    "nemo_rl.utils.nvml": (devices_by_node,),
    "nemo_rl.models.policy.utils": (weights_through_the_socket, current_device),
    "nemo_rl.models.policy.workers.dtensor_policy_worker": (tensors_on_the_cpu, idle_cuda, gloo),
    "nemo_rl.models.generation.vllm.vllm_worker": (vllm_as_installed, no_fp8),
    "vllm.entrypoints.llm": (always_awake,),
    "vllm.model_executor.layers.utils": (weights_that_can_change,),
}
PACKAGE = "nemo_rl"


class Idle:
    """A stream that has nothing to do."""

    def synchronize(self):
        pass


def _prepare():
    """SETTINGS; and below Python 3.12 pydantic refuses TypedDict of `typing`, which has no `override` either."""
    import os
    import typing

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if sys.version_info < (3, 12):
        import typing_extensions

        for name in ("NotRequired", "TypedDict", "override"):
            setattr(typing, name, getattr(typing_extensions, name))


def _is_cuda(device):
    """Whether it names a CUDA device; a number does."""
    if isinstance(device, (int, str)):
        return str(device).startswith("cuda") or type(device) is int
    return getattr(device, "type", None) == "cuda"


slipway_cpu.Finder("nemo-rl", SUBSTITUTIONS, (PACKAGE,), _prepare)
