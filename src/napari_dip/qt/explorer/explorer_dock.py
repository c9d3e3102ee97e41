"""The dock of the prior explorer: experiments with an untrained network on the user's image.

Decided here: which plane an experiment uses, what its plan says, and its work in the background.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QLabel, QListWidget, QListWidgetItem, QWidget

from napari_dip.errors import Refusal, RefusedError, raise_if_refused, return_refusal
from napari_dip.errors.templates import format_duration, format_plane_size
from napari_dip.explore.experiment_results import ExperimentTimer
from napari_dip.explore.experiment_setup import (
    label_architecture,
    list_all_architectures,
    list_plan_architectures,
    make_experiment_recipe,
    plan_centre_fit,
)
from napari_dip.explore.experiments import EXPERIMENTS, Experiment, ExperimentSettings
from napari_dip.io import ImageHeader
from napari_dip.pipeline.plan.costs import START_SECONDS
from napari_dip.pipeline.progress import Event, map_generator
from napari_dip.pipeline.recipe import list_setting_fields
from napari_dip.qt.explorer.result_panel import ExplorerPlot, ResultPanel
from napari_dip.qt.shell.background_call import JobProgress, call_reporting_errors, try_call
from napari_dip.qt.shell.dock_plots import find_plane_index
from napari_dip.qt.shell.dock_widget import (
    DOCK_TEXTS,
    CollapsibleSection,
    Connections,
    DockLifecycle,
    fill_grid,
    guard_wheel,
    lay_out,
    make_form,
    make_single_shot_timer,
    require,
    unwrap_viewer,
)
from napari_dip.qt.shell.job_controller import DISCARDED_MESSAGE, JobRequest, ResultTarget
from napari_dip.qt.shell.layer_headers import METADATA_KEY, get_full_resolution
from napari_dip.qt.shell.layer_inputs import LayerInputs
from napari_dip.qt.shell.napari_layers import Preview
from napari_dip.qt.shell.preferences import get_allowed_machine
from napari_dip.qt.shell.run_bar import JobPanel, RunBar, make_message_label, show_refusal
from napari_dip.qt.shell.settings_form import align_forms, fill_form, make_combo, make_field_widget
from napari_dip.tasks import TaskInput
from napari_dip.tasks.priors.random_input import DEFAULT_ARCHITECTURE

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    import napari.viewer
    from magicgui.widgets.bases import ValueWidget
    from napari.layers import Image
    from napari.viewer import Viewer
    from qtpy.QtGui import QShowEvent

    from napari_dip.explore.experiment_results import IterationUpdate
    from napari_dip.io import AnyArray
    from napari_dip.pipeline.interactive_run import PollControl
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.qt.shell.job_controller import JobController
    from napari_dip.qt.shell.layer_inputs import ExtraInputs, ImageChooser

#: Height of the list of architectures in pixels; eight are visible, the others scroll.
_LIST_HEIGHT = 170
_NOTHING_MESSAGE = "Ended before there was anything to be seen. Give it a little more time."
_TRUTH_INPUT = TaskInput(
    name="truth",
    label="Truth",
    help="The same image without noise, if you have it: tells how good each estimate is.",
    is_optional=True,
)
#: Architectures by name, used for their labels only.
_ALL_ARCHITECTURES = list_all_architectures()


class ExplorerDock(QWidget):
    """The dock for three experiments with an untrained network, which restore no image.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Its Image layers fill the list.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer = unwrap_viewer(viewer)
        self._closer = DockLifecycle(self, self.shut_down)
        self._preview: Preview | None = None
        self.plan_label: QLabel = make_message_label()
        self.run_bar: RunBar = RunBar(kept_label="what was found so far")
        self.inputs: LayerInputs = LayerInputs(viewer, (_TRUTH_INPUT,), self, has_axes_field=False)
        self.image_chooser: ImageChooser = self.inputs.image_chooser
        self.extra_inputs: ExtraInputs = self.inputs.extra_inputs
        self.image_chooser.combo.setToolTip(DOCK_TEXTS["explorer-image"])
        self.settings: ExperimentForm = ExperimentForm()
        self.run_bar.pause_button.setToolTip("Pause the computation; finished results stay")
        self.run_bar.discard_button.setToolTip("Stop and discard all results")
        self.plot: ExplorerPlot = ExplorerPlot()
        self.result_panel: ResultPanel = ResultPanel(viewer)
        self.settings_section: CollapsibleSection = CollapsibleSection(
            "More settings", self.settings.advanced_page
        )
        self._panel = JobPanel(
            self, viewer, self.run_bar, (self.plot,), no_outcome_message=_NOTHING_MESSAGE
        )
        self.jobs: JobController = self._panel.jobs
        visible_widgets = (
            self.image_chooser,
            self.settings.basic_page,
            self.extra_inputs,
            self.plan_label,
            self.run_bar,
        )
        forms = self.image_chooser, self.settings.choice_page, self.extra_inputs
        self._align_timer = make_single_shot_timer(self, partial(align_forms, *forms))
        scrolled = (self.settings_section, self.plot, self.result_panel)
        lay_out(self, visible_widgets, scrolled, "explore.md")
        self.run_bar.run_pressed.connect(self.start)
        self.settings.changed.connect(self._on_settings)
        self.settings.experiment_combo.currentIndexChanged.connect(self._on_experiment)
        self.inputs.changed.connect(self.show_plan)
        self.inputs.message_outdated.connect(self.run_bar.clear_message)
        self.inputs.follow_jobs(self.jobs)
        self.result_panel.message_emitted.connect(self.run_bar.prepend_message)
        self.result_panel.row_chosen.connect(lambda item: self.plot.show_group(*item))
        self.jobs.discarded.connect(lambda: self.plot.restart(self.settings.experiment.key))
        Connections(self).connect(self.show_plan, viewer.dims.events.current_step)
        self._on_settings()

    @property
    def is_busy(self) -> bool:
        """Whether an experiment is computed or waits in the queue."""
        return self.jobs.is_busy

    def plan_request(self) -> tuple[JobRequest, str] | Refusal:
        """Return the experiment of the present settings and its plan, from headers alone."""
        layer = self.image_chooser.get_layer()
        if layer is None:
            header = self.image_chooser.read_header()
            assert isinstance(header, Refusal)  # there is no layer
            return header
        return plan_experiment(
            self._viewer, layer, self.extra_inputs.get_layer("truth"), self.settings
        )

    def show_plan(self, _: object = None) -> None:
        """Update the plan above the buttons, unless an experiment is on."""
        if self.is_busy:
            return
        planned = self.plan_request()
        if isinstance(planned, Refusal):
            show_refusal(self.plan_label, planned)
        else:
            self.plan_label.setText(planned[1])
        self.jobs.set_planned(not isinstance(planned, Refusal))

    def start(self) -> None:
        """Start the experiment, or add it to the queue."""
        planned = self.plan_request()
        if self.is_busy or isinstance(planned, Refusal):
            self.show_plan()
            return
        self.jobs.start(planned[:1])

    def showEvent(self, event: QShowEvent | None) -> None:
        """Align the labels, whose width napari's style changes when they are shown."""
        super().showEvent(event)
        self._align_timer.start()

    def shut_down(self) -> None:
        """Stop all work and disconnect from the viewer, when the dock is closed."""
        self._panel.shut_down()
        self.inputs.shut_down()
        self.result_panel.clear_contents()

    def begin_job(self, request: JobRequest) -> None:
        """Empty the widgets for an experiment that begins, and show its plan."""
        assert request.target is not None  # experiments have one
        self.result_panel.clear_contents()
        self.plot.restart(request.kind)
        self._preview = Preview(self._viewer, request.target)
        self.plan_label.setText(request.summary)

    def show_progress(self, progress: JobProgress) -> None:
        """Show the preview, the time left and the curves."""
        self.run_bar.show_event(progress.event)
        self.plot.extend(
            (group and label_architecture(_ALL_ARCHITECTURES[group]), iteration, values)
            for group, iteration, values in progress.points
        )
        if self._preview is not None:
            failure_text = "The preview cannot be shown"
            call_reporting_errors(partial(self._preview.show, progress.event.preview), failure_text)

    def accept_outcome(self, request: JobRequest, outcome: Any) -> str:
        """Show the result and return its description."""
        message, error_message = try_call(
            lambda: self.result_panel.show_result(request, outcome),
            "What was found cannot be shown",
        )
        return error_message if message is None else message

    def release_job(self) -> str:
        """Remove the preview; return an error message, or ""."""
        preview, self._preview = self._preview, None
        if preview is None:
            return ""
        return call_reporting_errors(preview.remove, "The preview layer could not be removed")

    def describe_discard(self) -> str:
        """Return the message on a discarded experiment."""
        return DISCARDED_MESSAGE

    def set_busy(self, is_busy: bool) -> None:
        """Disable what must not change during an experiment, or enable it again."""
        self.settings.basic_page.setEnabled(not is_busy)
        self.settings.advanced_page.setEnabled(not is_busy)
        self.inputs.set_busy(is_busy)

    def _on_experiment(self, _: object = None) -> None:
        """Show plot, result and message of the last run only while its experiment is chosen."""
        key = self.settings.experiment.key
        self.plot.setVisible(key == self.plot.experiment and self.plot.point_count > 0)
        self.run_bar.show_message(self.result_panel.choose_experiment(key))

    def _on_settings(self) -> None:
        self.extra_inputs.setVisible("truth" in self.settings.experiment.settings)
        self.show_plan()


class ExperimentForm:
    """The widgets for the settings of an experiment.

    Attributes
    ----------
    widgets : dict of str to ValueWidget
        The widget of each setting.
    basic_page, choice_page, advanced_page : QWidget
        Pages for the choice of the experiment, and for all other settings.
    changed : signal
        Emitted when a setting has changed.
    """

    changed: Signal = Signal()

    def __init__(self) -> None:
        labels = {key: row.label for key, row in EXPERIMENTS.items() if row.plot}
        tooltip = "What to look at. Nothing is restored."
        self.experiment_combo: QComboBox = make_combo("Experiment", tooltip, labels, length=8)
        guard_wheel(self.experiment_combo)
        self.description_label: QLabel = QLabel()
        self.description_label.setWordWrap(True)
        self._fields = list_setting_fields(ExperimentSettings)
        self.widgets: dict[str, ValueWidget[Any]] = {
            field.name: make_field_widget(field) for field in self._fields
        }
        self._architecture_combo = self.widgets["architecture"].native
        self.architecture_list: QListWidget = QListWidget()
        self.architecture_list.setAccessibleName("Architectures")
        self.architecture_list.setFixedHeight(_LIST_HEIGHT)
        self.architecture_list.setToolTip(DOCK_TEXTS["explorer-architecture-list"])
        self._edited_names: set[str] = set()
        self.basic_page: QWidget = QWidget()
        self.advanced_page: QWidget = QWidget()
        self.choice_page: QWidget = QWidget()
        self._build_layout()
        self._fill_architectures()
        self._on_experiment()
        self.experiment_combo.currentIndexChanged.connect(self._on_experiment)
        for name, widget in self.widgets.items():
            widget.changed.connect(partial(self._on_edited, name))
        self.architecture_list.itemChanged.connect(self._notify)

    @property
    def experiment(self) -> Experiment:
        """The chosen experiment."""
        return EXPERIMENTS[self.experiment_combo.currentData()]

    @property
    def is_comparison(self) -> bool:
        """Whether several architectures are fitted, so that there is none to choose."""
        return "only" in self.experiment.settings

    def read_settings(self) -> dict[str, Any]:
        """Return the arguments of `make_experiment_recipe`, without the side of the crop."""
        values = {name: widget.value for name, widget in self.widgets.items() if name != "crop"}
        return values | ({"architecture": DEFAULT_ARCHITECTURE} if self.is_comparison else {})

    def list_checked_architectures(self) -> tuple[str, ...]:
        """Return the names of the checked architectures, with that of the preset."""
        rows = range(self.architecture_list.count())
        items = [require(self.architecture_list.item(row)) for row in rows]
        checked = [item for item in items if item.checkState() == Qt.CheckState.Checked]
        return tuple(item.data(Qt.ItemDataRole.UserRole) for item in checked)

    def _fill_architectures(self) -> None:
        """List all architectures, checked; that of the preset cannot be unchecked."""
        for name, architecture in list_all_architectures().items():
            item = QListWidgetItem(label_architecture(architecture))
            item.setData(Qt.ItemDataRole.UserRole, name)
            item.setCheckState(Qt.CheckState.Checked)
            if name == DEFAULT_ARCHITECTURE:
                item.setFlags(Qt.ItemFlag.NoItemFlags)
            self.architecture_list.addItem(item)

    def _on_experiment(self, _: object = None) -> None:
        experiment = self.experiment
        defaults = {"max_iterations": experiment.iterations, "crop": experiment.crop}
        for name in defaults.keys() - self._edited_names:
            with self.widgets[name].changed.blocked():
                self.widgets[name].value = defaults[name]
        self.architecture_list.setVisible(self.is_comparison)
        self._architectures_label.setVisible(self.is_comparison)
        self._architecture_combo.setVisible(not self.is_comparison)
        self._architecture_label.setVisible(not self.is_comparison)
        self.description_label.setText(experiment.description)
        self.changed.emit()

    def _on_edited(self, name: str, _: object = None) -> None:
        self._edited_names.add(name)
        self._notify()

    def _notify(self, _: object = None) -> None:
        self.changed.emit()

    def _build_layout(self) -> None:
        settings = QWidget()
        make_form(self.choice_page).addRow("Experiment", self.experiment_combo)
        fill_grid(self.basic_page, ([self.choice_page], [self.description_label]))
        form = fill_form(settings, self.widgets, self._fields)
        self._architecture_label: Any = form.labelForField(self._architecture_combo)
        for name in ("max_iterations", "crop", "seed"):
            self.widgets[name].native.setKeyboardTracking(False)
        self._architectures_label = QLabel("Architectures to compare")
        fill_grid(
            self.advanced_page, ([settings], [self._architectures_label], [self.architecture_list])
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class VisiblePlane:
    """The visible plane of a layer.

    Attributes
    ----------
    header : ImageHeader
    pixels : array
        (Y, X) or (Y, X, S), lazy or not.
    position : tuple of int
        Index of the plane along each other axis of the layer.
    counts : tuple of int
        Number of planes along each of these axes.
    """

    header: ImageHeader
    pixels: Any
    position: tuple[int, ...]
    counts: tuple[int, ...]


@return_refusal
def plan_experiment(
    viewer: Viewer, image: Image, truth: Any, settings: ExperimentForm
) -> tuple[JobRequest, str]:
    """Return a request for an experiment on the visible plane, and its plan; or a refusal.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Its sliders determine the plane of a stack.
    image : Image
    truth : Image or None
        The same image without noise; only some experiments use it.
    settings : ExperimentForm
    """
    plane = find_visible_plane(viewer, image)
    machine = get_allowed_machine()
    side = settings.widgets["crop"].value
    pixels = {"image": plane.pixels}
    recipe = make_experiment_recipe(**settings.read_settings())
    plan = raise_if_refused(plan_centre_fit(recipe, plane.header, side, machine))
    if truth is not None and "truth" in settings.experiment.settings:
        truth_plane = find_visible_plane(viewer, truth)
        if truth_plane.header.shape[:2] != plane.header.shape[:2]:
            grids = truth_plane.header.grid, plane.header.grid
            size, other = map(format_plane_size, grids)
            facts = {"name": truth.name, "image": image.name, "size": size, "other": other}
            raise RefusedError("truth-size", **facts)
        pixels["truth"] = truth_plane.pixels
    experiment, arguments = settings.experiment, {**settings.read_settings(), "crop": side}
    fit_count = experiment.fit_count
    if settings.is_comparison:
        architectures = list_plan_architectures(plan)
        checked = settings.list_checked_architectures()
        arguments["only"] = [name for name in checked if name in architectures]
        fit_count *= len(arguments["only"])
    arguments |= {"axes": plane.header.axes, "name": image.name, "machine": machine}
    seconds = START_SECONDS + fit_count * (plan.costs.fit_seconds - START_SECONDS)
    time = f", up to {format_duration(seconds)}"
    request = JobRequest(
        kind=experiment.key,
        label=f"Prior explorer {image.name}",
        plan=plan,
        work=partial(run_experiment, experiment, arguments),
        summary=describe_experiment(plan, plane, fit_count, ""),
        inputs=pixels,
        target=ResultTarget(
            name=image.name, layer_attributes=make_crop_attributes(image, plane, plan)
        ),
    )
    return request, describe_experiment(plan, plane, fit_count, time)


def describe_experiment(plan: Plan, plane: VisiblePlane, fit_count: int, time: str) -> str:
    """Return a description of an experiment: work, crop, plane and notes.

    Parameters
    ----------
    plan : Plan
        The plan of one fit.
    plane : VisiblePlane
    fit_count : int
        Number of fits.
    time : str
        Text appended to the work, or "".
    """
    work = f"{fit_count} fits of {plan.fit_config.iterations} iterations"
    sentences = [f"{plan.work_summary}: {work}{time}."]
    if plan.header.grid != plane.header.grid:
        sentences.append("The middle of the image is looked at.")
    if plane.counts:
        pairs = zip(plane.position, plane.counts, strict=True)
        position = ", ".join(f"{index + 1} of {count}" for index, count in pairs)
        sentences.append(f"The plane in sight is looked at: {position}.")
    return "\n".join([*sentences, *map(str, plan.notes)])


def find_visible_plane(viewer: Viewer, layer: Image) -> VisiblePlane:
    """Return the plane of a layer at the position of the viewer's sliders."""
    data, dims = get_full_resolution(layer), viewer.dims
    position = find_plane_index(layer, dims.point, dims.units)
    pixels = data[position] if position else data
    axes = "YXS" if layer.rgb else "YX"
    shape = tuple(int(count) for count in pixels.shape)
    header = ImageHeader(name=layer.name, shape=shape, dtype=np.dtype(data.dtype).name, axes=axes)
    counts = tuple(int(count) for count in data.shape[: len(position)])
    return VisiblePlane(header=header, pixels=pixels, position=position, counts=counts)


def make_crop_attributes(layer: Image, plane: VisiblePlane, plan: Plan) -> dict[str, Any]:
    """Return arguments of `add_image` that place images of the crop over the layer.

    Parameters
    ----------
    layer : Image
    plane : VisiblePlane
    plan : Plan
        Its source has the size of the crop, which lies in the centre of the plane.
    """
    sides = zip(plane.header.grid, plan.header.grid, strict=True)
    start = [(side - crop_side) // 2 for side, crop_side in sides]
    corner = np.array([*plane.position, *start], float)
    steps = np.vstack([corner, corner + np.eye(layer.ndim)[-2], corner + np.eye(layer.ndim)[-1]])
    origin, down, across = (np.asarray(layer.data_to_world(step))[-2:] for step in steps)
    linear = np.stack([down - origin, across - origin], 1)
    attributes: dict[str, Any] = {"units": tuple(layer.units)[-2:]}
    if np.allclose(linear, np.diag(np.diag(linear))):
        attributes |= {"scale": np.diag(linear), "translate": origin}
    else:
        matrix = np.eye(3)
        matrix[:2, :2], matrix[:2, 2] = linear, origin
        attributes["affine"] = matrix
    if not layer.rgb:
        limits = tuple(layer.contrast_limits)
        attributes |= {"colormap": layer.colormap.name, "contrast_limits": limits}
    return attributes | {"metadata": {METADATA_KEY: {"inputs": {}}}}


def make_progress(update: IterationUpdate) -> JobProgress:
    """Return the progress of an update."""
    event = replace(update.event, preview=update.image)
    points = ((update.group, event.iteration, update.points),) if update.points else ()
    return JobProgress(event=event, points=points)


def run_experiment(
    experiment: Experiment,
    arguments: Mapping[str, Any],
    pixels: Mapping[str, AnyArray],
    poll_control: PollControl,
) -> Generator[JobProgress, None, Any]:
    """Run an experiment with the same code as the command line, as the work of a `JobRequest`.

    Parameters
    ----------
    experiment : Experiment
    arguments : mapping
        Arguments of `Experiment.make_starter`.
    pixels : mapping of str to ndarray
        "image", and optionally "truth".
    poll_control : callable
        The user's control of the run.

    Returns
    -------
    ExperimentResult or None
        None if the run ended without a result.

    Raises
    ------
    RefusedError, FailedError
        As the experiments.
    """
    timer = ExperimentTimer(poll_control)
    yield JobProgress(event=Event(message="Starting the engine"))
    options = {name: array for name, array in pixels.items() if name != "image"}
    start = experiment.make_starter(pixels["image"], **options, **arguments)
    steps = map_generator(start(timer.poll_control), timer.add_time_left)
    return (yield from map_generator(steps, make_progress))
