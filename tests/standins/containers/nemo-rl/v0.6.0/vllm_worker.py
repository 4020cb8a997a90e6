"""Stands for what v0.5.0's and v0.6.0's workers do to vLLM when they start: inside __init__, and without a lock."""

import os
import sys
from importlib.util import find_spec


class BaseVllmGenerationWorker:
    """Patches the files that are not patched yet."""

    def __init__(self) -> None:
        self.py_executable = sys.executable

        def _get_vllm_file(relative_path: str) -> str:
            spec = find_spec("vllm")
            assert spec is not None and spec.submodule_search_locations
            return os.path.join(next(iter(spec.submodule_search_locations)), *relative_path.split("/"))  # noqa: PTH118

        def _patch_vllm_init_workers_ray() -> None:
            file_to_patch = _get_vllm_file("v1/executor/ray_executor.py")
            with open(file_to_patch) as f:
                content = f.read()
            if "start()" not in content:
                return
            with open(file_to_patch, "w") as f:
                f.write(content.replace("start()", f'start("{self.py_executable}")'))

        _patch_vllm_init_workers_ray()


if __name__ == "__main__":
    BaseVllmGenerationWorker()
