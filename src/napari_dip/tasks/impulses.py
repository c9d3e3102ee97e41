"""Salt and pepper as a named noise: its pixels are not measured, and the others tell of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_dip.tasks.blind_spot import blind_spot_problem
from napari_dip.tasks.hidden_code import hidden_code
from napari_dip.tasks.noise_code import judged_by_error, noise_code_problem

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Estimate, Penalty, Problem
    from napari_dip.tasks.base import Scene

#: Name of the noise, and of the prior that fills pixels from those around; a row of the presets.
IMPULSES, FILLING = "salt-and-pepper", "image"


def impulse_words(known: npt.NDArray[np.bool_]) -> str:
    """Say how many were found, where what is known is (parts, C, *grid)."""
    count = int(known.size - known.sum())
    return (
        f"{count} pixels ({count / known.size:.2%}) were found to be impulses: they count as not "
        "measured, and the picture there comes from the pixels around."
    )


def no_impulses(known: npt.NDArray[np.bool_] | None) -> bool:
    """Whether none were found."""
    return known is None or bool(known.all())


def impulse_problem(scene: Scene, penalties: tuple[tuple[float, Penalty], ...]) -> Problem:
    """Explain what was measured as picture plus noise; impulses have no word in the end."""
    from torch import where

    from napari_dip.engine.problem import followed_by

    fed = scene.prior != "noise"
    explained = (blind_spot_problem if fed else noise_code_problem)(scene, penalties)
    problem = judged_by_error(scene, explained) if scene.prior == FILLING else explained

    def unheard(estimate: Estimate, done: Estimate) -> Estimate:
        """Take what was foretold where there is an impulse."""
        known = scene.known > 0
        mean = where(known, done.mean, estimate.mean)
        if done.log_variance is None or estimate.log_variance is None:
            return done._replace(mean=mean)
        return type(done)(mean, where(known, done.log_variance, estimate.log_variance))

    return followed_by(problem, unheard)


def filling_code(scene: Scene, rng: torch.Generator) -> Prior:
    """Feed the network the image without its impulses, and with more of it hidden."""
    return hidden_code(scene, rng, foretell=True)


def impulses_hidden(scene: Scene) -> Scene:
    """Keep impulses out of what a blind-spot network is fed, as judging pixels are."""
    return replace(scene, guarded=1 - (1 - scene.guarded) * scene.known)
