"""
Sorting lists as a declaration asks: ``sort = true``, ``["name"]``, ``{at = "DESC"}``.

gitsheets sorts them too, in its JavaScript engine, once for each pair. It does so for every order that this
module cannot make, such as that of letters beyond English.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

# In JavaScript these have members, by which gitsheets compares.
_SCALARS = (str, int, float, datetime)
_ENGLISH = re.compile("[A-Za-z -]*")
_LETTERLESS = re.compile("[ -]")


def in_order(record: Mapping[str, Any], sorts: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """
    Return *record* with its lists in gitsheets' order, and whether every list was sorted here.

    Args:
        sorts: How each list is sorted.
    """
    found, is_whole = dict(record), True
    for name, rule in sorts.items():
        items = record.get(name)
        if isinstance(items, list) and len(items) > 1:
            ordered = _ordered(items, rule)
            is_whole = is_whole and ordered is not None
            found[name] = items if ordered is None else ordered
    return found, is_whole


def _ordered(items: Sequence[Any], rule: Any) -> list[Any] | None:
    if rule is False:
        return list(items)
    if rule is True:
        if not all(isinstance(item, str) and _ENGLISH.fullmatch(item) for item in items):
            return None
        return sorted(items, key=lambda item: _LETTERLESS.sub("", item).lower())
    if not isinstance(rule, (list, dict)):
        return None
    # gitsheets orders the fields of a table by name, not as they are declared.
    order = dict(sorted(rule.items())) if isinstance(rule, dict) else dict.fromkeys(rule, "ASC")
    if not _is_plain(items, list(order)):
        return None
    ordered = list(items)
    for field, direction in reversed(order.items()):
        ordered.sort(key=partial(_key, field), reverse=direction == "DESC")
    return ordered


def _is_plain(items: Sequence[Any], fields: Sequence[str]) -> bool:
    """
    Whether every item is a table with all of the fields, and each field has values of one scalar type.
    """
    if not all(isinstance(item, dict) and "__proto__" not in item for item in items):
        return False
    types = [{_kind(item.get(field)) for item in items} for field in fields]
    return all(len(each) == 1 and None not in each for each in types)


def _kind(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, _SCALARS):
        return None
    if isinstance(value, (int, float)):
        return None if isinstance(value, float) and math.isnan(value) else "number"
    return "text" if isinstance(value, str) else "date"


def _key(field: str, item: Mapping[str, Any]) -> Any:
    value = item[field]
    # JavaScript compares texts by their UTF-16 units, and numbers as floats.
    if isinstance(value, str):
        return value.encode("utf-16-be", "surrogatepass")
    return float(value) if isinstance(value, int) else value
