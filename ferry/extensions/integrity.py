"""
References between sheets, and fields whose value no two records share.

For ``CFP_API_EXTENSIONS``. A sheet's declaration says what holds. Each write that would break it is refused
with 409 ``reference-missing``, ``referred-to`` or ``not-unique``, and the answer names the other record.

    [gitsheet.references]
    author = "people"    # the field holds the path of a record of the sheet people, or an array of paths

    [gitsheet.unique]
    email = true

A record that others refer to can be neither deleted nor moved. In a transaction the order counts: the record
first, then what refers to it. What git brings from elsewhere is not checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ferry import Extension, Refused, Write

integrity = Extension("integrity")


@integrity.before_write
def keep(write: Write) -> None:
    """
    Refuse a write that leaves a reference without a record, or a second record with a unique value.
    """
    if write.attachment is not None:
        return
    declared = write.declarations()
    if write.after is None:
        _keep_referred(write, declared)
    else:
        _keep_references(write, declared[write.sheet].get("references", {}))
        _keep_unique(write, declared[write.sheet].get("unique", {}))


def _keep_references(write: Write, references: Mapping[str, str]) -> None:
    after: Mapping[str, Any] = write.after or {}
    for field, sheet in references.items():
        for path in _paths(after.get(field)):
            is_itself = (sheet, path) == (write.sheet, write.path)
            if not is_itself and not write.exists(sheet, path):
                raise _refused(
                    "reference-missing",
                    field,
                    f"The sheet {sheet!r} has no record {path!r}.",
                    "Create it first.",
                )


def _keep_unique(write: Write, unique: Mapping[str, bool]) -> None:
    after: Mapping[str, Any] = write.after or {}
    for field in (field for field, is_unique in unique.items() if is_unique and field in after):
        for other in write.records(write.sheet, **{field: after[field]}):
            if other.path != write.path:
                said = f"The record {other.path!r} of the sheet {write.sheet!r} has the same {field}."
                raise _refused("not-unique", field, said, "Send another value.")


def _keep_referred(write: Write, declared: Mapping[str, Mapping[str, Any]]) -> None:
    for sheet, declaration in declared.items():
        fields = [field for field, to in declaration.get("references", {}).items() if to == write.sheet]
        for other in write.records(sheet) if fields else ():
            if (sheet, other.path) == (write.sheet, write.path):
                continue
            for field in fields:
                if write.path in _paths(other.get(field)):
                    said = f"The record {other.path!r} of the sheet {sheet!r} refers to {write.path!r}."
                    raise _refused("referred-to", field, said, "Change or delete that record first.")


def _paths(value: Any) -> Iterator[str]:
    yield from (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str))


def _refused(code: str, field: str, said: str, hint: str) -> Refused:
    return Refused(said, code=code, status=409, errors=[{"field": field, "message": said}], hint=hint)
