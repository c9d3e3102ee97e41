"""Looking at a result: line profiles, uncertainty and residual beside it.

The docks of tasks import this folder; it knows layers, not runs.
"""
