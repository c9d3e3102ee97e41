"""Measure the noise first, see what a run takes, then enlarge the image."""

import tifffile

import napari_dip as dip
from napari_dip.samples import MITOCHONDRIA

image = tifffile.imread(MITOCHONDRIA)[0, :64, :64]
print(*dip.measure_noise(image).sentences, sep="\n")
print(dip.plan("super-resolve", image, factor=2, preset="fast"))
result = dip.super_resolve(image, factor=2, preset="fast", max_iterations=20, seed=1)
print(result.image.shape, result.recipe)
