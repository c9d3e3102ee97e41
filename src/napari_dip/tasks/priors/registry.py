"""List all priors: what each network takes as input, what it costs, and how it is described.

A prior is one row of `PRIOR_SPECS`. Tasks, plan, fit, report and methods section read the row;
none of them compares the name of a prior. A task decides by what the rows say when a prior applies.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from napari_dip.tasks.base import DEFAULT_PRIOR
from napari_dip.tasks.priors.image_input import (
    build_blind_spot_prior,
    build_blind_spot_problem,
    build_guided_prior,
    build_guided_problem,
    build_r2r_prior,
    build_r2r_problem,
)
from napari_dip.tasks.priors.masked_input import (
    build_masked_input_prior,
    build_masked_input_problem,
)
from napari_dip.tasks.priors.prior_spec import NetworkTraits, PriorCost, PriorInputTraits, PriorSpec
from napari_dip.tasks.priors.random_input import (
    build_no_skip_prior,
    build_no_skip_problem,
    build_pixel_prior,
    build_random_input_prior,
    build_random_input_problem,
)
from napari_dip.tasks.priors.recompression import (
    build_recompression_prior,
    build_recompression_problem,
)
from napari_dip.tasks.priors.zssr import build_zssr_prior, build_zssr_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem

_specs: dict[str, PriorSpec] = {}
#: All priors, by key. Of those that a task offers, *Automatic* prefers the first that suits.
PRIOR_SPECS: Mapping[str, PriorSpec] = MappingProxyType(_specs)


def register_prior(prior_spec: PriorSpec) -> PriorSpec:
    """Add a prior to the table: it becomes a choice of the tasks for which it has a label."""
    assert prior_spec.key not in _specs
    _specs[prior_spec.key] = prior_spec
    return prior_spec


_PRIOR_ROWS = tomllib.loads(Path(__file__).with_name("priors.toml").read_text("utf-8"))
#: Attributes of a prior that are values with fields of their own.
_TRAIT_TYPES = {
    "input_traits": PriorInputTraits,
    "network_traits": NetworkTraits,
    "cost": PriorCost,
}


def _load_prior(
    key: str, prior_factory: Callable[..., Prior], problem_factory: Callable[..., Problem] | None
) -> PriorSpec:
    """Register the prior of a row of `priors.toml`."""
    row = dict(_PRIOR_ROWS[key])
    row["papers"] = tuple(row.get("papers", ()))
    row |= {name: group(**row.get(name, {})) for name, group in _TRAIT_TYPES.items()}
    row |= {"prior_factory": prior_factory, "problem_factory": problem_factory}
    return register_prior(PriorSpec(key=key, **row))


_load_prior("r2r", build_r2r_prior, build_r2r_problem)
BLIND_SPOT_PRIOR = _load_prior("blind-spot", build_blind_spot_prior, build_blind_spot_problem)
_load_prior("guided", build_guided_prior, build_guided_problem)
MASKED_INPUT_PRIOR = _load_prior(
    "masked-input", build_masked_input_prior, build_masked_input_problem
)
_load_prior("masked-input-shapes", build_masked_input_prior, build_masked_input_problem)
RECOMPRESSION_PRIOR = _load_prior(
    "recompression", build_recompression_prior, build_recompression_problem
)
ZSSR_PRIOR = _load_prior("zssr", build_zssr_prior, build_zssr_problem)
RANDOM_INPUT_PRIOR = _load_prior(
    DEFAULT_PRIOR, build_random_input_prior, build_random_input_problem
)
_load_prior("random-input-no-skips", build_no_skip_prior, build_no_skip_problem)
_load_prior("guided-random-input", build_random_input_prior, build_random_input_problem)
_load_prior("total-variation", build_pixel_prior, None)
_load_prior("pixels", build_pixel_prior, None)

#: Whether the input is random noise -> key of the prior whose rows of the presets others take.
SHARED_PRESET_KEYS = {True: DEFAULT_PRIOR, False: BLIND_SPOT_PRIOR.key}
#: Value of a setting `prior` that leaves the choice to the task.
AUTOMATIC = "auto"


class PriorChoices(Mapping[str, str]):
    """The values of a task's setting `prior` with their labels, read from the registry.

    Parameters
    ----------
    task : str
        Name of the task.
    has_automatic : bool
        Whether the task chooses, unless the user does.
    """

    def __init__(self, task: str, *, has_automatic: bool = True) -> None:
        self._task, self._automatic = task, {AUTOMATIC: "Automatic"} if has_automatic else {}

    def _collect(self) -> dict[str, str]:
        offered = {prior_spec.choice: prior_spec.labels[self._task] for prior_spec in self.select()}
        return {**self._automatic, **offered}

    def __getitem__(self, value: str) -> str:
        return self._collect()[value]

    def __iter__(self) -> Iterator[str]:
        return iter(self._collect())

    def __len__(self) -> int:
        return len(self._collect())

    def select(self, value: str = AUTOMATIC) -> tuple[PriorSpec, ...]:
        """Return the priors that a value leaves to choose from; all, if the task chooses."""
        return tuple(
            prior_spec
            for prior_spec in PRIOR_SPECS.values()
            if self._task in prior_spec.labels and value in (AUTOMATIC, prior_spec.choice)
        )


DENOISING_PRIORS = PriorChoices("denoise")


def get_denoising_prior(*, knows_noise: bool) -> PriorSpec:
    """Return the first prior of the table that denoises with or without known noise."""
    return next(
        prior_spec
        for prior_spec in DENOISING_PRIORS.select()
        if knows_noise or not prior_spec.needs_noise_variance
    )


def get_prior_spec(key: str) -> PriorSpec:
    """Return the row of a prior; a bare row for a prior that only another version has."""
    return PRIOR_SPECS.get(key) or PriorSpec(key=key, methods_phrase=f"by the prior '{key}'")
