"""Point spread functions as a user states them.

Decided here: what is written on a microscope, files and layers of PSFs, light from outside the
frame, the first estimate of a deconvolution. The tasks of deblurring import this folder.
"""
