"""Size of a pixel, where each kind of TIFF keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.io.ome_metadata import is_positive, ome_sizes
from napari_dip.io.units import unit_name

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

#: Values of the tag ResolutionUnit, those of later readers included.
_UNITS = {2: "inch", 3: "centimeter", 4: "millimeter", 5: "micrometer"}


def pixel_sizes(file: TiffFile, page: TiffPage) -> dict[str, tuple[float, str]]:
    """Size and unit of a pixel along each axis that the file gives one for."""
    if file.ome_metadata:
        return ome_sizes(file.ome_metadata)
    sizes = _resolution(page)
    extra = file.imagej_metadata or {}
    unit = unit_name(str(extra.get("unit") or "pixel"))
    if sizes and "unit" in extra:  # ImageJ counts pixels in its own unit, not in the tag's
        sizes = {axis: (1 / float(_ratio(page, axis)), unit) for axis in "YX" if _ratio(page, axis)}
    if sizes and is_positive(extra.get("spacing")):
        sizes["Z"] = (float(extra["spacing"]), unit)
    if sizes and is_positive(extra.get("finterval")):
        sizes["T"] = (float(extra["finterval"]), "second")
    return sizes


def _resolution(page: TiffPage) -> dict[str, tuple[float, str]]:
    """Read the resolution tags; without a unit they say nothing but 1."""
    unit = page.tags.valueof("ResolutionUnit", default=2)
    name = _UNITS.get(int(unit), "pixel")
    found = {axis: 1 / _ratio(page, axis) for axis in "YX" if _ratio(page, axis)}
    metric = name not in ("inch", "pixel")
    if len(found) < 2 or (not metric and set(found.values()) == {1.0}):
        return {} if "unit" not in str(page.description) else dict.fromkeys("YX", (1.0, "pixel"))
    if name == "centimeter":
        return {axis: (value * 1e4, "micrometer") for axis, value in found.items()}
    return {axis: (value, name) for axis, value in found.items()}


def _ratio(page: TiffPage, axis: str) -> float:
    """Pixels per unit, 0 where the tag is missing or makes no sense."""
    value = page.tags.valueof(f"{axis}Resolution", default=(0, 1))
    ratio = value[0] / value[1] if value[1] else 0.0
    return ratio if is_positive(ratio) else 0.0
