"""The form is the task's fields and nothing else."""

from __future__ import annotations

import pytest
from qtpy.QtCore import QEvent, QPoint
from qtpy.QtGui import QHelpEvent
from qtpy.QtWidgets import QApplication, QComboBox, QFormLayout, QLabel, QToolTip

from napari_dip.errors import RefusedError
from napari_dip.pipeline.recipe import RunSettings, list_setting_fields, make_recipe
from napari_dip.qt.shell.settings_form import SettingsForm, make_combo
from napari_dip.tasks import TASKS


@pytest.fixture
def form(qtbot):
    form = SettingsForm("denoise")
    qtbot.addWidget(form.basic_page)
    qtbot.addWidget(form.advanced_page)
    return form


@pytest.mark.parametrize("task", TASKS)
def test_every_setting_of_every_task_has_a_field(task):
    names = {field.name for field in list_setting_fields(TASKS[task], RunSettings)}
    assert set(RunSettings.model_fields) <= names
    assert set(TASKS[task].__pydantic_fields__) <= names


def test_a_long_list_stands_below_all_other_settings(form):
    layout = form.advanced_page.layout()
    fields = [
        layout.itemAt(row, QFormLayout.ItemRole.FieldRole) for row in range(layout.rowCount())
    ]
    widgets = [field.widget() for field in fields if field is not None]
    assert form.widgets["seed"].native in widgets
    assert widgets[-1] is form.widgets["architecture"].native


def test_a_choice_that_is_too_long_for_its_list_keeps_both_ends(form, qtbot):
    combo = form.widgets["prior"].native
    combo.setFixedWidth(120)
    combo.setStyleSheet("QComboBox { padding: 2px; }")  # with one, as of napari, Qt cuts off
    form.advanced_page.show()
    text = "a choice of many words"

    def draw(entry):
        combo.setItemText(combo.currentIndex(), entry)
        return combo.grab().toImage()

    drawn = draw(text)
    ends = ((end, start) for end in range(2, len(text)) for start in range(end + 1, len(text)))
    assert any(draw(f"{text[:end]}…{text[start:]}") == drawn for end, start in ends)


@pytest.mark.parametrize("task", TASKS)
def test_an_untouched_form_is_the_default_recipe(task, qtbot):
    form = SettingsForm(task)
    qtbot.addWidget(form.basic_page)
    qtbot.addWidget(form.advanced_page)
    assert form.build_recipe() == make_recipe(task)


def test_what_is_typed_reaches_the_recipe(form):
    for name, value in {
        "preset": "fast",
        "prior": "random-input",
        "gain": "0.25",
        "smoothing": 0.1,
        "max_iterations": "30",
        "seed": 7,
        "time_limit": "12,5",
    }.items():
        form.widgets[name].value = value
    wanted = make_recipe(
        "denoise",
        preset="fast",
        prior="random-input",
        gain=0.25,
        smoothing=0.1,
        max_iterations=30,
        seed=7,
        time_limit=12.5,
    )
    assert form.build_recipe() == wanted


def test_any_change_is_signalled(form, qtbot):
    changes = []
    form.changed.connect(lambda: changes.append(True))
    form.widgets["gain"].native.setText("2")
    form.widgets["preset"].value = "best"
    assert len(changes) == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gain", "abc", "'Gain' cannot be 'abc': it is not a number"),
        ("gain", "-1", "'Gain' cannot be '-1'"),
        ("gain", "nan", "'Gain' cannot be"),
        ("gain", "inf", "'Gain' cannot be"),
        ("read_noise", "-1", "'Read noise' cannot be"),
        ("max_iterations", "2.5", "'Max. iterations' cannot be '2.5': it is not a whole number"),
        ("restarts", "0", "'Restarts' cannot be '0': it should lie between 1 and 64"),
        ("time_limit", "0", "'Time limit (s)' cannot be '0'"),
    ],
)
def test_a_wrong_value_is_refused_under_the_name_that_the_dock_shows(form, name, text, message):
    form.widgets[name].value = text
    with pytest.raises(RefusedError) as refused:
        form.build_recipe()
    assert message in refused.value.reason.sentence
    assert name not in refused.value.reason.message
    assert "empty" in refused.value.reason.remedy


@pytest.mark.parametrize(
    ("name", "label", "text"),
    [("na", "Numerical aperture", "14"), ("gaussian_sigma", "Gaussian sigma (px)", "abc")],
)
def test_a_field_that_may_be_needed_is_not_to_be_left_empty(qtbot, name, label, text):
    form = SettingsForm("deblur")
    qtbot.addWidget(form.basic_page)
    qtbot.addWidget(form.advanced_page)
    form.widgets["microscope"].value = "widefield"
    form.widgets[name].value = text
    with pytest.raises(RefusedError) as refused:
        form.build_recipe()
    assert f"'{label}' cannot be '{text}'" in refused.value.reason.sentence
    assert refused.value.reason.remedy == "Type another value."


def test_no_identifiers_are_shown(form):
    texts = [
        label.text()
        for page in (form.basic_page, form.advanced_page)
        for label in page.findChildren(QLabel)
    ]
    for widget in form.widgets.values():
        texts += [str(widget.native.toolTip())]
        texts += [str(text) for text, _ in getattr(widget, "_choices", None) or []]
        if hasattr(widget.native, "itemText"):
            texts += [widget.native.itemText(index) for index in range(widget.native.count())]
    assert all(texts)
    for shown_text in texts:
        for code in ("_", "None", "float32", "torch", "auto)", "poisson-gaussian", "Literal"):
            assert code not in shown_text, shown_text


def test_an_empty_field_says_what_it_stands_for(qtbot):
    fields = SettingsForm("inpaint")
    qtbot.addWidget(fields.basic_page)
    qtbot.addWidget(fields.advanced_page)
    assert fields.widgets["label"].native.placeholderText() == "all"
    assert fields.widgets["time_limit"].native.placeholderText() == "none"
    assert fields.widgets["restarts"].native.placeholderText() == "automatic"


def test_an_empty_field_of_a_text_stands_for_the_default_that_it_names(qtbot):
    fields = SettingsForm("super-resolve")
    qtbot.addWidget(fields.basic_page)
    qtbot.addWidget(fields.advanced_page)
    fields.widgets["factor"].value = " "
    assert fields.build_recipe() == make_recipe("super-resolve")
    assert fields.widgets["factor"].native.placeholderText() == fields.build_recipe().task.factor


def test_every_setting_explains_itself_and_says_its_name_to_a_screen_reader(form):
    for widget in form.widgets.values():
        assert len(widget.native.toolTip()) > 20
        assert widget.native.accessibleName()


def test_in_a_narrow_dock_the_usual_choices_are_whole(form):
    form.advanced_page.resize(
        276, form.advanced_page.sizeHint().height()
    )  # napari's dock of 295 pixels
    form.advanced_page.show()
    form.advanced_page.grab()  # lays it out
    for name, widget in form.widgets.items():
        box = widget.native
        if isinstance(box, QComboBox) and form.advanced_page.isAncestorOf(box):
            width = box.fontMetrics().horizontalAdvance(box.currentText())
            assert width < box.width() - 40, name  # napari's arrow and padding


def test_scrolling_over_a_field_does_not_change_it(form, qtbot):
    from qtpy.QtCore import QPoint, QPointF, Qt
    from qtpy.QtGui import QWheelEvent
    from qtpy.QtWidgets import QApplication

    native = form.widgets["preset"].native
    before = form.widgets["preset"].value
    turn = QWheelEvent(
        QPointF(5, 5),
        QPointF(5, 5),
        QPoint(0, -120),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(native, turn)
    assert form.widgets["preset"].value == before


#: What an abbreviation in an option stands for in its label.
ABBREVIATIONS = {"dtype": "data type", "na": "numerical aperture"}


@pytest.mark.parametrize("task", TASKS)
def test_labels_have_the_words_of_the_options(task):
    for field in list_setting_fields(TASKS[task], RunSettings):
        label = field.setting.label.lower()
        for word in ABBREVIATIONS.get(field.name, field.name.replace("_", " ")).split():
            assert word in label, f"--{field.name} is called '{field.setting.label}'"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("axes", ["YX", "TYX", "CZYX"])
def test_at_most_five_settings_are_in_sight(task, axes, qtbot):
    form = SettingsForm(task)
    qtbot.addWidget(form.basic_page)
    qtbot.addWidget(form.advanced_page)
    inputs = {item.name for item in TASKS[task].spec.inputs[1:]}
    models = ("none", "widefield", "confocal") if task == "deblur" else (None,)
    for model in models:
        if model is not None:
            form.widgets["microscope"].value = model
        for chosen in (set(), inputs - {"psf"} if model not in (None, "none") else inputs):
            form.show_relevant(axes, chosen)
            names = [
                name
                for name, widget in form.widgets.items()
                if widget.native.parentWidget() is form.basic_page and not widget.native.isHidden()
            ]
            assert len(names) <= 5, names


def list_shown(form):
    return {name for name, widget in form.widgets.items() if not widget.native.isHidden()}


def test_settings_of_movies_and_channels_are_there_only_for_these(form):
    movie, stack = {"temporal_smoothing"}, {"neighbouring_frames", "series_training", "stacks"}
    for axes, names in {
        "YX": set(),
        "CYX": {"channels"},
        "ZYX": stack,
        "TYX": movie | stack,
        "TCYX": movie | stack | {"channels"},
    }.items():
        form.show_relevant(axes, ())
        assert list_shown(form) & (movie | stack | {"channels"}) == names


def test_a_setting_that_was_changed_stays_in_sight(form):
    form.widgets["temporal_smoothing"].value = 2.5
    form.show_relevant("YX", ())
    assert "temporal_smoothing" in list_shown(form)
    label = form.advanced_page.layout().labelForField(form.widgets["temporal_smoothing"].native)
    assert not label.isHidden()
    form.widgets["temporal_smoothing"].value = 0.0
    form.show_relevant("YX", ())
    assert label.isHidden()


@pytest.fixture
def deblur_form(qtbot):
    form = SettingsForm("deblur")
    qtbot.addWidget(form.basic_page)
    qtbot.addWidget(form.advanced_page)
    return form


def test_optics_without_a_microscope_are_hidden_and_leave_the_recipe(deblur_form):
    optics = {"na": "1.4", "wavelength": "520", "pixel_size": "65", "z_step": "200", "pinhole": 2.0}
    for name, value in {"microscope": "confocal", **optics}.items():
        deblur_form.widgets[name].value = value
    deblur_form.show_relevant("ZYX", ())
    assert set(optics) <= list_shown(deblur_form)
    assert deblur_form.build_recipe().task.z_step == 200
    deblur_form.widgets["microscope"].value = "none"
    deblur_form.show_relevant("ZYX", ())
    assert not set(optics) & list_shown(deblur_form)
    assert "gaussian_sigma" in list_shown(deblur_form)
    assert deblur_form.build_recipe() == make_recipe("deblur")
    deblur_form.show_relevant("ZYX", {"psf"})  # compared with those of the image of a PSF
    assert deblur_form.build_recipe().task.na == 1.4


def test_the_microscope_stays_in_sight_beside_a_gaussian(deblur_form):
    deblur_form.widgets["gaussian_sigma"].value = "2"
    deblur_form.show_relevant("YX", ())
    assert {"gaussian_sigma", "microscope"} <= list_shown(deblur_form)


def test_aperture_and_wavelength_are_needed_unless_there_is_an_image_of_the_psf(deblur_form):
    natives = [deblur_form.widgets[name].native for name in ("na", "wavelength")]
    deblur_form.widgets["microscope"].value = "widefield"
    deblur_form.show_relevant("YX", ())
    assert [native.placeholderText() for native in natives] == ["needed"] * 2
    deblur_form.widgets["microscope"].value = "none"
    deblur_form.show_relevant("YX", {"psf"})
    assert [native.placeholderText() for native in natives] == ["none"] * 2


def test_sizes_that_the_image_does_not_state_are_asked_for_in_sight(deblur_form):
    sizes = {"pixel_size", "z_step"}
    deblur_form.widgets["microscope"].value = "widefield"

    def list_basic():
        return {
            name
            for name in sizes
            if deblur_form.widgets[name].native.parentWidget() is deblur_form.basic_page
        }

    deblur_form.show_relevant("ZYX", (), "")
    assert sizes <= list_shown(deblur_form) and not list_basic()
    size_edit = deblur_form.widgets["pixel_size"].native
    assert size_edit.placeholderText() == "as the image says"
    deblur_form.show_relevant("ZYX", (), "Z")
    assert list_basic() == {"z_step"}
    deblur_form.show_relevant("ZYX", (), "ZYX")
    assert list_basic() == sizes and size_edit.placeholderText() == "needed"
    layout = deblur_form.basic_page.layout()
    labels = [
        layout.itemAt(row, layout.ItemRole.LabelRole).widget().text()
        for row in range(layout.rowCount())
    ]
    first = labels.index("Wavelength (nm)")
    assert labels[first + 1 : first + 3] == ["Pixel size (nm)", "Z step (nm)"]
    deblur_form.show_relevant("ZYX", (), "")
    assert not list_basic()


def test_a_long_name_in_a_list_shows_its_end_and_the_tooltip_has_all_of_it(qtbot):
    combo = make_combo("Image", "The image to restore.")
    combo.addItems(["human cells in red", "human cells in red <mask>"])
    qtbot.addWidget(combo)
    combo.resize(110, 24)
    combo.show()
    pictures = []
    for index in (0, 1):
        combo.setCurrentIndex(index)
        pictures.append(combo.grab().toImage())
    assert pictures[0] != pictures[1]
    place = QPoint(5, 5)
    event = QHelpEvent(QEvent.Type.ToolTip, place, combo.mapToGlobal(place))
    assert QApplication.sendEvent(combo, event)
    assert "human cells in red &lt;mask&gt;" in QToolTip.text()
    assert "The image to restore." in QToolTip.text()
    QToolTip.hideText()
