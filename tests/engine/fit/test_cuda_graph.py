"""CUDA graphs: when steps are recorded, what runs otherwise, and which notes there are."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from engine.fit.schedules import make_single_phase_schedule
from napari_dip.engine.fit import train_step
from napari_dip.engine.fit.loop import fit
from napari_dip.engine.fit.optimizers import make_adam, make_sgd
from napari_dip.engine.fit.stopping import never_stop
from napari_dip.engine.fit.train_step import (
    CudaGraphTrainStep,
    EagerTrainStep,
    is_graph_capturable,
    make_graph_key,
    make_train_step,
    make_training_batch,
    preserve_training_state,
)
from napari_dip.engine.likelihood.fidelity import (
    NoiseVariance,
    make_gaussian_deviance,
    make_least_squares,
)
from napari_dip.engine.networks.hourglass import Hourglass
from napari_dip.engine.networks.layers import bound_spectral_norms
from napari_dip.engine.priors.random_input import RandomInputPrior
from napari_dip.engine.problem import Identity, Problem, Term

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from napari_dip.engine.fit.state import FitResult


def make_problem(side: int = 16) -> tuple[Problem, RandomInputPrior]:
    rng = torch.Generator().manual_seed(0)
    measured = torch.rand(1, 1, side, side, generator=rng)
    everywhere, validation_mask = torch.ones_like(measured), torch.zeros_like(measured)
    validation_mask[..., ::4, ::4] = 1
    mask = torch.ones(1, 1, 1, 1)
    likelihood = make_gaussian_deviance(
        NoiseVariance(gain=0 * mask, intercept=0.01 * mask, floor=1e-6 * mask)
    )
    training_pixel_weights = everywhere - validation_mask
    term = Term(
        measurement=measured,
        operator=Identity(),
        fidelity=make_least_squares(0.01),
        deviance=likelihood,
        training_pixel_weights=training_pixel_weights,
        validation_mask=validation_mask,
        refit_pixel_weights=everywhere,
    )
    network = Hourglass(2, 2, 1, (4, 8), skip_channels=None, is_normalised=False, rng=rng)
    return Problem(terms=(term,)), RandomInputPrior(
        network, torch.rand(1, 2, side, side, generator=rng), 0.1
    )


def make_step(problem: Problem, prior: RandomInputPrior) -> EagerTrainStep:
    optimizer = make_adam([{"params": list(prior.network.parameters())}])
    step = EagerTrainStep(problem, prior, optimizer, max_gradient_norm=1.0, uses_bfloat16=False)
    step.set_rates((1e-2,))
    return step


def run_to_end(loop: Iterator[Any]) -> tuple[list[str], FitResult]:
    notes = []
    while True:
        try:
            notes.append(next(loop).note)
        except StopIteration as end:
            return [str(note) for note in notes if note], end.value


def test_only_a_gpu_with_adam_records_a_graph() -> None:
    problem, prior = make_problem()
    card = replace(problem.main_term, measurement=_CudaTensorStub())  # type: ignore[arg-type]
    on_card, schedule = Problem(terms=(card,)), make_single_phase_schedule(4, 1e-2)
    assert not is_graph_capturable(problem, prior, schedule)
    assert is_graph_capturable(on_card, prior, schedule)
    assert not is_graph_capturable(on_card, prior, replace(schedule, optimizer=make_sgd))


def test_a_network_of_bounded_spectral_norms_is_not_recorded() -> None:
    problem, prior = make_problem()
    card = replace(problem.main_term, measurement=_CudaTensorStub())  # type: ignore[arg-type]
    bound_spectral_norms(prior.network, 2.0)
    schedule = make_single_phase_schedule(4, 1e-2)
    assert not is_graph_capturable(Problem(terms=(card,)), prior, schedule)


class _CudaTensorStub:
    device = torch.device("cuda")


def test_a_cpu_runs_eagerly_without_a_note() -> None:
    problem, prior = make_problem()
    optimizer = make_adam([{"params": list(prior.network.parameters())}])
    chosen = make_train_step(
        problem, prior, make_single_phase_schedule(4, 1e-2), optimizer, uses_bfloat16=False
    )
    assert isinstance(chosen, EagerTrainStep)
    assert chosen.note is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="a card does not refuse")
def test_a_fit_that_cannot_be_recorded_comes_to_the_same_image_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedule = make_single_phase_schedule(8, 1e-2, validation_interval=2)
    notes, plain = run_to_end(fit(*make_problem(), schedule, never_stop, seed=0))
    assert not notes
    # torch itself refuses to record where there is no card
    monkeypatch.setattr(
        "napari_dip.engine.fit.trainer.make_train_step",
        lambda problem, prior, _, optimizer, uses_bfloat16: CudaGraphTrainStep(
            EagerTrainStep(
                problem,
                prior,
                optimizer,
                max_gradient_norm=schedule.max_gradient_norm,
                uses_bfloat16=uses_bfloat16,
            )
        ),
    )
    notes, answer = run_to_end(fit(*make_problem(), schedule, never_stop, seed=0))
    assert len(notes) == 1
    assert "could not be recorded" in notes[0]
    assert tuple(map(str, answer.notes)) == tuple(notes)
    torch.testing.assert_close(answer.estimate.mean, plain.estimate.mean, rtol=0, atol=0)


def test_what_is_tried_before_recording_leaves_weights_and_optimiser_as_they_were() -> None:
    problem, prior = make_problem()
    step = make_step(problem, prior)
    batch = make_training_batch(
        problem,
        prior.draw_step_input(torch.Generator().manual_seed(1)),
        uses_validation_pixels=False,
    )
    for _ in range(2):  # with an optimiser that has not begun, and with one that has
        weights = [weight.detach().clone() for weight in step.weights]
        state = step.optimizer.state
        before = {name: v.clone() for w in step.weights for name, v in state.get(w, {}).items()}
        with preserve_training_state(step):
            step.run(batch)
            changed = [(w != was).any() for w, was in zip(step.weights, weights, strict=True)]
            assert any(changed)
        for weight, was in zip(step.weights, weights, strict=True):
            torch.testing.assert_close(weight.detach(), was, rtol=0, atol=0)
        after = {name: v for w in step.weights for name, v in state[w].items()}
        for name, value in after.items():
            expected = before.get(name, torch.zeros_like(value))
            torch.testing.assert_close(value, expected, rtol=0, atol=0)
        step.run(batch)


def test_samples_that_need_another_graph_are_distinguished() -> None:
    problem, prior = make_problem()
    larger, other = make_problem(side=24)
    rng = torch.Generator().manual_seed(0)
    first = make_training_batch(problem, prior.draw_step_input(rng), uses_validation_pixels=False)
    again = make_training_batch(problem, prior.draw_step_input(rng), uses_validation_pixels=False)
    assert bool((first.network_input != again.network_input).any())
    assert make_graph_key(first) == make_graph_key(again)
    assert make_graph_key(first) != make_graph_key(
        make_training_batch(problem, prior.draw_step_input(rng), uses_validation_pixels=True)
    )
    assert make_graph_key(first) != make_graph_key(
        make_training_batch(larger, other.draw_step_input(rng), uses_validation_pixels=False)
    )


def test_a_fit_whose_batches_change_shape_is_not_recorded_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train_step, "MAX_RECORDINGS", 0)
    problem, prior = make_problem()
    step = CudaGraphTrainStep(make_step(problem, prior))
    step.run(
        make_training_batch(
            problem,
            prior.draw_step_input(torch.Generator().manual_seed(1)),
            uses_validation_pixels=False,
        )
    )
    assert train_step.DYNAMIC_SHAPES_REASON in str(step.note)
    assert isinstance(step.make_sampling_context(), nullcontext)
