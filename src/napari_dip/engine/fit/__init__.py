"""Fit a prior to a problem: loop, trainer, schedule, optimisers, early stopping, CUDA graphs.

The package depends on problems and priors by their interfaces only. The pipeline and the
explorer call `loop.fit`.
"""
