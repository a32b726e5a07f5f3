"""Says which promises a run has kept: that a value stays flat, that two sums are the same."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

FLAT = 1.3
"""How many times the value of the first third the value of the last third may be."""

Series = Sequence[tuple[float, float]]
"""Values, each with the second of the run at which it was measured."""


@dataclass(frozen=True, slots=True)
class Promise:
    """A promise, what was measured, and whether the promise was kept."""

    text: str
    measured: str
    kept: bool


def percentile(values: Sequence[float], percent: float) -> float:
    """Returns the smallest of the values that at least `percent` of them do not exceed.

    Raises ValueError if there is no value.
    """
    if not values:
        raise ValueError("There is no value.")
    return sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]


def thirds(series: Series, seconds: float) -> tuple[list[float], list[float]]:
    """Returns the values of the first third and of the last third of a run of `seconds`."""
    first = [value for at, value in series if at < seconds / 3]
    last = [value for at, value in series if at >= seconds * 2 / 3]
    return first, last


def growth(first: float, last: float) -> float:
    """Returns how many times `first` `last` is. Nothing that stays nothing is 1."""
    if first == 0:
        return 1 if last == 0 else math.inf
    return last / first


def stays_flat(text: str, unit: str, *pairs: tuple[float, float]) -> Promise:
    """Promises that the last value of each pair is at most FLAT times the first one."""
    measured = ", ".join(
        f"{first:,.0f} → {last:,.0f} {unit} ({growth(first, last):.2f})" for first, last in pairs
    )
    return Promise(text, measured, all(growth(*pair) <= FLAT for pair in pairs))


def same_sums(text: str, wanted: Mapping[str, Decimal], found: Mapping[str, Decimal]) -> Promise:
    """Promises that each user has the same quantity in both. Two empty sums break the promise."""
    wrong = [user for user in sorted({*wanted, *found}) if wanted.get(user) != found.get(user)]
    measured = f"{sum(found.values()):,.1f} of {sum(wanted.values()):,.1f}, {len(found)} users"
    for user in wrong[:1]:
        measured += f"; {len(wrong)} differ: {user} {found.get(user)} of {wanted.get(user)}"
    return Promise(text, measured, bool(wanted) and not wrong)


def all_kept(promises: Sequence[Promise]) -> bool:
    """Returns whether there are promises, and all of them were kept."""
    return bool(promises) and all(each.kept for each in promises)
