"""Stands for pyarrow, which knows one file: what Megatron-Bridge packed once (packed.parquet beside this)."""
