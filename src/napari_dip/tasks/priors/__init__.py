"""Priors as tasks use them: when each applies, and how its network and its problem are built.

Files are named for what their priors are used for; `engine.priors` has the same priors by method.
Decided here: the rows of the registry, their settings and costs. Tasks and the pipeline import
this folder; it imports `tasks.base`, `io`, `errors` and the engine.
"""
