"""Define losses: fidelity terms, the SURE term, penalties and temporal smoothing; repair detail.

It depends on problems, operators, noise statistics and network layers.
"""
