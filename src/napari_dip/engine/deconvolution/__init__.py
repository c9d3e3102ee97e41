"""Compute point spread functions, learned kernels, initial estimates and blind blur estimates.

Deblurring and super-resolution import this package.
"""
