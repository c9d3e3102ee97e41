"""The last filter at the end of a fit: alike patches, filtered together.

Decided here: BM3D-style refinement of grey pictures and of colour cameras.
It knows the noise, not the network. Tasks hand it to a problem.
"""
