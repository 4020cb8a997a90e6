"""Stands for megatron.core.tensor_parallel: its generators are CUDA's."""

import torch

seeds: list[int] = []


def model_parallel_cuda_manual_seed(seed: int) -> None:
    torch.cuda.get_rng_state()
    seeds.append(seed)
