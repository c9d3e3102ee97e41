"""Lines of a detector that each add a number of their own to what they see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.engine.operators import Identity

if TYPE_CHECKING:
    from torch import Tensor


class LineOffsets(Identity):
    """The picture itself, of a measurement from which the offsets of lines were taken before.

    Parameters
    ----------
    offsets : Tensor
        (1, C, *grid) or of size 1 along axes that share them, in network units.
    unit : Tensor
        (1, C, 1, ...): how long one unit of the image is in these.
    """

    def __init__(self, offsets: Tensor, unit: Tensor) -> None:
        super().__init__()
        self.offsets = offsets
        self.unit = unit

    def detected(self, image: Tensor) -> Tensor:
        """Give what the detector sees of a whole picture (1, C, *grid), offsets and all."""
        return image + self.offsets

    def learned(self) -> dict[str, Tensor]:
        """Give the offsets in the image's units: (lines,), with C or depth before if there is."""
        values = (self.offsets / self.unit)[0]
        lines = values.squeeze(-1 if values.shape[-1] == 1 else -2)
        return {"line_offsets": (lines[0] if len(lines) == 1 else lines).clone()}
