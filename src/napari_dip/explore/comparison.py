"""Architectures: several networks fitted to one picture, and which of them suits it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from napari_dip.engine.control import Control
from napari_dip.errors import Failed
from napari_dip.errors.notes import report_notes
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
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.pipeline.torch_state import run_in_default_state
from napari_dip.tasks.priors.deep_image_prior import ADAM, PRESET

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from napari_dip.explore.architecture_fits import ArchitectureProgress, TrialFit
    from napari_dip.explore.experiment_setup import ExperimentSetup, Picture
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.tasks.priors.deep_image_prior import Architecture

#: Standard errors beyond which held-out pixels tell two designs apart.
TIE_STANDARD_ERRORS = 2.0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Architectures(ExperimentResult):
    """Designs on one picture.

    Attributes
    ----------
    subject : ExperimentSetup
    truth : ndarray (Y, X) or None
    block : tuple of int
        Size of the blocks around held-out pixels.
    fits : tuple of TrialFit
        That of the preset first.
    broken : tuple of str
        Designs whose fit broke down.
    left_out : tuple of str
        Designs that were not fitted, since someone ended the comparison.
    """

    experiment: ClassVar[str] = "architectures"
    subject: ExperimentSetup
    truth: Picture | None
    block: tuple[int, int]
    fits: tuple[TrialFit, ...]
    broken: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def best(self) -> TrialFit:
        """The design that explains the held-out pixels best."""
        return min(self.fits, key=lambda item: item.held_out_error)

    @property
    def level(self) -> tuple[TrialFit, ...]:
        """Designs that the held-out pixels cannot tell from the best one."""
        best = self.best
        return tuple(
            fit
            for fit in self.fits
            if fit is not best
            and not is_significantly_worse(fit.errors, best.errors, TIE_STANDARD_ERRORS)
        )

    @property
    def suits(self) -> TrialFit:
        """The design to take: the best one, but that of the preset where it is level with it."""
        first = self.fits[0]
        return first if first in self.level else self.best

    @property
    def denoising(self) -> Recipe:
        """A recipe that restores with that design, as far as a recipe can say it."""
        recipe = self.subject.plan.recipe
        network = get_denoising_network(self.suits.design) or PRESET
        common = {"preset": recipe.run_settings.preset, "seed": recipe.run_settings.seed}
        return make_recipe("denoise", prior="random-input", architecture=network, **common)

    @property
    def verdict(self) -> str:
        """Which prior suits this picture, in a sentence."""
        best, level = self.best, self.level
        others = ", ".join(item.design.name for item in level if item.design.name != PRESET)
        text = f"its held-out error is {best.held_out_error:.4f}"
        if best.design.name == PRESET:
            label = f"The network of the preset suits this image: {text}, the least of all."
        elif any(item.design.name == PRESET for item in level):
            return (
                "The network of the preset suits this image: held-out pixels cannot tell it from "
                f"the best of {len(self.fits)} designs. Level are {best.design.name}"
                f"{', ' if others else ''}{others}."
            )
        else:
            share = 1 - best.held_out_error / self.fits[0].held_out_error
            label = (
                f"'{best.design.name}' ({best.design.label}) suits this image best: {text}, "
                f"{share:.1%} below that of the preset's network."
            )
        return f"{label} Not to be told from it: {others}." if others else label

    @property
    def sentences(self) -> tuple[str, ...]:
        """The outcome in words."""
        said = [self.verdict]
        if self.truth is not None:
            oracle = max(self.fits, key=lambda item: item.oracle or 0)
            said.append(
                f"By the truth: its picture has {self.suits.taken_psnr:.2f} dB; the best that any "
                f"design came by is {oracle.oracle:.2f} dB ('{oracle.design.name}')."
            )
        if self.broken:
            said.append(f"Broke down: {', '.join(self.broken)}.")
        if self.left_out:
            said.append(f"Ended by hand; not fitted: {', '.join(self.left_out)}.")
        said.append(self._kept())
        return tuple(said)

    def to_dict(self) -> dict[str, Any]:
        """Give recipe and figures in plain JSON types."""
        return {
            "experiment": self.experiment,
            "recipe": dict(self.subject.recipe),
            **report_notes(self.subject.notes),
            "block": list(self.block),
            "best": self.best.design.name,
            "level": [item.design.name for item in self.level],
            "broken": list(self.broken),
            "left_out": list(self.left_out),
            "suits": self.suits.design.name,
            "designs": [
                {**describe_architecture(item.design), **row, "held_out": item.held_out.tolist()}
                for item, row in zip(self.fits, make_comparison_rows(self), strict=True)
            ],
        }

    def _kept(self) -> str:
        """How to restore with it."""
        name = self.suits.design.name
        text = "denoising.json is a recipe for denoising with random input and"
        if name == PRESET:
            return f"{text} the preset's network."
        if get_denoising_network(self.suits.design):
            return f"{text} the architecture '{name}'."
        lost = "the optimiser" if self.suits.design.optimiser != ADAM else "the numbers"
        return f"{text} the preset's network: a recipe has no place for {lost} of '{name}'."


def make_comparison_rows(architectures: Architectures) -> list[dict[str, Any]]:
    """Give the table: a line for each design, with all digits."""
    rows = []
    for fit in architectures.fits:
        row: dict[str, Any] = {
            "name": fit.design.name,
            "weights": fit.weights,
            "weights_per_pixel": fit.weights / architectures.subject.picture.size,
            "impedance": fit.impedance,
            "band_score": fit.band_score,
            "held_out_error": fit.held_out_error,
            "taken": fit.stop.taken,
            "ended": fit.stop.ended,
            "milliseconds": 1000 * fit.seconds,
        }
        if fit.psnr is not None:
            row |= {"oracle_psnr": fit.oracle, "taken_psnr": fit.taken_psnr}
            row["oracle_iteration"] = int(fit.psnr.argmax()) + 1
        rows.append(row)
    return rows


def explore_architectures(
    subject: ExperimentSetup,
    designs: Iterable[Architecture],
    truth: Picture | None = None,
    *,
    control: Callable[[], Control] = lambda: Control.GO,
) -> Generator[IterationUpdate, None, Architectures | None]:
    """Fit each design to the picture and to noise, the same pixels held out of all.

    Parameters
    ----------
    subject : ExperimentSetup
    designs : iterable of Architecture
    truth : ndarray (Y, X) or None
        What the picture should have been, in its units.
    control : callable
        Polled at each iteration. Keeping ends the comparison with the designs that are done.

    Yields
    ------
    IterationUpdate
        After each iteration: an energy of the design that is being fitted.

    Returns
    -------
    Architectures or None
        None if it was discarded, or ended before the first design was done.
    """
    load_torch()
    steps = _fit_architectures(subject, tuple(designs), truth, control)
    return (yield from run_in_default_state(steps, subject.plan.threads))


def _fit_architectures(
    subject: ExperimentSetup,
    architectures: tuple[Architecture, ...],
    truth: Picture | None,
    control: Callable[[], Control],
) -> Generator[IterationUpdate, None, Architectures | None]:
    block = measure_validation_block(subject)
    fits: list[TrialFit] = []
    broken: list[str] = []
    for number, design in enumerate(architectures):
        steps = fit_architecture(design, subject, truth, block, control=control)
        facts = partial(
            _make_comparison_update, design, number, len(architectures), subject.iterations
        )
        try:
            fitted = yield from map_generator(steps, facts)
        except Failed:
            if design.name == PRESET:
                raise
            broken.append(design.name)  # no reason to lose what the others say
            continue
        if fitted is None:
            break
        fits.append(fitted)
    if not fits or control() is Control.DISCARD:
        return None
    done = len(fits) + len(broken)
    left_out = tuple(item.name for item in architectures[done:])
    return Architectures(
        subject=subject,
        truth=truth,
        block=block,
        fits=tuple(fits),
        broken=tuple(broken),
        left_out=left_out,
    )


def _make_comparison_update(
    design: Architecture, number: int, designs: int, count: int, progress: ArchitectureProgress
) -> IterationUpdate:
    """Tell how far the whole comparison is from how far a design's two fits are."""
    text = f"Fitting network {number + 1} of {designs}: {label_architecture(design)}"
    event = Event(
        message=text,
        fraction=(number + progress.done) / designs,
        iteration=progress.iteration,
        iterations=count,
    )
    return IterationUpdate(event, {progress.target: progress.energy}, design.name, progress.picture)
