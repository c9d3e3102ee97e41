"""Blur that is known, and blur that is looked for.

Decided here: point spread functions, kernels with parameters, initial estimates, the first guess
of a blur. Tasks of deblurring import this folder.
"""
