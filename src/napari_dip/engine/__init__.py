"""Fit one untrained network to one measurement, and nothing else.

Decided here: networks, priors, operators, likelihoods, the loop, early stopping, noise
statistics, deconvolution and the refinement at the end of a fit. Tensors come in and go out.
It knows torch and the standard library only. `tasks` and `pipeline` import it; no door does.
"""
