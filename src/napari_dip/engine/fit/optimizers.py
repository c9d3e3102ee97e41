"""Define the optimisers of a fit, and the schedule of its learning rates.

The optimisers are Adam, Muon, gradient descent with momentum, and L-BFGS.

An optimiser evaluates the loss once an iteration and keeps its state in tensors, so that
checkpoints and rollbacks hold all of it. Its learning rate is 0 until the schedule sets one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

#: Momentum of gradient descent; the usual value.
_MOMENTUM = 0.9
#: Pairs (s, y) in the history of L-BFGS; torch uses 100, Nocedal and Wright 3 to 20.
_HISTORY_SIZE = 10
#: Least cosine between the update s and the gradient difference y. Below it, the pair does not
#: enter the history of L-BFGS, since its curvature is unreliable.
_MIN_CURVATURE_COSINE = 1e-6
#: Decay of Muon's momentum (Jordan et al.).
_MUON_MOMENTUM = 0.95
#: Coefficients of Muon's Newton-Schulz iteration.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
#: Number of Newton-Schulz iterations of Muon: they bring singular values of 0.01 to 1 between 0.68
#: and 1.14.
_NEWTON_SCHULZ_STEPS = 5
#: Root mean square of an update at a rate of 1. With 0.2 (Liu et al.), 0.6 and 1.2, 100 steps of
#: R2R end 0.12, 0.01 and 0.02 dB below 250 steps of Adam on five crops (docs/constants.md).
MUON_UPDATE_RMS = 1.2
#: Least number of iterations over which the rate of Muon rises. Its first updates are as large as
#: any: without it, four iterations of ZSSR were 5 % worse than cubic interpolation, now 3 % better.
MUON_WARM_UP = 4
#: Learning rate of Muon in a fit with warm start: 0.0025 lost what the network had learned,
#: up to 0.87 dB (docs/adr/0035-a-fit-begins-with-the-network-of-another-image.md).
WARM_START_MUON_RATE = 0.0006
#: Largest number of output channels of convolutions that use Adam: first layers of an image and
#: last layers, whose matrices are too narrow to be made orthogonal.
_MAX_ADAM_CHANNELS = 4
#: Largest number of weights of an output channel of the convolutions that use Adam.
_MAX_ADAM_TAPS = 16
#: Decays of the mean and of the square in Adam's updates beside Muon.
_ADAM_DECAYS = 0.9, 0.99
#: Lower bound of a norm, against 0 / 0.
_MIN_NORM = 1e-8
#: Parameter groups of torch -> optimiser.
OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]
#: Maximum decay of the running average of outputs.
MAX_OUTPUT_DECAY = 0.99
#: Share of the iterations over which outputs of short fits are averaged: a decay of 0.99 instead of
#: 0.95 cost two deblurred crops 0.5 and 1.2 dB (docs/constants.md).
AVERAGED_ITERATION_FRACTION = 0.1


class UnwrappedOptimizer(Optimizer):
    """An optimiser without the wrappers that torch adds for its compiler.

    The wrappers import the compiler at the first call, which takes one to two seconds, creates a
    temporary folder and sets an environment variable. Nothing is compiled here.
    """

    zero_grad: Any = inspect.unwrap(Optimizer.zero_grad)
    add_param_group: Any = inspect.unwrap(Optimizer.add_param_group)


class Adam(UnwrappedOptimizer, torch.optim.Adam):
    """Adam of torch without the compiler's wrappers."""

    step: Any = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class SGD(UnwrappedOptimizer, torch.optim.SGD):
    """Gradient descent of torch without the compiler's wrappers."""

    step: Any = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class LineSearchLbfgs(UnwrappedOptimizer, torch.optim.LBFGS):
    """L-BFGS of torch, for a search over a few parameters, without the compiler's wrappers."""

    step: Any = torch.no_grad()(inspect.unwrap(torch.optim.LBFGS.step))


def make_adam(groups: list[dict[str, Any]]) -> Optimizer:
    """Return Adam (Kingma, Ba, ICLR 2015, arXiv:1412.6980)."""
    return Adam(groups, lr=0.0, foreach=True)


def make_capturable_adam(groups: list[dict[str, Any]]) -> Optimizer:
    """Return Adam with rates and step counts as tensors on the GPU, for use in a CUDA graph."""
    for group in groups:
        group["lr"] = torch.zeros((), device=group["params"][0].device)
    return Adam(groups, lr=0.0, foreach=True, capturable=True)


def make_sgd(groups: list[dict[str, Any]]) -> Optimizer:
    """Return gradient descent with momentum."""
    return SGD(groups, lr=0.0, momentum=_MOMENTUM, foreach=True)


class Muon(UnwrappedOptimizer):
    """Muon: the momentum of each convolution's weights, made orthogonal; the others use Adam.

    It fits networks without normalisation in fewer steps than Adam: all singular values of an
    update are nearly equal, so that weak directions are learned as soon as strong ones. Rates and
    counts are tensors, so that a CUDA graph can record a step.

    Parameters
    ----------
    groups : list of dict
        Parameter groups of torch.

    References
    ----------
    Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024,
    kellerjordan.github.io/posts/muon (the iteration and its coefficients); Liu et al., Muon is
    scalable for LLM training, 2025, arXiv:2502.16982 (the size of an update).
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        for group in groups:
            group["lr"] = torch.zeros((), device=group["params"][0].device)
        super().__init__(groups, {"lr": 0.0, "capturable": True})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Update all weights once from their gradients; `closure` is not called."""
        with use_single_thread():
            for group in self.param_groups:
                self._update_group(group)

    def _update_group(self, group: dict[str, Any]) -> None:
        matrices_by_shape: dict[object, list[tuple[Tensor, Tensor]]] = {}
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state["momentum"] = torch.zeros_like(weight)
            if _is_wide_convolution(weight):
                matrix = _add_to_momentum(weight.grad, state["momentum"])
                # on a GPU, launching an operation takes longer than computing it
                key = matrix.shape if weight.device.type == "cuda" else id(weight)
                matrices_by_shape.setdefault(key, []).append((weight, matrix))
            else:
                weight -= group["lr"] * _make_adam_update(weight.grad, state)
        for entries in matrices_by_shape.values():
            updates = _make_muon_updates([matrix for _, matrix in entries])
            for (weight, _), update in zip(entries, updates, strict=True):
                weight -= group["lr"] * update.reshape(weight.shape)


@contextmanager
def use_single_thread() -> Iterator[None]:
    """Compute on one CPU thread, since to wake others takes longer than to multiply small matrices.

    The updates of a step of R2R take 3 ms on one thread, and 23 ms on two.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _is_wide_convolution(weight: Tensor) -> bool:
    """Return whether Muon updates these weights: those of a convolution of many channels."""
    return (
        weight.ndim > 3 and len(weight) > _MAX_ADAM_CHANNELS and weight[0].numel() > _MAX_ADAM_TAPS
    )


def _add_to_momentum(gradient: Tensor, momentum: Tensor) -> Tensor:
    """Add a gradient to its momentum, and return Nesterov's direction as (rows, columns)."""
    momentum.mul_(_MUON_MOMENTUM).add_(gradient)
    return torch.add(gradient, momentum, alpha=_MUON_MOMENTUM).reshape(len(gradient), -1)


def _make_muon_updates(matrices: list[Tensor]) -> list[Tensor]:
    """Return orthogonal updates of the size of Adam's, for matrices of one shape."""
    factor = MUON_UPDATE_RMS * max(matrices[0].shape) ** 0.5
    if len(matrices) == 1:
        return [factor * orthogonalise(matrices[0])]
    return list(factor * orthogonalise(torch.stack(matrices)))


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return a matrix with the same singular vectors, whose singular values are near 1.

    The Newton-Schulz iteration is computed on the small Gram matrix, and applied at once.

    Parameters
    ----------
    matrix : Tensor
        (*batch, rows, columns).
    """
    if matrix.shape[-2] > matrix.shape[-1]:
        return orthogonalise(matrix.mT).mT
    norm = matrix.norm() if matrix.ndim == 2 else matrix.norm(dim=(-2, -1), keepdim=True)
    matrix = matrix / norm.clamp(min=_MIN_NORM)
    gram = matrix @ matrix.mT
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    product = identity
    linear, cubic, quintic = _NEWTON_SCHULZ
    for _ in range(_NEWTON_SCHULZ_STEPS):
        polynomial = linear * identity + cubic * gram + quintic * gram @ gram
        product = polynomial @ product
        gram = polynomial @ gram @ polynomial
    return product @ matrix


def _make_adam_update(gradient: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Return Adam's update, from moments that it keeps in the state."""
    if "square" not in state:
        state["square"] = torch.zeros_like(gradient)
        state["count"] = torch.zeros((), device=gradient.device)
    mean_decay, square_decay = _ADAM_DECAYS
    state["count"] += 1
    mean = state["momentum"].lerp_(gradient, 1 - mean_decay) / (1 - mean_decay ** state["count"])
    square = state["square"].lerp_(gradient**2, 1 - square_decay)
    return mean / ((square / (1 - square_decay ** state["count"])).sqrt() + _MIN_NORM)


class FixedStepLbfgs(UnwrappedOptimizer):
    """L-BFGS with one evaluation of the loss an iteration; the learning rate is the step length.

    A line search would evaluate the loss several times, so that iterations were not comparable
    with those of other optimisers. The state has the textbook's names: the updates s, the gradient
    differences y, and the last gradient and update.

    Parameters
    ----------
    groups : list of dict
        Parameter groups of torch. All use the first group's rate, since they share one curvature.

    References
    ----------
    Nocedal, Wright, Numerical optimization, 2nd edition, 2006, algorithms 7.4 and 7.5.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Update all weights once from their gradients; `closure` is not called."""
        weights = [weight for group in self.param_groups for weight in group["params"]]
        gradient = torch.cat(
            [
                (torch.zeros_like(weight) if weight.grad is None else weight.grad).flatten()
                for weight in weights
            ]
        )
        state = self.state[weights[0]]
        if state:
            _append_to_history(state, gradient)
            direction = -_run_two_loop_recursion(state, gradient)
        else:
            direction = -gradient / gradient.norm().clamp(min=1)
            state["s"] = gradient.new_zeros((_HISTORY_SIZE, gradient.numel()))
            state["y"] = torch.zeros_like(state["s"])
            state["history_length"] = torch.zeros((), dtype=torch.int64)
        update = self.param_groups[0]["lr"] * direction
        state["last_gradient"], state["last_update"] = gradient, update
        sizes = [weight.numel() for weight in weights]
        for weight, weight_update in zip(weights, update.split(sizes), strict=True):
            weight += weight_update.view_as(weight)


def _append_to_history(state: dict[str, Tensor], gradient: Tensor) -> None:
    """Append the last pair (s, y) to the history, if its curvature is positive."""
    s, y = state["last_update"], gradient - state["last_gradient"]
    if not float(y @ s) > _MIN_CURVATURE_COSINE * float(y.norm() * s.norm()):
        return
    for name, newest in (("s", s), ("y", y)):
        state[name] = torch.cat([state[name][1:], newest[None]])
    state["history_length"] = (state["history_length"] + 1).clamp(max=_HISTORY_SIZE)


def _run_two_loop_recursion(state: dict[str, Tensor], gradient: Tensor) -> Tensor:
    """Return the gradient times the estimate of the inverse Hessian."""
    length = int(state["history_length"])
    if not length:
        scaled_gradient: Tensor = gradient / gradient.norm().clamp(min=1)
        return scaled_gradient
    s, y = state["s"][-length:], state["y"][-length:]
    rho = 1 / (s * y).sum(1)
    direction, alphas = gradient, list[Tensor]()
    for i in reversed(range(length)):
        alpha = rho[i] * (s[i] @ direction)
        alphas.append(alpha)
        direction = direction - alpha * y[i]
    direction = direction * (s[-1] @ y[-1]) / y[-1].square().sum()
    for i, alpha in zip(range(length), reversed(alphas), strict=True):
        beta = rho[i] * (y[i] @ direction)
        direction = direction + s[i] * (alpha - beta)
    return direction


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A part of the fit with one peak learning rate.

    Attributes
    ----------
    iterations : int
    learning_rate : float
        Peak learning rate of the network.
    operator_learning_rate : float
        Peak learning rate of a learned operator; 0 keeps it unchanged.
    """

    iterations: int
    learning_rate: float
    operator_learning_rate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Iterations, learning rates, averaging and validation of one fit.

    Attributes
    ----------
    phases : tuple of Phase
    planned_iterations : int
        Number of iterations that determines the rates. It stays the same if a run is repeated
        with fewer iterations.
    last_iteration : int
        Last iteration, at most the planned number.
    warm_up_fraction : float
        Share of the planned iterations over which the rate rises to its peak. Then it falls as a
        cosine. With Muon, these are at least `MUON_WARM_UP` iterations.
    average_decay : float
        Decay of the running average, 0.95 to 0.99.
    validation_interval : int
        Iterations between two validations.
    max_gradient_norm : float
        Largest norm of the gradient of all weights together.
    refit_iterations : int
        Iterations of the refit on training and validation pixels; 0: none.
    uses_bfloat16 : bool
        Whether steps may be computed in bfloat16, where the device is faster with it.
    optimizer : OptimizerFactory or None
        Factory of the optimiser; None: Adam.
    has_final_inference : bool
        Whether the result comes from the final inference; otherwise from a single pass, which is
        enough where only the weights are used.
    """

    phases: tuple[Phase, ...]
    planned_iterations: int
    last_iteration: int
    warm_up_fraction: float = 0.1
    average_decay: float = 0.99
    validation_interval: int = 25
    max_gradient_norm: float = 1.0
    refit_iterations: int = 0
    uses_bfloat16: bool = False
    optimizer: OptimizerFactory | None = None
    has_final_inference: bool = True

    def get_rates(self, iteration: int) -> tuple[float, float]:
        """Return the learning rates of network and operator at a 1-based iteration.

        Beyond the planned iterations, in the refit, they are a tenth of the peak.
        """
        if iteration > self.planned_iterations:
            last = self.phases[-1]
            return 0.1 * last.learning_rate, 0.1 * last.operator_learning_rate
        phase_end = 0
        for phase in self.phases:
            phase_end += phase.iterations
            if iteration <= phase_end:
                break
        min_warm_up = MUON_WARM_UP if self.optimizer is Muon else 1
        warm_up = max(min_warm_up, self.warm_up_fraction * self.planned_iterations)
        if iteration <= warm_up:
            fraction = iteration / warm_up
        else:
            progress = (iteration - warm_up) / max(1.0, self.planned_iterations - warm_up)
            fraction = 0.5 * (1 + cos(pi * progress))
        return phase.learning_rate * fraction, phase.operator_learning_rate * fraction


def compute_output_decay(iterations: int) -> float:
    """Return the decay of the running average of outputs for that many iterations."""
    return min(MAX_OUTPUT_DECAY, 1 - 1 / max(AVERAGED_ITERATION_FRACTION * iterations, 1.5))
