"""What is noted of a run's layers so that they can be brought back after a crash, and where."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels

from napari_dip.qt.layers import level_zero
from napari_dip.qt.preferences import my_machine, page
from napari_dip.qt.shelf import home_folder
from napari_dip.qt.sources import inputs_of
from napari_dip.qt.undisturbed import undisturbed
from napari_dip.run.keeping import Place
from napari_dip.run.plan import preflight
from napari_dip.run.unfinished import told_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import napari.viewer
    from napari.layers import Layer

    from napari_dip.run.plan import Plan

_NUMBERS = ("scale", "translate", "rotate", "shear", "affine", "contrast_limits")
_PLAIN = ("gamma", "blending", "opacity", "interpolation2d", "interpolation3d", "rgb", "visible")


def homes() -> list[Path]:
    """Give the folder of unfinished runs, in the folder of napari's own settings, if it has one."""
    folder = home_folder()
    return [] if folder is None else [folder / "unfinished"]


def place_for(plan: Plan, image: Image, further: Mapping[str, Layer]) -> Place | None:
    """Say where a run is kept, and what is noted of it; None if it is not to be kept.

    Parameters
    ----------
    plan : Plan
    image : Image
        What is restored.
    further : mapping of str to Layer
        The task's other inputs.
    """
    wished = getattr(page("computing"), "keep_unfinished", True)
    machine = my_machine()
    again = preflight(plan.recipe, plan.source, machine, plan.others)
    if not wished or not homes() or again != plan:  # the free memory changed what can be done
        return None
    layers = {"image": image, **further}
    noted = {
        name: {**one, **_noted(layers[name])}
        for name, one in inputs_of(image, plan.source.axes, further).items()
    }
    path = noted["image"]["path"]
    file = os.path.basename(path or "")
    file = f" ({file})" if os.path.splitext(file)[0] not in ("", image.name) else ""
    about = told_of(plan, f"{plan.recipe.task.title} of '{image.name}'{file}", machine)
    return Place(homes()[0] / f"run-{secrets.token_hex(4)}", about, noted)


def pixels_of(viewer: napari.viewer.Viewer, inputs: Mapping[str, Mapping[str, Any]]) -> Any:
    """Give the pixels of layers that bear the names of a run's inputs, as far as there are any.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    inputs : mapping of str to mapping
        What was noted.
    """
    found = {}
    for name, noted in inputs.items():
        layer = viewer.layers[noted["layer"]] if noted["layer"] in viewer.layers else None
        if isinstance(layer, Image | Labels):
            found[name] = level_zero(layer)
    return found


def placed_layer(viewer: napari.viewer.Viewer, noted: Mapping[str, Any], pixels: Any) -> str:
    """Add a layer as it was; without its place and colours if napari does not take these.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    noted : mapping
    pixels : ndarray

    Returns
    -------
    str
        Its name, which is another one if that is taken.
    """
    look = {**noted["look"], "name": noted["layer"]}
    with undisturbed(viewer):
        if noted["kind"] == "labels":
            drawn = np.asarray(pixels)
            drawn = drawn.astype(np.uint8) if drawn.dtype == bool else drawn
            return str(viewer.add_labels(drawn, **look).name)
        try:
            layer = viewer.add_image(pixels, **look)
        except (TypeError, ValueError, KeyError):  # of another napari
            layer = viewer.add_image(pixels, name=noted["layer"], rgb=bool(look.get("rgb")))
    return str(layer.name)


def _noted(layer: Layer) -> dict[str, Any]:
    """Note kind and look of a layer, in plain JSON types."""
    state = layer.as_layer_data_tuple()[1]
    if not isinstance(layer, Image):
        look = {name: np.asarray(state[name]).tolist() for name in ("scale", "translate")}
        return {"kind": "labels", "look": look if isinstance(layer, Labels) else {}}
    look = {name: np.asarray(state[name]).tolist() for name in _NUMBERS}
    look |= {name: state[name] for name in _PLAIN}
    look |= {name: [str(one) for one in state[name]] for name in ("units", "axis_labels")}
    look["blending"] = str(state["blending"])
    look["colormap"] = layer.colormap.name
    return {"kind": "image", "look": look}
