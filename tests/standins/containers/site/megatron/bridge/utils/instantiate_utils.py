"""Stands for what Megatron-Bridge raises."""


class InstantiationException(Exception):
    """A configuration that cannot be made."""
