"""Stands for Model Optimizer."""

__version__ = "0.44.0rc5"
