"""Stands for Megatron-Bridge's step."""


def forward_step() -> None:
    """Nothing is computed."""
