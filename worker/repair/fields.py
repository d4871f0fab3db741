"""
The fields of TOML records: where versions of a record differ, and one version put together of two.

A field of a table inside a record is named with dots, as gitsheets names it in a conflict: ``address.city``.
"""

from __future__ import annotations

import json
import tomllib
import uuid
from collections.abc import Collection, Iterator, Sequence
from datetime import date, time
from typing import Any

import gitsheets

Record = dict[str, Any]
Keys = tuple[str, ...]


def parse(text: str) -> Record | None:
    """
    Return the record that a file holds, or None if it is not TOML.
    """
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None


def differences(
    versions: Sequence[Any], whole: Collection[str] = (), above: Keys = ()
) -> Iterator[tuple[Keys, list[Any]]]:
    """
    Yield the keys of each field in which *versions* differ, with its value in each; None where it has none.

    Args:
        versions: Records, or None where there is no record.
        whole: Names of fields that are compared as a whole even if they are tables.
    """
    tables = [version if isinstance(version, dict) else {} for version in versions]
    for key in sorted({key for table in tables for key in table}):
        keys, values = (*above, key), [table.get(key) for table in tables]
        if len(set(map(repr, values))) == 1:  # by their text: 1, 1.0 and true are equal in Python
            continue
        if all(value is None or isinstance(value, dict) for value in values) and name_of(keys) not in whole:
            yield from differences(values, whole, keys)
        else:
            yield keys, values


def name_of(keys: Keys) -> str:
    """
    Return the name of the field that *keys* lead to.
    """
    return ".".join(keys)


def mixed(ours: str, theirs: str, names: Collection[str]) -> str:
    """
    Return the record *ours*, as TOML, with the fields *names* as *theirs* has them.

    Raises:
        ValueError: One of the two is not TOML.
        gitsheets.GitsheetsError, OverflowError: It holds what cannot be written.
    """
    record, other = parse(ours), parse(theirs)
    if record is None or other is None:
        raise ValueError("a record cannot be read as TOML")
    for keys, (_, value) in list(differences([record, other], names)):
        if name_of(keys) in names:
            _put(record, keys, value)
    return _rendered(record)


def literal(value: Any) -> str:
    """
    Write a value as TOML, in one line.
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, (date, time)):  # a datetime is a date, too
        return value.isoformat().replace("+00:00", "Z")
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _put(record: Record, keys: Keys, value: Any) -> None:
    *above, last = keys
    for key in above:
        record = record.setdefault(key, {})
    if value is None:
        record.pop(last, None)
    else:
        record[last] = value


def _rendered(record: Record) -> str:
    """
    Write *record* as gitsheets does, but for its dates: it would make moments in UTC of local ones.
    """
    dates: dict[str, str] = {}

    def marked(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: marked(item) for key, item in value.items()}
        if isinstance(value, list):
            return [marked(item) for item in value]
        if isinstance(value, (date, time)):
            mark = uuid.uuid4().hex
            dates[f'"{mark}"'] = literal(value)
            return mark
        return value

    text = str(gitsheets.serialize_records([marked(record)])[0])
    for mark, written in dates.items():
        text = text.replace(mark, written)
    return text
