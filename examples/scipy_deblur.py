"""Undo a known blur, and save the result with its uncertainty and report."""

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage import data

import napari_dip as dip

sharp = data.camera()[100:164, 200:264].astype(float)
blurred = gaussian_filter(sharp, 1.5) + np.random.default_rng(0).normal(0, 2, sharp.shape)
result = dip.deblur(blurred, gaussian_sigma=1.5, preset="fast")
result.save("sharp.tif", uncertainty="sharp_sd.tif", report="sharp.json", overwrite=True)
print(result.stop, result.best_iteration)
