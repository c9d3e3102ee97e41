"""Define the priors besides the deep image prior: masked input, R2R, ZSSR, JPEG and features.

The base class is `engine.prior.Prior`. Tasks choose among them; the fit loop uses the base class.
"""
