"""The substitutions that let nemo-automodel 0.7.0 run where there is no CUDA device.

The cpu image has this file and a .pth that imports it in its site-packages, so every interpreter start pays for it:
nothing else is imported here. SUBSTITUTIONS names the few modules of nemo-automodel that are changed once they have
run, unless torch finds a CUDA device. They prove that a configuration, its data and its process group fit together;
they prove nothing about GPUs.
"""

import slipway_cpu

_take = slipway_cpu.taker("slipway_cpu_automodel", "nemo-automodel 0.7.0")


def cpu_device(module):
    """initialize_distributed: finds no CUDA device and says `device=None`, but every batch is sent to that device."""
    real = _take(module, "initialize_distributed")

    def initialize_distributed(*args, **kwargs):
        info = real(*args, **kwargs)
        if info.device is None:
            info.device = slipway_cpu.cpu()
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
        return real(*args, **{**kwargs, "device": slipway_cpu.cpu()})

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


slipway_cpu.Finder("nemo-automodel", SUBSTITUTIONS)
