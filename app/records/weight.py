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
    total, waiting = getsizeof(value), [value]
    while waiting:
        each = waiting.pop()
        if type(each) is dict:
            total += sum(map(getsizeof, each))
            inner = list(each.values())
        else:
            inner = each if type(each) is list else []
        total += sum(map(getsizeof, inner))
        waiting += [item for item in inner if type(item) in (dict, list)]
    return total
