"""Stands for transformers."""
