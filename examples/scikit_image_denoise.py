"""Denoise a photograph of scikit-image, and measure the gain in dB."""

import numpy as np
from skimage import data, metrics

import napari_dip as dip

clean = data.camera()[100:196, 200:296].astype(float)
noisy = clean + np.random.default_rng(0).normal(0, 20, clean.shape)
result = dip.denoise(noisy, preset="fast", seed=0)
for name, image in (("noisy", noisy), ("denoised", result.image)):
    print(name, f"{metrics.peak_signal_noise_ratio(clean, image, data_range=255):.1f} dB")
print(*result.warnings, sep="\n")
