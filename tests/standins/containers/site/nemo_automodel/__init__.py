"""Stands for NeMo AutoModel."""
