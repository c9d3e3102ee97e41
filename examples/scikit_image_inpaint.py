"""Fill in a scratch, as `skimage.restoration.inpaint_biharmonic` does."""

import numpy as np
from skimage import data

import napari_dip as dip

image = data.camera()[100:164, 200:264]
scratch = np.zeros(image.shape, bool)
scratch[40:44, 10:50] = True
result = dip.inpaint(image, scratch, preset="fast", max_iterations=60, dtype="same")
assert (result.image == image)[~scratch].all()  # only the scratch has changed
print("mean error:", np.abs(result.image[scratch] - image[scratch].astype(float)).mean())
