"""The sample indices of tokenized documents where the library's C++ for them cannot be compiled.

AutoModel compiles it when a run starts: up to 0.5 into its own package, which only root may write, and nobody on a
read-only root; later where a run may. Where it is compiled, or can be, the library's own code runs, and nothing here.
"""

from __future__ import annotations

import os
import shutil
import sys
import types
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import slipway_step

COMPILED = "nemo_automodel.components.datasets.llm.megatron.helpers_cpp"


def install() -> None:
    """Puts the functions below where the library looks for its compiled ones, if it could not compile them."""
    from nemo_automodel.components.datasets.llm.megatron import helpers

    why = later(helpers) if hasattr(helpers, "compile_helper") else up_to_0_5(Path(helpers.__file__).parent)
    if why and slipway_step.rank() == 0:
        print(f"slipway: {why}: the samples' indices are computed by numpy", flush=True)


def compiler() -> bool:
    return bool(shutil.which(os.environ.get("CXX", "c++")))


def later(helpers: Any) -> str:
    """Where the library asks a function for the compiled module; returns why that one is replaced."""
    if compiler() and shutil.which("ninja"):
        return ""
    from nemo_automodel.components.datasets.llm import megatron_dataset
    from nemo_automodel.components.datasets.llm.megatron import megatron_utils

    found = types.SimpleNamespace(**functions())
    for module in (megatron_utils, megatron_dataset, helpers):
        module.compile_helper = lambda: found
    return "no C++ compiler here"


def up_to_0_5(package: Path) -> str:
    """Where the library imports the compiled module from its own `package`; returns why there is another one."""
    if find_spec(COMPILED):
        return ""
    if not os.access(package, os.W_OK):
        why = f"{package} cannot be written, where the library would compile"
    elif not (compiler() and shutil.which("make")):
        why = "no C++ compiler here"
    else:
        return ""
    module = types.ModuleType(COMPILED)
    module.__spec__ = ModuleSpec(COMPILED, None)  # the library asks for it before it imports
    vars(module).update(functions())
    sys.modules[COMPILED] = module
    return why


def functions() -> dict[str, Any]:
    """What the library calls, by its names."""
    return {
        "build_sample_idx_int32": sample_index("int32"),
        "build_sample_idx_int64": sample_index("int64"),
        "build_blending_indices": build_blending_indices,
        "build_exhaustive_blending_indices": build_exhaustive_blending_indices,
    }


def sample_index(dtype: str) -> Any:
    """A function with the arguments of the library's `build_sample_idx`, for indices of one type."""

    def build(
        sizes: Any, documents: Any, length: int, epochs: int, tokens: int, drop_last: bool = True, extra: int = 1
    ) -> Any:
        """Where each sample begins, and the last ends: row of `documents`, and offset in that document.

        Samples are `length` tokens apart, and `extra` longer: they end in the token with which the next begins.
        """
        import numpy as np

        ends = np.cumsum(np.asarray(sizes)[documents], dtype=np.int64)
        whole = epochs * tokens - extra
        count = whole // length if drop_last else int(np.ceil(np.float32(whole) / np.float32(length)))
        begins = np.arange(count + 1, dtype=np.int64) * length
        rows = np.searchsorted(ends, begins - (1 - extra), side="right")
        beyond = rows == len(ends)  # the last sample of a split that keeps an incomplete one
        rows[beyond] = len(ends) - 1
        starts = ends - np.asarray(sizes)[documents]
        offsets = np.where(beyond, ends[-1] - starts[-1] - extra, begins - starts[rows])
        index = np.stack([rows, offsets], axis=1)
        index[0] = 0
        return index.astype(dtype)

    return build


def build_blending_indices(dataset: Any, sample: Any, weights: Any, _count: int, size: int, _verbose: bool) -> None:
    """Fills `dataset` and `sample`: each time the data set that lags most behind its weight gives its next sample."""
    taken = [0] * len(weights)
    for place in range(size):
        _take(place, dataset, sample, weights, taken, range(len(weights)))


def build_exhaustive_blending_indices(dataset: Any, sample: Any, sizes: Any, _count: int) -> None:
    """The same by sizes instead of weights, until every data set has given all that it has."""
    total, taken, left = sum(sizes), [0] * len(sizes), list(range(len(sizes)))
    weights = [size / total for size in sizes]
    for place in range(total):
        chosen = _take(place, dataset, sample, weights, taken, left)
        if taken[chosen] == sizes[chosen]:
            left.remove(chosen)


def _take(place: int, dataset: Any, sample: Any, weights: Any, taken: list[int], among: Any) -> int:
    chosen: int = max(among, key=lambda i: weights[i] * max(place, 1.0) - taken[i])
    dataset[place], sample[place] = chosen, taken[chosen]
    taken[chosen] += 1
    return chosen
