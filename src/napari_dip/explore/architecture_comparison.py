"""Compare architectures: fit several networks to one image and choose the one that suits it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import FailedError
from napari_dip.errors.templates import render_text
from napari_dip.explore.architecture_fits import fit_architecture, is_significantly_worse
from napari_dip.explore.experiment_results import (
    ExperimentReport,
    ExperimentResult,
    ExperimentSummary,
    ImageStack,
    IterationUpdate,
    ReportFigure,
    ReportTable,
    add_iteration_column,
    format_rows,
)
from napari_dip.explore.experiment_setup import (
    get_denoising_architecture,
    label_architecture,
    measure_blind_spot_size,
)
from napari_dip.explore.spectral_measures import BAND_NAMES
from napari_dip.pipeline.assess.report_figures import (
    compute_contrast_limits,
    draw_titled_image,
    make_figure,
    render_figure,
    use_default_style,
)
from napari_dip.pipeline.progress import Event, Progress, map_generator
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.pipeline.store.result_files import format_csv
from napari_dip.tasks.base import DEFAULT_PRIOR
from napari_dip.tasks.priors.random_input import ADAM, DEFAULT_ARCHITECTURE

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.explore.architecture_fits import ArchitectureFit, ArchitectureProgress
    from napari_dip.explore.experiment_setup import ExperimentSetup, ImageArray
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.tasks.priors.random_input import Architecture

#: Minimum difference of two validation errors, in standard errors, that counts as significant.
MIN_STANDARD_ERRORS = 2.0
#: Mark of the recommended architecture in the dock's table.
_BEST_ROW_MARK = "✓ "
#: Number of images in a row of the figure.
_IMAGES_PER_ROW = 5
#: Minimum ratio of maximum to minimum for a logarithmic axis, whose tick labels would overlap below
#: it.
_MIN_LOGARITHMIC_RATIO = 30


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ArchitectureComparison(ExperimentResult):
    """Comparison of architectures on one image.

    Attributes
    ----------
    setup : ExperimentSetup
    truth : ndarray (Y, X) or None
    blind_spot_size : tuple of int
        Size of the guard band around each validation pixel.
    fits : tuple of ArchitectureFit
        One fit per architecture, that of the preset first.
    failed_architectures : tuple of str
        Architectures whose fit diverged.
    skipped_architectures : tuple of str
        Architectures that were not fitted because the user ended the comparison.
    """

    experiment: ClassVar[str] = "architectures"
    setup: ExperimentSetup
    truth: ImageArray | None
    blind_spot_size: tuple[int, int]
    fits: tuple[ArchitectureFit, ...]
    failed_architectures: tuple[str, ...]
    skipped_architectures: tuple[str, ...] = ()

    @property
    def best(self) -> ArchitectureFit:
        """Fit with the smallest validation error."""
        return min(self.fits, key=lambda item: item.validation_error)

    @property
    def equivalent_fits(self) -> tuple[ArchitectureFit, ...]:
        """Fits whose validation errors do not differ significantly from the best one's."""
        best = self.best
        return tuple(
            fit
            for fit in self.fits
            if fit is not best
            and not is_significantly_worse(
                fit.squared_errors, best.squared_errors, MIN_STANDARD_ERRORS
            )
        )

    @property
    def recommended_fit(self) -> ArchitectureFit:
        """Recommended fit: the best one, or that of the preset if it is not significantly worse."""
        preset_fit = self.fits[0]
        return preset_fit if preset_fit in self.equivalent_fits else self.best

    @property
    def denoising_recipe(self) -> Recipe:
        """Recipe that denoises with the recommended network, as far as a recipe can express it."""
        run_settings = self.setup.plan.recipe.run_settings
        settings = {"preset": run_settings.preset, "seed": run_settings.seed}
        name = get_denoising_architecture(self.recommended_fit.architecture) or DEFAULT_ARCHITECTURE
        return make_recipe("denoise", prior=DEFAULT_PRIOR, architecture=name, **settings)

    @property
    def verdict(self) -> str:
        """Sentence that names the prior that suits this image."""
        best = self.best.architecture
        equivalent = [fit.architecture.name for fit in self.equivalent_fits]
        others = ", ".join(name for name in equivalent if name != DEFAULT_ARCHITECTURE)
        if DEFAULT_ARCHITECTURE in equivalent:
            names = ", ".join(filter(None, [best.name, others]))
            return render_text("architectures-preset-level", count=len(self.fits), names=names)
        error, preset_error = self.best.validation_error, self.fits[0].validation_error
        is_preset = best.name == DEFAULT_ARCHITECTURE
        row = "architectures-preset-best" if is_preset else "architectures-best"
        facts = {"error": error, "improvement": 1 - error / preset_error}
        sentence = render_text(row, name=best.name, label=best.label, **facts)
        if not others:
            return sentence
        level = render_text("architectures-level", names=others)
        return f"{sentence} {level}"

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences that summarise the comparison."""
        lines = [self.verdict]
        if self.truth is not None:
            oracle = max(self.fits, key=lambda item: item.best_psnr or 0)
            facts = {"name": oracle.architecture.name, "best_psnr": oracle.best_psnr}
            psnr = self.recommended_fit.selected_psnr
            lines.append(render_text("architectures-truth", psnr=psnr, **facts))
        for row, names in (
            ("architectures-failed", self.failed_architectures),
            ("architectures-skipped", self.skipped_architectures),
        ):
            if names:
                lines.append(render_text(row, names=", ".join(names)))
        lines.append(self._describe_recipe())
        return tuple(lines)

    def make_report(self) -> ExperimentReport:
        """Return the report: scores and images of all architectures."""
        rows = make_comparison_rows(self)
        return ExperimentReport(
            title=f"Architectures: {self.setup.name}",
            recipe=self.setup.recipe,
            notes=self.setup.notes,
            description=(self.setup.describe_fit("architectures-fits"),),
            figures=(
                ReportFigure(
                    file="architectures.png",
                    title="The architectures beside each other",
                    caption=_caption_scores(self),
                    draw=partial(_draw_architecture_scores, self),
                ),
                ReportFigure(
                    file="pictures.png",
                    title="The best of each by validation pixels",
                    caption=render_text(
                        "architectures-images-caption", has_truth=self.truth is not None
                    ),
                    draw=partial(_draw_architecture_images, self),
                ),
            ),
            references=("deep image prior", "guide", "spectral bias", "deep decoder"),
            table=_make_architecture_table(self, rows),
            numbers={
                "block": list(self.blind_spot_size),
                "best": self.best.architecture.name,
                "level": [fit.architecture.name for fit in self.equivalent_fits],
                "broken": list(self.failed_architectures),
                "left_out": list(self.skipped_architectures),
                "suits": self.recommended_fit.architecture.name,
                "designs": [
                    {
                        **_serialise_architecture(fit.architecture),
                        **row,
                        "held_out": fit.validation_errors.tolist(),
                    }
                    for fit, row in zip(self.fits, rows, strict=True)
                ],
            },
            files={
                "architectures.csv": format_rows(rows),
                "curves.csv": self._format_curves(),
                "denoising.json": self.denoising_recipe.to_json(),
            },
        )

    def summarise(self) -> ExperimentSummary:
        """Return the scores, curves and images of all architectures, the best first."""
        fits = sorted(self.fits, key=lambda item: item.validation_error)
        labels = [label_architecture(fit.architecture) for fit in fits]
        psnr_head = ("dB",) if self.truth is not None else ()
        return ExperimentSummary(
            headline=f"Suits best: {label_architecture(self.recommended_fit.architecture)}",
            headers=("Architecture", "validation", *psnr_head, "score", "bands", "weights"),
            rows=tuple(
                (
                    f"{_BEST_ROW_MARK if fit is self.recommended_fit else ''}{label}",
                    f"{fit.validation_error:.4f}",
                    *(f"{fit.selected_psnr:.2f}" for _ in psnr_head),
                    f"{fit.impedance:.3f}",
                    f"{fit.band_score:.3f}",
                    f"{fit.weight_count / 1000:.0f}k",
                )
                for label, fit in zip(labels, fits, strict=True)
            ),
            stack=ImageStack(
                name_suffix="architectures",
                axis="architecture",
                names=tuple(labels),
                images=np.stack([fit.image for fit in fits]),
            ),
            curves=tuple(
                (label, {"image": fit.image_loss, "noise": fit.noise_loss})
                for label, fit in zip(labels, fits, strict=True)
            ),
        )

    def _format_curves(self) -> str:
        """Return all curves as CSV, one row per architecture and iteration."""
        lines: list[tuple[Any, ...]] = []
        for fit in self.fits:
            columns = {
                "energy": fit.image_loss,
                "energy_of_noise": fit.noise_loss,
                "held_out_error": fit.validation_errors,
                **dict(zip(BAND_NAMES, fit.correspondence.T, strict=True)),
                **({} if fit.psnr is None else {"psnr": fit.psnr}),
            }
            numbered = add_iteration_column(columns)
            values = zip(*(column.tolist() for column in numbered.values()), strict=True)
            lines += [(fit.architecture.name, *line) for line in values]
        return format_csv(("design", *numbered), lines)

    def _describe_recipe(self) -> str:
        """Describe the denoising recipe in a sentence."""
        architecture = self.recommended_fit.architecture
        name = architecture.name
        is_preset = name == DEFAULT_ARCHITECTURE
        if is_preset or get_denoising_architecture(architecture):
            return render_text("architectures-recipe", name="" if is_preset else name)
        is_optimizer = architecture.optimizer != ADAM
        return render_text("architectures-recipe-reduced", is_optimizer=is_optimizer, name=name)


def _serialise_architecture(architecture: Architecture) -> dict[str, object]:
    """Return an architecture in plain JSON types, under the names of the saved files."""
    return {
        "name": architecture.name,
        "structure": architecture.structure,
        "widths": list(architecture.widths),
        "skip": architecture.skip_channels,
        "upsampling": architecture.upsampling,
        "weights": architecture.initialisation,
        "code": architecture.input_kind,
        "optimiser": architecture.optimizer,
        "rate": architecture.learning_rate,
        "bound": architecture.lipschitz_bound,
        "sigma": architecture.upsampling_sigma,
    }


def make_comparison_rows(comparison: ArchitectureComparison) -> list[dict[str, Any]]:
    """Return the table of a comparison, one row per architecture, with all digits."""
    rows = []
    for fit in comparison.fits:
        row: dict[str, Any] = {
            "name": fit.architecture.name,
            "weights": fit.weight_count,
            "weights_per_pixel": fit.weight_count / comparison.setup.image.size,
            "impedance": fit.impedance,
            "band_score": fit.band_score,
            "held_out_error": fit.validation_error,
            "taken": fit.stop.selected_iteration,
            "ended": fit.stop.stop_iteration,
            "milliseconds": 1000 * fit.seconds_per_iteration,
        }
        if fit.psnr is not None:
            row |= {"oracle_psnr": fit.best_psnr, "taken_psnr": fit.selected_psnr}
            row["oracle_iteration"] = int(fit.psnr.argmax()) + 1
        rows.append(row)
    return rows


def explore_architectures(
    setup: ExperimentSetup,
    architectures: Sequence[Architecture],
    truth: ImageArray | None = None,
    *,
    poll_control: PollControl = lambda: Control.GO,
) -> Generator[IterationUpdate, None, ArchitectureComparison | None]:
    """Fit each architecture to the image and to noise, with the same validation pixels.

    Parameters
    ----------
    setup : ExperimentSetup
    architectures : sequence of Architecture
    truth : ndarray (Y, X) or None
        Image without noise, in its units.
    poll_control : callable
        Polled at each iteration. KEEP ends the comparison with the finished architectures.

    Yields
    ------
    IterationUpdate
        After each iteration: the loss of the current fit.

    Returns
    -------
    ArchitectureComparison or None
        None if it was discarded, or ended before the first architecture was finished.
    """
    blind_spot_size = measure_blind_spot_size(setup)
    fits: list[ArchitectureFit] = []
    failed: list[str] = []
    for number, architecture in enumerate(architectures):
        steps = fit_architecture(
            architecture, setup, truth, blind_spot_size, poll_control=poll_control
        )
        make_update = partial(
            _make_comparison_update, architecture, number, len(architectures), setup.iterations
        )
        try:
            fitted = yield from map_generator(steps, make_update)
        except FailedError:
            if architecture.name == DEFAULT_ARCHITECTURE:
                raise
            failed.append(architecture.name)  # keep the results of the others
            continue
        if fitted is None:
            break
        fits.append(fitted)
    if not fits or poll_control() is Control.DISCARD:
        return None
    fitted_count = len(fits) + len(failed)
    skipped = tuple(architecture.name for architecture in architectures[fitted_count:])
    return ArchitectureComparison(
        setup=setup,
        truth=truth,
        blind_spot_size=blind_spot_size,
        fits=tuple(fits),
        failed_architectures=tuple(failed),
        skipped_architectures=skipped,
    )


def _make_comparison_update(
    architecture: Architecture,
    number: int,
    architecture_count: int,
    iteration_count: int,
    progress: ArchitectureProgress,
) -> IterationUpdate:
    """Convert the progress of one architecture's fits to that of the whole comparison."""
    label = label_architecture(architecture)
    event = Event(
        message=f"Fitting network {number + 1} of {architecture_count}: {label}",
        progress=Progress(done=number + progress.fraction, total=architecture_count),
        iteration=progress.iteration,
        iterations=iteration_count,
    )
    points = {progress.target: progress.loss}
    return IterationUpdate(event, points, architecture.name, progress.image)


def _make_architecture_table(
    comparison: ArchitectureComparison, rows: list[dict[str, Any]]
) -> ReportTable:
    headers = ["architecture", "weights", "per pixel", "impedance", "band score"]
    headers += ["validation error", "taken at", "ms per iteration"]
    if comparison.truth is not None:
        headers += ["oracle, dB (at)", "taken, dB"]
    lines = []
    for fit, row in zip(comparison.fits, rows, strict=True):
        line = [
            f"{fit.architecture.name}: {fit.architecture.label}",
            f"{fit.weight_count:,}",
            f"{row['weights_per_pixel']:.2f}",
            f"{fit.impedance:.3f}",
            f"{fit.band_score:.3f}",
            f"{fit.validation_error:.4f}",
            str(fit.stop.selected_iteration),
            f"{row['milliseconds']:.0f}",
        ]
        if comparison.truth is not None:
            line.append(f"{fit.best_psnr:.2f} ({row['oracle_iteration']})")
            line.append(f"{fit.selected_psnr:.2f}")
        lines.append(tuple(line))
    caption = render_text(
        "architectures-table-caption",
        pixels=comparison.best.squared_errors.size,
        standard_errors=MIN_STANDARD_ERRORS,
        has_truth=comparison.truth is not None,
    )
    return ReportTable(headers=tuple(headers), rows=tuple(lines), caption=caption)


def _caption_scores(comparison: ArchitectureComparison) -> str:
    ranked = sorted(comparison.fits, key=lambda item: item.impedance)
    caption = render_text(
        "architectures-scores-caption",
        best=comparison.best.architecture.name,
        best_error=comparison.best.validation_error,
        preset_error=comparison.fits[0].validation_error,
        lowest=ranked[0].impedance,
        lowest_name=ranked[0].architecture.name,
        highest=ranked[-1].impedance,
        highest_name=ranked[-1].architecture.name,
    )
    if comparison.truth is None:
        return caption
    losses = {
        fit.architecture.name: (fit.best_psnr or 0) - (fit.selected_psnr or 0)
        for fit in comparison.fits
    }
    worst = max(losses, key=lambda name: losses[name])
    mean = sum(losses.values()) / len(losses)
    psnr_text = render_text("architectures-psnr-caption", mean=mean, most=losses[worst], name=worst)
    return f"{caption} {psnr_text}"


@use_default_style
def _draw_architecture_scores(comparison: ArchitectureComparison) -> bytes:
    """Draw the scores of each architecture in a row, with the preset's dashed."""
    fits = comparison.fits
    figure = make_figure(8.6, 1.6 + 0.28 * len(fits))
    columns = {
        "Impedance score": [fit.impedance for fit in fits],
        "Band score": [fit.band_score for fit in fits],
        "Validation error\n(image's variance = 1)": [fit.validation_error for fit in fits],
        "Weights per pixel": [fit.weight_count / comparison.setup.image.size for fit in fits],
    }
    panels = figure.subplots(1, len(columns) + (comparison.truth is not None), sharey=True)
    rows = np.arange(len(fits))
    for ax, (title, values) in zip(panels, columns.items(), strict=False):
        ax.plot(values, rows, "o", color="tab:blue")
        ax.axvline(values[0], color="0.5", linestyle="--", linewidth=1)
        ax.set_xlabel(title)
    weights = columns["Weights per pixel"]
    if max(weights) > _MIN_LOGARITHMIC_RATIO * min(weights):
        panels[3].set_xscale("log")
        panels[3].xaxis.set_major_formatter("{x:g}")
    if comparison.truth is not None:
        psnr_axes = panels[-1]
        best_psnr = [fit.best_psnr for fit in fits]
        psnr_axes.plot(best_psnr, rows, "o", color="tab:green", label="oracle")
        selected_psnr = [fit.selected_psnr for fit in fits]
        psnr_axes.plot(selected_psnr, rows, "o", color="tab:green", mfc="none", label="taken")
        psnr_axes.axvline(selected_psnr[0], color="0.5", linestyle="--", linewidth=1)
        psnr_axes.set_xlabel("PSNR (dB)")
    for ax in panels:
        ax.grid(axis="y", alpha=0.25)
    panels[0].set_yticks(rows, [fit.architecture.name for fit in fits])
    panels[0].invert_yaxis()
    return render_figure(figure)


@use_default_style
def _draw_architecture_images(comparison: ArchitectureComparison) -> bytes:
    """Draw the selected image of each architecture."""
    images = {"given": comparison.setup.image}
    if comparison.truth is not None:
        images["truth"] = comparison.truth
    for fit in comparison.fits:
        psnr_text = "" if fit.selected_psnr is None else f", {fit.selected_psnr:.2f} dB"
        images[f"{fit.architecture.name}\n{fit.validation_error:.4f}{psnr_text}"] = fit.image
    limits = compute_contrast_limits(
        comparison.setup.image if comparison.truth is None else comparison.truth
    )
    rows = -(-len(images) // _IMAGES_PER_ROW)
    figure = make_figure(8.6, 2.1 * rows)
    panels = figure.subplots(rows, _IMAGES_PER_ROW, squeeze=False).ravel()
    for panel, (title, image) in zip(panels, images.items(), strict=False):
        draw_titled_image(panel, image, title, limits)
    for panel in panels[len(images) :]:
        panel.set_axis_off()
    return render_figure(figure)
