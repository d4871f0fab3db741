"""
How long the waits between attempts may be, for whatever attempt and die.
"""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferry.worker.backoff import delay_s

attempts = st.integers(min_value=1, max_value=10**30)
few_attempts = st.integers(min_value=1, max_value=60)
jitters = st.floats(min_value=0, max_value=1, exclude_max=True)
spans_s = st.floats(min_value=1e-3, max_value=1e9)


@given(attempts, spans_s, spans_s, jitters)
def test_no_wait_is_above_the_cap(attempt: int, base_s: float, cap_s: float, jitter: float):
    """
    Nor is any ever nothing, however long the outage.
    """
    assert 0 < delay_s(attempt, base_s=base_s, cap_s=cap_s, jitter=jitter) <= cap_s


@given(attempts, spans_s, spans_s, jitters)
def test_a_lucky_wait_is_at_least_half_of_an_unlucky_one(attempt, base_s, cap_s, jitter):
    longest = delay_s(attempt, base_s=base_s, cap_s=cap_s, jitter=math.nextafter(1, 0))
    assert delay_s(attempt, base_s=base_s, cap_s=cap_s, jitter=jitter) >= longest / 2


@given(few_attempts, spans_s, jitters, jitters)
def test_each_wait_is_at_least_as_long_as_the_last_whatever_the_dice_say(attempt, base_s, first, second):
    waits = [
        delay_s(number, base_s=base_s, cap_s=math.inf, jitter=jitter)
        for number, jitter in ((attempt, first), (attempt + 1, second))
    ]
    assert waits[0] <= waits[1]


@given(few_attempts, spans_s, spans_s, jitters)
def test_a_wait_doubles_until_the_cap_and_stays_there(attempt, base_s, cap_s, jitter):
    now, then = (delay_s(n, base_s=base_s, cap_s=cap_s, jitter=jitter) for n in (attempt, attempt + 1))
    longest = delay_s(1, base_s=cap_s, cap_s=cap_s, jitter=jitter)
    assert then == min(2 * now, longest)


@given(spans_s, spans_s, jitters)
def test_a_long_outage_ends_up_at_the_cap(base_s: float, cap_s: float, jitter: float):
    waits = {delay_s(10**exponent, base_s=base_s, cap_s=cap_s, jitter=jitter) for exponent in range(2, 30)}
    assert waits == {delay_s(1, base_s=cap_s, cap_s=cap_s, jitter=jitter)}


def test_different_dice_give_different_waits():
    """
    Many workers do not return at once.
    """
    waits = [delay_s(5, base_s=1, cap_s=60, jitter=step / 10) for step in range(10)]
    assert all(shorter < longer for shorter, longer in itertools.pairwise(waits))


@pytest.mark.parametrize("attempt", [0, -1, -(10**30)])
def test_attempts_are_counted_from_one(attempt: int):
    with pytest.raises(ValueError, match="attempt must be at least 1"):
        delay_s(attempt, base_s=1, cap_s=60, jitter=0)


@pytest.mark.parametrize("jitter", [1.0, -0.1, 2, math.nan, math.inf])
def test_a_die_outside_its_range_is_refused(jitter: float):
    with pytest.raises(ValueError, match="jitter must be in"):
        delay_s(1, base_s=1, cap_s=60, jitter=jitter)
