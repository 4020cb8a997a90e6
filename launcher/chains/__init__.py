"""Pipelines: launches that follow each other. `keys` (what decides what a step makes), `links` (what each step of a
file is now: done, running, to run, and why), `driving` (runs what has to be run)."""
