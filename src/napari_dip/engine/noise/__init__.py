"""What an image tells of its noise.

Decided here: flat blocks, variance model, correlation, checks, the estimate, the noise of two
exposures and of colour cameras. Pure functions of pixels. `refinement` and the pipeline import it.
"""
