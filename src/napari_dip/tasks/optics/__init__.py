"""PSFs as a user states them: settings, files, microscope models, and the initial estimate.

Only the deblurring tasks and super-resolution import this folder.
"""
