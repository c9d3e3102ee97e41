"""Fit one untrained network to one measurement.

The package holds networks, priors, operators, likelihoods, the fit loop, early stopping, noise
statistics, deconvolution and the refinement after a fit. Its inputs and outputs are tensors. It
depends on torch and `errors`. `tasks`, `pipeline` and `explore` import it; user interfaces do not.
"""
