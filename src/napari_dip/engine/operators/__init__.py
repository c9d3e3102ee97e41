"""Define operators from picture to measurement: blur, binning, line offsets, network activations.

An operator is a function of tensors. Priors, likelihoods, noise statistics and tasks import it.
"""
