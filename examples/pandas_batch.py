"""Restore a folder, and read the table of its results."""

from pathlib import Path

import pandas as pd
import tifffile

import napari_dip as dip
from napari_dip.samples import MITOCHONDRIA

Path("shots").mkdir(exist_ok=True)
for number, shot in enumerate(tifffile.imread(MITOCHONDRIA)[:, :64, :64]):
    tifffile.imwrite(f"shots/{number}.tif", shot)
done = dip.batch(dip.make_recipe("denoise", preset="instant"), "shots", "restored", resume=True)
print(pd.read_csv(done.table)[["file", "state", "residual_lag_1_correlation"]])
