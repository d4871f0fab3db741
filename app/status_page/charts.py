"""
Two small charts: lag and pushes of the last hours.

Pure: landings in, coordinates out; the template writes the SVG.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ferry.app.status_page.words import duration, many
from ferry.worker.ledger.landings import KEPT, Landing

HOURS = 6
WIDTH, HEIGHT = 360, 96
_BUCKET_S = 600
_LEFT, _RIGHT, _TOP, _FOOT = 44, 4, 8, 78
_LAST_LABEL = WIDTH - 15  # half a label from the edge
_SHORTEST_S = 0.1
# Logarithmic: lags range from milliseconds to a night.
_GRID = ((0.1, "0.1 s"), (1, "1 s"), (10, "10 s"), (60, "1 min"), (600, "10 min"), (3600, "1 h"),
         (36000, "10 h"), (345600, "4 d"), (3456000, "40 d"))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mark:
    """
    A labelled place on an axis.
    """

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """
    A bar of a chart.
    """

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Charts:
    """
    Both charts of one remote.

    Attributes:
        lag_says: The first chart in a sentence.
        dots: The path of its dots, one per push.
        lag_lines: Its horizontal lines.
        pushes_say: The second chart in a sentence.
        bars: Its bars, one per ten minutes.
        most: Its highest line.
        hours: The vertical lines of both.
    """

    lag_says: str
    dots: str
    lag_lines: tuple[Mark, ...]
    pushes_say: str
    bars: tuple[Bar, ...]
    most: Mark
    hours: tuple[Mark, ...]


def draw(landings: Sequence[Landing], now: float) -> Charts | None:
    """
    Draw the pushes that landed in the hours before *now*; None if none did.
    """
    begin = now - HOURS * 3600
    shown = [landing for landing in landings if begin <= landing.at <= now]
    if not shown:
        return None
    lags = [landing.lag_s for landing in shown]
    top = next((each for each, _ in _GRID if each >= max(*lags, 10)), _GRID[-1][0])
    counts = [0] * (HOURS * 3600 // _BUCKET_S)
    for landing in shown:
        counts[min(len(counts) - 1, int((landing.at - begin) / _BUCKET_S))] += 1
    # The ledger keeps no older ones.
    since = f", since {_hour(shown[0].at)} UTC" if len(shown) == KEPT else f" in the last {HOURS} hours"
    commits = sum(landing.commits for landing in shown)
    return Charts(
        lag_says=f"Lag of the oldest commit in each push: half within {duration(statistics.median(lags))}, "
        f"the longest {duration(max(lags))}.",
        dots="".join(f"M{_x(landing.at, now):.1f} {_lag_y(landing.lag_s, top):.1f}h0" for landing in shown),
        lag_lines=tuple(Mark(round(_lag_y(each, top), 1), label) for each, label in _GRID if each <= top),
        pushes_say=f"{_pushes(len(shown))} brought {many(commits, 'commit')}{since}.",
        bars=_bars(counts),
        most=Mark(_TOP, str(max(counts))),
        hours=_hours(now),
    )


def _bars(counts: Sequence[int]) -> tuple[Bar, ...]:
    width, most = (WIDTH - _LEFT - _RIGHT) / len(counts), max(counts)
    heights = [(_FOOT - _TOP) * count / most for count in counts]
    places = ((_LEFT + number * width, height) for number, height in enumerate(heights) if height)
    return tuple(Bar(*(round(n, 1) for n in (x, _FOOT - height, width - 1, height))) for x, height in places)


def _hours(now: float) -> tuple[Mark, ...]:
    last = int(now // 3600) * 3600
    hours = (last - 3600 * back for back in reversed(range(HOURS)))
    return tuple(Mark(round(min(_x(hour, now), _LAST_LABEL), 1), _hour(hour)) for hour in hours)


def _x(at: float, now: float) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * (1 - (now - at) / (HOURS * 3600))


def _lag_y(lag_s: float, top: float) -> float:
    share = math.log(min(max(lag_s, _SHORTEST_S), top) / _SHORTEST_S) / math.log(top / _SHORTEST_S)
    return _FOOT - (_FOOT - _TOP) * share


def _hour(at: float) -> str:
    return time.strftime("%H:%M", time.gmtime(at))


def _pushes(count: int) -> str:
    return "1 push" if count == 1 else f"{count} pushes"
