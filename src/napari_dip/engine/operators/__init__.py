"""Define operators from picture to measurement: blur, binning, line offsets, network activations.

An operator is a function of tensors. `likelihood`, `noise`, `priors` and `deconvolution` import it.
"""
