"""The same verbs for every engine: probe, render, submit, status, logs, cancel. Engines know nothing of steps."""
