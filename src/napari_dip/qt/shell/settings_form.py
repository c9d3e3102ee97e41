"""A form made from the typed fields of a task, and the recipe that it stands for.

Nothing here knows a task: each field that carries a `Setting` becomes one widget.

A line of text that need not be typed: a button in it opens a file, or lists what there is.
"""

from __future__ import annotations

import types
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from magicgui.widgets import create_widget
from psygnal import Signal
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QAction
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QStyle,
    QWidget,
)

from napari_dip.errors import DipError, Refusal, Refused, refusal
from napari_dip.pipeline.recipe import Recipe, RunSettings, make_recipe
from napari_dip.qt.shell.worker import BackgroundCall, catch_errors
from napari_dip.tasks import TASKS, Setting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from magicgui.widgets.bases import ValueWidget

    from napari_dip.qt.shell.worker import Switch
    from napari_dip.tasks import Task

    SuggestionOutcome = tuple[str, ...] | Refusal

#: Widest that an entry of the list may be: a refusal is shown as one.
_FILTER_LETTERS = 90


def add_file_button(line: QLineEdit, label: str, files: str) -> None:
    """Put a button into a line that opens a dialogue for files.

    Parameters
    ----------
    line : QLineEdit
    label : str
        Title of the dialogue.
    files : str
        Filter, as Qt has it: "Networks (*.pt2)".
    """

    def choose() -> None:
        path, _ = QFileDialog.getOpenFileName(line, label, "", files)
        if path:
            line.setText(path)

    _add_line_button(line, QStyle.StandardPixmap.SP_DialogOpenButton, "Open a file", choose)


def add_folder_button(line: QLineEdit, label: str) -> None:
    """Put a button into a line that opens a dialogue for folders."""

    def choose() -> None:
        path = QFileDialog.getExistingDirectory(line, label, line.text())
        if path:
            line.setText(path)

    _add_line_button(line, QStyle.StandardPixmap.SP_DialogOpenButton, "Choose a folder", choose)


class SuggestionMenu(QObject):
    """A button in a line that lists what may stand there, once it has been found out.

    Parameters
    ----------
    line : QLineEdit
        What is chosen is written into it.
    name : str
        Of the setting.
    task : callable
        Gives the task as it is set now; raises `DipError` where it cannot be.
    """

    def __init__(self, line: QLineEdit, name: str, task: Callable[[], Task]) -> None:
        super().__init__(line)
        self._line, self._name, self._task = line, name, task
        self._call: BackgroundCall | None = None
        self.menu = QMenu(line)
        _add_line_button(line, QStyle.StandardPixmap.SP_ArrowDown, "Show what there is", self.ask)

    def ask(self) -> None:
        """Find out what there is; the list opens when the answer comes."""
        if self._call is not None:
            return
        try:
            task = self._task()
        except DipError as error:
            self._show(error.refusal)
            return
        self._call = BackgroundCall(partial(_list_suggestions, task, self._name), self)
        self._call.ended.connect(self._show)
        self._call.start()

    def _show(self, outcome: SuggestionOutcome) -> None:
        self._call = None
        self.menu.clear()
        if isinstance(outcome, Refusal):
            sentence = outcome.sentence
            facts = QAction(
                sentence if len(sentence) <= _FILTER_LETTERS else f"{sentence[:_FILTER_LETTERS]}…",
                self.menu,
            )
            facts.setEnabled(False)
            self.menu.addAction(facts)
        else:
            for item in outcome:
                action = QAction(item, self.menu)
                action.triggered.connect(partial(self._choose, item))
                self.menu.addAction(action)
        self.menu.popup(self._line.mapToGlobal(self._line.rect().bottomLeft()))

    def _choose(self, text: str, _: bool = False) -> None:
        self._line.setText(text)


def _list_suggestions(task: Task, name: str, _: Switch) -> SuggestionOutcome:
    return catch_errors(lambda: task.offers(name), "Listing", name)


def _add_line_button(
    line: QLineEdit, picture: QStyle.StandardPixmap, text: str, pressed: Callable[[], object]
) -> None:
    style = line.style()
    assert style is not None  # a widget of a running application has one
    action = line.addAction(style.standardIcon(picture), QLineEdit.ActionPosition.TrailingPosition)
    assert action is not None
    action.setToolTip(text)
    action.triggered.connect(lambda _=False: pressed())


#: Digits after the point in a number field whose setting names no step.
_DECIMALS = 4
#: How lists of choices take what width is left, and the letters of theirs that are always in sight.
_COMBO_SIZE_POLICY, _MIN_COMBO_LENGTH = (
    QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon,
    8,
)
#: Settings that are shown with what was measured of the noise, and what must be among them.
NOISE_FIELDS, MEASURED_FIELDS = ("noise", "read_noise", "gain"), ("gain", "read_noise")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One setting: its name in the recipe, its type, its default and how it is shown."""

    name: str
    kind: Any
    default: Any
    setting: Setting

    @property
    def optional(self) -> bool:
        """Whether it may be left empty."""
        return types.NoneType in _list_union_members(self.kind)

    @property
    def number(self) -> type[int] | type[float]:
        """The type of number behind an optional field."""
        return int if int in _list_union_members(self.kind) else float


def list_form_fields(task: str) -> tuple[Field, ...]:
    """List the settings of the task `task`, its own first, then those that all tasks have."""
    kinds: tuple[Any, ...] = (TASKS[task], RunSettings)
    return tuple(
        Field(name=name, kind=info.annotation, default=info.default, setting=setting)
        for kind in kinds
        for name, info in kind.__pydantic_fields__.items()
        for setting in info.metadata
        if isinstance(setting, Setting)
    )


class SettingsForm:
    """The widgets of a task's settings.

    Parameters
    ----------
    task : str
        Key in `TASKS`.

    Attributes
    ----------
    top, folded, noise : QWidget
        The settings that everybody sees, the others, and those of the noise.
    changed : signal
        Any setting was changed by the user.
    """

    changed = Signal()

    def __init__(self, task: str) -> None:
        self.task = task
        self._fields = {field.name: field for field in list_form_fields(task)}
        self.widgets = {name: _make_field_widget(field) for name, field in self._fields.items()}
        self._wheel = WheelGuard()
        self.offers = {
            name: SuggestionMenu(self.widgets[name].native, name, lambda: self.recipe().task)
            for name, field in self._fields.items()
            if field.setting.offered
        }
        for widget in self.widgets.values():
            widget.changed.connect(self._tell)
            native: QWidget = widget.native
            native.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            native.installEventFilter(self._wheel)
        of_noise = NOISE_FIELDS if set(MEASURED_FIELDS) <= set(self._fields) else ()
        rest = [field for field in self._fields.values() if field.name not in of_noise]
        self.top = self._page([field for field in rest if not field.setting.advanced])
        self.folded = self._page([field for field in rest if field.setting.advanced])
        self.noise = self._page([self._fields[name] for name in of_noise if name in self._fields])
        self.noise.setParent(self.folded)  # until somebody shows it: no widget without an owner
        self.noise.setVisible(False)

    def recipe(self) -> Recipe:
        """Read the form.

        Raises
        ------
        Refused
            If a value is not allowed; the setting is named as the dock shows it.
        """
        values = {name: self._read(field) for name, field in self._fields.items()}
        try:
            return make_recipe(self.task, **values)
        except Refused as error:
            raise Refused(self._in_labels(error)) from None

    def show(self, recipe: Recipe) -> None:
        """Set every field as the recipe has it; tells once.

        Parameters
        ----------
        recipe : Recipe
            Of this form's task.
        """
        with self.changed.blocked():
            for name in self._fields:
                part = recipe.run_settings if name in RunSettings.model_fields else recipe.task
                self._write(name, getattr(part, name))
        self.changed.emit()

    def _write(self, name: str, value: Any) -> None:
        widget = self.widgets[name]
        if self._fields[name].optional:
            widget.value = "" if value is None else str(value)
            return
        if isinstance(value, float):  # or the field would round it, and other pixels come out
            digits = -int(Decimal(repr(value)).normalize().as_tuple().exponent)
            widget.native.setDecimals(max(widget.native.decimals(), digits))
        widget.value = value

    def _read(self, field: Field) -> Any:
        value = self.widgets[field.name].value
        if not field.optional:
            return value
        text = str(value).strip().replace(",", ".")
        if not text:
            return None
        try:
            number = field.number(text)
        except ValueError:
            whole = "a whole number" if field.number is int else "a number"
            raise Refused(_refuse_value(field, str(value).strip(), f"it is not {whole}")) from None
        least, most = field.setting.least, field.setting.most
        if (least is not None and number < least) or (most is not None and number > most):
            why = f"it should lie between {least:,g} and {most:,g}"
            raise Refused(_refuse_value(field, text, why))
        return number

    def _in_labels(self, error: Refused) -> Any:
        no = error.refusal
        facts = dict(no.facts)
        if facts.get("field") in self._fields:
            facts["field"] = self._fields[str(facts["field"])].setting.label
        if no.code == "setting-wrong":  # a field is always there, but may be empty
            facts["hint"] = "Leave it empty to use the default."
        return replace(no, facts=facts)

    def say_measured(self, figures: Mapping[str, str]) -> None:
        """Show in empty fields what stands for them; without a figure, that there is one."""
        for name in MEASURED_FIELDS:
            if name in self.widgets:
                text = figures.get(name) or format_placeholder(self._fields[name])
                self.widgets[name].native.setPlaceholderText(text)

    def _page(self, fields: list[Field]) -> QWidget:
        page = QWidget()
        layout = QFormLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for field in fields:
            widget = self.widgets[field.name].native
            if isinstance(widget, QCheckBox):  # its words take no width from the fields around it
                widget.setText(field.setting.label)
                layout.addRow(widget)
                continue
            label = QLabel(field.setting.label)
            label.setToolTip(_format_tooltip(field.setting.help))
            label.setBuddy(widget)
            layout.addRow(label, widget)
        return page

    def _tell(self, _: object = None) -> None:
        self.changed.emit()


class WheelGuard(QObject):
    """Scrolling the dock must not change a setting that happens to lie under the pointer."""

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Take the wheel from widgets without the focus."""
        if event is None or event.type() != QEvent.Type.Wheel or not isinstance(watched, QWidget):
            return False
        if watched.hasFocus():
            return False
        event.ignore()  # the scroll area takes it
        return True


def _list_union_members(kind: Any) -> tuple[Any, ...]:
    """List the plain types in a union, without what `Annotated` adds."""
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(member for part in get_args(kind) for member in _list_union_members(part))
    return (getattr(kind, "__origin__", kind),)


def _make_field_widget(field: Field) -> ValueWidget[Any]:
    setting = field.setting
    options: dict[str, Any] = {"tooltip": _format_tooltip(setting.help)}
    if field.optional:
        line = create_widget(value="", annotation=str, options=options)
        line.native.setPlaceholderText(format_placeholder(field))
        line.native.setAccessibleName(setting.label)
        return line  # type: ignore[return-value]  # magicgui promises any Widget
    if get_origin(field.kind) is Literal:
        text = setting.choices or {value: str(value) for value in get_args(field.kind)}
        options["choices"] = [(text[value], value) for value in get_args(field.kind)]
    else:
        limits = {"min": setting.least, "max": setting.most, "step": setting.step}
        options |= {key: value for key, value in limits.items() if value is not None}
    widget = create_widget(value=field.default, annotation=field.kind, options=options)
    if isinstance(widget.native, QComboBox):  # or the longest choice makes the dock too wide
        widget.native.setSizeAdjustPolicy(_COMBO_SIZE_POLICY)
        widget.native.setMinimumContentsLength(_MIN_COMBO_LENGTH)
    if hasattr(widget.native, "setDecimals"):
        step = setting.step
        widget.native.setDecimals(len(f"{step:.10g}".partition(".")[2]) if step else _DECIMALS)
    if setting.files:
        add_file_button(widget.native, setting.label, setting.files)
    widget.native.setAccessibleName(setting.label)
    return widget  # type: ignore[return-value]


def has_noise(form: SettingsForm) -> bool:
    """Whether a task reckons with noise that the user may know."""
    return set(MEASURED_FIELDS) <= set(form.widgets)


def format_placeholder(field: Field) -> str:
    """Say what an empty field means."""
    text = field.setting.help.lower()
    defaults = ("none", "measured", "all")
    return next((word for word in defaults if f"empty: {word}" in text), "automatic")


def _format_tooltip(text: str) -> str:
    """Rich text, so that Qt breaks long lines."""
    return f"<qt>{text}</qt>"


def _refuse_value(field: Field, value: str, why: str) -> Any:
    return refusal(
        "setting-wrong",
        field=field.setting.label,
        value=f"'{value}'",
        why=why,
        hint="Leave it empty for the automatic value.",
    )
