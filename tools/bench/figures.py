"""Figures and how they are reported: one row for each figure and size, with its limit beside it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure.

    Attributes:
        rounds: How often the contenders are measured in turn. The median is reported.
        json_exporter: The program; None if it was not given.

    """

    rounds: int
    json_exporter: Path | None


@dataclass(frozen=True)
class Measured:
    """A figure.

    Attributes:
        value: What was measured.
        limit: The minimum possible, or the maximum allowed; None: no limit.
        unit: The unit of both.
        grows: Whether it is also reported per batch.

    """

    value: float
    limit: float | None
    unit: str
    grows: bool = True


@dataclass(frozen=True, kw_only=True)
class Group:
    """Figures that are measured side by side.

    Attributes:
        names: Of the figures.
        sizes: How many batches there are. The quick run has those of `quick_sizes`.
        measure: Returns the figures by their names; one that is missing was not given.

    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    quick_sizes: tuple[int, ...]
    measure: Callable[[int, Settings], Mapping[str, Measured]]


def take_turns(rounds: int, contenders: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Measure each contender once a round, and return the median of each."""
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            measured[name].append(measure())
    return {name: median(values) for name, values in measured.items()}


HEAD = ("figure", "batches", "measured", "limit", "measured / limit", "a batch")


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    cells = [HEAD, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for number, row in enumerate(cells):
        left, *others = zip(row, widths, strict=True)
        padded = [left[0].ljust(left[1]), *(cell.rjust(width) for cell, width in others)]
        yield f"| {' | '.join(padded)} |"
        if number == 0:
            yield f"|{'-' * (widths[0] + 2)}|{'|'.join('-' * (width + 1) + ':' for width in widths[1:])}|"


def row(name: str, size: int, measured: Measured | None) -> tuple[str, ...]:
    """Return the cells of a figure's row."""
    if measured is None:
        return name, f"{size:,}", "not given", "", "", ""
    value, limit, unit = measured.value, measured.limit, measured.unit
    return (
        name,
        f"{size:,}",
        formatted(value, unit),
        "" if limit is None else formatted(limit, unit),
        "" if limit is None else f"{value / limit:.2f}",
        formatted(value / size, unit) if measured.grows else "",
    )


# The units of `Measured`; small values are shown in the next smaller one.
_SMALLER = {"s": (1000, "ms"), "ms": (1000, "µs"), "MB": (1000, "KB")}


def formatted(value: float, unit: str) -> str:
    """Format a number with three significant digits."""
    while value < 1 and unit in _SMALLER:
        factor, unit = _SMALLER[unit]
        value *= factor
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} {unit}".strip()
