"""Stands for Megatron-Core."""
