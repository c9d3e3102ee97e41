"""Store the state of a run on disk: checkpoints, tiles, fits, results and network files.

This package decides formats and locks, and which files count as complete or damaged.
"""
