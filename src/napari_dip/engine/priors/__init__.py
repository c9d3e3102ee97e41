"""Define further priors: masked input, R2R, ZSSR, guide, JPEG, feature inversion, deep decoder.

The base class is `engine.prior.Prior`. Tasks choose among them; the fit loop uses the base class.
"""
