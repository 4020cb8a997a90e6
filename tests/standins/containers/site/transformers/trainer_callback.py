"""Stands for transformers' callbacks."""


class TrainerCallback:
    """Is told what happens."""


class PrinterCallback(TrainerCallback):
    """Prints it."""
