"""What one network is fitted to, for all files of a series: chosen from headers alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, refusal
from napari_dip.run.costs import Costs, estimate_costs
from napari_dip.run.machine import threads_for
from napari_dip.run.shared_network import check_channels
from napari_dip.run.sharing import MEMBER_SIDE, Member, members_of, series_of, tried
from napari_dip.run.units import groups_of, later_iterations, units_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.run.plan import Plan
    from napari_dip.run.units import WorkUnit

#: Fewest files that one network is fitted to: it takes as long as two to three of them by
#: themselves, so that below eight it saves less than half of the time.
LEAST_FILES = 8


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one network will be fitted to.

    Attributes
    ----------
    plans : tuple of Plan
        Of the files that it sees, each by itself.
    members : tuple of Member
        What it sees of each, in the same order: `part` counts them.
    cores : int
        That the fit counts on.
    costs : Costs
    """

    plans: tuple[Plan, ...]
    members: tuple[Member, ...]
    cores: int
    costs: Costs

    @property
    def seconds(self) -> float:
        """Most that it is expected to take."""
        return self.costs.fit + self.costs.longest_look


def plan_lesson(plans: Sequence[Plan], cores: int) -> Lesson | Refusal:
    """Choose what one network is fitted to, from headers alone.

    Parameters
    ----------
    plans : sequence of Plan
        Of all files that it could serve, each by itself, in their order.
    cores : int

    Returns
    -------
    Lesson or Refusal
        Files of the channels and the depth of network that most have, evenly spread; what is seen
        of a large one lies elsewhere in each.
    """
    kinds = Counter((_channels(one), one.budget.widths) for one in plans)
    usual = kinds.most_common(1)[0][0] if kinds else ()
    alike = [one for one in plans if (_channels(one), one.budget.widths) == usual]
    if len(alike) < LEAST_FILES:
        return refusal("series-few", least=LEAST_FILES, count=len(alike))
    sides = zip(*(one.source.grid for one in alike), strict=True)
    size = tuple(min(MEMBER_SIDE, *along) // 2 * 2 for along in sides)
    chosen, members = [], []
    # which files, and how far along each side; even numbers, since halves may be fitted
    for place, one in enumerate(members_of(len(alike), (2 * MEMBER_SIDE,) * 2, 0, size)):
        room = [whole - cut for whole, cut in zip(alike[one.part].source.grid, size, strict=True)]
        spread = [2 * MEMBER_SIDE - cut for cut in size]
        shares = zip(room, one.origin, spread, strict=True)
        origin = tuple(whole * start // most // 2 * 2 for whole, start, most in shares)
        chosen.append(alike[one.part])
        members.append(Member(place, origin, size))
    first = chosen[0]
    units, threads = lesson_units(first, tuple(members)), threads_for(cores, prod(size))
    costs = estimate_costs(size, units, first.device, threads, first.budget, half=first.half)
    return Lesson(tuple(chosen), tuple(members), cores, costs)


def outlier(plan: Plan, lesson: Lesson) -> Refusal | None:
    """Say no to a file of other channels than those that the network will take."""
    first = lesson.plans[0]
    return check_channels(plan, tuple(groups_of(first.recipe, first.source)))


def lesson_units(plan: Plan, members: tuple[Member, ...]) -> tuple[WorkUnit, ...]:
    """List the fits to all, and the trials of each."""
    alone = units_of(plan.recipe, plan.source, plan.budget, plan.layout)
    own = later_iterations(plan.budget)
    return tuple(fit for one in alone for fit in series_of(one, members, tried(members), own))


def _channels(plan: Plan) -> tuple[object, ...]:
    return tuple(groups_of(plan.recipe, plan.source))
