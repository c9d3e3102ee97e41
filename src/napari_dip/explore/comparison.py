"""Compare architectures: fit several networks to one picture and choose the one that suits it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from napari_dip.engine.control import Control
from napari_dip.errors import FailedError
from napari_dip.errors.notes import serialise_notes
from napari_dip.explore.architecture_fits import fit_architecture, is_significantly_worse
from napari_dip.explore.experiment_setup import (
    describe_architecture,
    get_denoising_network,
    label_architecture,
    measure_validation_block,
)
from napari_dip.explore.progress import ExperimentResult, IterationUpdate
from napari_dip.pipeline.events import Event, map_generator
from napari_dip.pipeline.machine import load_torch
from napari_dip.pipeline.progress import Progress
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.pipeline.torch_state import run_in_default_state
from napari_dip.tasks.priors.deep_image_prior import ADAM, DEFAULT_ARCHITECTURE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from napari_dip.explore.architecture_fits import ArchitectureFit, ArchitectureProgress
    from napari_dip.explore.experiment_setup import ExperimentSetup, Picture
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.tasks.priors.deep_image_prior import Architecture

#: Minimum difference of two validation errors, in standard errors, that counts as significant.
TIE_STANDARD_ERRORS = 2.0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ArchitectureComparison(ExperimentResult):
    """Comparison of architectures on one picture.

    Attributes
    ----------
    subject : ExperimentSetup
    truth : ndarray (Y, X) or None
    block : tuple of int
        Size of the guard blocks around validation pixels.
    fits : tuple of ArchitectureFit
        One fit per architecture, that of the preset first.
    failed_architectures : tuple of str
        Architectures whose fit diverged.
    skipped_architectures : tuple of str
        Architectures that were not fitted because the user ended the comparison.
    """

    experiment: ClassVar[str] = "architectures"
    subject: ExperimentSetup
    truth: Picture | None
    block: tuple[int, int]
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
            and not is_significantly_worse(fit.errors, best.errors, TIE_STANDARD_ERRORS)
        )

    @property
    def recommended_fit(self) -> ArchitectureFit:
        """Recommended fit: the best one, or that of the preset if it is not significantly worse."""
        first = self.fits[0]
        return first if first in self.equivalent_fits else self.best

    @property
    def denoising_recipe(self) -> Recipe:
        """Recipe that denoises with the recommended network, as far as a recipe can express it."""
        recipe = self.subject.plan.recipe
        network = get_denoising_network(self.recommended_fit.architecture) or DEFAULT_ARCHITECTURE
        common = {"preset": recipe.run_settings.preset, "seed": recipe.run_settings.seed}
        return make_recipe("denoise", prior="random-input", architecture=network, **common)

    @property
    def verdict(self) -> str:
        """Sentence that names the prior that suits this picture."""
        best, equivalent = self.best, self.equivalent_fits
        others = ", ".join(
            item.architecture.name
            for item in equivalent
            if item.architecture.name != DEFAULT_ARCHITECTURE
        )
        error_text = f"its validation error is {best.validation_error:.4f}"
        if best.architecture.name == DEFAULT_ARCHITECTURE:
            label = f"The network of the preset suits this image: {error_text}, the least of all."
        elif any(item.architecture.name == DEFAULT_ARCHITECTURE for item in equivalent):
            return (
                "The network of the preset suits this image: validation pixels cannot tell it from "
                f"the best of {len(self.fits)} designs. Level are {best.architecture.name}"
                f"{', ' if others else ''}{others}."
            )
        else:
            improvement = 1 - best.validation_error / self.fits[0].validation_error
            label = (
                f"'{best.architecture.name}' ({best.architecture.label}) suits this image best: "
                f"{error_text}, {improvement:.1%} below that of the preset's network."
            )
        return f"{label} Not to be told from it: {others}." if others else label

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences that summarise the comparison."""
        lines = [self.verdict]
        if self.truth is not None:
            oracle = max(self.fits, key=lambda item: item.best_psnr or 0)
            lines.append(
                f"By the truth: its picture has {self.recommended_fit.selected_psnr:.2f} dB; the "
                "best that any "
                f"design came by is {oracle.best_psnr:.2f} dB ('{oracle.architecture.name}')."
            )
        if self.failed_architectures:
            lines.append(f"Broke down: {', '.join(self.failed_architectures)}.")
        if self.skipped_architectures:
            lines.append(f"Ended by hand; not fitted: {', '.join(self.skipped_architectures)}.")
        lines.append(self._describe_recipe())
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return recipe and figures in plain JSON types."""
        return {
            "experiment": self.experiment,
            "recipe": dict(self.subject.recipe),
            **serialise_notes(self.subject.notes),
            "block": list(self.block),
            "best": self.best.architecture.name,
            "level": [fit.architecture.name for fit in self.equivalent_fits],
            "broken": list(self.failed_architectures),
            "left_out": list(self.skipped_architectures),
            "suits": self.recommended_fit.architecture.name,
            "designs": [
                {
                    **describe_architecture(fit.architecture),
                    **row,
                    "held_out": fit.validation_errors.tolist(),
                }
                for fit, row in zip(self.fits, make_comparison_rows(self), strict=True)
            ],
        }

    def _describe_recipe(self) -> str:
        """Describe the denoising recipe in a sentence."""
        name = self.recommended_fit.architecture.name
        sentence = "denoising.json is a recipe for denoising with random input and"
        if name == DEFAULT_ARCHITECTURE:
            return f"{sentence} the preset's network."
        if get_denoising_network(self.recommended_fit.architecture):
            return f"{sentence} the architecture '{name}'."
        omitted = (
            "the optimiser"
            if self.recommended_fit.architecture.optimizer != ADAM
            else "the numbers"
        )
        return f"{sentence} the preset's network: a recipe has no place for {omitted} of '{name}'."


def make_comparison_rows(architectures: ArchitectureComparison) -> list[dict[str, Any]]:
    """Return the table of a comparison, one row per architecture, with all digits."""
    rows = []
    for fit in architectures.fits:
        row: dict[str, Any] = {
            "name": fit.architecture.name,
            "weights": fit.weights,
            "weights_per_pixel": fit.weights / architectures.subject.picture.size,
            "impedance": fit.impedance,
            "band_score": fit.band_score,
            "held_out_error": fit.validation_error,
            "taken": fit.stop.selected_iteration,
            "ended": fit.stop.stop_iteration,
            "milliseconds": 1000 * fit.seconds,
        }
        if fit.psnr is not None:
            row |= {"oracle_psnr": fit.best_psnr, "taken_psnr": fit.selected_psnr}
            row["oracle_iteration"] = int(fit.psnr.argmax()) + 1
        rows.append(row)
    return rows


def explore_architectures(
    setup: ExperimentSetup,
    designs: Iterable[Architecture],
    truth: Picture | None = None,
    *,
    control: Callable[[], Control] = lambda: Control.GO,
) -> Generator[IterationUpdate, None, ArchitectureComparison | None]:
    """Fit each architecture to the picture and to noise, with the same validation pixels.

    Parameters
    ----------
    setup : ExperimentSetup
    designs : iterable of Architecture
    truth : ndarray (Y, X) or None
        Picture without noise, in its units.
    control : callable
        Polled at each iteration. KEEP ends the comparison with the finished architectures.

    Yields
    ------
    IterationUpdate
        After each iteration: the energy of the current fit.

    Returns
    -------
    Architectures or None
        None if it was discarded, or ended before the first architecture was finished.
    """
    load_torch()
    steps = _fit_architectures(setup, tuple(designs), truth, control)
    return (yield from run_in_default_state(steps, setup.plan.threads))


def _fit_architectures(
    setup: ExperimentSetup,
    architectures: tuple[Architecture, ...],
    truth: Picture | None,
    control: Callable[[], Control],
) -> Generator[IterationUpdate, None, ArchitectureComparison | None]:
    block = measure_validation_block(setup)
    fits: list[ArchitectureFit] = []
    failed: list[str] = []
    for number, design in enumerate(architectures):
        steps = fit_architecture(design, setup, truth, block, control=control)
        make_update = partial(
            _make_comparison_update, design, number, len(architectures), setup.iterations
        )
        try:
            fitted = yield from map_generator(steps, make_update)
        except FailedError:
            if design.name == DEFAULT_ARCHITECTURE:
                raise
            failed.append(design.name)  # keep the results of the others
            continue
        if fitted is None:
            break
        fits.append(fitted)
    if not fits or control() is Control.DISCARD:
        return None
    done = len(fits) + len(failed)
    skipped = tuple(architecture.name for architecture in architectures[done:])
    return ArchitectureComparison(
        subject=setup,
        truth=truth,
        block=block,
        fits=tuple(fits),
        failed_architectures=tuple(failed),
        skipped_architectures=skipped,
    )


def _make_comparison_update(
    architecture: Architecture,
    number: int,
    designs: int,
    count: int,
    progress: ArchitectureProgress,
) -> IterationUpdate:
    """Convert the progress of one architecture's fits to that of the whole comparison."""
    message = f"Fitting network {number + 1} of {designs}: {label_architecture(architecture)}"
    event = Event(
        message=message,
        progress=Progress(done=number + progress.done, total=designs),
        iteration=progress.iteration,
        iterations=count,
    )
    return IterationUpdate(
        event, {progress.target: progress.energy}, architecture.name, progress.picture
    )
