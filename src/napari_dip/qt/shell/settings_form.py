"""The settings form: each `Setting` of a task becomes a widget, and the form becomes a recipe."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from magicgui.widgets import create_widget
from psygnal import Signal
from qtpy.QtCore import QEvent, QObject, QSignalBlocker, Qt
from qtpy.QtGui import QAction, QHelpEvent, QIcon, QPalette
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QLabel,
    QLineEdit,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QToolTip,
    QWidget,
)

from napari_dip.errors import RefusedError, make_refusal
from napari_dip.pipeline.recipe import Recipe, RunSettings, list_settings, make_recipe
from napari_dip.qt.shell.background_call import SuggestionMenu
from napari_dip.qt.shell.dock_widget import COLOUR_EVENTS, guard_wheel, make_form, require
from napari_dip.qt.shell.run_bar import make_icon
from napari_dip.tasks.base import EXTRA_INPUTS, IMAGE_AXES, UNSIZED_AXES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from magicgui.widgets.bases import ValueWidget

    from napari_dip.pipeline.recipe import SettingField
    from napari_dip.tasks.base import Setting

#: Decimal places of a number field whose setting has no step.
_DECIMALS = 4
#: Smallest number of visible characters of lists of choices: fits beside the longest label.
_MIN_COMBO_LENGTH = 4
#: Number of choices of a list from which on it stands last in its form: it is rarely used.
_LONG_LIST = 12
#: Settings that are shown next to the measured noise, and those of them that tasks with a noise
#: section have and that can be measured.
NOISE_FIELDS = ("noise", "read_noise", "gain", "blind_spot_shape")
MEASURED_FIELDS = ("gain", "read_noise")


def add_path_button(edit: QLineEdit, label: str, file_filter: str = "") -> None:
    """Add a button to a line edit that opens a file or folder dialogue.

    Parameters
    ----------
    edit : QLineEdit
    label : str
        Title of the dialogue.
    file_filter : str
        Filter of files in Qt's syntax: "Networks (*.pt2)"; "": a folder is chosen.
    """

    def choose() -> None:
        if file_filter:
            path, _ = QFileDialog.getOpenFileName(edit, label, "", file_filter)
        else:
            path = QFileDialog.getExistingDirectory(edit, label, edit.text())
        if path:
            edit.setText(path)

    tooltip = "Open a file" if file_filter else "Choose a folder"
    _add_edit_button(edit, "folder", tooltip, choose)


class _EditIcon(QObject):
    """Event filter that draws an icon in the colour of the text: Qt's own do not fit the themes."""

    def __init__(self, edit: QLineEdit, action: QAction, name: str) -> None:
        super().__init__(edit)
        self._line_edit, self._action, self._name = edit, action, name
        self._draw()
        edit.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Draw the icon again after a change of the theme."""
        if event is not None and event.type() in COLOUR_EVENTS:
            self._draw()
        return False

    def _draw(self) -> None:
        palette = self._line_edit.palette()
        colour = palette.color(QPalette.ColorGroup.Active, QPalette.ColorRole.Text).name()
        self._action.setIcon(make_icon(self._name, colour))


def _add_edit_button(edit: QLineEdit, icon: str, tooltip: str, press: Callable[[], object]) -> None:
    action = require(edit.addAction(QIcon(), QLineEdit.ActionPosition.TrailingPosition))
    _EditIcon(edit, action, icon)
    action.setToolTip(tooltip)
    action.triggered.connect(lambda _=False: press())


class SettingsForm:
    """The widgets for the settings of a task.

    Parameters
    ----------
    task : str
        Key in `TASKS`.

    Attributes
    ----------
    basic_page, advanced_page, noise_page : QWidget
        Pages for the basic settings, the advanced ones, and those of the noise.
    has_noise_settings : bool
        Whether the task has the settings of the noise model.
    changed : signal
        Emitted when a setting has changed.
    """

    changed: Signal = Signal()

    def __init__(self, task: str) -> None:
        self.task = task
        self._fields = dict(
            sorted(list_settings(task).items(), key=lambda item: len(item[1].choices) >= _LONG_LIST)
        )
        self._image_facts: dict[str, Collection[str]] = dict.fromkeys(
            (IMAGE_AXES, EXTRA_INPUTS, UNSIZED_AXES), ""
        )
        self.widgets: dict[str, ValueWidget[Any]] = {
            name: make_field_widget(field) for name, field in self._fields.items()
        }
        self.suggestion_menus: dict[str, SuggestionMenu] = {}
        for name, field in self._fields.items():
            if suggest := field.setting.list_suggestions:
                edit = self.widgets[name].native
                menu = SuggestionMenu(edit, name, suggest, lambda: self.build_recipe().task)
                _add_edit_button(edit, "choices", "Show the choices", menu.open_menu)
                self.suggestion_menus[name] = menu
        for widget in self.widgets.values():
            widget.changed.connect(self._notify)
        self.has_noise_settings: bool = set(MEASURED_FIELDS) <= set(self._fields)
        noise_fields = NOISE_FIELDS if self.has_noise_settings else ()
        rest = [field for field in self._fields.values() if field.name not in noise_fields]
        noise = [self._fields[name] for name in noise_fields if name in self._fields]
        self.basic_page: QWidget = QWidget()
        self.advanced_page: QWidget = QWidget()
        self.noise_page: QWidget = QWidget()
        context = self._make_context()
        basic = [field for field in rest if not _is_advanced(field.setting, context)]
        fill_form(self.basic_page, self.widgets, basic)
        fill_form(self.advanced_page, self.widgets, [f for f in rest if f not in basic])
        fill_form(self.noise_page, self.widgets, noise)
        self.noise_page.setParent(self.advanced_page)  # an owner for the page until a dock shows it
        self.noise_page.setVisible(False)

    def build_recipe(self) -> Recipe:
        """Return the recipe with the values of the form, without what a hidden condition voids.

        Raises
        ------
        RefusedError
            If a value is not allowed; the message names the setting by its label.
        """
        context = self._make_context()
        values = {
            name: self._read_field(field)
            for name, field in self._fields.items()
            if not field.setting.is_conditional or _is_relevant(field.setting, context)
        }
        try:
            return make_recipe(self.task, **values)
        except RefusedError as error:
            raise RefusedError(self._relabel_error(error)) from None

    def show_recipe(self, recipe: Recipe) -> None:
        """Set all fields to the values of a recipe, and emit `changed` once.

        Parameters
        ----------
        recipe : Recipe
            A recipe of this form's task.
        """
        with self.changed.blocked():
            for name in self._fields:
                source = recipe.run_settings if name in RunSettings.model_fields else recipe.task
                self._write_field(name, getattr(source, name))
        self.changed.emit()

    def show_relevant(
        self, axes: str, extra_inputs: Collection[str], unsized_axes: str = ""
    ) -> None:
        """Show the settings that can matter or were changed, and hide the others.

        A changed setting that is conditional is hidden as well where it does not matter.

        Parameters
        ----------
        axes : str
            Axes of the image with more than one pixel.
        extra_inputs : collection of str
            Names of the extra inputs that are chosen.
        unsized_axes : str
            Axes of which the image states no pixel size.
        """
        self._image_facts = {
            IMAGE_AXES: axes,
            EXTRA_INPUTS: extra_inputs,
            UNSIZED_AXES: unsized_axes,
        }
        context = self._make_context()
        for name, field in self._fields.items():
            default = "" if field.default is None else field.default
            is_changed = self.widgets[name].value != default
            is_kept = is_changed and not field.setting.is_conditional
            is_visible = is_kept or _is_relevant(field.setting, context)
            if (is_required := field.setting.is_required) is not None:
                is_advanced = _is_advanced(field.setting, context)
                self._move_row(name, self.advanced_page if is_advanced else self.basic_page)
                placeholder = "needed" if is_required(context) else format_placeholder(field)
                self.widgets[name].native.setPlaceholderText(placeholder)
            native = self.widgets[name].native
            label = native.parentWidget().layout().labelForField(native)
            for widget in filter(None, (native, label)):
                widget.setVisible(is_visible)

    def _make_context(self) -> dict[str, Any]:
        values = {name: widget.value for name, widget in self.widgets.items()}
        return {**values, **self._image_facts}

    def _move_row(self, name: str, page: QWidget) -> None:
        """Move a field and its label to a page, between the fields before and after it."""
        native = self.widgets[name].native
        old_page = native.parentWidget()
        if old_page is page:
            return
        label = old_page.layout().labelForField(native)
        old_page.layout().takeRow(native)
        preceding = list(self._fields)[: list(self._fields).index(name)]
        row = sum(self.widgets[other].native.parentWidget() is page for other in preceding)
        layout = page.layout()
        assert isinstance(layout, QFormLayout)  # by `fill_form`
        layout.insertRow(row, label, native)

    def _write_field(self, name: str, value: Any) -> None:
        widget = self.widgets[name]
        if self._fields[name].is_optional:
            widget.value = "" if value is None else str(value)
            return
        if isinstance(value, float):  # a rounded value would change the result
            digits = -int(Decimal(repr(value)).normalize().as_tuple().exponent)
            widget.native.setDecimals(max(widget.native.decimals(), digits))
        widget.value = value

    def _read_field(self, field: SettingField) -> Any:
        widget = self.widgets[field.name]
        if field.is_optional:
            return self.read_number(field.name, str(widget.value))
        is_empty = isinstance(widget.native, QLineEdit) and not widget.value.strip()
        return field.default if is_empty else widget.value

    def read_number(self, name: str, typed: str) -> float | None:
        """Return a number as the field of that setting takes it, or raise `RefusedError`."""
        field, text = self._fields[name], typed.strip().replace(",", ".")
        if not text:
            return None
        try:
            number = field.number_type(text)
        except ValueError:
            number_kind = "a whole number" if field.number_type is int else "a number"
            raise RefusedError(
                _make_value_refusal(field, typed.strip(), f"it is not {number_kind}")
            ) from None
        minimum, maximum = field.limits
        if (minimum is not None and number < minimum) or (maximum is not None and number > maximum):
            reason = f"it should lie between {minimum:,g} and {maximum:,g}"
            raise RefusedError(_make_value_refusal(field, text, reason))
        return number

    def _relabel_error(self, error: RefusedError) -> Any:
        original = error.reason
        facts = dict(original.facts)
        if field := self._fields.get(str(facts.get("field"))):
            facts["field"] = field.setting.label
            if field.is_optional and "value" in facts:  # as typed: 0, not 0.0
                facts["value"] = repr(str(self.widgets[field.name].value).strip())
        if original.code == "setting-wrong":  # a form has all fields, but they may be empty
            facts["hint"] = "Leave it empty to use the default."
        return replace(original, facts=facts)

    def show_measured_values(self, figures: Mapping[str, str]) -> None:
        """Show measured values as placeholders of the empty fields, else the usual placeholder."""
        for name in MEASURED_FIELDS:
            if name in self.widgets:
                placeholder = figures.get(name) or format_placeholder(self._fields[name])
                self.widgets[name].native.setPlaceholderText(placeholder)

    def _notify(self, _: object = None) -> None:
        self.changed.emit()


def make_line_edit(name: str, tooltip: str, placeholder: str) -> QLineEdit:
    """Return a text field with a name for screen readers and a text for the empty field."""
    edit = QLineEdit()
    edit.setAccessibleName(name)
    edit.setPlaceholderText(placeholder)
    edit.setToolTip(f"<qt>{tooltip}</qt>")
    return edit


def make_combo(
    name: str,
    tooltip: str = "",
    choices: Mapping[str, str] | None = None,
    *,
    length: int | None = None,
) -> QComboBox:
    """Return a list of choices, which a long entry does not widen.

    Parameters
    ----------
    name : str
        Name for screen readers.
    tooltip : str
        The tooltip.
    choices : mapping of str to str, optional
        Labels of the entries by their values.
    length : int, optional
        Smallest number of visible characters.
    """
    combo = style_combo(QComboBox(), name, tooltip, length=length)
    for value, label in (choices or {}).items():
        combo.addItem(label, value)
    return combo


class ComboElision(QObject):
    """Event filter for lists whose entries may be too long; Qt cuts those off.

    An ellipsis stands in the middle: names of layers differ at their ends. The tooltip has all.
    """

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Draw the list as Qt does, but for the length of the text, and complete its tooltip."""
        is_paint = event is not None and event.type() == QEvent.Type.Paint
        if isinstance(watched, QLineEdit):
            return is_paint and not watched.hasFocus() and _draw_elided(watched)
        is_tooltip = isinstance(event, QHelpEvent)
        if not isinstance(watched, QComboBox) or not (is_paint or is_tooltip):
            return False
        option = QStyleOptionComboBox()
        watched.initStyleOption(option)
        box, field = QStyle.ComplexControl.CC_ComboBox, QStyle.SubControl.SC_ComboBoxEditField
        text_rect = require(watched.style()).subControlRect(box, option, field, watched)
        full, width = watched.currentText() or watched.placeholderText(), text_rect.width() - 2
        middle = Qt.TextElideMode.ElideMiddle
        option.currentText = watched.fontMetrics().elidedText(full, middle, width)
        if isinstance(event, QHelpEvent):
            tooltip = f"<qt><b>{escape(full)}</b><br>{watched.toolTip()}</qt>"
            if is_elided := option.currentText != full:
                QToolTip.showText(event.globalPos(), tooltip, watched)
            return is_elided
        painter = QStylePainter(watched)
        painter.drawComplexControl(box, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
        return True


def _draw_elided(edit: QLineEdit) -> bool:
    """Draw the text of an editable list, if it is too long; return whether it is."""
    rect = edit.rect().adjusted(2, 0, -2, 0)  # Qt's margins
    text = edit.fontMetrics().elidedText(edit.text(), Qt.TextElideMode.ElideRight, rect.width())
    if is_elided := text != edit.text():
        painter = QStylePainter(edit)
        painter.setPen(edit.palette().color(QPalette.ColorRole.Text))
        painter.drawText(rect, Qt.AlignmentFlag.AlignVCenter, text)
    return is_elided


def style_combo(combo: QComboBox, name: str, tooltip: str, *, length: int | None) -> QComboBox:
    """Style a list as `make_combo` does, and return it."""
    combo.installEventFilter(ComboElision(combo))
    require(combo.view()).setTextElideMode(Qt.TextElideMode.ElideMiddle)
    combo.setAccessibleName(name)
    combo.setToolTip(f"<qt>{tooltip}</qt>" if tooltip else "")
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    if length is not None:
        combo.setMinimumContentsLength(length)
    return combo


def make_combo_editable(combo: QComboBox) -> QLineEdit:
    """Let the user type into a list, and return the field of the text.

    A text that is too long ends in an ellipsis while nobody types.
    """
    combo.setEditable(True)
    combo.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
    edit = require(combo.lineEdit())
    edit.installEventFilter(ComboElision(combo))  # whose wrapper in Python stays
    return edit


def fill_combo(
    combo: QComboBox, names: Sequence[str], chosen: str | None, default_index: int = -1
) -> None:
    """Replace the entries of a list and choose one, without a signal.

    Parameters
    ----------
    combo : QComboBox
    names : sequence of str
    chosen : str or None
    default_index : int
        Index of the choice if `chosen` is not among the names.
    """
    with QSignalBlocker(combo):
        combo.clear()
        combo.addItems(names)
        index = combo.findText(chosen) if chosen else -1
        combo.setCurrentIndex(index if index >= 0 else min(default_index, len(names) - 1))


def update_combo(
    combo: QComboBox, names: list[str], new_names: list[str], active: str = ""
) -> None:
    """Fill a list and choose a new name, or else the active layer, or the earlier choice."""
    chosen = active if active in names else combo.currentText()
    added = (name for name in new_names if combo.findText(name) < 0)
    fill_combo(combo, names, next(added, chosen), default_index=0)


def fill_form(
    page: QWidget, widgets: Mapping[str, ValueWidget[Any]], fields: Sequence[SettingField]
) -> QFormLayout:
    """Lay the widgets of settings out on a page, with their labels; return the layout."""
    layout = make_form(page)
    for field in fields:
        widget = widgets[field.name].native
        if isinstance(widget, QCheckBox):  # its label spans the row and narrows no field
            widget.setText(field.setting.label)
            layout.addRow(widget)
            continue
        label = QLabel(field.setting.label)
        label.setToolTip(f"<qt>{field.setting.help}</qt>")  # Qt wraps rich text only
        label.setBuddy(widget)
        layout.addRow(label, widget)
    return layout


def align_forms(*pages: QWidget) -> None:
    """Give the labels of several forms, one below the other, the same width."""
    layouts = [page.layout() for page in pages]
    labels = [
        label
        for layout in layouts
        if isinstance(layout, QFormLayout)
        for row in range(layout.rowCount())
        if (item := layout.itemAt(row, QFormLayout.ItemRole.LabelRole)) is not None
        and (label := item.widget()) is not None
    ]
    width = max((label.sizeHint().width() for label in labels if not label.isHidden()), default=0)
    for label in labels:
        label.setMinimumWidth(width)


def make_field_widget(field: SettingField) -> ValueWidget[Any]:
    """Return the widget of a setting, which the wheel changes only when it has the focus."""
    setting = field.setting
    options: dict[str, Any] = {"tooltip": f"<qt>{setting.help}</qt>"}
    value, annotation = ("", str) if field.is_optional else (field.default, field.annotation)
    literals = get_args(annotation) if get_origin(annotation) is Literal else ()
    if choices := setting.choices or {literal: str(literal) for literal in literals}:
        options["choices"] = [(label, choice) for choice, label in choices.items()]
    elif not field.is_optional:
        minimum, maximum = field.limits
        limits = {"min": minimum, "max": maximum, "step": setting.step}
        options |= {key: limit for key, limit in limits.items() if limit is not None}
    widget = create_widget(value=value, annotation=annotation, options=options)
    if isinstance(widget.native, QComboBox):  # else the longest choice widens the dock too much
        style_combo(widget.native, setting.label, setting.help, length=_MIN_COMBO_LENGTH)
    if hasattr(widget.native, "setDecimals"):
        step = setting.step
        widget.native.setDecimals(len(f"{step:.10g}".partition(".")[2]) if step else _DECIMALS)
    if isinstance(widget.native, QLineEdit):
        is_described = field.is_optional or "Empty:" in setting.help
        placeholder = format_placeholder(field) if is_described else str(field.default)
        widget.native.setPlaceholderText(placeholder)
    if setting.file_filter:
        add_path_button(widget.native, setting.label, setting.file_filter)
    widget.native.setAccessibleName(setting.label)
    guard_wheel(widget.native)
    return widget  # type: ignore[return-value]  # magicgui promises any Widget


def _is_relevant(setting: Setting, context: Mapping[str, Any]) -> bool:
    return setting.relevant_when is None or setting.relevant_when(context)


def _is_advanced(setting: Setting, context: Mapping[str, Any]) -> bool:
    is_required = setting.is_required
    return setting.is_advanced and not (is_required is not None and is_required(context))


def format_placeholder(field: SettingField) -> str:
    """Return the placeholder of an empty field, such as "none", or else "automatic"."""
    help_text = field.setting.help.lower()
    defaults = ("none", "measured", "all", "as the image says")
    return next((word for word in defaults if f"empty: {word}" in help_text), "automatic")


def _make_value_refusal(field: SettingField, value: str, why: str) -> Any:
    has_default = field.setting.is_required is None and format_placeholder(field) != "none"
    return make_refusal(
        "setting-wrong",
        field=field.setting.label,
        value=f"'{value}'",
        why=why,
        hint="Leave it empty for the automatic value." if has_default else "Type another value.",
    )
