"""The noise of the chosen image: a button that measures it, and fields that overrule it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_dip.errors import Refusal
from napari_dip.qt.background import BackgroundCall
from napari_dip.qt.fold import Fold
from napari_dip.qt.layers import level_zero
from napari_dip.qt.measuring import Measured, measured
from napari_dip.qt.noise_plot import NoisePlot
from napari_dip.qt.run_bar import sentence_label
from napari_dip.run.gate import check_header

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_dip.qt.chooser import InputChooser
    from napari_dip.qt.form import SettingsForm
    from napari_dip.run.measuring import NoiseReport

_HINT = "What is left empty is measured from the image when the run starts, or now by Measure."


class NoiseSection(Fold):
    """What is known of the noise before a run.

    Parameters
    ----------
    chooser : InputChooser
        Whose image is measured.
    form : SettingsForm
        Whose fields say what overrules the measurement.
    """

    def __init__(self, chooser: InputChooser, form: SettingsForm) -> None:
        page = QWidget()
        super().__init__("Noise", page)
        self._chooser, self._form = chooser, form
        self._measuring: BackgroundCall | None = None
        self._of: tuple[int, str] | None = None
        self.button = QPushButton("Measure")
        self.button.setToolTip("<qt>Measure the noise of the image now; nothing is restored.</qt>")
        self.words = sentence_label()
        self.words.setText(_HINT)
        self.plot = NoisePlot()
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (form.noise, self.button, self.plot, self.words):
            layout.addWidget(widget)
        form.noise.setVisible(True)
        self.button.clicked.connect(self.measure)
        chooser.changed.connect(self._on_image)

    def measure(self) -> None:
        """Measure the chosen image; the answer comes later."""
        layer, header = self._chooser.layer(), self._chooser.header()
        refused = header if isinstance(header, Refusal) else check_header(header)
        if isinstance(header, Refusal) or refused is not None or layer is None:
            self._say(refused.message if refused else "")
            return
        self._drop()
        self._of = _identity(layer, header.axes)
        self.button.setEnabled(False)
        self.button.setText("Measuring …")
        self._measuring = BackgroundCall(partial(measured, header, level_zero(layer)), self)
        self._measuring.ended.connect(self._on_measured)
        self._measuring.start()

    @property
    def busy(self) -> bool:
        """Whether a measurement is on."""
        return self._measuring is not None

    def shut_down(self) -> None:
        """Wait for no answer any more; the chooser, of the same dock, falls silent by itself."""
        self._drop()

    def _on_measured(self, outcome: Measured) -> None:
        self._drop()
        if isinstance(outcome, Refusal):
            self._say(outcome.message)
        elif outcome is not None:
            self._show(outcome)

    def _show(self, found: NoiseReport) -> None:
        figures = {
            name: " / ".join(f"{getattr(one, figure):.4g}" for one in found.channels)
            for name, figure in (("gain", "gain"), ("read_noise", "noise_in_dark"))
        }
        said = {key: f"{value}, measured" for key, value in figures.items()}
        said["read_noise"] += " in the dark"  # the detector's own may be less
        self._form.say_measured(said)
        self.plot.show_noise(found.channels)
        self._say("\n".join(found.sentences))

    def _on_image(self) -> None:
        """Forget what was measured of another image."""
        layer, header = self._chooser.layer(), self._chooser.header()
        now = None
        if layer is not None and not isinstance(header, Refusal):
            now = _identity(layer, header.axes)
        if self._of is None or now == self._of:
            return
        self._of = None
        self._drop()
        self._form.say_measured({})
        self.plot.setVisible(False)
        self._say(_HINT)

    def _drop(self) -> None:
        """Be ready to measure again."""
        if self._measuring is not None:
            self._measuring.discard()
        self._measuring = None
        self.button.setEnabled(True)
        self.button.setText("Measure")

    def _say(self, words: str) -> None:
        self.words.setText(words)
        self.grown()


def _identity(layer: Image, axes: str) -> tuple[int, str]:
    """Tell images apart: other pixels, or other axes, are another image."""
    return id(layer.data), axes
