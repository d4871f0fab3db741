"""
How much memory a parsed record takes.
"""

from __future__ import annotations

from sys import getsizeof
from typing import Any


def weight_of(value: Any) -> int:
    """
    Return about how many bytes *value* takes, with the dicts, lists and scalars in it.
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
