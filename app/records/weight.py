"""
How much memory parsed records take.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from sys import getsizeof
from typing import Any


def weight_of(values: Iterable[Any]) -> int:
    """
    Return about how many bytes *values* take together, with the dicts, lists and scalars in each of them.
    """
    total, level = 0, list(values)
    while level:
        kinds = set(map(type, level))  # of most levels, scalars alone
        tables = [each for each in level if type(each) is dict] if dict in kinds else []
        lists = [each for each in level if type(each) is list] if list in kinds else []
        total += sum(map(getsizeof, level)) + sum(map(getsizeof, chain.from_iterable(tables)))
        level = [*chain.from_iterable(map(dict.values, tables)), *chain.from_iterable(lists)]
    return total
