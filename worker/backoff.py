"""
How long to wait before the next attempt.

Pure: time and jitter are arguments.
"""

from __future__ import annotations


def delay_s(attempt: int, *, base_s: float, cap_s: float, jitter: float) -> float:
    """
    Return the wait before retry number *attempt*, in seconds.

    The ceiling doubles from *base_s* and never exceeds *cap_s*. *jitter* picks a point in
    its upper half, so that many workers do not return at the same moment and
    every wait is still longer than the one before ("equal jitter", M. Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015).

    Args:
        attempt: 1 for the first retry.
        base_s: Ceiling of the first wait, in seconds.
        cap_s: Ceiling of every wait, in seconds.
        jitter: A number in [0, 1).

    Raises:
        ValueError: If *attempt* is below 1 or *jitter* is outside [0, 1).
    """
    if attempt < 1:
        raise ValueError(f"attempt must be at least 1, got {attempt}")
    if not 0 <= jitter < 1:
        raise ValueError(f"jitter must be in [0, 1), got {jitter}")
    # 2**60 s is past any cap; unclamped, a long outage would overflow a float.
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt - 1, 60))
    return ceiling * (1 + jitter) / 2
