"""Measure the impedance of a network: how much slower it learns noise than an image."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors.templates import render_text
from napari_dip.explore.experiment_fit import iter_fit
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
from napari_dip.explore.experiment_setup import TARGET_LABELS, standardise
from napari_dip.pipeline.assess.report_figures import (
    compute_contrast_limits,
    draw_titled_image,
    format_iteration_axis,
    make_figure,
    render_figure,
    use_default_style,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.explore.experiment_setup import ExperimentSetup, ImageArray
    from napari_dip.io import AnyArray, FloatArray

#: Standard deviation of the added noise, relative to that of the image.
ADDED_NOISE_STD = 0.5
#: Iterations whose losses are reported, as far as the fit got, in addition to the last one.
REPORTED_ITERATIONS = (10, 50, 100)
#: Colours of the targets on the page.
_REPORT_COLOURS = ("tab:blue", "tab:green", "tab:orange", "tab:red")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ImpedanceResult(ExperimentResult):
    """Energies of one network fitted to four targets.

    Attributes
    ----------
    setup : ExperimentSetup
    targets : mapping of str to ndarray (Y, X) float32
        Each of zero mean and unit variance; the keys are those of `TARGET_LABELS`.
    losses : mapping of str to ndarray (iterations,) float64
        Mean square of output minus target at iterations 1, 2, ...
    score : float
        Area between the curves of noise and image over the logarithm of the iteration, divided by
        the length of that axis: see `compute_impedance`.
    """

    experiment: ClassVar[str] = "impedance"
    setup: ExperimentSetup
    targets: Mapping[str, ImageArray]
    losses: Mapping[str, FloatArray]
    score: float

    def get_losses(self, iteration: int) -> dict[str, float]:
        """Return the losses at a 1-based iteration, by target."""
        return {name: float(curve[iteration - 1]) for name, curve in self.losses.items()}

    def is_ordered(self, iteration: int) -> bool:
        """Return whether image < image + noise < both noise and shuffled pixels at an iteration."""
        losses = self.get_losses(iteration)
        upper_limit = min(losses["shuffled"], losses["noise"])
        return losses["image"] < losses["image_and_noise"] < upper_limit

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences that summarise the experiment."""
        facts = {"iterations": self.setup.iterations, "least": MIN_KEPT_ITERATIONS}
        return (render_text("impedance-score", score=self.score, few=self.is_short, **facts),)

    @property
    def is_short(self) -> bool:
        """Whether the fits had too few iterations for a score to mean anything."""
        return len(self.losses["image"]) < MIN_KEPT_ITERATIONS

    def make_report(self) -> ExperimentReport:
        """Return the report: losses by iteration."""
        return ExperimentReport(
            title=f"Impedance: {self.setup.name}",
            recipe=self.setup.recipe,
            notes=self.setup.notes,
            description=(self.setup.describe_fit(),),
            figures=(
                ReportFigure(
                    file="impedance.png",
                    title="Energy against iteration",
                    caption=_caption_losses(self),
                    draw=partial(_draw_loss_curves, self),
                ),
            ),
            references=("deep image prior", "guide"),
            numbers={
                "score": self.score,
                "energies": {name: curve.tolist() for name, curve in self.losses.items()},
            },
            files={"impedance.csv": format_columns(add_iteration_column(self.losses))},
        )

    def summarise(self) -> ExperimentSummary:
        """Return the losses at some iterations, and the targets."""
        return ExperimentSummary(
            headline="Too short for an impedance score"
            if self.is_short
            else f"Impedance score {self.score:.3f}",
            headers=("After", "image", "+ noise", "shuffled", "noise"),
            rows=tuple(
                (str(iteration), *(f"{loss:.3f}" for loss in self.get_losses(iteration).values()))
                for iteration in self.list_reported_iterations()
            ),
            stack=ImageStack(
                name_suffix="targets",
                axis="target",
                names=tuple(TARGET_LABELS.values()),
                images=np.stack([self.targets[name] for name in TARGET_LABELS]),
                has_image_units=False,
            ),
        )

    def list_reported_iterations(self) -> list[int]:
        """Return the iterations whose losses are reported, the last one among them."""
        last = self.setup.iterations
        return [*(iteration for iteration in REPORTED_ITERATIONS if iteration < last), last]


def make_targets(grey_image: ImageArray, seed: int) -> dict[str, ImageArray]:
    """Make the four targets: image, image with noise, shuffled pixels, and noise alone.

    Parameters
    ----------
    grey_image : ndarray (Y, X)
    seed : int
    """
    rng = np.random.default_rng(seed)
    image = standardise(grey_image)
    noisy = image + ADDED_NOISE_STD * rng.standard_normal(image.shape)
    shuffled = rng.permutation(image.ravel()).reshape(image.shape)
    noise = rng.standard_normal(image.shape)
    targets: tuple[AnyArray, ...] = (image, noisy, shuffled, noise)
    return {name: standardise(target) for name, target in zip(TARGET_LABELS, targets, strict=True)}


def compute_impedance(noise: FloatArray, image: FloatArray) -> float:
    """Return the mean distance of two loss curves over the logarithm of the iteration.

    As in the paper's figure, the axis is logarithmic. A network that learns twice as fast then has
    the same curves, shifted, and the same score. Over a linear axis the last iterations would
    dominate the score, which would depend on their number.

    Parameters
    ----------
    noise, image : ndarray (iterations,)
        Energies at iterations 1, 2, ... in variances of the target.

    Returns
    -------
    float
        0: the network learns both equally fast; 1: the image at once, and noise never.
    """
    if len(noise) < 2:
        return float(noise[0] - image[0])
    log_iterations, differences = np.log(np.arange(1, len(noise) + 1)), noise - image
    doubled_areas = np.diff(log_iterations) * (differences[1:] + differences[:-1])
    return float(doubled_areas.sum() / 2 / log_iterations[-1])


def explore_impedance(
    setup: ExperimentSetup, *, poll_control: PollControl = lambda: Control.GO
) -> Generator[IterationUpdate, None, ImpedanceResult | None]:
    """Fit the same network from the same initial weights to each target, in parallel.

    Parameters
    ----------
    setup : ExperimentSetup
    poll_control : callable
        Polled at each iteration. KEEP ends the experiment with the iterations so far.

    Yields
    ------
    IterationUpdate
        After each iteration: the losses of all targets.

    Returns
    -------
    ImpedanceResult or None
        None if it was discarded, or ended before `MIN_KEPT_ITERATIONS`.
    """
    targets, count = make_targets(setup.image, setup.seed), setup.iterations
    curves: dict[str, list[float]] = {name: [] for name in targets}
    with ExitStack() as exit_stack:
        fits = {
            name: exit_stack.enter_context(
                closing(iter_fit(target, setup, poll_control=ignore_keep(poll_control)))
            )
            for name, target in targets.items()
        }
        for iteration in range(1, count + 1):
            if poll_control() is Control.KEEP:
                break
            for name, fit in fits.items():
                record = next(fit, None)
                if record is None:  # discarded
                    return None
                curves[name].append(record.loss)
            points = {name: curve[-1] for name, curve in curves.items()}
            yield make_update("Fitting image and noise", iteration, count, points)
    iterations_done = len(curves["noise"])
    if iterations_done < min(count, MIN_KEPT_ITERATIONS):
        return None
    losses = {name: np.array(curve) for name, curve in curves.items()}
    return ImpedanceResult(
        setup=mark_ended_early(setup, iterations_done),
        targets=targets,
        losses=losses,
        score=compute_impedance(losses["noise"], losses["image"]),
    )


@use_default_style
def _draw_loss_curves(impedance: ImpedanceResult) -> bytes:
    """Draw the targets, and below them loss against iteration; return a PNG file."""
    figure = make_figure(8.6, 6.4)
    rows: Any = figure.subfigures(2, 1, height_ratios=(1, 2))
    panels = rows[0].subplots(1, len(TARGET_LABELS))
    ax = rows[1].subplots()
    for panel, (name, target_label), colour in zip(
        panels, TARGET_LABELS.items(), _REPORT_COLOURS, strict=True
    ):
        target = impedance.targets[name]
        draw_titled_image(panel, target, target_label, compute_contrast_limits(target))
        curve = impedance.losses[name]
        iterations = np.arange(1, len(curve) + 1)
        ax.plot(iterations, curve, color=colour, label=target_label)
    image, noise = impedance.losses["image"], impedance.losses["noise"]
    score = "" if impedance.is_short else f": score {impedance.score:.3f}"
    fill_label = f"between image and noise{score}"
    ax.fill_between(
        iterations, image, noise, color="0.5", alpha=0.15, linewidth=0, label=fill_label
    )
    format_iteration_axis(ax, len(image), is_logarithmic=True)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("Energy (mean square,\ntarget's variance = 1)")
    ax.legend(frameon=False)
    return render_figure(figure)


def _caption_losses(impedance: ImpedanceResult) -> str:
    lines = []
    for iteration in impedance.list_reported_iterations():
        losses = ", ".join(
            f"{TARGET_LABELS[name]} {loss:.3f}"
            for name, loss in impedance.get_losses(iteration).items()
        )
        facts = {"losses": losses, "is_ordered": impedance.is_ordered(iteration)}
        lines.append(render_text("impedance-iteration", iteration=iteration, **facts))
    noise_fraction = ADDED_NOISE_STD**2 / (1 + ADDED_NOISE_STD**2)
    return render_text(
        "impedance-caption", noise=ADDED_NOISE_STD, share=noise_fraction, iterations=" ".join(lines)
    )
