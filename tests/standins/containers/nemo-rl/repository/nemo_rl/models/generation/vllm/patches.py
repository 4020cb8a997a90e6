"""Stands for what v0.7.0's workers do to vLLM when they start: a lock beside each file, opened for writing whatever
is in it, then the file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec


def _get_vllm_file(relative_path: str) -> str:
    spec = find_spec("vllm")
    assert spec is not None and spec.submodule_search_locations
    return f"{next(iter(spec.submodule_search_locations))}/{relative_path}"


@contextmanager
def _locked_file_patch(file_path: str) -> Iterator[tuple[str, Callable[[str], None]]]:
    import fcntl

    with open(file_path + ".patch_lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(file_path) as f:
            content = f.read()

        def write_back(new_content: str) -> None:
            with open(file_path, "w") as f:
                f.write(new_content)

        yield content, write_back


def _patch_vllm_init_workers_ray(py_executable: str, extra_env_vars: list[str] | None) -> None:
    with _locked_file_patch(_get_vllm_file("v1/executor/ray_executor.py")) as (content, write_back):
        if "start()" in content:
            write_back(content.replace("start()", f'start("{py_executable}")'))


def _patch_vllm_llama_eagle3_own_lm_head(logger: object) -> None:
    with _locked_file_patch(_get_vllm_file("model_executor/models/llama_eagle3.py")) as (content, write_back):
        if "patched" not in content:
            write_back(content + "patched = True\n")


def _patch_vllm_hermes_tool_parser_thread_safety(logger: object) -> None:
    with _locked_file_patch(_get_vllm_file("tool_parsers/hermes_tool_parser.py")) as (content, write_back):
        if "patched" not in content:
            write_back(content + "patched = True\n")


def _apply_vllm_patches(py_executable: str, *, extra_env_vars: list[str] | None = None) -> None:
    _patch_vllm_init_workers_ray(py_executable, extra_env_vars)
    _patch_vllm_llama_eagle3_own_lm_head(None)
    _patch_vllm_hermes_tool_parser_thread_safety(None)
