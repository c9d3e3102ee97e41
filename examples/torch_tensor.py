"""Denoise a tensor before it enters a network, with the uncertainty as its weight."""

import tifffile
import torch

import napari_dip as dip
from napari_dip.samples import MITOCHONDRIA

tensor = torch.from_numpy(tifffile.imread(MITOCHONDRIA)[0, :64, :64]).float()
result = dip.denoise(tensor, preset="instant")
denoised, weight = (torch.from_numpy(array) for array in (result.image, 1 / result.uncertainty))
print(torch.nn.functional.avg_pool2d(denoised[None, None], 4).shape, weight.mean())
