"""Bad inputs in the docks, on Qt without a screen: a sentence in the dock, and no new layer."""

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
PATIENCE = 60.0


def _images() -> dict[str, Any]:
    """Pictures that no task can restore; napari takes no complex ones for layers."""
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


def _others() -> dict[str, tuple[str, dict[str, tuple[str, Any]]]]:
    """Give good pictures whose further picture is bad: task, then kind of layer and pixels."""
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
        "PSF larger than the picture": ("deblur", {"psf": ("image", np.ones((50, 50)))}),
        "no guide": ("guide", {}),
        "guide of another size": ("guide", {"guide": ("image", guide[:, 1:])}),
        "deep guide": ("guide", {"guide": ("image", np.stack([guide, guide]))}),
        "constant guide": ("guide", {"guide": ("image", 0 * guide)}),
        "guide with NaN": ("guide", {"guide": ("image", with_nan(SIDE, SIDE))}),
        "the same picture as second": ("denoise", {"repeated_exposure": ("image", noisy())}),
        "second of another size": (
            "denoise",
            {"repeated_exposure": ("image", noisy(SIDE, SIDE + 1))},
        ),
        "constant second": ("denoise", {"repeated_exposure": ("image", 0 * noisy())}),
    }


def dock_trials(*, small: bool) -> Iterator[Trial]:
    """Give bad images for each task, wrong axes, other kinds of layers, bad further pictures."""
    for place, task in enumerate(TASKS):
        for name, image in _images().items():
            if task == "inpaint" and name == "all NaN":
                name = "nothing but holes"
            if not small or (len(name) + place) % 12 == 0:
                yield Trial(f"dock, {task}: {name}", partial(_with_image, task, image))
        for axes in ("", "QQQ", "ZZX", "CX", "TCZ"):
            act = partial(_with_image, task, noisy(3, SIDE, SIDE), axes)
            if not small:
                yield Trial(f"dock, {task}: axes '{axes}'", act)
        if not small:
            yield Trial(f"dock, {task}: no layer", partial(_with_layers, task, lambda viewer: None))
            act = partial(_with_layers, task, lambda viewer: viewer.add_points([[3, 4]]))
            yield Trial(f"dock, {task}: points", act)
    for name, (task, others) in _others().items():
        if not small or name.startswith("no "):
            yield Trial(f"dock, {task}: {name}", partial(_with_others, task, others))


@cache
def _application() -> Any:
    from qtpy.QtWidgets import QApplication

    return QApplication.instance() or QApplication([])


def _with_image(task: str, image: Any, axes: str | None = None) -> TrialResult:
    def add(viewer: Any) -> None:
        viewer.add_image(image, name="picture", rgb=False)

    return _with_layers(task, add, axes)


def _with_others(task: str, others: dict[str, tuple[str, Any]]) -> TrialResult:
    def add(viewer: Any) -> None:
        for name, (kind, data) in others.items():
            getattr(viewer, f"add_{kind}")(data, name=name)
        viewer.add_image(noisy(), name="picture")

    return _with_layers(task, add, others={name: name for name in others})


def _with_layers(
    task: str,
    add: Callable[[Any], object],
    axes: str | None = None,
    others: dict[str, str] | None = None,
) -> TrialResult:
    """Open a dock, press Run, and read what it says; no layer may be added."""
    _application()
    from napari.components import ViewerModel

    from napari_dip.qt.shell.run_bar import remove_option_names
    from napari_dip.qt.task.dock import make_dock_class

    viewer = ViewerModel()
    add(viewer)
    dock = make_dock_class(task)(viewer)
    try:
        if "picture" in viewer.layers:
            dock.chooser.choose(
                "picture", axes if axes is not None else dock.chooser.axes_edit.text()
            )
        if others:
            dock.extra_inputs.choose(others)
        if "inpaint" == task and others is None:  # so that only the picture is to blame
            _with_a_mask(viewer, dock)
        dock.form.widgets["max_iterations"].value = "1"
        before = len(viewer.layers)
        dock.start()
        output = _ending(dock)
        if len(viewer.layers) != before:
            return make_failed(f"a layer was added; it said: {output}"[:400])
        code = find_fault_code(output, remove_option_names)
        return (
            make_passed(code, kind="refused") if code else make_failed(f"it said: {output}"[:400])
        )
    finally:
        dock.shut_down()
        dock.deleteLater()


def _with_a_mask(viewer: Any, dock: Any) -> None:
    if "picture" not in viewer.layers or viewer.layers["picture"].data.ndim != 2:
        return
    shape = viewer.layers["picture"].data.shape
    mask = np.zeros(shape, "uint8")
    mask[tuple(side // 2 for side in shape)] = 1
    viewer.add_labels(mask, name="mask")
    dock.extra_inputs.choose({"mask": "mask"})


def _ending(dock: Any) -> str:
    """Let the event loop turn until the dock is idle; give back what it says."""
    from napari_dip.errors import Refusal

    application, end = _application(), time.monotonic() + PATIENCE
    plan = dock.plan()
    if isinstance(plan, Refusal):
        return str(dock.plan_label.text())
    while dock.is_busy and time.monotonic() < end:
        application.processEvents()
        time.sleep(0.005)
    if dock.is_busy:
        dock.discard()
        raise TimeoutError("the dock was still busy")
    return str(dock.run_bar.message_label.text())
