"""Bad inputs in the docks, on Qt without a screen: a message in the dock, and no new layer."""

from __future__ import annotations

import time
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bad_inputs import noisy, with_infinity, with_nan
from faults.trials import Trial, find_fault_code, make_failed, make_passed
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faults.trials import TrialResult

SIDE = 32
#: Seconds after which a dock counts as hanging.
TIMEOUT_S = 60.0


def _make_bad_images() -> dict[str, Any]:
    """Make images that no task can restore; napari takes no complex ones for layers."""
    return {
        "1 x N": noisy(1, 500),
        "too small": noisy(8, 8),
        "all NaN": np.full((SIDE, SIDE), np.nan, "float32"),
        "one infinite": with_infinity(),
        "constant": np.full((SIDE, SIDE), 7, "uint16"),
        "beyond single precision": noisy(dtype="float64") + 1e15,
        "true and false": noisy() > 1000,
        "six axes": noisy(1, 1, 1, 2, SIDE, SIDE),
        "too wide a range": noisy(dtype="float64") * 1e200,
        "too narrow a range": noisy(dtype="float64") * 1e-200,
        "movie of thin frames": noisy(2, 3, 64),
    }


def _make_bad_extra_inputs() -> dict[str, tuple[str, dict[str, tuple[str, Any]]]]:
    """Make bad extra inputs of good images: task, then kind of layer and pixels."""
    hole = np.pad(np.full((4, 4), 2, "uint8"), 14)
    psf = np.ones((5, 5), "float32")
    guide = noisy().astype("float32")
    return {
        "no mask": ("inpaint", {}),
        "empty mask": ("inpaint", {"mask": ("labels", 0 * hole)}),
        "full mask": ("inpaint", {"mask": ("labels", hole + 1)}),
        "mask of another size": ("inpaint", {"mask": ("labels", hole[:, 1:])}),
        "deep mask": ("inpaint", {"mask": ("labels", np.stack([hole, hole]))}),
        "no shapes in the mask": ("inpaint", {"mask": ("shapes", None)}),
        "no PSF": ("deblur", {}),
        "PSF of zeros": ("deblur", {"psf": ("image", 0 * psf)}),
        "PSF with NaN": ("deblur", {"psf": ("image", psf * np.nan)}),
        "negative PSF": ("deblur", {"psf": ("image", psf - 2)}),
        "deep PSF": ("deblur", {"psf": ("image", np.ones((3, 5, 5)))}),
        "PSF larger than the image": ("deblur", {"psf": ("image", np.ones((50, 50)))}),
        "no guide": ("guide", {}),
        "guide of another size": ("guide", {"guide": ("image", guide[:, 1:])}),
        "deep guide": ("guide", {"guide": ("image", np.stack([guide, guide]))}),
        "constant guide": ("guide", {"guide": ("image", 0 * guide)}),
        "guide with NaN": ("guide", {"guide": ("image", with_nan(SIDE, SIDE))}),
        "the same image as second": ("denoise", {"repeated_exposure": ("image", noisy())}),
        "second of another size": (
            "denoise",
            {"repeated_exposure": ("image", noisy(SIDE, SIDE + 1))},
        ),
        "constant second": ("denoise", {"repeated_exposure": ("image", 0 * noisy())}),
    }


def dock_trials(*, small: bool) -> Iterator[Trial]:
    """Yield bad images, wrong axes and other kinds of layers by task, and bad extra inputs."""
    for place, task in enumerate(TASKS):
        for name, image in _make_bad_images().items():
            if task == "inpaint" and name == "all NaN":
                name = "nothing but holes"
            if not small or (len(name) + place) % 12 == 0:
                yield Trial(f"dock, {task}: {name}", partial(_check_image, task, image))
        for axes in ("QQQ", "ZZX", "CX", "TCZ"):
            run = partial(_check_image, task, noisy(3, SIDE, SIDE), axes)
            if not small:
                yield Trial(f"dock, {task}: axes '{axes}'", run)
        if not small:
            yield Trial(
                f"dock, {task}: no layer", partial(_check_layers, task, lambda viewer: None)
            )
            run = partial(_check_layers, task, lambda viewer: viewer.add_points([[3, 4]]))
            yield Trial(f"dock, {task}: points", run)
    for name, (task, extra_inputs) in _make_bad_extra_inputs().items():
        if not small or name.startswith("no "):
            yield Trial(f"dock, {task}: {name}", partial(_check_extra_inputs, task, extra_inputs))


@cache
def _application() -> Any:
    from qtpy.QtWidgets import QApplication

    return QApplication.instance() or QApplication([])


def _check_image(task: str, image: Any, axes: str | None = None) -> TrialResult:
    def add(viewer: Any) -> None:
        viewer.add_image(image, name="picture", rgb=False)

    return _check_layers(task, add, axes)


def _check_extra_inputs(task: str, extra_inputs: dict[str, tuple[str, Any]]) -> TrialResult:
    def add(viewer: Any) -> None:
        for name, (kind, data) in extra_inputs.items():
            getattr(viewer, f"add_{kind}")(data, name=name)
        viewer.add_image(noisy(), name="picture")

    return _check_layers(task, add, extra_inputs={name: name for name in extra_inputs})


def _check_layers(
    task: str,
    add: Callable[[Any], object],
    axes: str | None = None,
    extra_inputs: dict[str, str] | None = None,
) -> TrialResult:
    """Open a dock, press Run, and read what it says; no layer may be added."""
    _application()
    from napari.components import ViewerModel

    from napari_dip.qt.shell.layer_headers import guess_layer_axes
    from napari_dip.qt.shell.run_bar import remove_option_names
    from napari_dip.qt.task.task_dock import make_dock_class

    viewer = ViewerModel()
    add(viewer)
    dock = make_dock_class(task)(viewer)
    try:
        if "picture" in viewer.layers:
            dock.image_chooser.choose(
                "picture", guess_layer_axes(viewer.layers["picture"]) if axes is None else axes
            )
        if extra_inputs:
            dock.extra_inputs.choose(extra_inputs)
        if "inpaint" == task and extra_inputs is None:  # so that only the image is to blame
            _add_mask(viewer, dock)
        dock.form.widgets["max_iterations"].value = "1"
        before = len(viewer.layers)
        dock.start()
        output = _wait_for_message(dock)
        if len(viewer.layers) != before:
            return make_failed(f"a layer was added; it said: {output}"[:400])
        code = find_fault_code(output, remove_option_names)
        return (
            make_passed(code, kind="refused") if code else make_failed(f"it said: {output}"[:400])
        )
    finally:
        dock.shut_down()
        dock.deleteLater()


def _add_mask(viewer: Any, dock: Any) -> None:
    if "picture" not in viewer.layers or viewer.layers["picture"].data.ndim != 2:
        return
    shape = viewer.layers["picture"].data.shape
    mask = np.zeros(shape, "uint8")
    mask[tuple(side // 2 for side in shape)] = 1
    viewer.add_labels(mask, name="mask")
    dock.extra_inputs.choose({"mask": "mask"})


def _wait_for_message(dock: Any) -> str:
    """Process events until the dock is idle; return its message."""
    from napari_dip.errors import Refusal

    application, end = _application(), time.monotonic() + TIMEOUT_S
    plan = dock.make_plan()
    if isinstance(plan, Refusal):
        return str(dock.plan_label.text())
    while dock.is_busy and time.monotonic() < end:
        application.processEvents()
        time.sleep(0.005)
    if dock.is_busy:
        dock.jobs.discard()
        raise TimeoutError("the dock was still busy")
    return str(dock.run_bar.message_label.text())
