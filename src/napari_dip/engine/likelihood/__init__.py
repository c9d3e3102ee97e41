"""How badly an estimate explains the measurement, and what is unlikely about it anyway.

Decided here: fidelity terms, penalties, temporal smoothing, the SURE term.
Priors and tasks import this folder; it knows problems and operators.
"""
