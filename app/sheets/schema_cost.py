"""
The cost of validating a record against a JSON Schema.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

_MOST_KEYWORDS = 1000
_MOST_PATTERNS = 100
_DEEPEST = 16
_MOST_STEPS = 20_000_000  # keywords times characters of a record; some tenths of a second
# For these, gitsheets' regular expression engine backtracks; other patterns take linear time.
_BACKTRACKS = re.compile(r"\(\?(?!:)|\\[1-9kK]|[*+?}]\+")
_COUNT = re.compile(r"\{(?:[0-9]*,)?([0-9]*)\}")
_MOST_COPIES = 200  # of a part of a pattern: "{1,200}" compiles to 200 copies


def is_cheap(schema: Any) -> bool:
    """
    Whether the cost of *schema* is bounded by its own size times the record's, and its size is small.

    References break that bound: twenty that each name the next one twice expand to a million.
    """
    named = list(_named(schema))
    patterns = [pattern for name, value, _ in named for pattern in _patterns(name, value)]
    return (
        len(named) <= _MOST_KEYWORDS
        and len(patterns) <= _MOST_PATTERNS
        and all(name != "$ref" and depth <= _DEEPEST for name, _, depth in named)
        and not any(map(_is_expensive, patterns))
    )


def is_cheap_for(schema: Any, text: str) -> bool:
    """
    Whether validating a record of this *text* against the cheap *schema* is fast.
    """
    return schema is None or sum(1 for _ in _named(schema)) * len(text) <= _MOST_STEPS


def _named(schema: Any) -> Iterator[tuple[str, Any, int]]:
    """
    Yield name, value and depth of everything in *schema*, including data; the name is "" in a list.
    """
    waiting = [(schema, 0)]
    while waiting:
        value, depth = waiting.pop()
        inner = value.items() if isinstance(value, dict) else (("", each) for each in value)
        for name, each in inner:
            yield name, each, depth
            if isinstance(each, (dict, list)):
                waiting.append((each, depth + 1))


def _patterns(name: str, value: Any) -> list[str]:
    if name == "pattern":
        return [str(value)]
    return list(value) if name == "patternProperties" and isinstance(value, dict) else []


def _is_expensive(pattern: str) -> bool:
    counts = [int(count[:6] or 1) for count in _COUNT.findall(pattern)]
    copies = math.prod(max(1, count) for count in counts) if "){" in pattern else sum(counts)
    return copies > _MOST_COPIES or _BACKTRACKS.search(pattern) is not None
