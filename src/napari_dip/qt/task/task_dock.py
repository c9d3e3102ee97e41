"""The dock of a task, such as `napari_dip.qt.task.task_dock:super_resolve`, made from its settings.

The dock reads a recipe from the form, gets a plan from `preflight`, and runs it in a background
thread.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import ref

import numpy as np
from qtpy.QtWidgets import QLabel, QWidget

from napari_dip.errors import Refusal, RefusedError, raise_if_refused, return_refusal
from napari_dip.errors.notes import Stop, StopReason, serialise_stop
from napari_dip.errors.templates import render_text
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.qt.shell.background_call import call_reporting_errors, try_call
from napari_dip.qt.shell.dock_widget import (
    DOCK_TEXTS,
    CollapsibleSection,
    Connections,
    DockLifecycle,
    lay_out,
    load_tooltip,
    make_single_shot_timer,
    unwrap_viewer,
)
from napari_dip.qt.shell.job_controller import DISCARDED_MESSAGE
from napari_dip.qt.shell.layer_headers import (
    get_full_resolution,
    read_layer_provenance,
)
from napari_dip.qt.shell.layer_inputs import LayerInputs, is_original
from napari_dip.qt.shell.napari_layers import (
    PLACEMENT_KEYS,
    copy_layer_attributes,
)
from napari_dip.qt.shell.preferences import get_allowed_machine, get_default_preset, get_scheduler
from napari_dip.qt.shell.run_bar import JobPanel, RunBar, make_message_label, show_refusal
from napari_dip.qt.shell.settings_form import SettingsForm, align_forms
from napari_dip.qt.task.crop_preview_section import CropPreviewSection, read_preview_provenance
from napari_dip.qt.task.earlier_runs import InterruptedRunPanel, NetworkStartBox
from napari_dip.qt.task.measurement_sections import NoiseSection, PsfSection
from napari_dip.qt.task.repeat_section import RepeatSection
from napari_dip.qt.task.result_export import recognise_result
from napari_dip.qt.task.result_view import EXTRA_LAYERS, REPEATABILITY_LAYERS, ResultView
from napari_dip.qt.task.run_request import (
    NO_IMAGE_MESSAGE,
    SNAPSHOTS_KEPT_MESSAGE,
    UNDO_HINT,
    PendingResult,
    ResultQueue,
    describe_plan,
    make_run_request,
    read_result_provenance,
)
from napari_dip.qt.task.snapshot_history import HistorySlider, ValidationCurve
from napari_dip.tasks import TASKS
from napari_dip.tasks.psf.psf_settings import get_pixel_size_nm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import napari.viewer
    from napari.layers import Image
    from qtpy.QtGui import QDragEnterEvent, QDropEvent, QShowEvent

    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.restoration import Restoration
    from napari_dip.qt.shell.background_call import JobProgress
    from napari_dip.qt.shell.job_controller import JobController, JobRequest
    from napari_dip.qt.shell.layer_inputs import ExtraInputs, ImageChooser


class TaskDock(QWidget):
    """The dock of a task in napari.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Its Image layers fill the list; results become layers of it.

    Attributes
    ----------
    task : str
        Key in `TASKS`; the only difference between the subclasses.
    jobs : JobController
    """

    task: ClassVar[str]

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer: Any = unwrap_viewer(viewer)
        viewer = self.viewer
        for layer in viewer.layers:  # before the widgets look at them
            recognise_result(layer)
        self._closer = DockLifecycle(self, self.shut_down)
        self._connections = Connections(self)
        self._remarks: list[str] = []
        self.plan_label: QLabel = make_message_label()
        self.run_bar: RunBar = RunBar()
        self.inputs: LayerInputs = LayerInputs(viewer, TASKS[self.task].spec.inputs[1:], self)
        self.image_chooser: ImageChooser = self.inputs.image_chooser
        self.extra_inputs: ExtraInputs = self.inputs.extra_inputs
        self.result_view: ResultView = ResultView(viewer)
        self._results = ResultQueue(viewer, self._on_result)
        self._get_latest_layer: Callable[[], Any] = lambda: None
        self._latest_report: Mapping[str, Any] = {}
        self.form: SettingsForm = SettingsForm(self.task)
        self.repeat_section: RepeatSection = RepeatSection(viewer, self.form, self.inputs)
        self.network_start: NetworkStartBox = NetworkStartBox()
        self.validation_curve: ValidationCurve = ValidationCurve()
        self.history: HistorySlider = HistorySlider(viewer)
        self.noise_section: NoiseSection = NoiseSection(self.image_chooser, self.form)
        self.psf_section: PsfSection = PsfSection(viewer, self.inputs, self.form)
        self.settings_section: CollapsibleSection = CollapsibleSection(
            "More settings", self.form.advanced_page
        )
        self.camera_maps: CollapsibleSection = CollapsibleSection(
            "Maps of the camera", self.extra_inputs.calibration
        )
        self.crop_preview: CropPreviewSection = CropPreviewSection(
            viewer, self.inputs, self.form, partial(self.make_plan, uses_start=False)
        )
        self.interrupted_runs: InterruptedRunPanel = InterruptedRunPanel(
            viewer, self.inputs, self.form
        )
        sections = self.noise_section, self.psf_section, self.result_view.profile
        plots = self.validation_curve, *(section.plot for section in sections)
        self._panel = JobPanel(
            self, viewer, self.run_bar, plots, no_outcome_message=NO_IMAGE_MESSAGE
        )
        self.jobs: JobController = self._panel.jobs
        self._build_layout()
        self._connect_signals()
        self.setAcceptDrops(True)
        self._align_timer = make_single_shot_timer(self, self._show_relevant_settings)
        self.inputs.update_image()
        self._show_selected_card()
        message = self.repeat_section.restore_last_settings()
        preset = self.form.widgets["preset"]
        preset.value = get_default_preset() or preset.value
        self.run_bar.prepend_message(message)
        self.inputs.follow_message()

    @property
    def is_busy(self) -> bool:
        """Whether a run is computed or waits in the queue."""
        return self.jobs.is_busy

    def make_plan(self, *, uses_start: bool = True) -> Plan | Refusal:
        """Return the plan of a run with the present settings, or a refusal, without pixels.

        Only small masks and PSFs are read, to check them.

        Parameters
        ----------
        uses_start : bool
            Whether the run may begin with the network of the last image.
        """
        answer = self._make_plan_with_notes(uses_start=uses_start)
        return answer if isinstance(answer, Refusal) else answer[0]

    @return_refusal
    def _make_plan_with_notes(self, *, uses_start: bool = True) -> tuple[Plan, tuple[Note, ...]]:
        """Return the plan, and notes on masks and PSFs that were read early."""
        self.network_start.setVisible(False)  # what is refused begins with none
        header = raise_if_refused(self.image_chooser.read_header())
        for item in self.extra_inputs.list_unfit():
            height, width = header.grid
            facts = {"height": height, "width": width, "field": item.label}
            raise RefusedError("guide-none", image=header.name, **facts)
        channel_count = header.get_size("C")
        for item in self.extra_inputs.list_empty() if channel_count > 1 else ():
            facts = {"count": channel_count, "field": item.label}
            raise RefusedError("guide-in-image", image=header.name, **facts)
        recipe, extra_headers = self.form.build_recipe(), self.extra_inputs.read_headers()
        plan = raise_if_refused(preflight(recipe, header, get_allowed_machine(), extra_headers))
        plan = self.network_start.update_plan(plan) if uses_start else plan
        for menu in self.form.suggestion_menus.values():
            if (refusal := menu.refuse_value(recipe.task)) is not None:
                raise RefusedError(refusal)
        return plan, self.extra_inputs.inspect_early(plan)

    def show_plan(self, _: object = None) -> None:
        """Update the plan above the buttons, unless a run is on."""
        if self.is_busy:
            return
        self._show_relevant_settings()
        answer = self._make_plan_with_notes()
        if isinstance(answer, Refusal):
            show_refusal(self.plan_label, answer)
        else:
            plan, notes = answer
            self.result_view.extra_layer_chooser.boxes["residual"].setHidden(
                plan.task_plan.keeps_measured_pixels
            )
            time = f"{plan.time_summary}, "
            layer, scheduler = self.image_chooser.get_layer(), get_scheduler()
            text = describe_plan(plan, layer, time, scheduler=scheduler)
            self.plan_label.setText("\n".join([text, *map(str, notes)]))
        may_fall_back = (
            not isinstance(answer, Refusal)
            and plan.task_plan.fallback_prior_key in plan.other_costs
        )
        noise_tip = DOCK_TEXTS["dock-noise-tooltip"] if may_fall_back else ""
        self.plan_label.setToolTip(load_tooltip("dock-plan-tooltip", noise_tip))
        self.jobs.set_planned(not isinstance(answer, Refusal))

    def _show_relevant_settings(self) -> None:
        header = self.image_chooser.read_header()
        axes = unsized_axes = ""
        if not isinstance(header, Refusal):
            sizes = zip(header.axes, header.shape, strict=False)  # axes may be half typed
            axes = "".join(axis for axis, size in sizes if size > 1)
            unsized_axes = "".join(axis for axis in axes if not get_pixel_size_nm(header, axis))
        self.form.show_relevant(axes, set(self.extra_inputs.get_chosen_layers()), unsized_axes)
        align_forms(self.image_chooser, self.extra_inputs, self.form.basic_page)

    def _get_selected_images(self) -> list[Image]:
        """Return the images selected in napari that are no results, lowest first."""
        selected = self.viewer.layers.selection
        return [layer for layer in self.viewer.layers if layer in selected and is_original(layer)]

    def _show_selected_button(self, _: object = None) -> None:
        count = len(self._get_selected_images())
        self.run_bar.selected_button.setText(f"Run on {count} selected layers")
        self.run_bar.selected_button.setVisible(count > 1 and not self.is_busy)

    def start_selected(self) -> None:
        """Start a run on each of the selected images, one after another, or refuse all of them."""
        requests = self._make_selected_requests()
        if isinstance(requests, Refusal):
            self.run_bar.show_message(requests.message)
        else:
            self.jobs.start(requests)

    @return_refusal
    def _make_selected_requests(self) -> list[JobRequest]:
        """Plan the runs on the selected images, one of which is chosen after the other."""
        chosen, requests = self.image_chooser.get_layer(), []
        is_by_hand = self.image_chooser.is_by_hand
        try:
            for layer in self._get_selected_images():
                self.image_chooser.choose(layer.name)
                plan = raise_if_refused(self.make_plan())
                requests.append(make_run_request(plan, layer, self.extra_inputs))
                self.network_start.note_use(plan)
        finally:
            if chosen is not None:
                self.image_chooser.choose(chosen.name, is_by_hand=is_by_hand)
        return requests

    def start(self) -> None:
        """Start the run of the plan, or add it to the queue."""
        layer, plan = self.image_chooser.get_layer(), self.make_plan()
        if self.is_busy or layer is None or isinstance(plan, Refusal):
            self.show_plan()
            return
        request, error_message = try_call(
            lambda: make_run_request(plan, layer, self.extra_inputs), "The run could not be started"
        )
        if request is None:
            self.run_bar.show_message(error_message)
            return
        self.repeat_section.remember(plan.recipe)
        self.network_start.note_use(plan)
        self.jobs.start([request])

    def showEvent(self, event: QShowEvent | None) -> None:
        """Align the labels, whose width napari's style changes when they are shown."""
        super().showEvent(event)
        self._align_timer.start()

    def shut_down(self) -> None:
        """Stop all work and disconnect from the viewer, when the dock is closed."""
        self._panel.shut_down()
        self.inputs.shut_down()
        self.crop_preview.grid.end()
        self.result_view.comparison.end_comparison()
        self.history.clear_contents()
        self.network_start.forget()

    def dragEnterEvent(self, event: QDragEnterEvent | None) -> None:
        """Accept files and layers, unless a run is on."""
        mime = None if event is None else event.mimeData()
        if event is not None and mime is not None and not self.is_busy:
            if mime.hasUrls() or hasattr(mime, "items"):  # napari's list passes the layers
                event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent | None) -> None:
        """Open the files that were dropped, and choose the image."""
        mime = None if event is None else event.mimeData()
        if event is None or mime is None:
            return
        event.acceptProposedAction()
        paths = [url.toLocalFile() for url in mime.urls() if url.isLocalFile()]
        layers, error_message = try_call(
            lambda: mime.items if hasattr(mime, "items") else self.viewer.open(paths),
            "What was dropped could not be opened",
        )
        self.run_bar.prepend_message(error_message)
        for layer in layers or ():
            self.image_chooser.choose(layer.name)

    def begin_job(self, request: JobRequest) -> None:
        """Empty the widgets for a run that begins, and show its plan."""
        assert request.target is not None  # the result of a task is a layer
        self._get_latest_layer = request.target.get_source_layer
        self.result_view.begin_run()
        self.history.begin(request)
        self._remarks = list(filter(None, [request.remark]))
        self.validation_curve.restart()
        crop_preview = _describe_crop_preview(request.target.crop_name, len(self.jobs.remaining))
        self.plan_label.setText(f"{crop_preview}{request.summary}")

    def show_progress(self, progress: JobProgress) -> None:
        """Show the preview, the time left and the curves."""
        event = progress.event
        failure_text = "The preview cannot be shown, but the run goes on"
        error_message = call_reporting_errors(lambda: self.history.show_event(event), failure_text)
        self._remarks += filter(None, [error_message])
        self.run_bar.show_event(event, self._remarks)
        self.validation_curve.extend(progress.points, event.best_iteration)

    def accept_outcome(self, request: JobRequest, outcome: Restoration) -> str:
        """Make the result a layer and return a message for the user."""
        assert request.target is not None  # the result of a task is a layer
        if self._closer.is_closing and outcome.stop.reason is StopReason.USER:
            stop = Stop(reason=StopReason.USER, facts={"text": render_text("dock-closed")})
            report: Any = {**outcome.report, **serialise_stop(stop)}
            outcome = replace(outcome, stop=stop, report=report)
        self.history.add_report(outcome)
        self.validation_curve.show_result(outcome)
        pending = PendingResult(target=request.target, result=outcome, preview=self.history.preview)
        message = self._results.add(pending, self._remarks)
        self.run_bar.add_button.setVisible(self._results.has_waiting)
        if not request.target.crop_name:
            self.network_start.remember(outcome)
        self.crop_preview.offer_undo(request)
        self._latest_report = outcome.report
        return message

    def release_job(self) -> str:
        """Remove the preview; return an error message, or ""."""
        return call_reporting_errors(self.history.end, "The preview layer could not be removed")

    def describe_discard(self) -> str:
        """Return the message on a discarded run."""
        return SNAPSHOTS_KEPT_MESSAGE if self.history.has_kept_snapshot else DISCARDED_MESSAGE

    def set_busy(self, is_busy: bool) -> None:
        """Disable what must not change during a run, or enable it again and show the plan."""
        for widget in (
            self.form.basic_page,
            self.form.advanced_page,
            self.noise_section.page,
            self.psf_section.page,
            self.network_start,
            self.extra_inputs.calibration,
        ):
            widget.setEnabled(not is_busy)
        for section in (self.repeat_section, self.crop_preview, self.interrupted_runs, self.inputs):
            section.set_busy(is_busy)
        self._show_selected_button()

    def _on_result(self, pending: PendingResult, layer_name: str) -> str:
        """Follow the layer of a new result, compare it with its input, and return a message."""
        self._get_latest_layer = ref(self.viewer.layers[layer_name])
        is_single = self.crop_preview.comparison_target is None  # else they bury the list
        return self.result_view.show(pending, layer_name, has_extra_layers=is_single)

    def _on_removed(self, event: Any) -> None:
        """Clear what belongs to the latest run when its result is deleted, or else its input."""
        self._show_undo_button()
        if event.value is self._get_latest_layer() and not self.is_busy:
            self._get_latest_layer = lambda: None
            self.history.clear_contents()
            self.validation_curve.restart()
            self.run_bar.clear_message()

    def _on_inserted(self, event: Any) -> None:
        recognise_result(event.value)

    def _show_selected_card(self, _: object = None) -> None:
        """Show the card of the selected layer, if that is a result of this task."""
        self.result_view.note_selection(self.viewer.layers.selection.active)
        self._show_card_of(self.viewer.layers.selection.active)

    def _show_card_of(self, layer: Any) -> None:
        if layer is None:
            return
        provenance = read_result_provenance(layer) or read_preview_provenance(layer)
        if provenance and provenance["recipe"]["task"] == self.task and not self.is_busy:
            self.result_view.show_layer(layer, provenance)

    def _on_ended(self) -> None:
        if not self.is_busy:  # else the next of several runs has begun
            call_reporting_errors(
                self.crop_preview.show_comparison, "The results could not be shown side by side"
            )

    def _on_discarded(self) -> None:
        """Offer the last image of the discarded run, and let the message go with a change."""
        is_offered = self.history.discard()
        text = self.describe_discard()
        if is_offered:
            text = f"{text if self.history.has_kept_snapshot else 'Discarded.'} {UNDO_HINT}"
        self.run_bar.show_passing_message(text)
        self._show_undo_button()
        if self._get_latest_layer() not in self.viewer.layers:
            self.validation_curve.restart()

    def _on_region_undone(self) -> None:
        """Show the card of the image as it was before the latest region, and drop its layers."""
        for layer in [*self.viewer.layers]:
            provenance = read_layer_provenance(layer)
            is_extra = provenance.get("shows") in {*EXTRA_LAYERS, *REPEATABILITY_LAYERS}
            if is_extra and provenance["report"] == self._latest_report:
                self.viewer.layers.remove(layer)
        self.result_view.card.setVisible(False)  # else it is taken for up to date
        self._show_card_of(self.result_view.get_result_layer())
        self.run_bar.show_passing_message("The latest region was undone.")

    def _show_undo_button(self) -> None:
        self.run_bar.undo_button.setVisible(self.history.update_discarded())

    def _on_undo(self) -> None:
        self.run_bar.show_message(self.history.undo_discard())
        self._show_undo_button()

    def _on_add(self) -> None:
        self.run_bar.show_message(self._results.add_waiting())
        self.run_bar.add_button.setVisible(self._results.has_waiting)

    def _on_form(self) -> None:
        """Show another plan, for which suggestions are listed again: files may have changed."""
        for menu in self.form.suggestion_menus.values():
            menu.outcomes.clear()
        self.show_plan()

    def _on_new_mask(self, input_name: str, _: bool = False) -> None:
        """Add an empty mask on the pixels of the image, and choose it, for the user to paint."""
        image = self.image_chooser.get_layer()
        if image is None:
            return
        placement = copy_layer_attributes(image)
        mask = self.viewer.add_labels(
            np.zeros(get_full_resolution(image).shape[: image.ndim], np.uint8),
            name=f"{image.name} mask",
            **{key: placement[key] for key in PLACEMENT_KEYS},
        )
        self.viewer.layers.selection.active = mask
        mask.mode = "paint"
        chosen = self.extra_inputs.get_chosen_layers() | {input_name: mask}
        self.extra_inputs.choose({name: layer.name for name, layer in chosen.items()})

    def _connect_signals(self) -> None:
        for name, button in self.extra_inputs.mask_buttons.items():
            button.clicked.connect(partial(self._on_new_mask, name))
        self.run_bar.run_pressed.connect(self.start)
        layers = self.viewer.layers
        self._connections.connect(self._on_removed, layers.events.removed)
        # before all other slots, which so find a result that knows what it is
        self._connections.connect(self._on_inserted, layers.events.inserted, position="first")
        self._connections.connect(self._show_selected_card, layers.selection.events.active)
        self.run_bar.add_button.clicked.connect(self._on_add)
        self.run_bar.selected_button.clicked.connect(self.start_selected)
        self._connections.connect(self._show_selected_button, layers.selection.events.changed)
        for menu in self.form.suggestion_menus.values():
            menu.listed.connect(self.show_plan)
        self.form.changed.connect(self._on_form)
        self.network_start.toggled.connect(self.show_plan)
        # it was about other settings
        self.form.changed.connect(partial(self.run_bar.prepend_message, ""))
        self.inputs.changed.connect(self.show_plan)
        self.inputs.message_outdated.connect(self.run_bar.clear_message)
        self.inputs.follow_jobs(self.jobs)
        self.jobs.ended.connect(self._on_ended)
        self.jobs.discarded.connect(self._on_discarded)
        self.run_bar.undo_button.clicked.connect(self._on_undo)
        self._panel.actions |= {
            "fade": self.result_view.comparison.switch,
            "swipe": self.result_view.comparison.swipe_button.click,
            "earlier": partial(self.history.step, -1),
            "later": partial(self.history.step, 1),
        }
        self.crop_preview.run_requested.connect(self.jobs.start)
        self.interrupted_runs.run_requested.connect(self.jobs.start)
        self.crop_preview.applied.connect(self.start)
        for section in (
            self.repeat_section,
            self.crop_preview,
            self.interrupted_runs,
            self.result_view.save_menu,
        ):
            section.message_emitted.connect(self.run_bar.prepend_message)
            section.message_emitted.connect(lambda _: self.inputs.follow_message())
        self.crop_preview.undo_button.clicked.connect(self._on_region_undone)
        self.history.moved.connect(self.validation_curve.mark_snapshot)
        self.result_view.comparison.slider.valueChanged.connect(self.history.move_to_end)

    def _build_layout(self) -> None:
        self.noise_section.setVisible(self.form.has_noise_settings)
        self.psf_section.setVisible("psf" in self.extra_inputs.combos)
        inputs = TASKS[self.task].spec.inputs
        self.camera_maps.setVisible(any(item.is_detector_map for item in inputs))
        always_visible = (
            self.image_chooser,
            self.extra_inputs,
            self.form.basic_page,
            self.network_start,
            self.plan_label,
            self.run_bar,
            self.result_view.card,
        )
        sections = (
            self.crop_preview,
            self.result_view.profile,
            self.psf_section,
            self.noise_section,
            self.settings_section,
            self.camera_maps,
            self.repeat_section,
        )
        extra_layers, comparison = self.result_view.extra_layer_chooser, self.result_view.comparison
        details, plot = self.result_view.card.details_section, self.validation_curve
        scrolled = (details, self.history, plot, plot.hint_label, extra_layers, *sections)
        visible = (self.interrupted_runs, *always_visible, comparison)
        lay_out(self, visible, scrolled, f"tasks/{self.task}.md")


def _describe_crop_preview(name: str, remaining_count: int) -> str:
    """Return the name of the crop preview that runs, and how many follow; "" for other runs."""
    if not name:
        return ""
    remaining = f", {remaining_count} more to follow" if remaining_count else ""
    return f"{name[:1].upper()}{name[1:]}{remaining}. "


@cache
def make_dock_class(task: str) -> type[TaskDock]:
    """Return the dock class of a task.

    It is a class and no function, so that napari passes its viewer to it.

    Parameters
    ----------
    task : str
        Key in `TASKS`.
    """
    task_class = TASKS[task]
    name = f"{task_class.__name__}Dock"
    return type(
        name, (TaskDock,), {"task": task, "__doc__": task_class.__doc__, "__module__": __name__}
    )


def __getattr__(name: str) -> Any:
    """Return the dock class for the name of a task in `napari.yaml`."""
    task = name.replace("_", "-")
    if task not in TASKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return make_dock_class(task)


DenoiseDock: type[TaskDock] = make_dock_class("denoise")
