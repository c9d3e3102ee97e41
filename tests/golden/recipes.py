"""The recipes whose pixels are frozen: a table, one row a recipe.

Settings are called here as they were called when the table was made. Where the program calls one
otherwise by now, `golden.interfaces` translates, and no row changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What every row begins with.
USUAL: Mapping[str, Any] = {"preset": "fast", "max_iterations": 4, "seed": 1, "device": "cpu"}
#: Stands for the path of a small network that is written for the run.
NETWORK = "{network}"


@dataclass(frozen=True)
class Recipe:
    """One row.

    Attributes
    ----------
    name : str
        Of the row in the file of hashes.
    interfaces : tuple of str
        Keys of `golden.interfaces.INTERFACES`, by which it is run. All of them have to give the
        same pixels.
    task : str
    inputs : str
        Key of `golden.inputs.MAKERS`.
    settings : mapping
        Beyond `USUAL`.
    """

    name: str
    interfaces: tuple[str, ...]
    task: str
    inputs: str
    settings: Mapping[str, Any]


def _row(name: str, interfaces: str, task: str, inputs: str, **settings: Any) -> Recipe:
    return Recipe(name, tuple(interfaces.split()), task, inputs, settings)


TYPED = "python command dock"
CAMERA = {"read_noise": 6.0, "gain": 2.0}
WIDEFIELD = {"microscope": "widefield", "na": 0.8, "wavelength": 520.0, "pixel_size": 250.0}
CONFOCAL = {**WIDEFIELD, "microscope": "confocal", "excitation": 488.0, "pinhole": 1.2}
LAYER = {"network": NETWORK, "layer": "body.3"}
EXPECTS = {**LAYER, "mean": "0.5", "deviation": "0.25"}

# fmt: off
RECIPES: tuple[Recipe, ...] = (
    # denoise: priors, presets, interfaces
    _row("denoise", TYPED, "denoise", "camera"),
    _row("denoise, real shot", "python", "denoise", "mitochondria"),
    _row("denoise, balanced", "python", "denoise", "camera", preset="balanced"),
    _row("denoise, best", "python", "denoise", "camera", preset="best", max_iterations=2),
    _row("denoise, another seed", "python", "denoise", "camera", seed=7),
    _row("denoise, more noise, best", "python", "denoise", "mitochondria",
         prior="recorrupted", preset="best", max_iterations=2),
    _row("denoise, blind spot", "python", "denoise", "camera", prior="blind-spot"),
    _row("denoise, blind spot, balanced", "command", "denoise", "mitochondria",
         prior="blind-spot", preset="balanced"),
    _row("denoise, blind spot, best", "python", "denoise", "camera",
         prior="blind-spot", preset="best", max_iterations=2),
    _row("denoise, fixed noise", "python", "denoise", "camera", prior="noise"),
    _row("denoise, fixed noise, balanced", "python", "denoise", "camera",
         prior="noise", preset="balanced"),
    _row("denoise, fixed noise, best", "python", "denoise", "camera",
         prior="noise", preset="best", max_iterations=2),
    _row("denoise, past a judgement", "python", "denoise", "camera", max_iterations=30),
    _row("denoise, fixed noise past a judgement", "python", "denoise", "camera",
         prior="noise", max_iterations=60),
    _row("denoise, repeats", "python command", "denoise", "camera", restarts=3, max_iterations=3),
    _row("denoise, the input's type", "python command", "denoise", "camera", dtype="same"),
    _row("denoise, neighbours share noise", "python", "denoise", "oversampled"),
    _row("denoise, neighbours share noise, blind spot", "python", "denoise", "oversampled",
         prior="blind-spot"),
    # denoise: networks of other architectures
    _row("denoise, no skips", "python", "denoise", "camera", network="no-skips"),
    _row("denoise, decoder", "python", "denoise", "camera", network="decoder"),
    _row("denoise, two grids", "python", "denoise", "camera", network="depth-2"),
    _row("denoise, half width", "python", "denoise", "camera", network="half-width"),
    _row("denoise, nearest upsampling", "python", "denoise", "camera", network="nearest"),
    _row("denoise, learned upsampling", "python", "denoise", "camera", network="transposed"),
    _row("denoise, weights after He", "python", "denoise", "camera", network="he-weights"),
    _row("denoise, Gaussian code", "python", "denoise", "camera", network="gaussian-code"),
    _row("denoise, coordinates", "python", "denoise", "camera", network="coordinates"),
    _row("denoise, deep decoder", "python", "denoise", "camera", network="deep-decoder"),
    _row("denoise, bounded decoder", "python", "denoise", "camera",
         network="decoder+lipschitz-2+upsampling-0.5"),
    # denoise: noise models
    _row("denoise, gaussian", "python", "denoise", "camera", noise="gaussian"),
    _row("denoise, poisson-gaussian", "python", "denoise", "camera", noise="poisson-gaussian"),
    _row("denoise, noise from outside", "python command", "denoise", "camera", **CAMERA),
    _row("denoise, read noise from outside", "python", "denoise", "camera",
         noise="gaussian", read_noise=12.5),
    _row("denoise, jpeg", "python", "denoise", "jpeg", noise="jpeg"),
    _row("denoise, jpeg in colours", "python", "denoise", "jpeg colours",
         noise="jpeg", max_iterations=3),
    _row("denoise, salt and pepper", "python command", "denoise", "salt and pepper",
         noise="salt-and-pepper"),
    _row("denoise, stripes", "python", "denoise", "stripes", noise="stripes"),
    _row("denoise, speckle", "python", "denoise", "speckle", noise="speckle"),
    # denoise: smoothing
    _row("denoise, smoothing", "python command", "denoise", "camera", smoothing=0.05),
    _row("denoise, anisotropic smoothing", "python", "denoise", "camera",
         smoothing=0.2, smoothing_kind="anisotropic", prior="noise"),
    # denoise: further inputs
    _row("denoise, two shots", TYPED, "denoise", "two exposures"),
    _row("denoise, two shots, fixed noise", "python", "denoise", "two exposures", prior="noise"),
    _row("denoise, maps of the camera", TYPED, "denoise", "camera maps"),
    # denoise: colours, channels, stacks, movies
    _row("denoise, colours", TYPED, "denoise", "colours"),
    _row("denoise, colours one by one", "python", "denoise", "colours",
         channels="separate", max_iterations=3),
    _row("denoise, channels", "python command", "denoise", "channels"),
    _row("denoise, channels together", "python", "denoise", "channels",
         channels="together", prior="blind-spot"),
    _row("denoise, volume", "python", "denoise", "stack", stacks="volume", max_iterations=3),
    _row("denoise, volume, fixed noise", "python", "denoise", "stack",
         prior="noise", stacks="volume", max_iterations=3),
    _row("denoise, planes of a stack", "python", "denoise", "stack",
         stacks="planes", max_iterations=3),
    _row("denoise, stacks in time", "python", "denoise", "movie of stacks", max_iterations=2),
    _row("denoise, movie", TYPED, "denoise", "movie", max_iterations=3),
    _row("denoise, movie, frames alone", "python", "denoise", "movie",
         sharing="alone", neighbours=False, steadiness=0.0, max_iterations=3),
    _row("denoise, movie, fixed noise, steadier", "python", "denoise", "movie",
         prior="noise", steadiness=3.0, max_iterations=3),
    # denoise: one network for all
    _row("denoise, movie, one network", "python", "denoise", "movie",
         sharing="together", max_iterations=3),
    _row("denoise, long movie", "python", "denoise", "long movie", max_iterations=3),
    _row("denoise, planes, one network", "python", "denoise", "stack",
         stacks="planes", sharing="together", prior="blind-spot", max_iterations=3),
    _row("denoise, tiles, one network", "python", "denoise", "wide plane",
         tile=128, sharing="together", max_iterations=3),
    _row("denoise, folder, one network", "series", "denoise", "series", max_iterations=2),
    # denoise: tiles
    _row("denoise, tiles", "python command", "denoise", "wide plane", tile=128),
    _row("denoise, tiles, fixed noise", "python", "denoise", "wide plane",
         tile=128, prior="noise", max_iterations=3),
    _row("denoise, tiles of a stack", "python", "denoise", "wide stack",
         tile=128, stacks="planes", max_iterations=12),
    # inpaint
    _row("inpaint", TYPED, "inpaint", "holes"),
    _row("inpaint, balanced", "python", "inpaint", "holes", preset="balanced"),
    _row("inpaint, best", "python", "inpaint", "holes", preset="best", max_iterations=2),
    _row("inpaint, scattered", "python", "inpaint", "missing pixels"),
    _row("inpaint, scattered, image", "python", "inpaint", "missing pixels",
         prior="image", preset="best", max_iterations=2),
    _row("inpaint, fixed noise", "python", "inpaint", "holes", prior="noise"),
    _row("inpaint, fixed noise, balanced", "python", "inpaint", "missing pixels",
         prior="noise", preset="balanced"),
    _row("inpaint, deep", "python", "inpaint", "holes", prior="deep"),
    _row("inpaint, deep, balanced", "python", "inpaint", "holes",
         prior="deep", preset="balanced", max_iterations=3),
    _row("inpaint, one label, wider", "python command", "inpaint", "holes", label=2, grow=2),
    _row("inpaint, all restored", "python command", "inpaint", "holes", **{"known": "restored"}),
    _row("inpaint, not a number", "python command", "inpaint", "nan pixels"),
    _row("inpaint, colours", "python", "inpaint", "masked colours"),
    _row("inpaint, a plane of a stack", "python", "inpaint", "missing plane", max_iterations=3),
    _row("inpaint, scratches through a stack", "python", "inpaint", "scratched stack",
         max_iterations=3),
    _row("inpaint, planes of a stack", "python", "inpaint", "scratched stack",
         stacks="planes", max_iterations=3),
    # super-resolve
    _row("super-resolve", TYPED, "super-resolve", "camera", factor=2),
    _row("super-resolve, best", "python", "super-resolve", "mitochondria",
         factor=2, preset="best", max_iterations=2),
    _row("super-resolve, fixed noise", "python", "super-resolve", "camera",
         factor=2, prior="noise"),
    _row("super-resolve, fixed noise, balanced", "python", "super-resolve", "camera",
         factor=2, prior="noise", preset="balanced", max_iterations=3),
    _row("super-resolve, no start", "python", "super-resolve", "camera",
         factor=2, prior="noise", start="none"),
    _row("super-resolve, binning with a PSF", "python", "super-resolve", "camera",
         factor=2, downsampling="binning", psf_sigma=1.2),
    _row("super-resolve, one axis", "python", "super-resolve", "camera", factor="1,3"),
    _row("super-resolve, colours", "python", "super-resolve", "colours", factor=2),
    _row("super-resolve, noise from outside", "python", "super-resolve", "camera",
         factor=2, **CAMERA),
    _row("super-resolve, volume", "python", "super-resolve", "stack",
         factor="2,1,1", max_iterations=3),
    _row("super-resolve, planes of a stack", "python", "super-resolve", "stack",
         factor=2, stacks="planes", max_iterations=3),
    # deblur
    _row("deblur", TYPED, "deblur", "blurred with psf"),
    _row("deblur, balanced", "python", "deblur", "blurred with psf", preset="balanced"),
    _row("deblur, best", "python", "deblur", "blurred with psf",
         preset="best", max_iterations=2),
    _row("deblur, gaussian PSF", "python command", "deblur", "blurred", gaussian_sigma=1.1),
    _row("deblur, widefield", "python", "deblur", "blurred", **WIDEFIELD),
    _row("deblur, confocal", "python", "deblur", "blurred", **CONFOCAL),
    _row("deblur, circular", "python", "deblur", "blurred with psf", border="circular"),
    _row("deblur, no start", "python", "deblur", "blurred with psf",
         start="none", smoothing=0.0, non_negative=False),
    _row("deblur, anisotropic, background", "python", "deblur", "blurred with psf",
         smoothing=0.5, smoothing_kind="anisotropic", background=10.0),
    _row("deblur, gaussian noise", "python", "deblur", "blurred with psf",
         noise="gaussian"),
    _row("deblur, noise from outside", "python", "deblur", "blurred with psf",
         noise="poisson-gaussian", read_noise=1.0, gain=1.0),
    _row("deblur, volume", "python", "deblur", "bead stack",
         gaussian_sigma=0.8, gaussian_sigma_z=0.7, max_iterations=3),
    _row("deblur, planes of a stack", "python", "deblur", "bead stack",
         gaussian_sigma=1.0, max_iterations=3),
    _row("deblur, tiles", "python", "deblur", "wide plane",
         gaussian_sigma=1.0, tile=128, max_iterations=3),
    # blind-deblur
    _row("blind-deblur", "python command", "blind-deblur", "blurred",
         psf_size=7, blur="gaussian"),
    _row("blind-deblur, best", "python", "blind-deblur", "blurred",
         psf_size=5, blur="gaussian", preset="best", restarts=1, max_iterations=2),
    _row("blind-deblur, motion", "python", "blind-deblur", "blurred",
         psf_size=5, blur="motion", max_iterations=2),
    _row("blind-deblur, defocus", "python", "blind-deblur", "blurred",
         psf_size=7, blur="defocus", preset="balanced", read_noise=1.0, gain=1.0),
    _row("blind-deblur, free", "python dock", "blind-deblur", "blurred",
         psf_size=7, blur="free"),
    # guide
    _row("guide", TYPED, "guide", "guide"),
    _row("guide, balanced", "python", "guide", "guide", preset="balanced", max_iterations=3),
    _row("guide, best", "python", "guide", "guide", preset="best", max_iterations=2),
    _row("guide, fixed noise", "python", "guide", "guide", prior="noise"),
    _row("guide, lying aside", "python", "guide", "shifted guide",
         align=True, prior="blind-spot"),
    _row("guide, planes as channels", "python command", "guide", "two channel guide",
         planes_are_channels=True, prior="blind-spot"),
    _row("guide, volume", TYPED, "guide", "guided stack", stacks="volume", max_iterations=3),
    _row("guide, movie", TYPED, "guide", "guided movie", max_iterations=3),
    _row("guide, noise from outside", "python", "guide", "guide", prior="blind-spot", **CAMERA),
    # invert-features
    _row("invert-features", "python dock", "invert-features", "network input", **LAYER),
    _row("invert-features, total variation", "command", "invert-features", "network input",
         prior="total-variation", **EXPECTS),
    _row("invert-features, nothing, best", "python", "invert-features", "network input",
         prior="none", preset="best", black=20.0, white=180.0, **EXPECTS),
    # part of a picture, many files, runs that are killed
    _row("part, inpaint", "preview", "inpaint", "masked plane"),
    _row("batch of files", "python batch workers", "denoise", "two files", max_iterations=3),
    _row("run that is killed", "python resume", "denoise", "slow plane",
         prior="noise", restarts=1, max_iterations=70),
)
# fmt: on
