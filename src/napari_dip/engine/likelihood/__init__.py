"""Define losses: fidelity terms, the SURE term, penalties and temporal smoothing.

Priors and tasks import this package, which depends on problems, operators and noise statistics.
"""
