"""Compute point spread functions, learned kernels, initial estimates and blind blur estimates.

Deblurring tasks import this package.
"""
