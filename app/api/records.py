"""
Records: list, read, create, replace, delete.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from flask import Blueprint, make_response, request
from flask.typing import ResponseReturnValue

from app.access import writer
from app.api.paging import Page, page_of
from app.api.push import commit_states
from app.json_form import read_record, to_json
from app.problems import Problem
from app.services import services
from app.snapshot import Record, Snapshot
from app.store import Transaction, Written
from app.transact import transact

bp = Blueprint("records", __name__, url_prefix="/api/sheets/<sheet>/records")

EMAIL_HOST = "users.noreply.ferry.invalid"  # RFC 2606: nobody's, so no mail ever reaches a stranger


@bp.get("")
def index(sheet: str) -> ResponseReturnValue:
    """
    List records by path, those that equal every field the query names.

    A cursor names the commit that the first page was read from, so that the
    pages fit together however many commits arrive meanwhile.
    """
    page = page_of(request.args)
    wanted = {name: values for name, values in request.args.lists() if name not in ("limit", "cursor")}
    snapshot = _snapshot_of(page)
    matching = [
        (path, record)
        for path, record in snapshot.records(snapshot.sheet(sheet))
        if path > page.after and all(_text(record, name) in values for name, values in wanted.items())
    ]
    shown = matching[: page.limit]
    more = len(matching) > len(shown)
    return {
        "records": [{"path": path, "record": record} for path, record in shown],
        "next_cursor": page.cursor(commit=snapshot.commit, after=shown[-1][0]) if more else None,
    }


@bp.post("")
def create(sheet: str) -> ResponseReturnValue:
    """
    Create a record; its path follows from its fields.
    """
    actor, record = writer(), read_record(request.get_data())
    with _writing(actor) as transaction:
        written = transaction.create(sheet, record)
    response = make_response(_answer(transaction, written.path, written.record), 201)
    response.headers["Location"] = f"/api/sheets/{quote(sheet)}/records/{quote(written.path)}"
    response.set_etag(written.version)
    return response


@bp.get("/<path:path>")
def show(sheet: str, path: str) -> ResponseReturnValue:
    """
    Return one record.
    """
    snapshot = services().store.snapshot()
    found = snapshot.record(snapshot.sheet(sheet), path)
    response = make_response({"path": found.path, "record": found.record})
    response.set_etag(found.version)
    return response.make_conditional(request)


@bp.put("/<path:path>")
def replace(sheet: str, path: str) -> ResponseReturnValue:
    """
    Put a record in the place of another, or create it there; a change of the fields in its path moves it.
    """
    actor, record = writer(), read_record(request.get_data())
    with _writing(actor) as transaction:
        _check_conditions(transaction, sheet, path)
        written = transaction.put(sheet, path, record)
    response = make_response(_answer(transaction, written.path, written.record), _status(written))
    if written.created or written.path != path:
        response.headers["Location"] = f"/api/sheets/{quote(sheet)}/records/{quote(written.path)}"
    response.set_etag(written.version)
    return response


@bp.delete("/<path:path>")
def delete(sheet: str, path: str) -> ResponseReturnValue:
    """
    Delete a record.
    """
    actor = writer()
    with _writing(actor) as transaction:
        _check_conditions(transaction, sheet, path)
        transaction.delete(sheet, path)
    return _answer(transaction, path, None)


@contextmanager
def _writing(actor: str) -> Iterator[Transaction]:
    with transact(
        services().store,
        services().push_queue,
        f"{actor}: {request.method} {quote(request.path)}",
        author=(actor, f"{actor}@{EMAIL_HOST}"),
        trailers=[("Action", f"record.{request.method.lower()}"), ("Actor", actor)],
    ) as transaction:
        yield transaction


def _answer(transaction: Transaction, path: str, record: Record | None) -> dict[str, Any]:
    commit = transaction.commit
    return {
        "path": path,
        "record": record,
        "commit": commit and {"hash": commit, "push": commit_states(commit)},
    }


def _status(written: Written) -> int:
    return 201 if written.created else 200


def _check_conditions(transaction: Transaction, sheet: str, path: str) -> None:
    one_of = None
    if "If-Match" in request.headers:
        one_of = ["*"] if request.if_match.star_tag else list(request.if_match.as_set())
    transaction.require(sheet, path, one_of=one_of, absent=request.if_none_match.star_tag)


def _snapshot_of(page: Page) -> Snapshot:
    repository, current = services().pipeline.repository, services().store.snapshot()
    if page.commit is None:
        return current
    if not repository.contains(page.commit, current.commit):
        raise Problem(
            400, "cursor-invalid", "The cursor names no commit of the branch.", "Start without a cursor."
        )
    return Snapshot(repository.path, page.commit)


def _text(record: Record, name: str) -> str | None:
    """
    Return the field *name*, dots leading into tables, as a query would write it.
    """
    value: Any = record
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None or isinstance(value, (dict, list)) else str(to_json(value))
