"""
That the pictures of the status page stay within their frames and say what they show.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferry.app.status_page import words
from ferry.app.status_page.charts import HEIGHT, WIDTH, draw
from ferry.worker.ledger.landings import KEPT, Landing

NOW = 1_800_000_000.0

landings = st.lists(
    st.builds(
        Landing,
        at=st.floats(NOW - 8 * 3600, NOW + 3600),
        lag_s=st.floats(0, 1e9),
        duration_s=st.floats(0, 100),
        commits=st.integers(1, 1000),
    ),
    max_size=40,
)


@given(landings)
def test_everything_is_within_the_frame(found):
    shown = [each for each in found if NOW - 6 * 3600 <= each.at <= NOW]
    charts = draw(found, NOW)
    if not shown:
        assert charts is None
        return
    assert charts is not None
    dots = re.findall(r"M([-\d.]+) ([-\d.]+)h0", charts.dots)
    assert len(dots) == len(shown)
    for x, y in [(float(x), float(y)) for x, y in dots]:
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT
    for bar in charts.bars:
        assert bar.width > 0
        assert bar.height > 0
        assert 0 <= bar.x <= bar.x + bar.width <= WIDTH
        assert 0 <= bar.y <= bar.y + bar.height <= HEIGHT
    assert all(0 <= mark.at <= HEIGHT for mark in charts.lag_lines)


def test_the_captions_say_what_is_seen():
    def landing(minutes: float, lag_s: float) -> Landing:
        return Landing(at=NOW - 60 * minutes, lag_s=lag_s, duration_s=0.1, commits=2)

    charts = draw([landing(500, 9000), landing(30, 0.2), landing(20, 0.4), landing(5, 3700)], NOW)
    assert charts is not None
    assert (
        charts.lag_says == "Lag of the oldest commit in each push: half within 0.4 s, the longest 1 h 1 min."
    )
    assert charts.pushes_say == "3 pushes brought 6 commits in the last 6 hours."
    assert charts.most.label == "1"
    busy = draw([landing(number / 60, 0.2) for number in reversed(range(KEPT))], NOW)
    assert busy is not None
    assert re.search(r", since \d\d:\d\d UTC\.$", busy.pushes_say)
    alone = draw([landing(1, 0.2)], NOW)
    assert alone is not None
    assert alone.pushes_say.startswith("1 push brought 2 commits")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "0.0 s"), (0.44, "0.4 s"), (59.9, "59 s"), (60, "1 min"), (3725, "1 h 2 min"), (3605, "1 h"),
     (90061, "1 d 1 h")],
)  # fmt: skip
def test_durations(seconds, said):
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes(count, said):
    assert words.size(count) == said
