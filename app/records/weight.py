"""
How much memory a parsed record takes.
"""

from __future__ import annotations

from sys import getsizeof
from typing import Any


def weight_of(value: Any) -> int:
    """
    Return about how many bytes *value*, of dicts, lists and what stands in them, takes.
    """
    total, waiting = 0, [value]
    while waiting:
        each = waiting.pop()
        total += getsizeof(each)
        if type(each) is dict:
            waiting += each
            waiting += each.values()
        elif type(each) is list:
            waiting += each
    return total
