"""
Several changes in several sheets in one commit, all or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from werkzeug.http import parse_etags

from ferry.app.access import writer
from ferry.app.api.conditions import require_match
from ferry.app.api.records import changed, path_of
from ferry.app.api.writing import Change, record_sent, write
from ferry.app.errors import PreconditionError, StoreError
from ferry.app.problems import Problem, store_problem
from ferry.app.provenance import provenance
from ferry.app.records.codec import Record
from ferry.app.store.transaction import Transaction

bp = Blueprint("transactions", __name__, url_prefix="/api/transactions")

MAX_OPERATIONS = 1000
OPERATIONS = ("create", "upsert", "patch", "delete")
_EXAMPLE = '{"operations": [{"op": "upsert", "sheet": "people", "path": "jane", "record": {"slug": "jane"}}]}'
_MEMBERS = frozenset({"op", "sheet", "path", "record", "if_match"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operation:
    kind: str
    sheet: str
    path: str | None
    record: Record | None
    if_match: str | None


@bp.post("")
def create() -> ResponseReturnValue:
    """
    Apply every operation in order, in one commit.

    Takes ``{"message", "operations": [{"op", "sheet", "path", "record", "if_match"}]}``. A problem gives the
    number of the faulty operation, from 0, as ``operation``; nothing is changed then.
    """
    writer()  # for any sheet: only a known writer's body is read
    message, operations = _read(record_sent())
    actor = writer(*(operation.sheet for operation in operations))
    if "If-Match" in request.headers:
        raise PreconditionError("A transaction has no version; send if_match in an operation instead.")
    subjects = list(dict.fromkeys((operation.sheet, _subject(operation)) for operation in operations))
    about = provenance(actor, "transaction", subjects, summary=message)

    def change(transaction: Transaction) -> Change:
        results = [_apply(transaction, number, operation) for number, operation in enumerate(operations)]
        return Change(body={"results": results})

    return write(actor, about, change)


def _subject(operation: _Operation) -> str:
    if operation.path is not None:
        return operation.path
    try:
        return path_of(operation.sheet, operation.record or {})
    except StoreError:
        return ""  # applying the operation reports the error


def _apply(transaction: Transaction, number: int, operation: _Operation) -> dict[str, Any]:
    try:
        if operation.if_match is not None and operation.path is not None:
            version = transaction.record_version(operation.sheet, operation.path)
            require_match(parse_etags(operation.if_match), version, f"The record {operation.path!r}")
        if operation.kind == "delete":
            transaction.delete(operation.sheet, operation.path or "")
            return {"op": operation.kind, "sheet": operation.sheet, "path": operation.path, "record": None}
        record = operation.record or {}
        if operation.kind == "create":
            written = transaction.create(operation.sheet, record)
        elif operation.kind == "patch":
            written = transaction.patch(operation.sheet, operation.path or "", record)
        elif operation.path is None:
            written = transaction.upsert(operation.sheet, record)
        else:
            written = transaction.put(operation.sheet, operation.path, record)
    except StoreError as exc:
        raise store_problem(exc, operation=number) from exc
    answer = changed(operation.sheet, written).body
    return {"op": operation.kind, "sheet": operation.sheet, **answer, "etag": f'"{written.version}"'}


def _read(body: dict[str, Any]) -> tuple[str, list[_Operation]]:
    message, operations = body.get("message", ""), body.get("operations")
    if not isinstance(message, str):
        raise _invalid("message is not a string")
    if not isinstance(operations, list) or not 1 <= len(operations) <= MAX_OPERATIONS:
        raise _invalid(f"operations is not a list of 1 to {MAX_OPERATIONS} operations")
    unknown = sorted(set(body) - {"message", "operations"})
    if unknown:
        raise _invalid(f"unknown member {unknown[0]!r}; use message and operations")
    return message, [_operation(number, operation) for number, operation in enumerate(operations)]


def _operation(number: int, given: Any) -> _Operation:
    if not isinstance(given, dict):
        raise _invalid("is not an object", number)
    unknown = sorted(set(given) - _MEMBERS)
    if unknown:
        raise _invalid(f"unknown member {unknown[0]!r}; use {', '.join(sorted(_MEMBERS))}", number)
    kind, sheet, path = given.get("op"), given.get("sheet"), given.get("path")
    record, if_match = given.get("record"), given.get("if_match")
    if kind not in OPERATIONS:
        raise _invalid(f"op is not one of {', '.join(OPERATIONS)}", number)
    if not isinstance(sheet, str):
        raise _invalid("sheet is not the name of a sheet", number)
    if not isinstance(path, str) and (path is not None or kind in ("patch", "delete")):
        raise _invalid("path is not a record's path", number)
    if (kind != "delete") != isinstance(record, dict):
        raise _invalid("record is not an object" if kind != "delete" else "delete takes no record", number)
    if if_match is not None and not (isinstance(if_match, str) and path is not None):
        raise _invalid("if_match is an ETag, and goes with a path", number)
    return _Operation(kind=kind, sheet=sheet, path=path, record=record, if_match=if_match)


def _invalid(detail: str, number: int | None = None) -> Problem:
    where = "" if number is None else f"Operation {number}: "
    members: dict[str, Any] = {} if number is None else {"operation": number}
    return Problem(400, "transaction-invalid", f"{where}{detail}.", f"Send {_EXAMPLE}.", **members)
