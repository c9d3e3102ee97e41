"""PSFs as a user gives them: by a file, a Gaussian, or the data of a microscope.

Decided here: which settings describe a PSF, how one is made from them, and what is wrong with one
before a run begins. The PSFs themselves are computed in `engine.deconvolution`.
"""
