"""Calls that type checkers flag, each at the text after its `#`. Only read, never run."""

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
dip.denoise(image, preset="fasst")  # "fasst"
dip.denoise(image, seed="3")  # "3"
dip.denoise(image, sed=4)  # sed
dip.denoise(image, device="gpu")  # "gpu"
dip.denoise(image, threads="all")  # "all"
dip.denoise(image, restarts=2.5)  # 2.5
dip.denoise(image, max_iter=100)  # max_iter
dip.denoise(image, time_limit="20 s")  # "20 s"
dip.denoise(image, stacks=True)  # True
dip.denoise(image, tile=(256, 256))  # (256, 256)
dip.denoise(image, dtype=np.float32)  # np.float32
dip.denoise(image, max_iterations="200")  # "200"
# settings of one task
dip.denoise(image, prior="nonsense")  # "nonsense"
dip.denoise(image, noise="poisson")  # "poisson"
dip.denoise(image, architecture="unet")  # "unet"
dip.denoise(image, read_noise="3.5")  # "3.5"
dip.denoise(image, smoothing=None)  # None
dip.denoise(image, smoothing_kind="iso")  # "iso"
dip.denoise(image, neighbouring_frames="no")  # "no"
dip.denoise(image, series_training="together")  # "together"
dip.denoise(image, channels="joint")  # "joint"
dip.denoise(image, blind_spot_shape=3)  # 3
dip.inpaint(image, grow=1.5)  # 1.5
dip.inpaint(image, label="2")  # "2"
dip.inpaint(image, unmasked="measured")  # "measured"
dip.inpaint(image, invert=True)  # invert
dip.super_resolve(image, factor=1.5)  # 1.5
dip.super_resolve(image, downsampling="bin")  # "bin"
dip.super_resolve(image, psf=image)  # psf
dip.deblur(image, border="reflect")  # "reflect"
dip.deblur(image, na="1.4")  # "1.4"
dip.deblur(image, nonnegative=True)  # nonnegative
dip.blind_deblur(image, blur="linear")  # "linear"
dip.blind_deblur(image, psf_size=31.0)  # 31.0
dip.guide(image, image, align="yes")  # "yes"
dip.invert_features(image, network=3)  # 3
dip.invert_features(image, layer=5)  # 5
# inputs, axes and progress
dip.denoise(None)  # None
dip.denoise(3)  # 3
dip.denoise({"image": image})  # {"image": image}
dip.denoise(["a.tif", "b.tif"])  # ["a.tif", "b.tif"]
dip.denoise(path, axes=3)  # 3
dip.denoise(image, "best")  # "best"
dip.denoise(image, gain_map=2.0)  # 2.0
dip.inpaint(image, mask=True)  # True
dip.guide(image)  # dip.guide(image)
dip.deblur(image, psf=2.5)  # 2.5
dip.denoise(image, progress=True)  # True
dip.denoise(image, progress=stop_early)  # stop_early
# other functions
dip.restore(image)  # dip.restore(image)
dip.restore(image, recipe, keep_after="end")  # "end"
dip.restore(image, recipe, mesk=image)  # mesk
dip.make_recipe("denoise", preset="fasst")  # "fasst"
dip.make_recipe("inpaint", grow="3")  # "3"
dip.plan("denoise", image, preset="fasst")  # "fasst"
dip.run("denoise", image, preset=1)  # 1
dip.run("sharpen", image)  # "sharpen"
dip.batch(recipe, 3, "out")  # 3
dip.batch(recipe, [path], "out", workers="two")  # "two"
dip.batch(recipe, path, "out", psf=image)  # image
result.save("out.tif", overwrit=True)  # overwrit
