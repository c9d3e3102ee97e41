"""Estimate noise from images: variance, correlation, checks, repeated exposures, colour cameras.

All functions depend on pixels alone. Refinement, likelihoods, tasks and the pipeline import it.
"""
