"""Define operators from image to measurement: blur, binning, line offsets, network activations.

Each is an `engine.problem.Operator`: it says which grid it needs, what the detector measured, and
what its adjoint is. Priors, likelihoods, noise statistics and tasks import it.
"""
