"""What a fit says while it runs, what it needs to go on, and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from napari_dip.engine.problem import Estimate
    from napari_dip.engine.step import State
    from napari_dip.engine.stopping import Judgement


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """One report of a running fit.

    Attributes
    ----------
    judgement : Judgement
        Losses at the last judgement; NaN before the first.
    iteration, best_iteration : int
    swept : float
        Share of the last look that is done, 0 until it begins.
    estimate : Estimate or None
        Finished picture so far, only when a preview is due.
    note : str
        Something the user should know, once; else "".
    """

    judgement: Judgement
    iteration: int
    best_iteration: int
    swept: float = 0.0
    estimate: Estimate | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """All that the next step depends on, as tensors and plain numbers."""

    step: State
    rollback: State
    best: State
    best_iteration: int
    history: tuple[Judgement, ...]
    rollbacks: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The answer of one fit.

    Attributes
    ----------
    estimate : Estimate
        Finished picture at `best_iteration`.
    blind : Estimate
        The same before the finish: what the network says without the pixel's own word.
    stop_reason : str
    kept, broke_down : bool
        Whether a person ended it, or breakdowns in a row did.
    best_iteration, iterations : int
        Best is 0 if no judgement ever succeeded.
    history : tuple of Judgement
    learned : mapping of str to Tensor
    weights : mapping of str to Tensor
        Of the network that the picture came from: where a fit of the next plane may begin.
    notes : tuple of str
    """

    estimate: Estimate
    blind: Estimate
    stop_reason: str
    kept: bool
    broke_down: bool
    best_iteration: int
    iterations: int
    history: tuple[Judgement, ...]
    learned: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    notes: tuple[str, ...]
