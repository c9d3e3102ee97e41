"""Fit one architecture to an image and to noise, with the same validation pixels for both."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_dip.engine.fit.optimizers import compute_output_decay
from napari_dip.engine.fit.stopping import (
    Control,
    ValidationRecord,
    compute_patience,
    make_validation_stop_rule,
)
from napari_dip.explore.experiment_fit import (
    IterationRecord,
    choose_validation_pixels,
    count_weights,
    iter_fit,
)
from napari_dip.explore.experiment_setup import compute_psnr
from napari_dip.explore.noise_impedance import compute_impedance, make_targets
from napari_dip.explore.spectral_measures import Correspondence
from napari_dip.pipeline.plan.types import ITERATIONS_PER_VALIDATION
from napari_dip.pipeline.progress import map_generator

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.explore.experiment_setup import ExperimentSetup, ImageArray
    from napari_dip.io import FloatArray
    from napari_dip.tasks.priors.random_input import Architecture


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ArchitectureFit:
    """One architecture, fitted to the image and to noise.

    Attributes
    ----------
    architecture : Architecture
    weight_count : int
        Number of fitted weights.
    image_loss, noise_loss : ndarray (iterations,)
        Mean square of output minus target, of the image and of noise, in variances of the target.
    correspondence : ndarray (iterations, 5)
        Band correspondence of the running average with the image, lowest band first.
    validation_errors : ndarray (iterations,)
        Mean square of running average minus image at the validation pixels, in variances of the
        image.
    psnr : ndarray (iterations,) or None
        PSNR of the running average against the truth, in dB.
    stop : SelectedStop
    image : ndarray (Y, X)
        Running average at the selected iteration, in the image's units.
    squared_errors : ndarray (validation pixels,)
        Squared errors of `image` at the validation pixels.
    seconds_per_iteration : float
        CPU time per iteration.
    """

    architecture: Architecture
    weight_count: int
    image_loss: FloatArray
    noise_loss: FloatArray
    correspondence: FloatArray
    validation_errors: FloatArray
    psnr: FloatArray | None
    stop: SelectedStop
    image: ImageArray
    squared_errors: FloatArray
    seconds_per_iteration: float

    @property
    def impedance(self) -> float:
        """Area between the losses of noise and image, as in `compute_impedance`."""
        return compute_impedance(self.noise_loss, self.image_loss)

    @property
    def band_score(self) -> float:
        """Area between the correspondences of the lowest and the highest band."""
        return compute_impedance(self.correspondence[:, 0], self.correspondence[:, -1])

    @property
    def validation_error(self) -> float:
        """Mean square error of the selected image at the validation pixels."""
        return float(self.validation_errors[self.stop.selected_iteration - 1])

    @property
    def best_psnr(self) -> float | None:
        """Maximum PSNR of the running average over all iterations, in dB; None without a truth."""
        return None if self.psnr is None else float(self.psnr.max())

    @property
    def selected_psnr(self) -> float | None:
        """PSNR of the selected image in dB; None without a truth."""
        return None if self.psnr is None else float(self.psnr[self.stop.selected_iteration - 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedStop:
    """Iteration at which a fit would have ended, and the iteration of its selected image."""

    stop_iteration: int
    selected_iteration: int


def find_stop(validation_errors: Sequence[float]) -> SelectedStop:
    """Apply the usual early stopping to a complete fit, and select its best validated iteration.

    Parameters
    ----------
    validation_errors : sequence of float
        Validation errors at iterations 1, 2, ... of a fit that was not stopped early.
    """
    count = len(validation_errors)
    interval = ITERATIONS_PER_VALIDATION
    rule = make_validation_stop_rule(compute_patience(count, interval))
    history: list[ValidationRecord] = []
    for iteration in (*range(interval, count, interval), count):
        loss = float(validation_errors[iteration - 1])
        history.append(
            ValidationRecord(iteration=iteration, training_loss=nan, validation_loss=loss)
        )
        if rule(history):
            break
    best = min(reversed(history), key=lambda item: item.validation_loss)  # the last of equals
    return SelectedStop(stop_iteration=history[-1].iteration, selected_iteration=best.iteration)


def is_significantly_worse(
    errors: FloatArray, other_errors: FloatArray, min_standard_errors: float
) -> bool:
    """Return whether one image's validation errors exceed another's significantly.

    Parameters
    ----------
    errors, other_errors : ndarray (validation pixels,)
        Squared errors at the same pixels.
    min_standard_errors : float
        Required mean difference, in standard errors.
    """
    differences = errors - other_errors
    if differences.size < 2:
        return False
    standard_error = float(differences.std(ddof=1)) / np.sqrt(differences.size)
    return bool(differences.mean() > min_standard_errors * standard_error)


class ArchitectureProgress(NamedTuple):
    """Progress of the two fits of one architecture.

    Attributes
    ----------
    fraction : float
        Fraction of both fits that is done.
    iteration : int
    target : str
        "image" or "noise".
    loss : float
        Loss of that target, as in `ArchitectureFit`.
    image : ndarray (Y, X) float32 or None
        The running average, in the image's units.
    """

    fraction: float
    iteration: int
    target: str
    loss: float
    image: ImageArray | None = None


def fit_architecture(
    architecture: Architecture,
    setup: ExperimentSetup,
    truth: ImageArray | None,
    blind_spot_size: tuple[int, int],
    *,
    poll_control: PollControl = lambda: Control.GO,
    noise_loss: FloatArray | None = None,
) -> Generator[ArchitectureProgress, None, ArchitectureFit | None]:
    """Fit an architecture to the image, then to noise.

    Parameters
    ----------
    architecture : Architecture
    setup : ExperimentSetup
    truth : ndarray (Y, X) or None
    blind_spot_size : tuple of int
        Size of the guard band around each validation pixel, the same for all architectures.
    poll_control : callable
    noise_loss : ndarray (iterations,) or None
        Losses of the fit to noise, if known. They are the same for all images
        with the same seed, shape and blind spot.

    Yields
    ------
    ArchitectureProgress
        After each iteration.

    Returns
    -------
    ArchitectureFit or None
        None if the user ended it.

    Raises
    ------
    FailedError
        If a fit diverged.
    """
    start_time, count = time.process_time(), setup.iterations
    fit_options: dict[str, Any] = {
        "poll_control": poll_control,
        "architecture": architecture,
        "blind_spot_size": blind_spot_size,
        "average_decay": compute_output_decay(count),
    }
    targets = make_targets(setup.image, setup.seed)
    image = targets["image"]
    correspondence, records = Correspondence(image), list[IterationRecord]()
    bands: list[FloatArray] = []
    psnr: list[float] = []

    def make_update(record: IterationRecord) -> ArchitectureProgress:
        assert record.image is not None
        records.append(record)
        bands.append(correspondence.compute(record.image))
        output = setup.to_image_units(record.image)
        if truth is not None:
            psnr.append(compute_psnr(output, truth))
        fraction = 0.5 * record.iteration / count
        return ArchitectureProgress(fraction, record.iteration, "image", record.loss, output)

    steps = iter_fit(image, setup, keeps_images=True, **fit_options)
    if not (yield from map_generator(steps, make_update)):
        return None
    seconds_per_iteration = (time.process_time() - start_time) / count
    if noise_loss is None:
        noise_loss = yield from _fit_noise(targets["noise"], setup, fit_options)
        if noise_loss is None:
            return None
    validation_mask = choose_validation_pixels(image.shape, setup, blind_spot_size)
    validation_errors = np.array([record.validation_error for record in records])
    stop = find_stop(validation_errors.tolist())
    selected = records[stop.selected_iteration - 1].image
    assert selected is not None
    return ArchitectureFit(
        architecture=architecture,
        weight_count=count_weights(architecture, image.shape),
        image_loss=np.array([record.loss for record in records]),
        noise_loss=noise_loss,
        correspondence=np.array(bands),
        validation_errors=validation_errors,
        psnr=np.array(psnr) if psnr else None,
        stop=stop,
        image=setup.to_image_units(selected),
        squared_errors=(selected - image)[validation_mask].astype(np.float64) ** 2,
        seconds_per_iteration=seconds_per_iteration,
    )


def _fit_noise(
    target: ImageArray, setup: ExperimentSetup, fit_options: dict[str, Any]
) -> Generator[ArchitectureProgress, None, FloatArray | None]:
    """Fit to noise and return the losses; None if the user ended the fit."""
    losses: list[float] = []

    def make_update(record: IterationRecord) -> ArchitectureProgress:
        losses.append(record.loss)
        fraction = 0.5 + 0.5 * record.iteration / setup.iterations
        return ArchitectureProgress(fraction, record.iteration, "noise", record.loss)

    is_complete = yield from map_generator(iter_fit(target, setup, **fit_options), make_update)
    return np.array(losses) if is_complete else None
