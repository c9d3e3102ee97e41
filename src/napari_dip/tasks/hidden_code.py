"""The prior that inpainting feeds with the image itself, more of it hidden at each step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.tasks.holes import depth, scattered

if TYPE_CHECKING:
    import torch

    from napari_dip.engine.hidden_pixels import HiddenPixels
    from napari_dip.tasks.base import Scene

#: Least and most part of the known pixels that a step hides. On Cameraman, half of it missing, 0.3
#: reached 29.65 dB after 200 steps, anything from 0.2 to 0.7 29.52; 0.1 learns more slowly.
SHARE = (0.3, 0.3)
#: Residual blocks of the network for scattered pixels, which looks 2 x BLOCKS + 2 pixels far.
BLOCKS = 4
#: Whether steps see the picture mirrored: letters, edges and shading have their directions, and
#: learning without mirrors gained 0.3 dB in the same time.
MIRROR = False
#: Deepest hole whose copies are hidden whole.
MOST_REACH = 16


def hidden_code(scene: Scene, rng: torch.Generator, *, foretell: bool) -> HiddenPixels:
    """Make a network and its code: the measurement with more of it hidden.

    Scattered pixels have neighbours on all sides, so a chain at full resolution serves them;
    holes with a shape need the further view of an hourglass.

    Parameters
    ----------
    scene : Scene
    rng : torch.Generator
    foretell : bool
        Whether known pixels, too, are to be foretold from the others in the end.
    """
    from napari_dip.engine.filling import code_channels
    from napari_dip.engine.hidden_pixels import FromFilling, HiddenPixels
    from napari_dip.engine.networks import Hourglass, ResidualChain

    channels, *grid = scene.measurement.shape[1:]
    holes = (scene.known[0, 0] == 0).cpu().numpy()
    shaped = not scattered(holes)
    dims, fed = len(grid), code_channels(len(grid), channels)
    net = (
        Hourglass(dims, fed, channels, scene.widths, skip=None, normalised=False, rng=rng)
        if len(scene.widths) > 1
        else ResidualChain(dims, fed, channels, scene.widths[0], BLOCKS, rng=rng)
    )
    return HiddenPixels(
        FromFilling(net, fed, channels, dims, rng),
        scene.measurement,
        scene.known,
        scene.held_out,
        share=SHARE,
        reach=depth(holes, MOST_REACH) if shaped else 1,
        copies=shaped,
        mirror=MIRROR,
        foretell=foretell,
        window=None if scene.window is None else (scene.window,) * dims,
    )
