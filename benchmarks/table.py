"""
One figure beside its floor and its target, and all of them as a table.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """
    What was measured.

    Attributes:
        name: What it is.
        unit: Of ``value``, ``p99`` and ``floor``.
        value: The median, where there are several samples.
        p99: The 99th percentile, where it matters.
        floor: The same by bare git or bare gitsheets, in the same run.
        floor_is: What that floor is.
        target: What was asked for, in words.
        met: Whether it was reached; None where nothing was asked for.
    """

    name: str
    unit: str
    value: float
    target: str
    met: bool | None
    p99: float | None = None
    floor: float | None = None
    floor_is: str = ""

    @property
    def ratio(self) -> float | None:
        """
        The figure by its floor.
        """
        return self.value / self.floor if self.floor else None

    def as_json(self) -> dict[str, object]:
        """
        Return it for machines.
        """
        return {**asdict(self), "ratio": self.ratio}


def samples_ms(work: Callable[[], object], count: int, *, warm_up: int = 5) -> list[float]:
    """
    Do *work* again and again; returns how long each time took, in milliseconds, without the first few.
    """
    taken = []
    for _ in range(warm_up + count):
        begun = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - begun))
    return taken[warm_up:]


def in_turns_ms(
    ours: Callable[[], object], floor: Callable[[], object], *, turns: int, each: int, warm_up: int = 5
) -> tuple[list[float], list[float]]:
    """
    Measure both in short turns, so that a noisy neighbour meets both alike.
    """
    columns: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns):
        for work, column in zip((ours, floor), columns, strict=True):
            # What the other has left for the disk to do is not on this one's account.
            column.extend(samples_ms(work, each, warm_up=warm_up if turn == 0 else 1))
    return columns


def p99(samples: Sequence[float]) -> float:
    """
    Return the 99th percentile, by nearest rank.
    """
    return sorted(samples)[math.ceil(0.99 * len(samples)) - 1]


def against(
    name: str,
    ours: Sequence[float],
    floor: Sequence[float],
    *,
    floor_is: str,
    at_most: float | None = None,
    p99_at_most: float | None = None,
    unit: str = "ms",
) -> Figure:
    """
    Make a figure whose target is a multiple of its floor's median, if there is a target.
    """
    value, base = statistics.median(ours), statistics.median(floor)
    target, met = "stated", None
    if at_most is not None:
        target = f"≤ {at_most:g} ×" + (f", p99 ≤ {p99_at_most:g} ×" if p99_at_most else "")
        met = value <= at_most * base and (p99_at_most is None or p99(ours) <= p99_at_most * base)
    return Figure(
        name=name,
        unit=unit,
        value=value,
        p99=p99(ours),
        floor=base,
        floor_is=floor_is,
        target=target,
        met=met,
    )


def rendered(figures: Sequence[Figure]) -> str:
    """
    Return the table, in Markdown.
    """
    rows = [
        [
            figure.name,
            f"{_number(figure.value)} {figure.unit}",
            "" if figure.p99 is None else _number(figure.p99),
            "" if figure.floor is None else f"{_number(figure.floor)} ({figure.floor_is})",
            "" if figure.ratio is None else f"{figure.ratio:.2f}",
            figure.target,
            {True: "yes", False: "**no**", None: ""}[figure.met],
        ]
        for figure in figures
    ]
    head = ["figure", "median", "p99", "floor", "ratio", "target", "met"]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
