"""Watch which frequencies a network learns when, and where two rules would stop the fit."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors.templates import render_text
from napari_dip.explore.experiment_fit import find_validation_stop, iter_fit
from napari_dip.explore.experiment_results import (
    MIN_KEPT_ITERATIONS,
    ExperimentReport,
    ExperimentResult,
    ExperimentSummary,
    ImageStack,
    IterationUpdate,
    ReportFigure,
    add_iteration_column,
    format_columns,
    ignore_keep,
    make_update,
    mark_ended_early,
)
from napari_dip.explore.experiment_setup import compute_psnr, measure_blind_spot_size, standardise
from napari_dip.explore.spectral_measures import (
    BAND_COUNT,
    BAND_NAMES,
    CORRESPONDENCE_LEVELS,
    RATIO_TOLERANCE,
    RATIO_WINDOW,
    Correspondence,
    compute_band_edges,
    compute_radial_power,
    find_level_iterations,
    find_ratio_stop,
    list_band_labels,
    measure_sharpness,
)
from napari_dip.pipeline.assess.report_figures import (
    choose_shades,
    compute_contrast_limits,
    draw_titled_image,
    format_iteration_axis,
    make_figure,
    render_figure,
    use_default_style,
)
from napari_dip.pipeline.calibrate.inputs import ROBUST_PERCENTILES
from napari_dip.pipeline.store.result_files import format_csv

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.explore.experiment_fit import IterationRecord, ValidationStop
    from napari_dip.explore.experiment_setup import ExperimentSetup, ImageArray
    from napari_dip.io import FloatArray


#: Number of recorded outputs, evenly spaced in log(iteration).
_RECORDED_OUTPUTS = 24
#: Number of outputs that the report draws, evenly spaced in log(iteration).
_REPORTED_OUTPUTS = 6
#: Iteration of the first recorded output, as a divisor of all iterations: iteration 20 of 1,000.
_FIRST_OUTPUT_DIVISOR = 50
#: Divisor for the share of ratios at the start that are not drawn. Those outputs are no images
#: yet; with spectral norms they are so smooth that they would take up the whole axis.
_SKIPPED_START_DIVISOR = 50
#: Minimum ratio of maximum to minimum for a logarithmic axis with labels at powers of ten only.
_DECADE = 10


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SpectrumResult(ExperimentResult):
    """Frequencies of the output during the fit of one network to one image.

    Attributes
    ----------
    setup : ExperimentSetup
    truth : ndarray (Y, X) float32 or None
    loss : ndarray (iterations,)
        Mean square of output minus target, in variances of the target.
    correspondence : ndarray (iterations, 5)
        Correspondence with the target, lowest band first.
    blurriness, sharpness : ndarray (iterations,)
    psnr : ndarray (iterations,) or None
        PSNR against the truth, in dB; the peak is the truth's range.
    reported_outputs : mapping of int to ndarray (Y, X) float32
        Outputs in the report, by iteration, in the image's units.
    recorded_outputs : mapping of int to ndarray (Y, X) float32
        All recorded outputs, by iteration.
    frequency : ndarray (rings,)
        In cycles per pixel.
    power : mapping of str to ndarray (rings,)
        Power in squared units of the image, for "target", "truth" if there is one, and iterations.
    ratio_stop : int
        Iteration at which the ratio of blurriness to sharpness settles; 0 if it never does.
    validation_stop : ValidationStop
        Early stop of a fit of the same network with validation pixels.
    validation_psnr : float or None
        PSNR of the image that this fit selects.
    """

    experiment: ClassVar[str] = "spectrum"
    setup: ExperimentSetup
    truth: ImageArray | None
    loss: FloatArray
    correspondence: FloatArray
    blurriness: FloatArray
    sharpness: FloatArray
    psnr: FloatArray | None
    reported_outputs: Mapping[int, ImageArray]
    recorded_outputs: Mapping[int, ImageArray]
    frequency: FloatArray
    power: Mapping[str, FloatArray]
    ratio_stop: int
    validation_stop: ValidationStop
    validation_psnr: float | None

    @property
    def ratio(self) -> FloatArray:
        """Blurriness over sharpness at each iteration."""
        return self.blurriness / np.maximum(self.sharpness, 1e-12)

    @property
    def best_iteration(self) -> int:
        """Iteration of the output with the highest PSNR; 0 without a truth."""
        return 0 if self.psnr is None else int(np.argmax(self.psnr)) + 1

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences that summarise the experiment."""
        iterations_by_level = self.find_level_iterations()
        half_iterations = (
            str(iteration or "not reached")
            for iteration in iterations_by_level[CORRESPONDENCE_LEVELS[0]]
        )
        return (
            render_text("spectrum-bands", iterations=", ".join(half_iterations)),
            _describe_stops("spectrum-stops", self),
        )

    def make_report(self) -> ExperimentReport:
        """Return the report: power spectra, bands by iteration, and stops."""
        stop, levels = self.validation_stop, self.find_level_iterations()
        power = {
            f"iteration_{name}" if name.isdigit() else name: curve
            for name, curve in self.power.items()
        }
        bands = {
            "energy": self.loss,
            **dict(zip(BAND_NAMES, self.correspondence.T, strict=True)),
            "blurriness": self.blurriness,
            "sharpness": self.sharpness,
            "ratio": self.ratio,
            **({} if self.psnr is None else {"psnr": self.psnr}),
        }
        return ExperimentReport(
            title=f"Spectrum: {self.setup.name}",
            recipe=self.setup.recipe,
            notes=self.setup.notes,
            description=(self.setup.describe_fit(),),
            figures=(
                ReportFigure(
                    file="power.png",
                    title="Power spectral density",
                    caption=_caption_power(self),
                    draw=partial(_draw_power_curves, self),
                ),
                ReportFigure(
                    file="bands.png",
                    title="Which band is learned when",
                    caption=_caption_bands(self),
                    draw=partial(_draw_band_curves, self),
                ),
                ReportFigure(
                    file="stopping.png",
                    title="Where to stop",
                    caption=_caption_stops(self),
                    draw=partial(_draw_stopping_curves, self),
                ),
            ),
            references=("spectral bias", "blurriness", "sharpness", "deep image prior", "guide"),
            numbers={
                "band_edges": compute_band_edges().tolist(),
                "reached": {str(level): iterations for level, iterations in levels.items()},
                "ratio_stop": self.ratio_stop,
                "held_out_stop": {
                    "best_iteration": stop.best_iteration,
                    "iterations": stop.iterations,
                    "reason": stop.reason,
                    "judged": [list(item) for item in stop.validation_errors],
                    "psnr": self.validation_psnr,
                },
                "best_iteration": self.best_iteration,
            },
            files={
                "power.csv": format_columns({"cycles_per_pixel": self.frequency, **power}),
                "bands.csv": format_columns(add_iteration_column(bands)),
                "held_out.csv": format_csv(("iteration", "held_out_error"), stop.validation_errors),
            },
        )

    def summarise(self) -> ExperimentSummary:
        """Return the bands with the iterations at which they are learned, and the outputs."""
        half, most = self.find_level_iterations().values()
        rows = zip(list_band_labels(), half, most, self.correspondence[-1], strict=True)
        iterations = sorted(self.recorded_outputs)
        return ExperimentSummary(
            headline="Too short to tell where to stop"
            if self.validation_stop.is_last
            else f"Best by validation pixels: iteration {self.validation_stop.best_iteration}",
            headers=("Band", "half at", f"{CORRESPONDENCE_LEVELS[1]:.0%} at", "at the end"),
            rows=tuple(
                (label, str(first or "never"), str(second or "never"), f"{last:.2f}")
                for label, first, second, last in rows
            ),
            stack=ImageStack(
                name_suffix="evolution",
                axis="iteration",
                names=tuple(f"iteration {iteration}" for iteration in iterations),
                images=np.stack([self.recorded_outputs[iteration] for iteration in iterations]),
            ),
        )

    def find_level_iterations(self) -> dict[float, tuple[int, ...]]:
        """Return when each band first has each of `CORRESPONDENCE_LEVELS`; 0 if never."""
        return {
            level: find_level_iterations(self.correspondence, level)
            for level in CORRESPONDENCE_LEVELS
        }


def explore_spectrum(
    setup: ExperimentSetup,
    truth: ImageArray | None = None,
    *,
    poll_control: PollControl = lambda: Control.GO,
) -> Generator[IterationUpdate, None, SpectrumResult | None]:
    """Fit to all pixels and measure each output, in parallel with a fit with validation pixels.

    Parameters
    ----------
    setup : ExperimentSetup
    truth : ndarray (Y, X) or None
        Image without noise, in its units.
    poll_control : callable
        Polled at each iteration. KEEP ends the experiment with the iterations so far.

    Yields
    ------
    IterationUpdate
        After each iteration: the correspondences of the bands, and the output.

    Returns
    -------
    SpectrumResult or None
        None if it was discarded, or ended before `MIN_KEPT_ITERATIONS`.
    """
    target, count = standardise(setup.image), setup.iterations
    recorder, blind_spot_size = _SpectrumRecorder(setup, truth), measure_blind_spot_size(setup)
    fit_steps = iter_fit(target, setup, poll_control=ignore_keep(poll_control), keeps_images=True)
    validation_steps = find_validation_stop(
        target, setup, blind_spot_size, poll_control=poll_control
    )
    with closing(fit_steps), closing(validation_steps):
        validation_fit = _ValidationFit(validation_steps)
        for iteration in range(1, count + 1):
            validation_fit.advance_to(iteration)
            record = None if poll_control() is Control.KEEP else next(fit_steps, None)
            if record is None:
                break
            points, image = recorder.record(record)
            yield make_update("Watching the frequencies", iteration, count, points, image=image)
        if poll_control() is Control.DISCARD or recorder.count < min(count, MIN_KEPT_ITERATIONS):
            return None
        validation_stop = validation_fit.finish()
    if validation_stop is None:
        return None
    return recorder.make_result(validation_stop, mark_ended_early(setup, recorder.count))


class _ValidationFit:
    """Run the fit with validation pixels in step with the measured one."""

    def __init__(self, fit: Generator[int, None, ValidationStop | None]) -> None:
        self._fit = fit
        self._iteration, self._is_finished = 0, False
        self._validation_stop: ValidationStop | None = None

    def advance_to(self, iteration: float) -> None:
        """Continue up to the next validation after an iteration."""
        while not self._is_finished and self._iteration < iteration:
            try:
                self._iteration = next(self._fit)
            except StopIteration as end:
                self._validation_stop, self._is_finished = end.value, True

    def finish(self) -> ValidationStop | None:
        """Run the fit to its end and return its early stop."""
        self.advance_to(inf)
        return self._validation_stop


class _SpectrumRecorder:
    """Collect the measurements of each output."""

    def __init__(self, setup: ExperimentSetup, truth: ImageArray | None) -> None:
        self._setup, self._truth = setup, truth
        self._low, high = np.percentile(setup.image, ROBUST_PERCENTILES)
        self._range = max(float(high - self._low), 1e-12)
        self._correspondence = Correspondence(standardise(setup.image))
        last = setup.iterations
        first = max(1, last // _FIRST_OUTPUT_DIVISOR)
        self._reported_iterations = _space_iterations(first, last, _REPORTED_OUTPUTS)
        self._recorded_iterations = _space_iterations(1, last, _RECORDED_OUTPUTS)
        self._last: ImageArray | None = None
        self._rows: list[tuple[float, ...]] = []
        self._bands: list[FloatArray] = []
        self._outputs: dict[int, ImageArray] = {}

    @property
    def count(self) -> int:
        """Number of recorded iterations."""
        return len(self._rows)

    def record(self, record: IterationRecord) -> tuple[dict[str, float], ImageArray]:
        """Measure the output of one iteration; return its bands by name, and the image."""
        assert record.image is not None
        image = self._setup.to_image_units(record.image)
        sharpness = measure_sharpness((image - self._low) / self._range)
        psnr = self._compute_psnr(image)
        self._rows.append((record.loss, sharpness.blurriness, sharpness.sharpness, psnr))
        self._bands.append(self._correspondence.compute(record.image))
        if record.iteration in self._recorded_iterations | self._reported_iterations:
            self._outputs[record.iteration] = image
        self._last = image
        return dict(zip(BAND_NAMES, self._bands[-1].tolist(), strict=True)), image

    def make_result(
        self, validation_stop: ValidationStop, setup: ExperimentSetup
    ) -> SpectrumResult:
        """Combine all measurements into a `SpectrumResult`."""
        assert self._last is not None
        recorded_outputs = {**self._outputs, self.count: self._last}
        reported_outputs = {
            iteration: output
            for iteration, output in recorded_outputs.items()
            if iteration in self._reported_iterations | {self.count}
        }
        loss, blurriness, sharpness, psnr = np.array(self._rows).T
        frequency, target = compute_radial_power(self._setup.image)
        power = {"target": target}
        if self._truth is not None:
            power["truth"] = compute_radial_power(self._truth)[1]
        power |= {
            str(iteration): compute_radial_power(output)[1]
            for iteration, output in reported_outputs.items()
        }
        selected = self._setup.to_image_units(validation_stop.image)
        has_truth = self._truth is not None
        return SpectrumResult(
            setup=setup,
            truth=self._truth,
            loss=loss,
            correspondence=np.array(self._bands),
            blurriness=blurriness,
            sharpness=sharpness,
            psnr=psnr if has_truth else None,
            reported_outputs=reported_outputs,
            recorded_outputs=recorded_outputs,
            frequency=frequency,
            power=power,
            ratio_stop=find_ratio_stop(blurriness / np.maximum(sharpness, 1e-12)),
            validation_stop=validation_stop,
            validation_psnr=self._compute_psnr(selected) if has_truth else None,
        )

    def _compute_psnr(self, image: ImageArray) -> float:
        return float("nan") if self._truth is None else compute_psnr(image, self._truth)


def _space_iterations(first: int, last: int, count: int) -> set[int]:
    """Return iterations that are evenly spaced in their logarithm."""
    return set(np.round(np.geomspace(first, last, count)).astype(int).tolist())


@use_default_style
def _draw_power_curves(spectrum: SpectrumResult) -> bytes:
    """Draw the spectra of target, truth and outputs, and the outputs; return a PNG file."""
    figure = make_figure(8.6, 6.4)
    rows: Any = figure.subfigures(2, 1, height_ratios=(1, 3.4))
    images = {"Target": spectrum.setup.image}
    if spectrum.truth is not None:
        images["Truth"] = spectrum.truth
    images |= {
        f"Iteration {iteration}": output for iteration, output in spectrum.reported_outputs.items()
    }
    limits = compute_contrast_limits(
        spectrum.setup.image if spectrum.truth is None else spectrum.truth
    )
    panels = rows[0].subplots(1, len(images), squeeze=False)[0]
    for panel, (title, image) in zip(panels, images.items(), strict=True):
        draw_titled_image(panel, image, title, limits)
    ax = rows[1].subplots()
    shades = choose_shades(len(spectrum.reported_outputs))
    for iteration, shade in zip(spectrum.reported_outputs, shades, strict=True):
        power = spectrum.power[str(iteration)]
        ax.plot(spectrum.frequency, power, color=shade, label=f"iteration {iteration}")
    ax.plot(spectrum.frequency, spectrum.power["target"], "k-", linewidth=2, label="target")
    if "truth" in spectrum.power:
        ax.plot(spectrum.frequency, spectrum.power["truth"], "k--", linewidth=2, label="truth")
    ax.set_yscale("log")
    ax.set_xlim(0, 0.5)
    ax.set_xlabel("Radial frequency (cycles per pixel)")
    ax.set_ylabel("Power spectral density\n(squared intensity)")
    ax.legend(frameon=False, ncols=2)
    return render_figure(figure)


@use_default_style
def _draw_band_curves(spectrum: SpectrumResult) -> bytes:
    """Draw the correspondence of each band by iteration, as curves and as a map."""
    figure = make_figure(8.6, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True)
    count = len(spectrum.correspondence)
    iterations, limits = np.arange(1, count + 1), compute_band_edges()
    shades = choose_shades(BAND_COUNT)
    for band, (name, shade) in enumerate(zip(list_band_labels(), shades, strict=True)):
        upper.plot(iterations, spectrum.correspondence[:, band], color=shade, label=name)
    format_iteration_axis(upper, count, is_logarithmic=True)
    upper.set_xlabel("")
    upper.set_ylim(0, 1)
    upper.set_ylabel("Correspondence")
    title = "Radial frequency (cycles per pixel)"
    figure.legend(frameon=False, title=title, loc="outside upper center", ncols=BAND_COUNT)
    iteration_edges = np.arange(1, count + 2) - 0.5
    colours = lower.pcolormesh(iteration_edges, limits, spectrum.correspondence.T, vmin=0, vmax=1)
    figure.colorbar(colours, ax=lower, label="Correspondence", location="bottom", aspect=50)
    lower.set_yticks(limits)
    lower.set_ylabel("Radial frequency\n(cycles per pixel)")
    lower.set_xlabel("Iteration")
    return render_figure(figure)


@use_default_style
def _draw_stopping_curves(spectrum: SpectrumResult) -> bytes:
    """Draw both stops: of blurriness over sharpness, and of the validation pixels."""
    rows = 2 if spectrum.psnr is None else 3
    figure = make_figure(8.6, 2.2 * rows)
    panels = list(figure.subplots(rows, 1, sharex=True))
    iterations = np.arange(1, len(spectrum.ratio) + 1)
    panels[0].plot(iterations, spectrum.ratio, color="tab:blue")
    panels[0].set_yscale("log")
    drawn_ratios = spectrum.ratio[len(iterations) // _SKIPPED_START_DIVISOR :]
    panels[0].set_ylim(0.8 * drawn_ratios.min(), 1.25 * drawn_ratios.max())
    panels[0].yaxis.set_major_formatter("{x:g}")
    is_narrow = drawn_ratios.max() < _DECADE * drawn_ratios.min()
    panels[0].yaxis.set_minor_formatter("{x:g}" if is_narrow else "")
    panels[0].set_ylabel("Blurriness\n/ sharpness")
    validation_errors = np.array(spectrum.validation_stop.validation_errors)
    panels[1].plot(validation_errors[:, 0], validation_errors[:, 1], ".-", color="tab:orange")
    panels[1].set_ylabel("Validation error\n(target's variance = 1)")
    if spectrum.psnr is not None:
        panels[2].plot(iterations, spectrum.psnr, color="0.3")
        panels[2].set_ylabel("PSNR of the\noutput (dB)")
        low = np.percentile(spectrum.psnr, 5)  # ignore the outputs before the network has learned
        panels[2].set_ylim(low, max(spectrum.psnr.max(), spectrum.validation_psnr or low) + 1)
        best = spectrum.validation_stop.best_iteration, spectrum.validation_psnr
        panels[2].plot(*best, "o", color="tab:orange", label="running average")
        panels[2].legend(frameon=False, loc="lower right")
    for ax in panels:
        if spectrum.ratio_stop:
            ax.axvline(spectrum.ratio_stop, color="tab:blue", linestyle="--")
        ax.axvline(spectrum.validation_stop.best_iteration, color="tab:orange", linestyle="--")
    format_iteration_axis(panels[-1], len(iterations), is_logarithmic=False)
    panels[0].set_title(_describe_stops("spectrum-stops-title", spectrum), fontsize=10)
    return render_figure(figure)


def _describe_stops(template_key: str, spectrum: SpectrumResult) -> str:
    """Fill a template of `TEXTS` with the iterations at which both rules stop."""
    stop = spectrum.validation_stop
    facts = {"best_iteration": stop.best_iteration, "is_last": stop.is_last}
    return render_text(template_key, ratio_stop=spectrum.ratio_stop, **facts)


def _caption_power(spectrum: SpectrumResult) -> str:
    is_high = spectrum.frequency > compute_band_edges()[-2]
    target_power = spectrum.power["target"][is_high].mean()
    power_texts = [
        f"{spectrum.power[str(iteration)][is_high].mean() / target_power:.1%} after {iteration}"
        for iteration in spectrum.reported_outputs
    ]
    low, high = compute_band_edges()[-2:]
    return render_text("spectrum-power-caption", low=low, high=high, shares=", ".join(power_texts))


def _caption_bands(spectrum: SpectrumResult) -> str:
    levels = spectrum.find_level_iterations().values()
    bands = "; ".join(
        f"{label}: {first or 'never'} and {second or 'never'}"
        for label, first, second in zip(list_band_labels(), *levels, strict=True)
    )
    last = ", ".join(f"{correspondence:.2f}" for correspondence in spectrum.correspondence[-1])
    caption_levels = dict(zip(("first_level", "second_level"), CORRESPONDENCE_LEVELS, strict=True))
    return render_text("spectrum-bands-caption", bands=bands, last=last, **caption_levels)


def _caption_stops(spectrum: SpectrumResult) -> str:
    stop, validation_stop = spectrum.ratio_stop, spectrum.validation_stop
    text = render_text(
        "spectrum-stops-caption",
        window=RATIO_WINDOW,
        tolerance=RATIO_TOLERANCE,
        ratio_stop=stop,
        bound=spectrum.setup.architecture.lipschitz_bound or 0.0,
        best_iteration=validation_stop.best_iteration,
        iterations=validation_stop.iterations,
        reason=validation_stop.reason,
    )
    if spectrum.psnr is None:
        return text
    psnr_text = render_text(
        "spectrum-psnr-caption",
        best_psnr=spectrum.psnr.max(),
        best_iteration=spectrum.best_iteration,
        ratio_stop=stop,
        stop_psnr=spectrum.psnr[stop - 1],
        validation_psnr=spectrum.validation_psnr,
        last_psnr=spectrum.psnr[-1],
    )
    return f"{text} {psnr_text}"
