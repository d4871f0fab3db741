"""
How much memory parsed records take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import Any

_COLLECTED_BYTES = 16  # before each object that the collector of garbage knows, such as a dict or list


def weight_of(values: Iterable[Any]) -> int:
    """
    Return about how many bytes *values* take together, with the dicts, lists and scalars in each of them.
    """
    total, level = 0, list(values)
    while level:
        kinds = set(map(type, level))  # of most levels, scalars alone
        tables = [each for each in level if type(each) is dict] if dict in kinds else []
        lists = [each for each in level if type(each) is list] if list in kinds else []
        names = Counter(map(tuple, tables)).items()
        # As sys.getsizeof, which takes five times as long.
        total += sum([each.__sizeof__() for each in level]) + _COLLECTED_BYTES * (len(tables) + len(lists))
        total += sum(count * sum([name.__sizeof__() for name in some]) for some, count in names)
        level = [*chain.from_iterable(map(dict.values, tables)), *chain.from_iterable(lists)]
    return total
