"""The prior that inpainting feeds with the image itself, more of it hidden at each step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.tasks.holes import depth, scattered

if TYPE_CHECKING:
    import torch
    from torch import nn

    from napari_dip.engine.hidden_in_stack import HiddenInStack
    from napari_dip.engine.hidden_pixels import HiddenPixels
    from napari_dip.tasks.base import Scene

#: Least and most part of the known pixels that a step hides. On Cameraman, half of it missing, 0.3
#: reached 29.65 dB after 200 steps, anything from 0.2 to 0.7 29.52; 0.1 learns more slowly.
SHARE = (0.3, 0.3)
#: Residual blocks of the network for planes of a stack, which looks 2 x BLOCKS + 2 pixels far.
BLOCKS = 4
#: Deepest hole whose copies are hidden whole.
MOST_REACH = 16
#: Planes of a stack that a step looks at.
PLANES = 4
#: Pixels of a stack that a look sends through the network at a time: a plane of 512 x 512.
AT_A_TIME = 2**18
#: Priors whose network sees picture planes, in a stack as well.
PLANE_WISE = ("image", "image-shapes")


def hidden_code(scene: Scene, rng: torch.Generator, *, foretell: bool) -> HiddenPixels:
    """Make a network and its code: the measurement with more of it hidden.

    With scattered pixels, steps see the picture mirrored: what is rare in it, such as thin strokes,
    is then seen four times as often. Holes with a shape have copies in all places instead.

    Parameters
    ----------
    scene : Scene
    rng : torch.Generator
    foretell : bool
        Whether known pixels, too, are to be foretold from the others in the end.
    """
    from napari_dip.engine.filling import code_channels
    from napari_dip.engine.hidden_pixels import HiddenPixels

    channels, *grid = scene.measurement.shape[1:]
    holes = (scene.known[0, 0] == 0).cpu().numpy()
    shaped = not scattered(holes)
    return HiddenPixels(
        _network(scene, code_channels(len(grid), channels), rng, even=not shaped),
        scene.measurement,
        scene.known,
        scene.held_out,
        share=SHARE,
        reach=depth(holes, MOST_REACH) if shaped else 1,
        copies=shaped,
        mirror=not shaped,
        foretell=foretell,
        window=None if scene.window is None else (scene.window,) * len(grid),
    )


def stack_code(scene: Scene, rng: torch.Generator, *, foretell: bool) -> HiddenInStack:
    """Make a network that fills planes from those before and after, and its code.

    Parameters
    ----------
    scene : Scene
        Of a volume.
    rng : torch.Generator
    foretell : bool
        Whether known pixels, too, are to be foretold from the others in the end.
    """
    from napari_dip.engine.hidden_in_stack import HiddenInStack, stack_code_channels
    from napari_dip.engine.networks import PlaneWise

    channels = scene.measurement.shape[1]
    return HiddenInStack(
        PlaneWise(_network(scene, stack_code_channels(channels), rng), AT_A_TIME),
        scene.measurement,
        scene.known,
        scene.held_out,
        share=SHARE[1],
        foretell=foretell,
        window=stack_window(scene.window, scene.grid),
    )


def stack_window(side: int | None, grid: tuple[int, ...]) -> tuple[int, ...]:
    """Planes, height and width of what a step looks at."""
    return tuple(map(min, (PLANES, *[side or max(grid)] * 2), grid))


def _network(scene: Scene, fed: int, rng: torch.Generator, *, even: bool = False) -> nn.Module:
    """Make the network for a picture plane: a chain or an hourglass, as the preset says."""
    from napari_dip.engine.hidden_pixels import FromFilling
    from napari_dip.engine.networks import Hourglass, ResidualChain

    channels = scene.measurement.shape[1]
    net = (
        Hourglass(2, fed, channels, scene.widths, skip=None, normalised=False, rng=rng, even=even)
        if len(scene.widths) > 1
        else ResidualChain(2, fed, channels, scene.widths[0], BLOCKS, rng=rng)
    )
    return FromFilling(net, fed, channels, 2, rng)
