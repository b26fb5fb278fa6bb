"""Positions of what the site draws; the templates turn them into SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aimbench.results.tables import Cell, Table

# Fixed order, so that a regime has one colour and one shape on every page.
_REGIME_MARKS = 6


@dataclass(frozen=True)
class Point:
    """A dot of a scatter with its two intervals, in the units of the drawing."""

    x: float
    y: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    name: str
    label: str
    shape: int


@dataclass(frozen=True)
class Scatter:
    """Accuracy (across) against EPG (up), both from 0 to 100 %."""

    title: str
    points: Sequence[Point]
    regimes: Sequence[str]
    baseline: float | None


@dataclass(frozen=True)
class Curve:
    """One number over the epochs, scaled to the drawing; ``low`` and ``high`` are its least and greatest value."""

    name: str
    points: str
    low: float
    high: float
    epochs: int


WIDTH, HEIGHT = 320.0, 320.0
CURVE_WIDTH, CURVE_HEIGHT = 240.0, 80.0


def scatter(table: Table, accuracy: str = "accuracy", epg: str = "epg_gradcam") -> Scatter | None:
    """Returns the scatter of a table; None if fewer than two rows have both numbers."""
    regimes = list(dict.fromkeys(row.regime for row in table.rows))
    points = []
    for row in table.rows:
        across, up = row.cells.get(accuracy), row.cells.get(epg)
        if across is None or up is None:
            continue
        label = " ".join(part for part in (row.method, row.config, row.settings) if part)
        shape = regimes.index(row.regime) % _REGIME_MARKS
        numbers = f"{label}: {100 * across.value:.1f} %, EPG {100 * up.value:.1f} %"
        points.append(_point(across, up, row.method, numbers, shape))
    if len(points) < 2:
        return None
    uniform = [row.cells["epg_uniform"].value for row in table.rows if "epg_uniform" in row.cells]
    baseline = HEIGHT * (1 - uniform[0]) if uniform else None
    return Scatter("Accuracy against EPG (GradCAM)", points, regimes, baseline)


def _point(across: Cell, up: Cell, name: str, label: str, shape: int) -> Point:
    return Point(
        x=WIDTH * across.value,
        y=HEIGHT * (1 - up.value),
        x_low=WIDTH * across.low,
        x_high=WIDTH * across.high,
        y_low=HEIGHT * (1 - up.low),
        y_high=HEIGHT * (1 - up.high),
        name=name,
        label=label,
        shape=shape,
    )


def curves(phases: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Returns a curve for each number that the training log holds for at least two epochs of a phase."""
    series: dict[str, list[float]] = {}
    for entry in phases:
        for key, value in entry.items():
            if key not in ("phase", "epoch") and isinstance(value, int | float) and not isinstance(value, bool):
                series.setdefault(f"{entry.get('phase', '')}: {key}", []).append(float(value))
    return [_curve(name, values) for name, values in series.items() if len(values) > 1]


def _curve(name: str, values: Sequence[float]) -> Curve:
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = CURVE_WIDTH / (len(values) - 1)
    points = " ".join(
        f"{step * number:.1f},{CURVE_HEIGHT * (1 - (value - low) / span):.1f}" for number, value in enumerate(values)
    )
    return Curve(name, points, low, high, len(values))
