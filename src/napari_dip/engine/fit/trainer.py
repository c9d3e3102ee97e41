"""Run the iterations of a fit, and average its outputs or its weights over them."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from napari_dip.engine.fit.optimizers import make_adam, make_capturable_adam
from napari_dip.engine.fit.train_step import (
    apply_network,
    convert_to_channels_last,
    has_fast_bfloat16,
    is_graph_capturable,
    make_train_step,
    make_training_batch,
)
from napari_dip.engine.problem import Estimate, Problem, list_validation_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_dip.engine.fit.optimizers import Schedule
    from napari_dip.engine.fit.train_step import CudaGraphTrainStep, EagerTrainStep
    from napari_dip.engine.prior import Prior, StepInput
    from napari_dip.errors.notes import Note


class OutputAverage:
    """Exponential moving average of outputs over their valid pixels, with their variance.

    Sum and weight decay together, so the average is unbiased from the first step on, for rarely
    valid pixels too.

    Parameters
    ----------
    network : nn.Module
    shape : tuple of int
        (B, C, *grid).
    decay : float
    template : Tensor
        Tensor whose device and type are used.

    Attributes
    ----------
    network : nn.Module
        The network with its current weights.
    """

    def __init__(
        self, network: nn.Module, shape: tuple[int, ...], decay: float, template: Tensor
    ) -> None:
        self.network = network
        self._decay = decay
        self._sums = {
            "sum": template.new_zeros(shape),
            "squares": template.new_zeros(shape),
            "weight": template.new_zeros((shape[0], 1, *shape[2:])),
        }

    def update(self, sample: StepInput, estimate: Estimate) -> None:
        """Add the valid pixels of an estimate."""
        mean = estimate.mean.detach()
        valid = torch.ones_like(mean[:, :1]) if sample.output_mask is None else sample.output_mask
        addends = valid * mean, valid * mean**2, valid
        for total, addend in zip(self._sums.values(), addends, strict=True):
            total.mul_(self._decay).add_(addend, alpha=1 - self._decay)

    def compute_average(self) -> Estimate | None:
        """Return mean and log-variance of the outputs."""
        weight = self._sums["weight"].clamp(min=1e-12)
        mean = self._sums["sum"] / weight
        variance = (self._sums["squares"] / weight - mean**2).clamp(min=1e-9)
        return Estimate(mean, variance.log())

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of the sums and weights."""
        return {name: total.clone() for name, total in self._sums.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore sums and weights in place."""
        for name, total in self._sums.items():
            total.copy_(state[name])


class WeightAverage:
    """Exponential moving average (EMA) of the network's weights.

    The decay grows from one tenth to `decay` as (n + 1) / (n + 10), so that the random initial
    weights lose their influence early.

    Parameters
    ----------
    network : nn.Module
        Network that is fitted.
    averaged_network : nn.Module
        Network of the same architecture that holds the average.
    decay : float

    Attributes
    ----------
    network : nn.Module
        The network with the averaged weights.

    References
    ----------
    Polyak, Juditsky, Acceleration of stochastic approximation by averaging, SIAM J. Control
    Optim. 30(4), 1992, doi:10.1137/0330046.
    """

    def __init__(self, network: nn.Module, averaged_network: nn.Module, decay: float) -> None:
        self._weights: list[Tensor] = list(network.parameters())
        self.network = averaged_network
        self._averages: list[Tensor] = list(averaged_network.parameters())
        self._decay = decay
        self._step_count = 0
        self.load_state_dict(
            {str(index): weight.detach() for index, weight in enumerate(self._weights)}
        )

    def update(self, sample: StepInput, estimate: Estimate) -> None:
        """Add the weights after this step."""
        decay = min(self._decay, (self._step_count + 1) / (self._step_count + 10))
        self._step_count += 1
        with torch.no_grad():  # one kernel for all weights on a GPU
            torch._foreach_lerp_(self._averages, self._weights, 1 - decay)

    def compute_average(self) -> Estimate | None:
        """Return None: the image must be predicted with the averaged weights."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of the averaged weights and the number of steps."""
        state = {str(index): weight.detach().clone() for index, weight in enumerate(self._averages)}
        return {**state, "steps": torch.tensor(self._step_count)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore averaged weights and number of steps in place."""
        with torch.no_grad():
            for index, weight in enumerate(self._averages):
                weight.copy_(state[str(index)])
        self._step_count = int(state["steps"]) if "steps" in state else self._step_count


#: Running average, which the validation loss, previews and results use.
Average = OutputAverage | WeightAverage


def make_average(prior: Prior, shape: tuple[int, ...], decay: float, template: Tensor) -> Average:
    """Return an average of outputs if each sample covers the grid, else one of weights."""
    if not prior.covers_grid:
        return WeightAverage(prior.network, deepcopy(prior.network).requires_grad_(False), decay)
    return OutputAverage(prior.network, shape, decay, template)


#: State of a trainer or of an average, by name.
StateDict = dict[str, Tensor]


class Trainer:
    """Draw a sample, run a training step and update the average, at each iteration.

    Parameters
    ----------
    problem : Problem
    prior : Prior
    schedule : Schedule
    seed : int
        Seed of the samples.

    Attributes
    ----------
    iteration : int
    rate_factor : float
        Factor on the learning rates of the schedule.
    uses_validation_pixels : bool
        Whether the loss includes validation pixels, as in the refit.
    has_validation_input : bool
        Whether the validation loss is of a separate network input.
    compared_pixels : tuple of Tensor
        Validation pixels of each term whose losses are compared one by one; empty: none.
    average : Average
        Of the outputs or of the weights.
    initial_loss : Tensor
        Deviance at the first iteration, a scalar; NaN before.
    """

    def __init__(self, problem: Problem, prior: Prior, schedule: Schedule, *, seed: int) -> None:
        self.problem = problem
        self.prior = prior
        self.schedule = schedule
        self.iteration: int = 0
        self.rate_factor: float = 1.0
        self.uses_validation_pixels = False
        self.has_validation_input: bool = prior.make_validation_sample() is not None
        self.compared_pixels: tuple[Tensor, ...] = ()
        if prior.reveals_validation and problem.sure_term is None:
            self.compared_pixels = list_validation_pixels(problem)
        measurement = problem.main_term.measurement
        self._rng = torch.Generator().manual_seed(seed)
        learned = [weight for term in problem.terms for weight in term.operator.parameters()]
        groups = [{"params": list(prior.network.parameters())}, {"params": learned}]
        make_optimizer = schedule.optimizer or (
            make_capturable_adam if is_graph_capturable(problem, prior, schedule) else make_adam
        )
        self._optimizer = make_optimizer([group for group in groups if group["params"]])
        uses_bfloat16 = schedule.uses_bfloat16 and has_fast_bfloat16(measurement.device)
        self.train_step: EagerTrainStep | CudaGraphTrainStep = make_train_step(
            problem, prior, schedule, self._optimizer, uses_bfloat16=uses_bfloat16
        )
        self._weights = [*prior.network.parameters(), *learned]
        self._shape = (*measurement.shape[:2], *prior.grid)
        self.average: Average = make_average(
            prior, self._shape, schedule.average_decay, measurement
        )
        self._training_loss_sum = measurement.new_zeros(())
        self._step_count_since_read = 0
        self.initial_loss: Tensor = measurement.new_full((), torch.nan)

    @property
    def note(self) -> Note | None:
        """Note of the training step."""
        return self.train_step.note

    def advance(self) -> None:
        """Draw network input and masks, run a training step, and update the average.

        The device is not waited for, unless a prior reads a value back.
        """
        self.iteration += 1
        rates = self.schedule.get_rates(self.iteration)
        self.train_step.set_rates(tuple(rate * self.rate_factor for rate in rates))
        with self.train_step.make_sampling_context():
            sample = self.prior.draw_step_input(self._rng)
            batch = make_training_batch(
                self.problem, sample, uses_validation_pixels=self.uses_validation_pixels
            )
        self.train_step.wait_for_sample(batch, sample)
        estimate, deviance = self.train_step.run(batch)
        if self.iteration == 1:
            self.initial_loss = deviance.detach().clone()
        with torch.no_grad():
            self.average.update(sample, estimate)
            self._training_loss_sum += deviance.detach()
        self._step_count_since_read += 1

    @torch.no_grad()
    def pop_losses(self, *further: Tensor) -> list[float]:
        """Return the mean deviance since the last call, and further scalars; reset the deviance.

        The deviance is NaN if a weight is not finite. The device is waited for once.
        """
        sums = torch.stack([weight.sum() for weight in self.prior.network.parameters()])
        scalars = (sums.isfinite().all().to(sums), self._training_loss_sum, *further)
        is_finite, total, *values = torch.stack(scalars).tolist()
        mean = total / max(1, self._step_count_since_read)
        self._training_loss_sum.zero_()
        self._step_count_since_read = 0
        return [mean if is_finite else float("nan"), *values]

    @torch.no_grad()
    def predict(self) -> Estimate:
        """Return the averaged outputs, or one prediction with the averaged weights."""
        outputs = self.average.compute_average()
        if outputs is not None:
            return outputs
        network_input = self.prior.make_prediction_sample().network_input
        return self.prior.estimate(_apply_network_per_image(self.average.network, network_input))

    @torch.no_grad()
    def predict_validation(self) -> Estimate:
        """Predict with the averaged weights from the prior's validation input."""
        sample = self.prior.make_validation_sample()
        assert sample is not None  # the loop checks `has_validation_input`
        estimate = self.prior.estimate(
            self.average.network(convert_to_channels_last(sample.network_input))
        )
        grid = tuple(self.problem.main_term.measurement.shape[2:])
        return estimate.map(lambda image: _place_on_grid(sample, image, grid))

    @torch.no_grad()
    def run_final_inference(self) -> Iterator[Estimate | float]:
        """Yield completed fractions, then the estimate: averaged outputs, or merged samples."""
        outputs = self.average.compute_average()
        if outputs is not None:
            yield outputs
            return
        mean = self.problem.main_term.measurement.new_zeros(self._shape)
        yield from _merge_inference(self.prior, self.average.network, mean)

    def state_dict(self) -> StateDict:
        """Return a copy of weights, optimiser, average, random generator and counters."""
        state = {
            f"weight.{index}": weight.detach().clone() for index, weight in enumerate(self._weights)
        }
        for index, weight in enumerate(self._weights):
            for name, value in self._optimizer.state.get(weight, {}).items():
                state[f"optimizer.{index}.{name}"] = value.clone()
        state |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        state["initial_loss"] = self.initial_loss.clone()
        state["rng"] = self._rng.get_state()
        state["iteration"] = torch.tensor(self.iteration)
        state["rate_factor"] = torch.tensor(self.rate_factor, dtype=torch.float64)
        return state

    def load_state_dict(self, state: StateDict) -> None:
        """Restore that state in place, and reset the training loss."""
        with torch.no_grad():
            for index, weight in enumerate(self._weights):
                weight.copy_(state[f"weight.{index}"])
                weight_state = {
                    name.split(".", 2)[2]: self._place_like_weight(weight, value)
                    for name, value in state.items()
                    if name.startswith(f"optimizer.{index}.")
                }
                self._optimizer.state[weight] = weight_state
        self.average.load_state_dict(
            {
                name.removeprefix("average."): value
                for name, value in state.items()
                if name.startswith("average.")
            }
        )
        if "initial_loss" in state:  # not in checkpoints of before
            self.initial_loss = torch.empty_like(self.initial_loss).copy_(state["initial_loss"])
        self._rng.set_state(state["rng"])
        self.iteration = int(state["iteration"])
        self.rate_factor = float(state["rate_factor"])
        self._training_loss_sum.zero_()
        self._step_count_since_read = 0
        self.train_step.invalidate()

    def _place_like_weight(self, weight: Tensor, value: Tensor) -> Tensor:
        """Copy an optimiser's tensor to the device of its weight, a step count only if required."""
        if value.shape == weight.shape:
            return torch.empty_like(weight).copy_(value)
        counts_on_device = self._optimizer.defaults.get("capturable", False)
        return value.clone().to(weight.device) if counts_on_device else value.clone()

    def get_learned_parameters(self) -> dict[str, Tensor]:
        """Return the parameters of learned operators, by name."""
        return {
            name: value
            for term in self.problem.terms
            for name, value in term.operator.get_learned_parameters().items()
        }

    def get_network_state_dict(self) -> StateDict:
        """Return a copy of the averaged weights, or of the current ones if outputs are averaged."""
        return {
            name: value.detach().clone()
            for name, value in self.average.network.state_dict().items()
        }


class FinalInference(nn.Module):
    """A fitted network as a module that predicts the image, by the passes of the final inference.

    Where outputs were averaged over iterations, it is one pass.

    Parameters
    ----------
    prior : Prior
        Its network has the weights to use.
    channels : int
        C, the number of channels of the image.
    """

    def __init__(self, prior: Prior, channels: int) -> None:
        super().__init__()
        self.network: nn.Module = prior.network
        self._prior, self._channels = prior, channels

    @property
    def source(self) -> Tensor:
        """The input that the run had."""
        return self._prior.get_source()

    @torch.no_grad()
    def forward(self, source: Tensor) -> Tensor:
        """Map a source (B, D, *size), of the size of the run's, to the mean (B, C, *grid)."""
        prior = self._prior.replace_source(source)
        mean = source.new_zeros((len(source), self._channels, *prior.grid))
        *_, estimate = _merge_inference(prior, self.network, mean)
        assert isinstance(estimate, Estimate)
        return estimate.mean


def _merge_inference(prior: Prior, network: nn.Module, mean: Tensor) -> Iterator[Estimate | float]:
    """Merge the samples of the final inference into `mean`, as `Trainer.run_final_inference`."""
    log_variance: Tensor | None = None
    covered_fraction, pixel_count = 0.0, mean[0, 0].numel()
    for sample in prior.make_inference_samples():
        estimate = prior.estimate(_apply_network_per_image(network, sample.network_input))
        valid = torch.ones_like(mean[:, :1]) if sample.output_mask is None else sample.output_mask
        mean += _place_on_grid(sample, valid * estimate.mean, prior.grid)
        if estimate.log_variance is not None:
            placed = _place_on_grid(sample, valid * estimate.log_variance, prior.grid)
            log_variance = placed if log_variance is None else log_variance + placed
        covered_fraction += float(valid.sum()) / len(valid) / pixel_count
        completed = sample.completed_fraction
        yield covered_fraction if completed is None else completed
    yield Estimate(mean, log_variance)


def _apply_network_per_image(network: nn.Module, network_input: Tensor) -> Tensor:
    """Apply a network to one image of a batch at a time, to limit memory."""
    return torch.cat([apply_network(network, image) for image in network_input.split(1)])


def _place_on_grid(sample: StepInput, part: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Place the window of a sample on the whole grid, with 0 elsewhere."""
    return part if sample.window is None else sample.window.place_on(part, grid)
