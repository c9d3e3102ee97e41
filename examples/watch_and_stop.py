"""Watch a run, and keep the image once it is good enough."""

import tifffile

import napari_dip as dip
from napari_dip.samples import MITOCHONDRIA

image = tifffile.imread(MITOCHONDRIA)[0, :64, :64]
run = dip.run("denoise", image, prior="blind-spot", preset="fast")
for event in run:
    print(f"{event.fraction:4.0%} {event.message}", event.validation_loss)
    if event.iteration >= 100:  # or event.seconds > 60, or what you see in event.preview
        run.keep()
run.result.save("kept.tif", overwrite=True)
print(run.result.stop)
