"""What a network expects of its picture: its range, and mean and deviation to be taken off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from napari_dip.errors import Refusal, refusal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Of red, green and blue in a range of 0 to 1, over the training images of ImageNet, as all
#: classification networks of torchvision expect it (torchvision.transforms._presets).
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: Most numbers that a text may hold.
_MOST = 64


def numbers_text(value: object) -> str:
    """Bring one number, or one for each channel, to the text that recipes keep: "0.5" or "0.5,0.4".

    Parameters
    ----------
    value : float, str or sequence of float

    Raises
    ------
    PydanticCustomError
        If it holds anything but finite numbers.
    """
    parts = list(value) if isinstance(value, list | tuple) else str(value).split(",")
    texts = [str(part).strip() for part in parts]
    if texts == [""]:
        return ""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = [float("nan")]
    if len(numbers) > _MOST or not all(abs(number) < 1e6 for number in numbers):
        raise PydanticCustomError("numbers", "Input should be numbers with commas between")
    return ",".join(f"{number:g}" for number in numbers)


NumbersText = Annotated[str, BeforeValidator(numbers_text)]


@dataclass(frozen=True, slots=True)
class Numbers:
    """Mean and deviation of what a network expects, in its own range.

    Attributes
    ----------
    mean, deviation : tuple of float
        One for all channels, or one for each.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def check(self, channels: int) -> Refusal | None:
        """Say no where there are not as many as channels, or where one divides by nothing."""
        for field, values in (("mean", self.mean), ("deviation", self.deviation)):
            told = ",".join(f"{one:g}" for one in values)
            facts = {"field": field, "value": told, "hint": "Give one number, or leave it empty."}
            if len(values) not in (1, channels):
                why = f"the network takes {channels} channels"
                return refusal("setting-wrong", why=why, **facts)
            if field == "deviation" and not min(values) > 0:
                return refusal("setting-wrong", why="it should be above 0", **facts)
        return None

    @property
    def words(self) -> str:
        """What is done, for a note."""
        if self.mean == (0.0,) and self.deviation == (1.0,):
            return "nothing else was done to it"
        mean, deviation = (
            ", ".join(f"{one:g}" for one in values) for values in (self.mean, self.deviation)
        )
        return f"{mean} was taken off, and the rest divided by {deviation}"


def normalisation_of(wish: str, mean: str, deviation: str, *, program: bool) -> Numbers:
    """Choose mean and deviation.

    Parameters
    ----------
    wish : {"auto", "imagenet", "none"}
    mean, deviation : str
        Numbers that are to be taken instead, or nothing.
    program : bool
        Whether the network is a program of the user's own.
    """
    usual = IMAGENET if wish == "imagenet" or (wish == "auto" and not program) else ((0.0,), (1.0,))
    given = (tuple(float(one) for one in text.split(",") if one) for text in (mean, deviation))
    return Numbers(*(own or other for own, other in zip(given, usual, strict=True)))


def range_of(
    image: npt.NDArray[np.float32], dtype: str, black: float | None, white: float | None
) -> tuple[float, float]:
    """Choose the values that a network is shown as 0 and 1.

    Parameters
    ----------
    image : ndarray
    dtype : str
        That it came in.
    black, white : float or None
        As the user has it.

    Returns
    -------
    black, white : float
        0 and 255 for images of 8 bits, 0 and 1 for those that lie within, else the extremes.
    """
    least, largest = float(image.min()), float(image.max())
    if dtype == "uint8":
        least, largest = 0.0, 255.0
    elif dtype.startswith("float") and 0 <= least and largest <= 1:
        least, largest = 0.0, 1.0
    low, high = least if black is None else black, largest if white is None else white
    return low, high if high > low else low + 1.0
