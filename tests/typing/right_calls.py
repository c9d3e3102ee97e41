"""Calls that type checkers accept: the right forms of `wrong_calls`. Only read, never run."""

# pyright: strict
from __future__ import annotations

from pathlib import Path

import numpy as np

import napari_dip as dip

image = np.zeros((64, 64))
path = Path("cells.tif")
recipe = dip.make_recipe("denoise")
result = dip.denoise(image)


def stop_early(event: dip.Event) -> str | None:
    """Answer with any text, which is too wide."""
    return "keep" if event.iteration > 100 else None


# settings of all tasks
dip.denoise(image, preset="fast")
dip.denoise(image, seed=3)
dip.denoise(image, seed=4)
dip.denoise(image, device="cuda")
dip.denoise(image, threads=2)
dip.denoise(image, restarts=4)
dip.denoise(image, max_iterations=100)
dip.denoise(image, time_limit=20.5)
dip.denoise(image, stacks="volume")
dip.denoise(image, tile=256)
dip.denoise(image, dtype="same")
dip.denoise(image, max_iterations=200)
# settings of one task
dip.denoise(image, prior="blind-spot")
dip.denoise(image, noise="stripes")
dip.denoise(image, architecture="deep-decoder")
dip.denoise(image, read_noise=3.5)
dip.denoise(image, smoothing=0.5)
dip.denoise(image, smoothing_kind="anisotropic")
dip.denoise(image, neighbouring_frames=False)
dip.denoise(image, series_training="joint")
dip.denoise(image, channels="together")
dip.denoise(image, blind_spot_shape="010/111/010")
dip.inpaint(image, grow=3)
dip.inpaint(image, label=2)
dip.inpaint(image, unmasked="denoise")
dip.inpaint(image, invert_mask=True)
dip.super_resolve(image, factor=(1, 4))
dip.super_resolve(image, downsampling="binning")
dip.super_resolve(image, initial_estimate="none")
dip.deblur(image, border="circular")
dip.deblur(image, na=1.4)
dip.deblur(image, non_negative=True)
dip.blind_deblur(image, blur="motion")
dip.blind_deblur(image, psf_size=31)
dip.guide(image, image, align=True)
dip.invert_features(image, network=path)
dip.invert_features(image, layer="features.5")
# inputs, axes and progress
dip.denoise(image)
dip.denoise([[1, 2], [3, 4]])
dip.denoise([image, image])
dip.denoise("cells.tif")
dip.denoise(path, axes=["Z", "Y", "X"])
dip.denoise(image, preset="best")
dip.denoise(image, gain_map=image)
dip.inpaint(image, mask=image)
dip.guide(image, image)
dip.deblur(image, psf=path)
dip.denoise(image, progress=print)
dip.denoise(image, progress=lambda event: "keep" if event.iteration > 100 else None)
# other functions
dip.restore(image, recipe)
dip.restore(image, recipe, keep_after=100)
dip.restore(image, recipe, psf=image)
dip.make_recipe("denoise", preset="fast")
dip.make_recipe("inpaint", grow=3)
dip.plan("denoise", image, preset="fast").seconds.is_integer()
dip.run("denoise", image, preset="fast")
dip.run("inpaint", image, mask=image).keep()
dip.batch(recipe, "*.tif", "out")
dip.batch(recipe, [path], "out", workers=2)
dip.batch(recipe, path, "out", psf="psf.tif")
result.save("out.tif", overwrite=True)
