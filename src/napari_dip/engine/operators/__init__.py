"""From the picture to what a detector saw of it.

Decided here: blur, binning, line offsets, activations of a frozen network. An operator is a
function of tensors. `likelihood`, `priors` and `deconvolution` import this folder.
"""
