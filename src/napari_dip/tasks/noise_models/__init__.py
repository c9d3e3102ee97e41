"""Noise that a user can name: what is found in the pixels, and what it does to the problem.

Decided here: impulses, stripes, speckle, JPEG, maps of a camera. `denoise` imports this folder.
"""
