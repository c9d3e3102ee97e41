"""Priors as tasks use them: when each applies, and how its network and its problem are built.

Tasks import this folder; it imports `tasks.base` and the engine.
"""
