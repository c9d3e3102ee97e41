"""Between napari's layers and our values: headers, pixels, preview, result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.transforms import Affine

from napari_dip.io import ImageSpec, guess_axes
from napari_dip.qt.contrast import in_sight, range_of
from napari_dip.qt.provenance import METADATA_KEY, told_of, with_provenance
from napari_dip.qt.undisturbed import undisturbed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import napari.layers
    import napari.types
    import napari.viewer
    import numpy.typing as npt

    from napari_dip.qt.preview import Preview
    from napari_dip.run.events import Restoration
    from napari_dip.run.plan import Plan

#: What a picture made from a layer takes over from it.
_CARRIED = (
    "scale",
    "translate",
    "rotate",
    "shear",
    "affine",
    "units",
    "axis_labels",
    "rgb",
    "colormap",
    "contrast_limits",
    "gamma",
    "blending",
    "opacity",
    "interpolation2d",
    "interpolation3d",
    "visible",
)


def level_zero(layer: napari.layers.Image) -> Any:
    """Give the pixels in full resolution, still lazy if they are.

    `layer.data` of a multiscale layer is a sequence of levels, which NumPy would silently read as
    its smallest one.
    """
    return layer.data[0] if layer.multiscale else layer.data


def header(layer: napari.layers.Image, axes: str | None = None) -> ImageSpec:
    """Describe an Image layer without reading its pixels.

    Parameters
    ----------
    layer : napari.layers.Image
    axes : str, optional
        One letter for each axis of its data; `likely_axes` if left out.
    """
    data = level_zero(layer)
    shape = tuple(int(count) for count in data.shape)
    samples = 1 if layer.rgb else 0  # napari counts no axis for red, green and blue
    return ImageSpec(
        name=layer.name,
        shape=shape,
        dtype=np.dtype(data.dtype).name,
        axes=likely_axes(layer) if axes is None else axes,
        guessed=axes in (None, guess_axes(shape, rgb=bool(layer.rgb))) and not _named(layer),
        scale=(*map(float, layer.scale), *[1.0] * samples),
        units=(*map(str, layer.units), *["pixel"] * samples),
    )


def likely_axes(layer: napari.layers.Image) -> str:
    """Name the axes by the layer's own labels where they are such names, else by their number."""
    if labels := _named(layer):
        return labels + ("S" if layer.rgb else "")
    return guess_axes(tuple(level_zero(layer).shape), rgb=bool(layer.rgb))


def _named(layer: napari.layers.Image) -> str:
    """Axes as the layer's own labels name them, "" if they are no such names."""
    labels = "".join(label[:1].upper() for label in layer.axis_labels)
    whole = {"Y", "X"} <= set(labels) <= set("TCZYX") and len(set(labels)) == len(labels)
    return labels if whole else ""


def look_of(
    layer: napari.layers.Image,
    plan: Plan | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that a picture made from this layer takes over, as `add_image` wants it.

    Where the plan makes finer pixels, they lie so that both pictures cover the same ground:
    pixel j has its centre at (j + 0.5) / factor - 0.5 of the layer's own.

    Parameters
    ----------
    layer : Image
    plan : Plan, optional
        Of the run that makes the picture.
    inputs : mapping, optional
        What the run reads, as `napari_dip.qt.sources.inputs_of` says it.
    """
    state = layer.as_layer_data_tuple()[1]
    look = {key: state[key] for key in _CARRIED}
    if plan is not None and max(plan.factors) > 1:
        finer = zip(plan.source.axes, plan.factors, strict=True)
        factors = np.array([factor for axis, factor in finer if axis != "S"])
        before = Affine(scale=layer.scale, rotate=layer.rotate, shear=layer.shear)
        look["translate"] = layer.translate + before.linear_matrix @ (0.5 / factors - 0.5)
        look["scale"] = layer.scale / factors
    metadata = {**layer.metadata, METADATA_KEY: {"inputs": dict(inputs or {})}}
    return look | {"metadata": metadata, "multiscale": False}


def is_preview(layer: napari.layers.Layer) -> bool:
    """Whether a layer is the preview of a run, or a line of ours: these are no input."""
    return bool(told_of(layer).get("preview"))


def made_from(layer: napari.layers.Layer) -> Mapping[str, Any] | None:
    """Say of which input a layer is a result; None if it is none of ours."""
    return told_of(layer).get("input")


def add_result(
    viewer: napari.viewer.Viewer,
    name: str,
    look: Mapping[str, Any],
    result: Restoration,
    trial: str = "",
    preview: Preview | None = None,
) -> napari.layers.Image:
    """Make a layer of the answer, which napari names apart from those already there.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    name : str
        Of the input layer.
    look : mapping
        What the layer takes over from it.
    result : Restoration
    trial : str
        What it is called where it shows a part of the input only; else empty.
    preview : Preview, optional
        That showed the run, whose layer is taken for it where nothing lies above.
    """
    metadata = with_provenance(look, name, result, "trial" if trial else "result")
    look = in_sight(look, range_of(result.image), part=bool(trial))
    with undisturbed(viewer):
        for found in result.recipe.task.gives:
            _add_found(viewer, f"{name} {found.upper()}", look, result.learned[found], metadata)
        called, told = f"{name} {trial or result.recipe.task.done}", {**look, "metadata": metadata}
        layer = None if preview is None else preview.become(result.image, called, told)
        return layer or viewer.add_image(result.image, name=called, **told)


def _add_found(
    viewer: napari.viewer.Viewer,
    name: str,
    look: Mapping[str, Any],
    picture: npt.NDArray[np.float32],
    metadata: Mapping[str, Any],
) -> None:
    """Add what was found beside the picture, its pixels as large as the picture's."""
    scale = [1.0] * (picture.ndim - 2) + [*look.get("scale", (1.0, 1.0))][-2:]
    units = look.get("units")
    placed = {"scale": scale} | ({"units": units} if units and len(units) == len(scale) else {})
    beside = {**metadata, METADATA_KEY: {**metadata[METADATA_KEY], "shows": "found"}}
    viewer.add_image(picture, name=name, **placed, colormap="magma", metadata=beside)


def follow_layers(viewer: napari.viewer.Viewer, slot: Callable[..., None], *, on: bool) -> None:
    """Call, or call no longer, when a layer comes, goes, is renamed or becomes the active one."""
    layers = viewer.layers
    signals = (layers.events.inserted, layers.events.removed, layers.events.renamed)
    for signal in (*signals, layers.selection.events.active):
        (signal.connect if on else signal.disconnect)(slot)
