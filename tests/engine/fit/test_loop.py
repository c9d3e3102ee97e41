"""The fit loop is reproducible, resumes exactly, obeys its control, and survives divergence."""

from __future__ import annotations

import itertools
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

import pytest
import torch

from engine.fit.schedules import make_single_phase_schedule
from napari_dip.engine.fit.loop import fit
from napari_dip.engine.fit.optimizers import Muon, Schedule
from napari_dip.engine.fit.stopping import (
    Control,
    ValidationRecord,
    make_validation_stop_rule,
    never_stop,
)
from napari_dip.engine.likelihood.fidelity import (
    NoiseVariance,
    compute_posterior,
    make_beta_nll,
    make_gaussian_deviance,
)
from napari_dip.engine.likelihood.penalties import make_total_variation
from napari_dip.engine.networks.hourglass import Hourglass
from napari_dip.engine.prior import Prior, draw_validation_centres
from napari_dip.engine.priors.blind_spot import BlindSpotPrior
from napari_dip.engine.priors.random_input import RandomInputPrior
from napari_dip.engine.problem import Estimate, Identity, Problem, Term
from napari_dip.errors.notes import Stop, StopReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from napari_dip.engine.fit.state import Checkpoint, FitProgress, FitResult
    from napari_dip.engine.problem import PostprocessingSteps

SIGMA = 0.15

CONVERGED = Stop(reason=StopReason.PLATEAU, facts={"text": "enough"})


def draw_disc(grid: tuple[int, ...]) -> torch.Tensor:
    axes = torch.meshgrid([torch.linspace(-1, 1, count) for count in grid], indexing="ij")
    return (sum(axis**2 for axis in axes) < 0.4).float()[None, None]


def make_problem(
    grid: tuple[int, ...], kind: str = "blind-spot"
) -> tuple[Problem, Prior, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    truth = draw_disc(grid)
    measurement = truth + SIGMA * torch.randn(truth.shape, generator=rng)
    ones = torch.ones(1, 1, *[1] * len(grid))
    noise = NoiseVariance(gain=0 * ones, intercept=SIGMA**2 * ones, floor=1e-6 * ones)
    validation_mask = draw_validation_centres(grid, (1,) * len(grid), 0.05, seed=0)
    fidelity = make_beta_nll(noise, SIGMA**2)
    everywhere = torch.ones_like(validation_mask)
    term = Term(
        measurement=measurement,
        operator=Identity(),
        fidelity=fidelity,
        deviance=make_gaussian_deviance(noise),
        training_pixel_weights=everywhere - validation_mask,
        validation_mask=validation_mask,
        refit_pixel_weights=everywhere,
    )
    if kind == "random-input":
        network = Hourglass(
            len(grid), 4, 1, (8, 16, 16), skip_channels=4, is_normalised=True, rng=rng
        )
        random_input = torch.rand(1, 4, *grid, generator=rng) / 10
        return Problem(terms=(term,)), RandomInputPrior(network, random_input, 1 / 30), truth
    network = Hourglass(len(grid), 1, 2, (8, 16), skip_channels=None, is_normalised=False, rng=rng)
    blind_spot_size = (1,) * len(grid)
    prior = BlindSpotPrior(
        network,
        measurement=measurement,
        excluded_mask=validation_mask,
        blind_spot_size=blind_spot_size,
        core_size=blind_spot_size,
        masked_fraction=0.15,
        window=None,
    )

    def finish(estimate: Estimate) -> Estimate:
        return compute_posterior(
            noise,
            measurement,
            estimate,
            assumed_noise_fraction=1.0,
            validation_mask=validation_mask,
        )

    return Problem(terms=(term,), postprocess=finish), prior, truth


def run_to_end(loop: Iterator[FitProgress]) -> tuple[list[FitProgress], FitResult | None]:
    events = []
    while True:
        try:
            events.append(next(loop))
        except StopIteration as end:
            return events, end.value


def measure_error(estimate: Estimate, truth: torch.Tensor) -> float:
    return float(((estimate.mean - truth) ** 2).mean().sqrt())


@pytest.mark.long
@pytest.mark.parametrize("grid", [(32, 32), (33, 30), (12, 14, 16)])
@pytest.mark.parametrize("kind", ["blind-spot", "random-input"])
def test_a_noisy_disc_gets_clearer(grid: tuple[int, ...], kind: str) -> None:
    problem, prior, truth = make_problem(grid, kind)
    rate = 0.01 if kind == "random-input" else 0.005
    schedule = make_single_phase_schedule(150, rate, average_decay=0.95)
    _, result = run_to_end(fit(problem, prior, schedule, make_validation_stop_rule(75), seed=0))
    assert result is not None
    assert measure_error(result.estimate, truth) < (0.9 if kind == "random-input" else 0.8) * SIGMA
    assert str(result.stop)
    assert result.history[-1].iteration == result.iterations


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["blind-spot", "random-input"])
@pytest.mark.all_cores
def test_the_same_seed_gives_the_same_bytes(kind: str) -> None:
    images = []
    for _ in range(2):
        problem, prior, _ = make_problem((24, 24), kind)
        _, result = run_to_end(
            fit(problem, prior, make_single_phase_schedule(30, 0.01), never_stop, seed=4)
        )
        assert result is not None
        images.append(result.estimate.mean)
    assert torch.equal(*images)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["blind-spot", "random-input"])
@pytest.mark.all_cores
def test_a_resumed_fit_ends_with_the_same_bytes(kind: str) -> None:
    schedule = make_single_phase_schedule(60, 0.01, validation_interval=10)
    points: list[Checkpoint] = []
    problem, prior, _ = make_problem((24, 24), kind)
    loop = fit(problem, prior, schedule, never_stop, seed=4, save_checkpoint=points.append)
    _, whole = run_to_end(loop)
    problem, prior, _ = make_problem((24, 24), kind)
    _, resumed = run_to_end(fit(problem, prior, schedule, never_stop, seed=99, resume=points[2]))
    assert whole is not None
    assert resumed is not None
    assert torch.equal(whole.estimate.mean, resumed.estimate.mean)
    assert whole.history == resumed.history


def test_a_fit_that_had_stopped_does_not_go_on_when_resumed() -> None:
    points: list[Checkpoint] = []
    schedule = make_single_phase_schedule(60, 0.01, validation_interval=10)

    def stop_after_40(history: Sequence[ValidationRecord]) -> Stop | None:
        return (
            Stop(reason=StopReason.PLATEAU, facts={"text": "enough"})
            if history[-1].iteration >= 40
            else None
        )

    problem, prior, _ = make_problem((24, 24))
    loop = fit(problem, prior, schedule, stop_after_40, seed=4, save_checkpoint=points.append)
    _, whole = run_to_end(loop)
    problem, prior, _ = make_problem((24, 24))
    _, resumed = run_to_end(fit(problem, prior, schedule, stop_after_40, seed=4, resume=points[-1]))
    assert whole is not None
    assert resumed is not None
    assert (resumed.iterations, str(resumed.stop)) == (40, "enough")
    assert torch.equal(whole.estimate.mean, resumed.estimate.mean)


def test_a_fit_that_used_all_iterations_says_so_even_if_the_rule_has_enough_by_then() -> None:
    points: list[Checkpoint] = []
    schedule = make_single_phase_schedule(20, 0.01, validation_interval=10)

    def stop_at_20(history: Sequence[ValidationRecord]) -> Stop | None:
        return (
            Stop(reason=StopReason.PLATEAU, facts={"text": "enough"})
            if history[-1].iteration == 20
            else None
        )

    for resume in (None, -1):  # the second time from where the first had ended
        problem, prior, _ = make_problem((24, 24))
        point = None if resume is None else points[resume]
        loop = fit(
            problem,
            prior,
            schedule,
            stop_at_20,
            seed=4,
            resume=point,
            save_checkpoint=points.append,
        )
        _, result = run_to_end(loop)
        assert result is not None
        assert str(result.stop) == "all 20 iterations were used"


def test_an_early_stop_learns_at_the_same_rates() -> None:
    whole = make_single_phase_schedule(100, 0.01)
    early = Schedule(
        phases=whole.phases, planned_iterations=whole.planned_iterations, last_iteration=40
    )
    assert [early.get_rates(i) for i in range(1, 41)] == [whole.get_rates(i) for i in range(1, 41)]


def make_poll_control(count: int, control: Control) -> Callable[[], Control]:
    calls = 0

    def poll_control() -> Control:
        nonlocal calls
        calls += 1
        return control if calls > count else Control.GO

    return poll_control


def test_keep_hands_over_the_best_so_far() -> None:
    problem, prior, truth = make_problem((32, 32))
    loop = fit(
        problem,
        prior,
        make_single_phase_schedule(500, 0.005, average_decay=0.95),
        never_stop,
        seed=0,
        poll_control=make_poll_control(110, Control.KEEP),
    )
    _, result = run_to_end(loop)
    assert result is not None
    assert result.is_ended_by_user
    assert result.iterations == 110
    assert measure_error(result.estimate, truth) < SIGMA


def test_keep_before_the_first_iteration_gives_nothing() -> None:
    problem, prior, _ = make_problem((32, 32))
    poll_control = make_poll_control(0, Control.KEEP)
    _, result = run_to_end(
        fit(
            problem,
            prior,
            make_single_phase_schedule(50, 0.005),
            never_stop,
            seed=0,
            poll_control=poll_control,
        )
    )
    assert result is None


def test_keep_validates_the_last_iterations_too() -> None:
    problem, prior, _ = make_problem((32, 32))
    poll_control = make_poll_control(7, Control.KEEP)
    _, result = run_to_end(
        fit(
            problem,
            prior,
            make_single_phase_schedule(50, 0.005),
            never_stop,
            seed=0,
            poll_control=poll_control,
        )
    )
    assert result is not None
    assert [entry.iteration for entry in result.history] == [7]
    assert result.best_iteration == 7


def test_discard_returns_no_result() -> None:
    problem, prior, _ = make_problem((32, 32))
    _, result = run_to_end(
        fit(
            problem,
            prior,
            make_single_phase_schedule(50, 0.005),
            never_stop,
            seed=0,
            poll_control=make_poll_control(9, Control.DISCARD),
        )
    )
    assert result is None


def test_a_pause_changes_no_pixel() -> None:
    answers = []
    for controls in ([], [Control.PAUSE] * 3):
        problem, prior, _ = make_problem((24, 24))
        waiting = iter(controls)
        poll_control = lambda waiting=waiting: next(waiting, Control.GO)  # noqa: E731
        _, result = run_to_end(
            fit(
                problem,
                prior,
                make_single_phase_schedule(20, 0.005),
                never_stop,
                seed=0,
                poll_control=poll_control,
            )
        )
        assert result is not None
        answers.append(result.estimate.mean)
    assert torch.equal(*answers)


def test_a_preview_changes_no_pixel() -> None:
    answers = []
    for due in (False, True):
        problem, prior, _ = make_problem((24, 24))
        loop = fit(
            problem,
            prior,
            make_single_phase_schedule(20, 0.005),
            never_stop,
            seed=0,
            is_preview_due=lambda _, due=due: due,
        )
        events, result = run_to_end(loop)
        assert any(progress.estimate is not None for progress in events) is due
        assert result is not None
        answers.append(result.estimate.mean)
    assert torch.equal(*answers)


@pytest.mark.long
def test_a_preview_right_after_validation_takes_no_further_inference() -> None:
    looks = []
    for due in (lambda _: False, lambda at_hand: at_hand, lambda _: True):
        problem, prior, _ = make_problem((24, 24))
        make, calls = prior.make_prediction_sample, []
        prior.make_prediction_sample = lambda calls=calls, make=make: calls.append(1) or make()
        run_to_end(
            fit(
                problem,
                prior,
                make_single_phase_schedule(50, 0.005),
                never_stop,
                seed=0,
                is_preview_due=due,
            )
        )
        looks.append(len(calls))
    judged_only, at_hand, every = looks
    assert at_hand == judged_only
    assert every == judged_only + 50 - 50 // 25


def diverging_penalty(at: int, times: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Penalty that is not a number at a certain call: what a real breakdown does to the weights."""
    calls = 0

    def penalty(image: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        bad = at <= calls < at + times
        return image.sum() * (float("nan") if bad else 0.0)

    return penalty


@pytest.mark.long
def test_a_divergence_restores_weights_and_lowers_the_learning_rate() -> None:
    problem, prior, truth = make_problem((32, 32))
    problem = Problem(
        terms=problem.terms,
        penalties=((1.0, diverging_penalty(60, 1)),),
        postprocess=problem.postprocess,
    )
    schedule = make_single_phase_schedule(150, 0.005, average_decay=0.95, validation_interval=10)
    _, result = run_to_end(fit(problem, prior, schedule, never_stop, seed=0))
    assert result is not None
    assert len(result.notes) == 1
    assert "went back to iteration 50" in str(result.notes[0])
    assert measure_error(result.estimate, truth) < 0.7 * SIGMA


def test_a_short_fit_that_diverges_at_once_starts_again_with_a_smaller_rate() -> None:
    schedule = make_single_phase_schedule(40, 0.5, average_decay=0.8, validation_interval=10)
    schedule = replace(schedule, optimizer=Muon)
    errors = []
    for seed in range(5):  # what is left after a divergence depends on the last digits
        problem, prior, truth = make_problem((32, 32))
        _, result = run_to_end(fit(problem, prior, schedule, never_stop, seed=seed))
        assert result is not None
        assert "went back to iteration 0" in str(result.notes[0])
        assert not result.is_broken_down
        errors.append(measure_error(result.estimate, truth))
    assert median(errors) < 1.1 * SIGMA


def test_a_first_step_with_a_large_loss_does_not_end_a_good_fit() -> None:
    problem, prior, _ = make_problem((32, 32))
    usual = problem.main_term.deviance
    calls = 0

    def deviance(estimate: Estimate, measurement: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return usual(estimate, measurement) + (1e4 if calls == 3 else 0)

    problem = replace(problem, terms=(replace(problem.main_term, deviance=deviance),))
    schedule = make_single_phase_schedule(20, 0.005, average_decay=0.8, validation_interval=10)
    _, result = run_to_end(fit(problem, prior, schedule, never_stop, seed=0))
    assert result is not None
    assert result.history[0].training_loss > 500
    assert not result.notes


@pytest.mark.long
def test_a_fit_that_keeps_breaking_down_ends_with_its_best() -> None:
    problem, prior, truth = make_problem((32, 32))
    problem = Problem(
        terms=problem.terms,
        penalties=((1.0, diverging_penalty(110, 10**6)),),
        postprocess=problem.postprocess,
    )
    schedule = make_single_phase_schedule(300, 0.005, average_decay=0.95, validation_interval=10)
    _, result = run_to_end(fit(problem, prior, schedule, never_stop, seed=0))
    assert result is not None
    assert "diverged" in str(result.stop)
    assert result.is_broken_down
    assert measure_error(result.estimate, truth) < SIGMA


def test_validation_pixels_do_not_enter_the_loss_of_a_random_input() -> None:
    answers = []
    for offset in (0.0, 5.0):
        problem, prior, _ = make_problem((24, 24), "random-input")
        term = problem.main_term
        changed = term.measurement + offset * term.validation_mask
        spoiled = replace(term, measurement=changed)
        _, result = run_to_end(
            fit(
                Problem(terms=(spoiled,)),
                prior,
                make_single_phase_schedule(25, 0.01),
                never_stop,
                seed=0,
            )
        )
        assert result is not None
        answers.append(result.estimate.mean)
    assert torch.equal(*answers)


@pytest.mark.long
def test_total_variation_smooths() -> None:
    rough = []
    for weight in (0.0, 20.0):
        problem, prior, _ = make_problem((32, 32), "random-input")
        problem = Problem(terms=problem.terms, penalties=((weight, make_total_variation(SIGMA)),))
        _, result = run_to_end(
            fit(
                problem,
                prior,
                make_single_phase_schedule(80, 0.01, average_decay=0.9),
                never_stop,
                seed=0,
            )
        )
        assert result is not None
        rough.append(float(make_total_variation(SIGMA)(result.estimate.mean)))
    assert rough[1] < 0.7 * rough[0]


def test_total_variation_counts_steps_in_its_unit() -> None:
    image = torch.zeros(1, 1, 10, 10)
    image[..., 5:] = 3.0
    assert float(make_total_variation(1.5)(image)) == pytest.approx(2 / 10, rel=0.02)


def test_global_random_numbers_are_left_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    problem, prior, _ = make_problem((24, 24))
    run_to_end(fit(problem, prior, make_single_phase_schedule(10, 0.005), never_stop, seed=0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_validation_loss_is_that_of_the_average() -> None:
    problem, prior, _ = make_problem((24, 24))
    events, result = run_to_end(
        fit(
            problem,
            prior,
            make_single_phase_schedule(30, 0.005, validation_interval=10),
            never_stop,
            seed=0,
        )
    )
    assert result is not None
    assert [entry.iteration for entry in result.history] == [10, 20, 30]
    assert isinstance(result.history[0], ValidationRecord)
    assert (
        result.best_iteration
        == min(result.history, key=lambda entry: entry.validation_loss).iteration
    )
    assert events[0].iteration == 10


def find_selected_iteration(losses: list[float], *, reveals: bool) -> int:
    """Fit for as many reports as there are losses, which are judged instead of the image's."""
    problem, prior, _ = make_problem((24, 24))
    prior.reveals_validation = reveals
    iterator = iter(losses)
    judged = replace(problem, sure_term=lambda _: torch.tensor(1e3 * next(iterator)))
    schedule = make_single_phase_schedule(10 * len(losses), 0.005, validation_interval=10)
    _, result = run_to_end(fit(judged, prior, schedule, never_stop, seed=0))
    assert result is not None
    return result.best_iteration


@pytest.mark.long
def test_losses_that_hardly_differ_count_as_equal_where_the_final_inference_sees_all() -> None:
    losses = [5.0, 4.0, 4.05, 4.09, 4.4]  # a tenth of what was gained is 0.1
    assert find_selected_iteration(losses, reveals=False) == 20
    assert find_selected_iteration(losses, reveals=True) == 40


@pytest.mark.long
def test_a_slow_rise_of_the_loss_is_no_fluctuation_however_bad_the_start_was() -> None:
    # a tenth of what was gained is 0.6, and two reports in a row differ by 0.02
    losses = [10.0, 4.1, 4.08, 4.06, 4.04, 4.02, 4.0, 4.015, 4.03, 4.045, 4.06, 4.075, 4.09]
    assert find_selected_iteration(losses, reveals=True) == 90
    assert find_selected_iteration(losses, reveals=False) == 70


def find_iteration_selected_by_pixels(
    pixel_losses: list[torch.Tensor], *, resumes_after: int = 0
) -> int:
    """Fit for as many reports as there are maps of losses, which are judged instead."""
    problem, prior, _ = make_problem((24, 24))
    prior.reveals_validation = True
    calls = itertools.count()  # a report follows ten steps

    def judge(prediction: Estimate, target: torch.Tensor) -> torch.Tensor:
        return pixel_losses[next(calls) // 11].expand_as(target)

    term = replace(problem.main_term, deviance=judge)
    judged = replace(problem, terms=(term,))
    schedule = make_single_phase_schedule(10 * len(pixel_losses), 0.005, validation_interval=10)
    checkpoints: list[Checkpoint] = []
    progress = fit(judged, prior, schedule, never_stop, seed=0, save_checkpoint=checkpoints.append)
    if resumes_after:
        for _ in range(resumes_after):
            next(progress)
        progress = fit(judged, prior, schedule, never_stop, seed=0, resume=checkpoints[-1])
    _, result = run_to_end(progress)
    assert result is not None
    return result.best_iteration


@pytest.mark.parametrize("resumes_after", [0, 1, 2])
def test_an_early_loss_that_few_pixels_make_the_lowest_is_not_kept(resumes_after: int) -> None:
    rng = torch.Generator().manual_seed(0)
    rough = 20 * torch.randn((1, 1, 24, 24), generator=rng)  # differs from pixel to pixel
    worse = [torch.full((1, 1, 24, 24), loss) for loss in (5.0, 5.2, 5.1)]
    lucky = [worse[0], worse[1] + rough, worse[2] + rough]
    assert find_iteration_selected_by_pixels(lucky, resumes_after=resumes_after) == 30
    assert find_iteration_selected_by_pixels(worse, resumes_after=resumes_after) == 10


@pytest.mark.long
def test_released_pixels_pull_the_image_to_them() -> None:
    distances = []
    for release in (0, 40):
        problem, prior, _ = make_problem((24, 24), "random-input")
        term = problem.main_term
        schedule = make_single_phase_schedule(100, 0.01, refit_iterations=release)
        _, result = run_to_end(fit(problem, prior, schedule, never_stop, seed=0))
        assert result is not None
        off = (result.estimate.mean - term.measurement) * term.validation_mask
        distances.append(float(off.square().sum()))
        assert result.history[-1].iteration == 100  # nothing is judged by pixels that drive
    assert distances[1] < 0.9 * distances[0]


def test_the_estimate_before_the_refit_knows_no_validation_pixel() -> None:
    estimates = []
    for added in (0.0, 5.0):
        problem, prior, _ = make_problem((24, 24), "random-input")
        term = problem.main_term
        changed = replace(term, measurement=term.measurement + added * term.validation_mask)
        schedule = make_single_phase_schedule(30, 0.01, refit_iterations=10)
        loop = fit(replace(problem, terms=(changed,)), prior, schedule, never_stop, seed=0)
        _, result = run_to_end(loop)
        assert result is not None
        estimates.append((result.validated_estimate.mean, result.network_estimate.mean))
    (before, after), (other_before, other_after) = estimates
    assert torch.equal(before, other_before)
    assert not torch.equal(after, other_after)


def test_without_a_refit_the_estimate_of_the_network_is_judged() -> None:
    problem, prior, _ = make_problem((24, 24), "random-input")
    _, result = run_to_end(
        fit(problem, prior, make_single_phase_schedule(30, 0.01), never_stop, seed=0)
    )
    assert result is not None
    assert result.validated_estimate is result.network_estimate


def test_a_fit_that_overfits_gets_no_refit() -> None:
    problem, prior, _ = make_problem((24, 24), "random-input")
    looks = iter(range(100))
    worse = replace(problem, sure_term=lambda _: torch.tensor(10.0 * next(looks)))
    schedule = make_single_phase_schedule(200, 0.01, refit_iterations=40, validation_interval=10)
    _, result = run_to_end(fit(worse, prior, schedule, make_validation_stop_rule(30), seed=0))
    assert result is not None
    assert result.best_iteration == 10
    assert result.iterations == result.history[-1].iteration < 200


def test_discarding_during_the_refit_returns_no_result() -> None:
    problem, prior, _ = make_problem((24, 24), "random-input")
    answers = iter([Control.GO] * 35 + [Control.DISCARD])
    schedule = make_single_phase_schedule(30, 0.01, refit_iterations=40)
    _, result = run_to_end(
        fit(problem, prior, schedule, never_stop, seed=0, poll_control=lambda: next(answers))
    )
    assert result is None


def test_keeping_during_the_refit_returns_an_image() -> None:
    problem, prior, _ = make_problem((24, 24), "random-input")
    answers = iter([Control.GO] * 35 + [Control.KEEP] * 9)
    schedule = make_single_phase_schedule(30, 0.01, refit_iterations=40)
    _, result = run_to_end(
        fit(problem, prior, schedule, never_stop, seed=0, poll_control=lambda: next(answers))
    )
    assert result is not None
    assert bool(result.estimate.mean.isfinite().all())


@pytest.mark.parametrize("control", [Control.KEEP, Control.DISCARD])
def test_a_fit_can_be_ended_amid_its_postprocessing(control) -> None:
    problem, prior, _ = make_problem((24, 24), "random-input")
    steps_taken = []

    def postprocess_slowly(estimate: Estimate) -> PostprocessingSteps:
        for step in range(9):
            steps_taken.append(step)
            yield
        return estimate._replace(mean=estimate.mean + 100)

    _, result = run_to_end(
        fit(
            replace(problem, full_postprocess=postprocess_slowly),
            prior,
            make_single_phase_schedule(10, 0.01),
            never_stop,
            seed=0,
            poll_control=make_poll_control(13, control),
        )
    )
    assert len(steps_taken) == 4
    if control is Control.DISCARD:
        assert result is None
    else:
        assert result is not None and result.is_ended_by_user
        assert result.stop.reason is StopReason.USER
        assert float(result.estimate.mean.max()) < 50
