"""Stands for AutoModel's indices of samples, which 0.5 has compiled in its package."""
