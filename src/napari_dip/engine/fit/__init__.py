"""The loop, which exists once, and all that it needs.

Decided here: steps, optimiser, schedule, averaging, early stopping, recording on a GPU.
It knows problems and priors by their interfaces only. The pipeline calls `loop.fit`.
"""
