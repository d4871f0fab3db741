"""
References between sheets, and fields whose value no two records share.

Name it in ``CFP_API_EXTENSIONS``. A sheet's declaration states the constraints. Each write that would break
one is refused with 409 ``reference-missing``, ``referred-to`` or ``not-unique``, and the answer names the
other record.

    [gitsheet.references]
    author = "people"    # the field holds the path of a record of the sheet people, or an array of paths

    [gitsheet.unique]
    email = true

If a declaration's constraint does not have this form, the answer is 500 ``sheet-misconfigured``, which names
the sheet's file.

A record that others refer to can be neither deleted nor moved. In a transaction, put the record before those
that refer to it. A merge with a remote is refused if it would break a constraint; a fast-forward is not
checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ferry import Extension, Refused, Write

integrity = Extension("integrity")

_KINDS = {str: "the name of a sheet", bool: "true or false"}


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
        references = _table(write.sheet, declared, "references", str)
        for field, sheet in references.items():
            if sheet not in declared:
                raise _misconfigured(
                    write.sheet, "references", f"{field} names {sheet!r}, which is no usable sheet"
                )
        _keep_references(write, references)
        _keep_unique(write, _table(write.sheet, declared, "unique", bool))


def _table(sheet: str, declared: Mapping[str, Mapping[str, Any]], name: str, kind: type) -> Mapping[str, Any]:
    """
    Return a table of a sheet's declaration, whose values are of one kind.
    """
    table, wanted = declared[sheet].get(name, {}), _KINDS[kind]
    if not isinstance(table, dict):
        raise _misconfigured(sheet, name, "is no table")
    if wrong := [field for field, value in table.items() if not isinstance(value, kind)]:
        raise _misconfigured(sheet, name, f"{wrong[0]} must be {wanted}")
    return table


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
    for sheet in declared:
        references = _table(sheet, declared, "references", str)
        fields = [field for field, to in references.items() if to == write.sheet]
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


def _misconfigured(sheet: str, table: str, said: str) -> Refused:
    file = f".gitsheets/{sheet}.toml"
    detail, hint = f"{file}: gitsheet.{table}: {said}.", f"Correct {file} in the data repository."
    return Refused(detail, code="sheet-misconfigured", status=500, hint=hint)
