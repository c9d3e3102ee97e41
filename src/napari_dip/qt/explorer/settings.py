"""The settings of the prior explorer: the experiment, its network and its fits."""

from __future__ import annotations

from typing import Any

from psygnal import Signal
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QComboBox,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_dip.explore.experiment_setup import label_architecture, list_all_architectures
from napari_dip.explore.experiments import EXPERIMENTS, Experiment
from napari_dip.pipeline.plan.layout import MIN_IMAGE_SIDE
from napari_dip.pipeline.recipe import RunSettings
from napari_dip.qt.shell.dock_widget import guard_wheel, make_combo, make_form
from napari_dip.tasks.priors.deep_image_prior import DEFAULT_ARCHITECTURE

_MAX_FIT_ITERATIONS, _MAX_CROP_SIDE = 100_000, 4096
#: Height of the list of architectures in pixels; eight are visible, the others scroll.
_LIST_HEIGHT = 170


class ExplorerSettings:
    """The widgets for the settings of an experiment.

    Attributes
    ----------
    basic_page, advanced_page : QWidget
        Pages for the choice of the experiment, and for all other settings.
    changed : signal
        Emitted when a setting has changed.
    """

    changed = Signal()

    def __init__(self) -> None:
        self.experiments = _make_choices(
            "Experiment", {key: row.label for key, row in EXPERIMENTS.items() if row.plot}
        )
        self.description_label = QLabel()
        self.description_label.setWordWrap(True)
        fields = RunSettings.model_fields
        presets, devices = (
            next(
                architecture
                for architecture in fields[name].metadata
                if hasattr(architecture, "choices")
            ).choices
            or {}
            for name in ("preset", "device")
        )
        self.preset = _make_choices("Network of the preset", presets)
        self.device = _make_choices("Device", devices)
        self.network = _make_choices(
            "Architecture",
            {
                name: label_architecture(architecture)
                for name, architecture in list_all_architectures().items()
            },
        )
        self.iterations = _make_spin_box("Iterations of each fit", 1, _MAX_FIT_ITERATIONS)
        self.side = _make_spin_box("Pixels along a side", MIN_IMAGE_SIDE, _MAX_CROP_SIDE)
        self.seed = _make_spin_box("Seed", 0, 2**31 - 1)
        self.designs = QListWidget()
        self.designs.setAccessibleName("Architectures")
        self.designs.setFixedHeight(_LIST_HEIGHT)
        self.designs.setToolTip(
            "<qt>Each differs from the preset's network in one thing. All are fitted to the image "
            "and to noise.</qt>"
        )
        self._edited_spins: set[QSpinBox] = set()
        self.basic_page, self.advanced_page = self._arrange()
        self._fill_designs()
        self._on_experiment()
        self._listen()

    @property
    def experiment(self) -> Experiment:
        """The chosen experiment."""
        return EXPERIMENTS[self.experiments.currentData()]

    @property
    def is_comparison(self) -> bool:
        """Whether several architectures are fitted, so that there is none to choose."""
        return "only" in self.experiment.settings

    def read_settings(self) -> dict[str, Any]:
        """Return the arguments of `make_experiment_recipe`, without the side of the crop."""
        return {
            "architecture": DEFAULT_ARCHITECTURE
            if self.is_comparison
            else self.network.currentData(),
            "preset": self.preset.currentData(),
            "max_iterations": self.iterations.value(),
            "seed": self.seed.value(),
            "device": self.device.currentData(),
        }

    def list_checked_designs(self) -> tuple[str, ...]:
        """Return the names of the checked architectures, with that of the preset."""
        items = [self.designs.item(row) for row in range(self.designs.count())]
        return tuple(
            item.data(Qt.ItemDataRole.UserRole)
            for item in items
            if item is not None and item.checkState() == Qt.CheckState.Checked
        )

    def _fill_designs(self) -> None:
        """List all architectures, checked; that of the preset cannot be unchecked."""
        for name, design in list_all_architectures().items():
            item = QListWidgetItem(
                "the preset's network" if name == DEFAULT_ARCHITECTURE else design.label
            )
            item.setData(Qt.ItemDataRole.UserRole, name)
            item.setCheckState(Qt.CheckState.Checked)
            if name == DEFAULT_ARCHITECTURE:
                item.setFlags(Qt.ItemFlag.NoItemFlags)
            self.designs.addItem(item)

    def _on_experiment(self, _: object = None) -> None:
        experiment = self.experiment
        for spin, default in (
            (self.iterations, experiment.iterations),
            (self.side, experiment.crop),
        ):
            if spin not in self._edited_spins:
                with QSignalBlocker(spin):
                    spin.setValue(default)
        self.designs.setVisible(self.is_comparison)
        self._designs_label.setVisible(self.is_comparison)
        self.network.setVisible(not self.is_comparison)
        self._network_label.setVisible(not self.is_comparison)
        self.description_label.setText(experiment.description)
        self.changed.emit()

    def _listen(self) -> None:
        self.experiments.currentIndexChanged.connect(self._on_experiment)
        for spin in (self.iterations, self.side):
            spin.valueChanged.connect(lambda _, spin=spin: self._edited_spins.add(spin))
        for spin in (self.iterations, self.side, self.seed):
            spin.valueChanged.connect(self._notify)
        for combo in (self.preset, self.network, self.device):
            combo.currentIndexChanged.connect(self._notify)
        self.designs.itemChanged.connect(self._notify)

    def _notify(self, _: object = None) -> None:
        self.changed.emit()

    def _arrange(self) -> tuple[QWidget, QWidget]:
        guard_wheel(self.experiments, self.preset, self.network, self.device)
        guard_wheel(self.iterations, self.side, self.seed)
        top, folded = QWidget(), QWidget()
        top_layout = QVBoxLayout(top)
        top_layout.setContentsMargins(0, 0, 0, 0)
        form = make_form()
        form.addRow("Experiment", self.experiments)
        top_layout.addLayout(form)
        top_layout.addWidget(self.description_label)
        folded_layout = QVBoxLayout(folded)
        folded_layout.setContentsMargins(0, 0, 0, 0)
        form = make_form()
        form.addRow("Network of", self.preset)
        self._network_label = QLabel("Architecture")
        form.addRow(self._network_label, self.network)
        form.addRow("Iterations", self.iterations)
        form.addRow("Pixels", self.side)
        form.addRow("Seed", self.seed)
        form.addRow("Device", self.device)
        folded_layout.addLayout(form)
        self._designs_label = QLabel("Architectures to compare")
        folded_layout.addWidget(self._designs_label)
        folded_layout.addWidget(self.designs)
        self._set_tooltips()
        return top, folded

    def _set_tooltips(self) -> None:
        tips = {
            self.experiments: "What to look at. Nothing is restored.",
            self.preset: "Whose network is fitted: that of the preset of this name, in the paper's "
            "way, from random input.",
            self.network: "What differs from the preset's network. Bounded layers and Gaussian "
            "upsampling (Shi et al.) hold fine detail back, noise as well; the command takes any "
            "bound and any width.",
            self.iterations: "Of each fit. Only experiments over as many can be compared.",
            self.side: "Pixels along a side: of a larger image its middle is looked at. Twice as "
            "many take four times as long.",
            self.seed: "Start of the random numbers: the same seed gives the same figures.",
            self.device: "Where to compute. Automatic takes a GPU if there is one.",
        }
        for widget, tip in tips.items():
            widget.setToolTip(f"<qt>{tip}</qt>")


def _make_choices(name: str, choices: dict[str, str]) -> QComboBox:
    return make_combo(name, choices=choices, length=8)


def _make_spin_box(name: str, minimum: int, max_count: int) -> QSpinBox:
    spin = QSpinBox()
    spin.setAccessibleName(name)
    spin.setRange(minimum, max_count)
    spin.setValue(max_count)  # Qt shows a value only after it has changed
    spin.setValue(minimum)
    spin.setKeyboardTracking(False)
    return spin
