"""The dock of the experiments on the prior.

Decided here: which experiment, its settings, curves and results. The manifest opens it.
"""
