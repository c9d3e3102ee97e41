"""Refine the picture after a fit by BM3D-style filtering, for images and for colour cameras.

The refinement depends on the noise, not on the network. Tasks set it as `Problem.refine`.
"""
