"""
What a commit changed in a record, field by field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ferry.app.browse.values import Schemas, line_of, of_field, title_of
from ferry.app.store.changes import Difference

MOST_FIELDS = 50
_IN_A_LINE = 200
_NOTHING = object()


@dataclass(frozen=True, slots=True)
class FieldChange:
    """
    One field that a commit changed.

    Attributes:
        title: The titles of the tables on the way to it, and its own.
        before: What it held before; None if it was not there.
        after: What it holds now; None if it is not there.
    """

    title: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class RecordChange:
    """
    What a commit changed in a record.

    Attributes:
        what: ``created``, ``changed`` or ``removed``.
        fields: The fields.
        has_more: Whether there are more fields than the page shows.
        fault: Why the record cannot be read after the commit; "" if it can.
    """

    what: str
    fields: tuple[FieldChange, ...]
    has_more: bool
    fault: str


def record_change(difference: Difference, schemas: Schemas) -> RecordChange:
    """
    Return *difference* for a page. Of a record that was removed, it shows no fields.
    """
    before, after = difference.before, difference.after
    if difference.fault or after is None:
        return RecordChange("changed" if difference.fault else "removed", (), False, difference.fault)
    found = list(islice(_changes(before or {}, after, schemas), MOST_FIELDS + 1))
    what = "created" if before is None else "changed"
    return RecordChange(what, tuple(found[:MOST_FIELDS]), len(found) > MOST_FIELDS, "")


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], schemas: Schemas, above: str = ""
) -> Iterator[FieldChange]:
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name, _NOTHING), after.get(name, _NOTHING)
        title = f"{above}{title_of(schemas, name)}"
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _changes(old, new, of_field(schemas, name), f"{title} / ")
        elif old != new or type(old) is not type(new):
            yield FieldChange(title, _line(old), _line(new))


def _line(value: Any) -> str | None:
    return None if value is _NOTHING else line_of(value, _IN_A_LINE)
