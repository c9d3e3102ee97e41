"""Denoise a stack that is a dask array, and go on with dask."""

import dask.array as da
import tifffile

import napari_dip as dip
from napari_dip.samples import EMBRYO_STACK

stack = da.from_array(tifffile.imread(EMBRYO_STACK)[:4, :64, :64], chunks=(1, 64, 64))
print(dip.plan("denoise", stack, axes="ZYX", preset="instant").summary)
result = dip.denoise(stack, axes="ZYX", preset="instant", stacks="planes")
projection = da.from_array(result.image, chunks=(1, 64, 64)).max(axis=0)
print(projection.mean().compute())
