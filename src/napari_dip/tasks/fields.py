"""What a task asks for: settings, pictures, and what the user knows of the noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Setting:
    """How a field of a task is shown to people; goes into `typing.Annotated`.

    Attributes
    ----------
    label : str
        Its name in the dock.
    help : str
        Tooltip and command-line help, in the user's words, with units.
    choices : mapping of value to words
        Names of the values of a `Literal` field, as the dock shows them.
    least, most, step : float or None
        Limits and step of a number, in its unit.
    advanced : bool
        Folded away at first.
    files : str
        Of a text that names a file: which files to show, such as "Networks (*.pt2)".
    offered : bool
        Whether `Task.offers` lists what may stand in a text.
    written : str
        How the methods text writes a number, with its unit and meaning, "{:g}" in its place;
        empty: the label, a colon and the value say it.
    """

    label: str
    help: str
    choices: Mapping[str, str] | None = None
    least: float | None = None
    most: float | None = None
    step: float | None = None
    advanced: bool = True
    files: str = ""
    offered: bool = False
    written: str = ""


@dataclass(frozen=True, slots=True)
class Input:
    """A picture that a task takes.

    Attributes
    ----------
    name : str
        Key of its pixels, and its option on the command line.
    label, help : str
        As the dock and the command line show it.
    layers : tuple of str
        Kinds of napari layers that it may come from: "image", "labels", "shapes".
    optional : bool
    measures : bool
        Whether it is another measurement of what the image shows, and so is laid out, calibrated
        and explained as the image is.
    overlays : bool
        Whether it lies on the image pixel by pixel, in all of its axes or in some, and so is laid
        out as the image is: (parts, C, *grid), one channel where it has none.
    calibrates : bool
        Whether it is a map of the detector, which corrects and weighs what was measured.
    """

    name: str
    label: str
    help: str
    layers: tuple[str, ...] = ("image",)
    optional: bool = False
    measures: bool = False
    overlays: bool = False
    calibrates: bool = False


#: What every task restores.
IMAGE = Input(
    "image", "Image", "The image to restore. It follows the layer that is selected in napari."
)


@dataclass(frozen=True, slots=True)
class NoiseWish:
    """What the user knows of the noise, in the image's units; None and "auto": to be measured.

    Where it is `white`, all that neighbouring pixels share is taken for picture.
    """

    model: str = "auto"
    read_noise: float | None = None
    gain: float | None = None
    white: bool = False
