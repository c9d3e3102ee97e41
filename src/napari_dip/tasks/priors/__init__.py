"""Priors as tasks use them: how the network and the problem of each are built.

A file has the name of its prior, as in `engine.priors`, or of what its networks take. Decided here:
the rows of the registry, their settings and costs, and the refinement at the end. Tasks and the
pipeline import this folder; it imports `tasks.base`, `io`, `errors` and the engine.
"""
