"""Fixtures of the tests with a Slurm of their own."""

from __future__ import annotations

from .cluster import slurm as slurm
from .image import tiny as tiny
