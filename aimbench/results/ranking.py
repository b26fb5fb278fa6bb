"""Which cells of a table are the best of their column, and which lie inside the noise of the best.

Rows are ranked only within one regime: a method that read group labels is never
set above or below one that did not.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Literal, Protocol

Mark = Literal["best", "noise"]

# A map that ignores the image; no method is better for it.
UNRANKED = frozenset({"epg_uniform", "epg_centre_gaussian"})


class Estimate(Protocol):
    """A value with its 95 % interval."""

    @property
    def value(self) -> float:
        """The estimate."""

    @property
    def low(self) -> float:
        """Lower end of the interval."""

    @property
    def high(self) -> float:
        """Upper end of the interval."""


def inside_noise(better: Estimate, worse: Estimate) -> bool:
    """Returns whether the data do not tell two values apart.

    The interval of the difference follows from both intervals (MOVER; Zou and Donner 2008). It takes the two
    as independent; methods judged on the same test images agree on many of them, so the true interval of
    their difference is no wider: this errs towards calling a difference noise.
    ``aimbench results compare`` tests two methods on the same samples, which is sharper.
    """
    return better.value - worse.value <= math.hypot(better.value - better.low, worse.high - worse.value)


def marks(column: Mapping[int, Estimate], regimes: Mapping[int, str]) -> dict[int, Mark]:
    """Returns the marks of one column, by row; a regime with a single row has no ranking.

    Args:
        column: The cells by row. Higher is better.
        regimes: Of each of these rows what it must share with those that it is ranked among: the regime, and for EPG
            the test images.
    """
    found: dict[int, Mark] = {}
    for regime in sorted(set(regimes.values())):
        rows = [row for row in column if regimes[row] == regime]
        if len(rows) > 1:
            found |= _marks_of(rows, column)
    return found


def _marks_of(rows: Iterable[int], column: Mapping[int, Estimate]) -> dict[int, Mark]:
    best = max(rows, key=lambda row: column[row].value)
    found: dict[int, Mark] = {row: "noise" for row in rows if inside_noise(column[best], column[row])}
    # A tie has no single best.
    found |= {row: "best" for row in rows if column[row].value == column[best].value}
    return found
