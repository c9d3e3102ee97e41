"""Estimate noise from images: variance, correlation, checks, repeated exposures, colour cameras.

All functions depend on pixels alone. `refinement`, `likelihood` and the pipeline import it.
"""
