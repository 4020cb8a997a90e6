"""The floor that `images` and `launcher` stand on. It imports nothing of theirs."""

__version__ = "0.1.0"
