"""Priors as tasks use them: when each applies, and how its network and its problem are built.

Decided here: the rows of the registry, their settings and costs. Tasks and the pipeline import
this folder; it imports `tasks.base`, `io`, `errors` and the engine.
"""
