"""Stands for what AutoModel took of Megatron."""
