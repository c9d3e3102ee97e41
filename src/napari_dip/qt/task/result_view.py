"""The view of a result: its card, fading, and extra layers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from napari.layers import Image
from napari.utils import Colormap
from qtpy.QtCore import QEvent, QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QPushButton, QSlider, QStyle, QWidget

from napari_dip.pipeline.assess.card import VERDICT_COLOURS, make_card
from napari_dip.qt.shell.background_call import try_call
from napari_dip.qt.shell.dock_plots import LayerPair, ProfileSection
from napari_dip.qt.shell.dock_widget import (
    DOCK_TEXTS,
    CollapsibleSection,
    Connections,
    fill_grid,
    guard_wheel,
    make_button,
    make_single_shot_timer,
    preserve_view,
    require,
)
from napari_dip.qt.shell.layer_headers import read_layer_provenance
from napari_dip.qt.shell.napari_layers import (
    PLACEMENT_KEYS,
    SEE_THROUGH,
    add_provenance,
    adjust_contrast_limits,
    compute_value_range,
    is_kept_image,
    measure_clipped_fractions,
    read_source_input,
)
from napari_dip.qt.shell.preferences import read_preferences
from napari_dip.qt.shell.run_bar import make_message_label
from napari_dip.qt.task.crop_preview_section import SwipeLine
from napari_dip.qt.task.result_export import SaveMenu
from napari_dip.qt.task.run_request import PendingResult, describe_region, find_source_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from napari.viewer import Viewer
    from qtpy.QtGui import QResizeEvent

    from napari_dip.errors.notes import Note
    from napari_dip.io import Float32Array
    from napari_dip.pipeline.assess.card import ResultCard
    from napari_dip.pipeline.restoration import Restoration
    from napari_dip.qt.shell.job_controller import ResultTarget

#: Largest number of lines above the details: in a dock of 310 pixels all of them took twelve.
_MAX_CARD_LINES = 8
#: Largest number of figures among the lines above the details: the error and the confirmed detail
#: rank first.
_MAX_CARD_FIGURES = 2
_FIRST_FIGURES = ("noise", "detail", "agreement")
_DETAILS_TITLE = "Details of the result"
#: Events that change how many lines a text takes.
_FONT_EVENTS = (QEvent.Type.StyleChange, QEvent.Type.FontChange)

#: Extra layers by attribute of `Restoration`: label and tooltip.
EXTRA_LAYERS = {
    "uncertainty": ("Uncertainty", DOCK_TEXTS["result-uncertainty"]),
    "residual": ("Residual", DOCK_TEXTS["result-residual"]),
}
#: Layers that a result has only if it was checked by halves or by a null control, and which come
#: without a tick: names by name of the output.
REPEATABILITY_LAYERS = {"repeated": "what repeats", "null_image": "null control"}
#: Percentile of the absolute values that sets the contrast limits, so that single outliers do not
#: reduce the contrast of all other pixels.
_CONTRAST_PERCENTILE = 99.5
#: Blue below zero and orange above, as in the loss plot, both of the same lightness. The name is
#: short: napari's layer controls are as wide as the longest, 61 pixels more with 30 letters.
_DIVERGING_COLORMAP = Colormap(
    [[0.0, 0.45, 0.85], [0.5, 0.5, 0.5], [0.9, 0.55, 0.0]], name="blue to orange"
)
#: Orange over what did not come again, and nothing over what did.
_REPEAT_COLORMAP = Colormap(
    [[0.9, 0.4, 0.0, 0.8], [0.9, 0.55, 0.0, 0.5], [0.9, 0.6, 0.0, 0.0], [0.9, 0.6, 0.0, 0.0]],
    controls=[0.0, 0.4, 0.7, 1.0],
    name="not repeated",
)


def add_extra_layer(
    viewer: Viewer, kind: str, target: ResultTarget, result: Restoration, name: str = ""
) -> Image | None:
    """Add an extra layer, hidden at first; return None if it would show nothing.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    kind : str
        Key of `EXTRA_LAYERS` or `REPEATABILITY_LAYERS`. The residual is placed where the input
        lies, others like the result. It is 0 where the result keeps all measured pixels.
    target : ResultTarget
    result : Restoration
    name : str
        The result's layer, with which the name begins; "" for what the target begins with.
    """
    pixels = getattr(result, "repeat_map" if kind == "repeated" else kind)
    if pixels is None or (kind == "residual" and not pixels.any()):
        return None
    attributes = target.input_layer_attributes if kind == "residual" else target.layer_attributes
    pixels = _reduce_rgb(pixels) if attributes.get("rgb") else pixels
    limits, colours = _choose_contrast(kind, pixels, target, result)
    with preserve_view(viewer):
        return viewer.add_image(
            pixels,
            name=f"{name or target.base_name} {REPEATABILITY_LAYERS.get(kind, kind)}",
            **{key: attributes[key] for key in PLACEMENT_KEYS if key in attributes},
            colormap=colours,
            contrast_limits=limits,
            blending="translucent_no_depth",
            visible=False,  # it would cover the result
            metadata=add_provenance(attributes, target.name, result, kind),
        )


def _choose_contrast(
    kind: str, pixels: Float32Array, target: ResultTarget, result: Restoration
) -> tuple[tuple[float, float], str | Colormap]:
    """Return contrast limits and colours of an extra layer."""
    if kind == "repeated":
        return (0.0, 1.0), _REPEAT_COLORMAP
    if kind == "null_image":  # as the result, so that both can be compared
        value_range = compute_value_range(result.image, measure_clipped_fractions(target))
        limits = adjust_contrast_limits(target.layer_attributes, value_range).get("contrast_limits")
        return limits or (value_range.low, value_range.high), "gray"
    magnitudes = np.abs(pixels)
    percentile = float(np.percentile(magnitudes, _CONTRAST_PERCENTILE))
    limit = percentile or float(magnitudes.max()) or 1.0
    if kind == "uncertainty":
        return (0.0, limit), "magma"
    return (-limit, limit), _DIVERGING_COLORMAP


def _reduce_rgb(pixels: Float32Array) -> Float32Array:
    """Return the signed root mean square over RGB, because napari shows no negative colours."""
    magnitudes = np.sqrt((pixels.astype(np.float64) ** 2).mean(-1))
    return np.asarray(magnitudes * np.sign(pixels.mean(-1)), np.float32)


class ResultView:
    """The widgets to inspect the latest result of a dock.

    Parameters
    ----------
    viewer : napari.viewer.Viewer

    Attributes
    ----------
    extra_layer_chooser : ExtraLayerChooser
    comparison : ComparisonSlider
    profile : ProfileSection
    card : ResultCardView
    save_menu : SaveMenu
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._pending_result: tuple[PendingResult, ref[Image]] | None = None  # with its layer
        self._added_kinds: set[str] = set()
        self.extra_layer_chooser: ExtraLayerChooser = ExtraLayerChooser()
        self.comparison: ComparisonSlider = ComparisonSlider(viewer)
        self.profile: ProfileSection = ProfileSection(viewer)
        self.get_result_layer: Callable[[], Image | None] = lambda: None
        self._name_suffix: str = ""
        self._selection_note: str = ""
        self.save_menu: SaveMenu = SaveMenu(viewer, self.profile, lambda: self.get_result_layer())
        self.card: ResultCardView = ResultCardView(self.save_menu)
        Connections(self.card).connect(self._on_removed, viewer.layers.events.removed)
        self.extra_layer_chooser.changed.connect(self._add_checked_layers)
        self.comparison.ended.connect(self._release_images)

    def show(
        self, pending: PendingResult, layer_name: str, *, has_extra_layers: bool = True
    ) -> str:
        """Compare a new result with its input and add its extra layers; return a message."""
        result_layer = self._viewer.layers[layer_name]
        source_layer = pending.target.get_source_layer()
        if source_layer is not None and source_layer in self._viewer.layers:
            self.comparison.show_pair(source_layer, result_layer)
            self.profile.show_pair(source_layer, result_layer)
        self._pending_result, self._added_kinds = (pending, ref(result_layer)), set()
        self._show_card(result_layer, pending.result.report, pending.target.plan_notes)
        return self._add_checked_layers() if has_extra_layers else ""

    def show_layer(self, layer: Image, provenance: Mapping[str, Any]) -> None:
        """Show the card of an earlier result, such as one that was opened from a file.

        Parameters
        ----------
        layer : Image
        provenance : mapping
            By `napari_dip.qt.task.run_request.read_result_provenance`.
        """
        if layer is self.get_result_layer() and not self.card.isHidden():
            return
        self._show_card(layer, provenance["report"])
        source_layer = find_source_layer(self._viewer, provenance)
        if source_layer is not None:
            self.profile.show_pair(source_layer, layer)
            if self.comparison.isHidden():
                self.comparison.show_pair(source_layer, layer)

    def _show_card(
        self, layer: Image, report: Mapping[str, Any], hidden_notes: Iterable[Note] = ()
    ) -> None:
        """Show the card of a result with its name, and of a region with its place."""
        if (previous_layer := self.get_result_layer()) is not None:
            previous_layer.events.name.disconnect(self._show_name)
        self.get_result_layer, region = ref(layer), describe_region(report)
        self._name_suffix = f", only {region}" if region else ""
        layer.events.name.connect(self._show_name)
        self._show_name()
        self.card.show_card(make_card(report), hidden_notes)

    def _show_name(self, _: object = None) -> None:
        """Show the name of the result, also after it was changed in the layer list."""
        if (layer := self.get_result_layer()) is not None:
            text = f"{layer.name}{self._name_suffix}{self._selection_note}"
            self.card.name_label.setText(text)

    def note_selection(self, layer: Any) -> None:
        """Say below the name of the result if a kept image is selected instead, if any layer is."""
        is_kept = layer is not None and is_kept_image(layer)
        self._selection_note = "\n" + DOCK_TEXTS["kept-no-card"] if is_kept else ""
        self._show_name()

    def begin_run(self) -> None:
        """End the comparison, and hide the card of the last result."""
        self.comparison.end_comparison()
        self.card.setVisible(False)

    def _on_removed(self, _: object = None) -> None:
        """Hide the card of a result that is no longer there."""
        if self.get_result_layer() not in self._viewer.layers:
            self.card.setVisible(False)

    def _release_images(self) -> None:
        """Release the result, whose extra layers can then no longer be added."""
        self._pending_result = None

    def _add_checked_layers(self) -> str:
        """Add the checked extra layers that are missing; return a message."""
        if self._pending_result is None:
            return ""
        pending, get_layer = self._pending_result
        base_name = getattr(None if pending.target.whole else get_layer(), "name", "")
        names, messages = list[str](), list[str]()
        for kind in (*self.extra_layer_chooser.checked_layers, *REPEATABILITY_LAYERS):
            if kind in self._added_kinds:
                continue
            self._added_kinds.add(kind)
            add = partial(add_extra_layer, self._viewer, kind, pending.target, pending.result)
            layer, error = try_call(partial(add, base_name), f"The {kind} could not be added")
            names += [] if layer is None else [f"'{layer.name}'"]
            messages.append(error)
        hint = DOCK_TEXTS["result-hidden-layers" if len(names) > 1 else "result-hidden-layer"]
        return " ".join(filter(None, [hint.format(" and ".join(names)) * bool(names), *messages]))


class ResultCardView(QWidget):
    """The card of the latest result, hidden while there is none.

    Parameters
    ----------
    save_menu : SaveMenu
        Shown beside the name.

    Attributes
    ----------
    details_section : CollapsibleSection
        For the scrolled part of the dock: above it, unfolding would make napari's window taller.
    """

    def __init__(self, save_menu: SaveMenu) -> None:
        super().__init__()
        self.name_label: QLabel = make_message_label()
        self.headline: QLabel = make_message_label()
        self.warning_label: QLabel = make_message_label()
        self.figure_label: QLabel = make_message_label()
        self.figure_label.setToolTip(DOCK_TEXTS["result-figures-tooltip"])
        self.detail_label: QLabel = make_message_label()
        self.detail_label.setAlignment(Qt.AlignmentFlag.AlignTop)
        self._card: ResultCard | None = None
        self._hidden_notes: set[Note] = set()
        self._shared_width = 0
        # not at once: Qt forgets a change of size that comes amid a layout
        self._share_timer = make_single_shot_timer(self, self._share_lines)
        page = QWidget()
        fill_grid(page, ([self.detail_label],))
        self.details_section: CollapsibleSection = CollapsibleSection(_DETAILS_TITLE, page)
        rows = [[label] for label in (self.headline, self.warning_label, self.figure_label)]
        fill_grid(self, ([self.name_label, save_menu], *rows), spacing=4).setColumnStretch(0, 1)
        self.setVisible(False)

    def show_card(self, card: ResultCard, hidden_notes: Iterable[Note] = ()) -> None:
        """Show a card.

        Parameters
        ----------
        card : ResultCard
        hidden_notes : iterable of Note
            Details that the plan above shows already.
        """
        self._card, self._hidden_notes = card, set(hidden_notes)
        self.headline.setText(card.headline)
        self.headline.setStyleSheet(
            "QLabel { font-weight: bold; padding-left: 6px; "
            f"border-left: 4px solid {VERDICT_COLOURS[card.verdict]}; }}"
        )
        self._share_lines()
        self.setVisible(True)

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Share the lines anew: sentences take more of them in a narrow dock."""
        super().resizeEvent(event)
        # a scroll bar that comes or goes must not bring sentences that make it go or come
        if abs(self.width() - self._shared_width) > self._bar_width:
            self._share_timer.start()

    def changeEvent(self, event: QEvent | None) -> None:
        """Share the lines anew in the font of a new theme."""
        super().changeEvent(event)
        if event is not None and event.type() in _FONT_EVENTS:
            self._share_timer.start()

    @property
    def _bar_width(self) -> int:
        return require(self.style()).pixelMetric(QStyle.PixelMetric.PM_ScrollBarExtent)

    def _share_lines(self) -> None:
        """Show as many whole warnings and figures as there are lines, and the rest as details."""
        if (card := self._card) is None:
            return
        self._shared_width = self.width()
        width = self.width() - self._bar_width
        lines_left = _MAX_CARD_LINES - _count_lines(self.headline, width)
        name_width = self.name_label.width() - self._bar_width
        lines_left -= max(1, _count_lines(self.name_label, name_width))  # beside Save
        figures = sorted(card.figures, key=lambda figure: figure.name not in _FIRST_FIGURES)
        warnings = [f"⚠ {warning}" for warning in card.warnings]
        findings = [*card.findings, *figures[:_MAX_CARD_FIGURES]]
        # the worst warning is always shown, whole, even where it takes a line too many
        least = min(len(warnings), 1)
        visible = _show_fitting_lines(self.warning_label, warnings, width, lines_left, least)
        lines_left -= _count_lines(self.warning_label, width)
        notes = [note for note in card.details if note not in self._hidden_notes]
        alert_count = sum(note in card.all_warnings for note in notes)  # they come first
        rest = warnings[visible:] + [f"⚠ {note}" for note in notes[:alert_count]]
        count = len(rest)
        visible = _show_fitting_lines(self.figure_label, findings, width, lines_left)
        hidden = [*findings[visible:], *figures[_MAX_CARD_FIGURES:], *notes[alert_count:]]
        rest += [f"• {item}" for item in sorted(hidden, key=lambda item: item not in figures)]
        self.detail_label.setText("\n".join(rest))
        more = f" ({count} more warning{'s' * (count > 1)})" * bool(count)
        self.details_section.set_title(f"{_DETAILS_TITLE}{more}")
        self.details_section.setVisible(not self.isHidden() and bool(rest))

    def setVisible(self, visible: bool) -> None:
        """Show or hide the card with its details, if it has any."""
        super().setVisible(visible)
        self.details_section.setVisible(visible and bool(self.detail_label.text()))


def _show_fitting_lines(
    label: QLabel, lines: Sequence[object], width: int, max_lines: int, least: int = 0
) -> int:
    """Show the first of some lines that fit whole at a width, or the least; return their number."""
    for count in range(len(lines), least - 1, -1):
        label.setText("\n".join(map(str, lines[:count])))
        if _count_lines(label, width) <= max_lines:
            break
    label.setVisible(bool(label.text()))
    return count


def _count_lines(label: QLabel, width: int) -> int:
    """Return how many lines a text takes at a width, in pixels."""
    if not label.text():
        return 0
    return round(label.heightForWidth(width) / label.fontMetrics().lineSpacing())


class ExtraLayerChooser(QWidget):
    """Check boxes for the extra layers of a result, saved in napari's preferences."""

    changed: Signal = Signal()

    def __init__(self) -> None:
        super().__init__()
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)  # else a scroll bar would cut the last word off
        layout.addWidget(QLabel("Extra layers"))
        self.boxes: dict[str, QCheckBox] = {
            name: QCheckBox(label) for name, (label, _) in EXTRA_LAYERS.items()
        }
        preferences = read_preferences("layers")
        for name, box in self.boxes.items():
            box.setToolTip(f"<qt>{EXTRA_LAYERS[name][1]}</qt>")
            box.setChecked(bool(getattr(preferences, name, False)))
            box.toggled.connect(self._on_toggle)
            layout.addWidget(box)
        layout.addStretch()

    @property
    def checked_layers(self) -> tuple[str, ...]:
        """Checked keys of `EXTRA_LAYERS`."""
        return tuple(name for name, box in self.boxes.items() if box.isChecked())

    def _on_toggle(self) -> None:
        preferences = read_preferences("layers")
        for name, box in self.boxes.items():
            if hasattr(preferences, name):
                setattr(preferences, name, box.isChecked())
        self.changed.emit()


class ComparisonSlider(QWidget):
    """A slider that fades between input and result, visible while both layers exist.

    The opacities are restored at its end, and while the result is hidden or napari's grid is open.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    ended: Signal = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._pair = LayerPair(viewer)
        self._initial_opacities: tuple[float, float] = (1.0, 1.0)
        self._applied_opacities: tuple[float, float] | None = None
        self._present_opacities: tuple[float, float] = (1.0, 1.0)  # one of the two
        self.slider: QSlider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, 100)
        self.slider.setPageStep(25)
        self.slider.setAccessibleName("Input or result")
        guard_wheel(self.slider)
        self.setToolTip(DOCK_TEXTS["result-fade"])
        self.swipe_button: QPushButton = make_button("Swipe", DOCK_TEXTS["result-swipe-tooltip"])
        self.swipe_button.setCheckable(True)
        row = [QLabel("Input"), self.slider, QLabel("Result"), self.swipe_button]
        fill_grid(self, (row,)).setColumnStretch(1, 1)
        self._swipe_line = SwipeLine(viewer)
        self.swipe_button.toggled.connect(self._on_swipe)
        self.setVisible(False)
        self.slider.valueChanged.connect(self._on_move)
        connections = Connections(self)
        connections.connect(self._on_removed, viewer.layers.events.removed)
        connections.connect(self._on_inserted, viewer.layers.events.inserted)
        connections.connect(self._follow_view, viewer.canvas.grid.events.enabled)

    def show_pair(self, input_layer: Image, result_layer: Image) -> None:
        """Begin the comparison of an input with its result."""
        self.end_comparison()
        self._pair = LayerPair(self._viewer, input_layer, result_layer)
        is_see_through = result_layer.blending in SEE_THROUGH
        if is_see_through:  # also an earlier result of another dock, which has faded the input
            self._hide_layers_between(input_layer, result_layer)
        self._initial_opacities = input_layer.opacity, result_layer.opacity
        result_layer.events.visible.connect(self._follow_view)
        with QSignalBlocker(self.slider):
            self.slider.setValue(100)
        self.setVisible(True)
        if is_see_through:
            self._on_move(100)  # else the input would shine through, and both add up

    def switch(self) -> None:
        """Fade to the input, or back to the result."""
        if not self.isHidden():
            self.slider.setValue(0 if self.slider.value() > 50 else 100)

    def end_comparison(self) -> None:
        """End the comparison and restore both opacities.

        An input that would add up with its result is hidden then, as its eye shows.
        """
        self.swipe_button.setChecked(False)
        input_layer, result_layer = self._pair.get()
        if result_layer is not None:
            result_layer.events.visible.disconnect(self._follow_view)
        if self._applied_opacities is not None:
            self._set_opacities(self._initial_opacities)
            if input_layer is not None and result_layer is not None and result_layer.visible:
                if result_layer.blending in SEE_THROUGH and self.slider.value() == 100:
                    input_layer.visible = False
        self._pair, self._applied_opacities = LayerPair(self._viewer), None
        self.setVisible(False)
        self.ended.emit()

    def _follow_view(self, _: object = None) -> None:
        """Fade the layers only while the result is visible in the place of its input."""
        if self._applied_opacities is not None and (result := self._pair.get()[1]) is not None:
            is_together = result.visible and not self._viewer.canvas.grid.enabled
            self._set_opacities(self._applied_opacities if is_together else self._initial_opacities)

    def _set_opacities(self, opacities: tuple[float, float]) -> None:
        """Set the opacities of both layers, unless the user has chosen others since."""
        changes = zip(self._present_opacities, opacities, strict=True)
        for layer, (present, opacity) in zip(self._pair.get(), changes, strict=True):
            if layer is not None and layer.opacity == present:
                layer.opacity = opacity
        self._present_opacities = opacities

    def _on_inserted(self, event: Any) -> None:
        """Show a duplicate of the input, which has its opacity."""
        input_layer = self._pair.get()[0]
        if input_layer is not None and event.value.source.parent == ref(input_layer):
            event.value.opacity = self._initial_opacities[0]

    def _on_swipe(self, is_checked: bool) -> None:
        if is_checked and None not in self._pair.get():
            self.slider.setValue(100)
            self._swipe_line.show(self._list_inputs_in_sight())
        else:
            self._swipe_line.hide()

    def _list_inputs_in_sight(self) -> list[tuple[Image, float]]:
        """Return the input of each image in sight, or the image itself, with its opacity."""
        input_layer, result_layer = self._pair.get()
        inputs: dict[Any, float] = {}
        for layer in reversed(self._viewer.layers):
            if not isinstance(layer, Image) or not layer.visible or not layer.opacity:
                continue
            provenance = read_layer_provenance(layer)
            source = input_layer if layer is result_layer else None
            if source is None and "report" in provenance:
                source = find_source_layer(self._viewer, provenance)
            is_pair = source is input_layer
            source = layer if source is None else source
            inputs[source] = self._initial_opacities[0] if is_pair else source.opacity
            if layer.blending not in SEE_THROUGH:  # covers the others
                break
        return list(inputs.items())[::-1]

    def _on_removed(self, _: object = None) -> None:
        if not self.isHidden() and None in self._pair.get():
            self.end_comparison()

    def _on_move(self, value: int) -> None:
        source_layer, result_layer = self._pair.get()
        if source_layer is None or result_layer is None:
            return
        fraction = value / 100
        self._raise_covered_layers(source_layer, result_layer)
        source_layer.visible = result_layer.visible = True
        self._hide_layers_between(source_layer, result_layer)
        source_opacity = self._initial_opacities[0]
        result_opacity = self._initial_opacities[1] * fraction
        # such an upper layer does not cover the lower one
        if result_layer.blending in SEE_THROUGH:
            source_opacity *= 1 - fraction
        # the user has swapped the layers
        elif self._get_layer_index(source_layer) > self._get_layer_index(result_layer):
            source_opacity = source_opacity * (1 - fraction)
            result_opacity = self._initial_opacities[1]
        elif result_layer.blending == "opaque":
            result_layer.blending = "translucent_no_depth"
        source_layer.opacity, result_layer.opacity = source_opacity, result_opacity
        self._applied_opacities = source_layer.opacity, result_layer.opacity
        self._present_opacities = self._applied_opacities

    def _raise_covered_layers(self, *pair: Image) -> None:
        """Move input and result to the top if another image covers them; they keep their order."""
        layers = self._viewer.layers
        lower, upper = sorted(pair, key=self._get_layer_index)
        if any(
            isinstance(layer, Image) and layer.visible and layer.blending not in SEE_THROUGH
            for layer in list(layers)[self._get_layer_index(upper) + 1 :]
        ):
            with preserve_view(self._viewer):
                for layer in (lower, upper):
                    layers.move(self._get_layer_index(layer), len(layers))

    def _hide_layers_between(self, input_layer: Image, result_layer: Image) -> None:
        """Hide other results of the same input between the two layers."""
        first, last = sorted(map(self._get_layer_index, (input_layer, result_layer)))
        for layer in list(self._viewer.layers)[first + 1 : last]:
            if layer.visible and read_source_input(layer) is not None:
                layer.visible = read_source_input(layer) != read_source_input(result_layer)

    def _get_layer_index(self, layer: Image) -> int:
        return int(self._viewer.layers.index(layer))
