"""The substitutions that let nemo-automodel 0.7.0 run where there is no CUDA device.

The cpu image has this file and a .pth that imports it in its site-packages, so every interpreter start pays for it:
only `sys` is imported here. A finder at the head of the meta path waits for the few modules of nemo-automodel named
in SUBSTITUTIONS; once such a module has run, its substitutions are made, unless torch finds a CUDA device. They prove
that a configuration, its data and its process group fit together; they prove nothing about GPUs.
"""

import sys

VERSION = "0.7.0"


def cpu_device(module):
    """initialize_distributed: finds no CUDA device and says `device=None`, but every batch is sent to that device."""
    real = _take(module, "initialize_distributed")

    def initialize_distributed(*args, **kwargs):
        info = real(*args, **kwargs)
        if info.device is None:
            info.device = _cpu()
        return info

    module.initialize_distributed = initialize_distributed


def barrier_without_gpus(module):
    """torch.distributed.barrier: `device_ids` names GPUs, and gloo raises ValueError when it is given."""
    distributed = _take(module, "torch").distributed
    real = distributed.barrier

    def barrier(*args, **kwargs):
        kwargs.pop("device_ids", None)
        return real(*args, **kwargs)

    distributed.barrier = barrier


def model_on_cpu(module):
    """apply_model_infrastructure: its callers pass the current CUDA device as the place for the model."""
    real = _take(module, "apply_model_infrastructure")

    def apply_model_infrastructure(*args, **kwargs):
        return real(*args, **{**kwargs, "device": _cpu()})

    module.apply_model_infrastructure = apply_model_infrastructure


def current_device(module):
    """torch.cuda.current_device: raises without CUDA; asked only to build the device that `model_on_cpu` replaces."""
    _take(module, "torch").cuda.current_device = lambda: 0


def no_peak_memory(module):
    """torch.cuda.reset_peak_memory_stats: called at every step; a torch built without CUDA raises AttributeError."""
    _take(module, "torch").cuda.reset_peak_memory_stats = lambda *_, **__: None


SUBSTITUTIONS = {
    "nemo_automodel.components.distributed.init_utils": (cpu_device, barrier_without_gpus),
    "nemo_automodel._transformers.infrastructure": (model_on_cpu, current_device),
    "nemo_automodel.recipes.base_recipe": (no_peak_memory,),
}


class Finder:
    """Lets the other finders find a named module, and has its substitutions made after its own code has run."""

    said = False

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name not in SUBSTITUTIONS:
            return None
        for finder in sys.meta_path:
            spec = None if finder is cls else finder.find_spec(name, path, target)
            if spec is not None:
                cls._hook(spec.loader)
                return spec
        return None

    @classmethod
    def _hook(cls, loader):
        """`loader` belongs to this one module: what is set on it reaches no other."""
        run = loader.exec_module

        def exec_module(module):
            run(module)
            cls._substitute(module)

        loader.exec_module = exec_module

    @classmethod
    def _substitute(cls, module):
        import torch  # the module has imported it already

        if torch.cuda.is_available():
            return
        for substitution in SUBSTITUTIONS[module.__name__]:
            substitution(module)
        cls._say()

    @classmethod
    def _say(cls):
        import os

        if not cls.said and os.environ.get("RANK", "0") == "0":
            names = ", ".join(s.__name__ for group in SUBSTITUTIONS.values() for s in group)
            print(
                f"slipway: no CUDA device: nemo-automodel runs with substitutions ({names})",
                file=sys.stderr,
                flush=True,
            )
        cls.said = True


def _cpu():
    import torch

    return torch.device("cpu")


def _take(module, name):
    if not hasattr(module, name):
        what = f"{module.__name__} has no {name!r}; these substitutions are for nemo-automodel {VERSION}"
        raise ImportError(f"slipway_cpu_automodel: {what}")
    return getattr(module, name)


sys.meta_path.insert(0, Finder)
