"""Stands for pyarrow, which knows files of packed rows."""
