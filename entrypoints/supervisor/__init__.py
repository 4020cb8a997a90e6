"""The supervisor of a step inside its container (docs/ends.md): standard library alone, Python 3.9 and up.

Little is imported, and late: what this takes to start is added to every run.
"""
