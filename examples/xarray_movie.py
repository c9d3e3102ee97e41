"""Denoise a movie with named dimensions and physical coordinates."""

import numpy as np
import tifffile
import xarray as xr

import napari_dip as dip
from napari_dip.samples import NUCLEI_MOVIE

frames = np.random.default_rng(0).poisson(tifffile.imread(NUCLEI_MOVIE)[:3, :64, :64] / 50)
coords = {"time": [0.0, 2.5, 5.0], "y": 0.2 * np.arange(64), "x": 0.2 * np.arange(64)}
movie = xr.DataArray(frames, coords, ("time", "y", "x"), name="nuclei")
denoised = dip.denoise(movie, preset="instant").to_xarray()
print(denoised.sel(time=2.5, x=slice(2, 4)).mean("y"))
