"""Noise models and artefacts that a user can name: how each is found, and how the fit handles it.

They are impulses, stripes, speckle, JPEG compression and camera maps, for the task `denoise`.
"""
