"""Stands for what v0.4.0's workers do to vLLM when they start: files are found by importing them, and where they may
not be written the worker goes on without a word."""

import sys


class BaseVllmGenerationWorker:
    """Patches the files that are not patched yet, if it may."""

    def __init__(self) -> None:
        self.py_executable = sys.executable
        try:

            def _patch_vllm_init_workers_ray() -> None:
                try:
                    import vllm.executor.ray_distributed_executor as ray_executor_module

                    file_to_patch = ray_executor_module.__file__
                    with open(file_to_patch) as f:
                        content = f.read()
                    if "start()" not in content:
                        return
                    with open(file_to_patch, "w") as f:
                        f.write(content.replace("start()", f'start("{self.py_executable}")'))
                except (ImportError, FileNotFoundError, PermissionError):
                    pass

            _patch_vllm_init_workers_ray()

            def _patch_vllm_sampler() -> None:
                try:
                    import vllm.v1.sample.sampler as sampler_module

                    file_to_patch = sampler_module.__file__
                    with open(file_to_patch) as f:
                        content = f.read()
                    if "start()" not in content:
                        return
                    with open(file_to_patch, "w") as f:
                        f.write(content.replace("start()", 'start("with temperature")'))
                except (ImportError, FileNotFoundError, PermissionError):
                    pass

            _patch_vllm_sampler()
        except (ImportError, AttributeError):
            pass


if __name__ == "__main__":
    BaseVllmGenerationWorker()
