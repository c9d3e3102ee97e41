"""Compare presets in a table."""

import pandas as pd
import tifffile

import napari_dip as dip
from napari_dip.samples import MITOCHONDRIA

image = tifffile.imread(MITOCHONDRIA)[0, :64, :64]
rows = []
for preset in dip.list_settings("denoise")["preset"].choices[:2]:
    report = dip.denoise(image, preset=preset).report
    rows.append({"preset": preset, **report["residual"], "seconds": report["seconds"]})
print(pd.DataFrame(rows).set_index("preset"))
