"""Define the priors: each network, and how its inputs are drawn; a file is named for its prior.

The base class is `engine.prior.Prior`. Tasks choose among them; the fit loop uses the base class.
"""
