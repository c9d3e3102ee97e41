"""Measure the pixels before a fit: normalisation, noise, clipping, blind spot, validation share.

This folder imports `plan`; `assess` and `execute` import it.
"""
