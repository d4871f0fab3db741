"""
Records: list, read, create, replace, patch and delete them; list their history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

import gitsheets
from flask import Blueprint, make_response, request
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import MultiDict

from ferry.app.access import writer
from ferry.app.api.asked import Asked
from ferry.app.api.commits import commit_documents
from ferry.app.api.conditions import preference, require
from ferry.app.api.cursors import Shown, page_of
from ferry.app.api.exchange.lines import form_asked_for, lines_of
from ferry.app.api.reading import snapshot_of, snapshot_of_page
from ferry.app.api.writing import Change, evaluations, record_sent, write
from ferry.app.errors import RecordNotFoundError, SheetConfigError
from ferry.app.finding.fields import Fields
from ferry.app.provenance import provenance
from ferry.app.records.codec import Record
from ferry.app.records.json_form import to_json
from ferry.app.records.toml_types import coerce
from ferry.app.services import services
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.changes import Difference, changes
from ferry.app.store.snapshot import Snapshot, owns
from ferry.app.store.transaction import Transaction
from ferry.app.store.upserts import Written

bp = Blueprint("records", __name__, url_prefix="/api/sheets/<sheet>/records")

MERGE_PATCH = "application/merge-patch+json"
T = TypeVar("T")


@bp.get("")
def index(sheet: str) -> ResponseReturnValue:
    """
    List the records that pass every filter, sorted by path or by ``sort``; as lines, all of them at once.
    """
    if form := form_asked_for():
        return lines_of(Asked.of(sheet, request.args), form)
    found = find(sheet, request.args)
    unreadable = [{"path": path, "detail": detail} for path, detail in found.unreadable]
    counts = preference("count") == "exact"
    body = {
        "records": found.shown.entries,
        "next_cursor": found.shown.next_cursor,
        **({"total": found.total} if counts else {}),
        **({"unreadable": unreadable} if unreadable else {}),
    }
    applied = {"Preference-Applied": "count=exact"} if counts else {}
    return body, {**found.shown.link(), **applied, "Vary": "Accept, Prefer"}


@bp.post("")
def create(sheet: str) -> ResponseReturnValue:
    """
    Create a record; its path follows from its fields.
    """
    actor, record = writer(sheet), record_sent()
    path = path_of(sheet, record)

    def change(transaction: Transaction) -> Change:
        require(transaction.record_version(sheet, path), f"The record {path!r}")
        return changed(sheet, transaction.create(sheet, record))

    return write(actor, provenance(actor, "record.create", [(sheet, path)]), change)


@bp.get("/<path:path>")
def show(sheet: str, path: str) -> ResponseReturnValue:
    """
    Return one record, as it is or was at the commit ``at``.
    """
    snapshot = snapshot_of(request.args.get("at"))
    found = snapshot.record(snapshot.sheet(sheet), path)
    response = make_response({"path": found.path, "record": found.record})
    response.set_etag(found.version)
    return response


@bp.put("/<path:path>")
def replace(sheet: str, path: str) -> ResponseReturnValue:
    """
    Replace or create a record; a change of the fields in its path moves it.
    """
    actor, record = writer(sheet), record_sent()

    def change(transaction: Transaction) -> Change:
        require(transaction.record_version(sheet, path), f"The record {path!r}")
        return changed(sheet, transaction.put(sheet, path, record), asked_for=path)

    return write(actor, provenance(actor, "record.put", [(sheet, path)]), change)


@bp.patch("/<path:path>")
def patch(sheet: str, path: str) -> ResponseReturnValue:
    """
    Change some fields of a record by a JSON merge patch (RFC 7396); ``null`` removes a field.
    """
    actor, changes_sent = writer(sheet), record_sent(MERGE_PATCH)

    def change(transaction: Transaction) -> Change:
        require(transaction.record_version(sheet, path), f"The record {path!r}")
        return changed(sheet, transaction.patch(sheet, path, changes_sent), asked_for=path)

    return write(actor, provenance(actor, "record.patch", [(sheet, path)]), change)


@bp.delete("/<path:path>")
def delete(sheet: str, path: str) -> ResponseReturnValue:
    """
    Delete a record with its attachments.
    """
    actor = writer(sheet)

    def change(transaction: Transaction) -> Change:
        require(transaction.record_version(sheet, path), f"The record {path!r}")
        transaction.delete(sheet, path)
        return Change(body={"path": path, "record": None})

    return write(actor, provenance(actor, "record.delete", [(sheet, path)]), change)


@bp.get("/<path:path>/history")
def history(sheet: str, path: str) -> ResponseReturnValue:
    """
    List the commits that changed the record at this path, newest first, each with its changes.
    """
    if is_record(snapshot_of(request.args.get("at")), sheet, f"{path}/history"):
        return show(sheet, f"{path}/history")
    shown = versions(sheet, path, request.args, lambda commit, change: {**commit, **change.as_json()})
    return {"history": shown.entries, "next_cursor": shown.next_cursor}, shown.link()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """
    The records that a query finds.

    Attributes:
        sheet: Their sheet.
        fields: What is known of their fields.
        shown: One page of them: path and fields.
        total: How many there are on all pages.
        unreadable: Path and fault of each record that cannot be read, of those that were looked at.
    """

    sheet: Sheet
    fields: Fields
    shown: Shown[dict[str, Any]]
    total: int
    unreadable: Sequence[tuple[str, str]]


def find(sheet: str, arguments: MultiDict[str, str]) -> Found:
    """
    Return the records of *sheet* that pass every filter, sorted by path or by ``sort``.

    A cursor names the commit that the first page was read from, so that all pages show the same state,
    however many commits arrive meanwhile.

    Args:
        arguments: The query.

    Raises:
        Problem, StoreError: The query is invalid, or the sheet cannot be read.
    """
    asked = Asked.of(sheet, arguments)
    listed, page, query = asked.listed(), asked.page, asked.query
    matching = query.select(listed.records)
    entries = page.fitting(
        {"path": path, "record": query.shown(record)} for path, record in islice(matching, page.offset, None)
    )
    return Found(
        sheet=asked.sheet,
        fields=asked.fields,
        shown=Shown(
            page=page,
            commit=asked.snapshot.commit,
            entries=entries,
            has_more=len(matching) > page.offset + len(entries),
        ),
        total=len(matching),
        unreadable=listed.unreadable,
    )


def versions(
    sheet: str, path: str, arguments: MultiDict[str, str], show: Callable[[dict[str, Any], Difference], T]
) -> Shown[T]:
    """
    Return the commits that changed the record at *path*, newest first.

    Args:
        arguments: The query.
        show: Makes an entry of a commit's document and its change to the record.

    Raises:
        RecordNotFoundError: There has never been such a record.
        Problem, StoreError: The query is invalid, or the sheet cannot be read.
    """
    page = page_of(arguments, f"/api/sheets/{sheet}/records/{path}/history")
    snapshot, repository = snapshot_of_page(page), services().pipeline.repository
    found = snapshot.sheet(sheet)
    commits = (
        repository.log(
            snapshot.commit,
            skip=page.offset,
            limit=page.limit + 1,
            file=snapshot.from_top(found.file(path)),
            children_first=True,
        )
        if snapshot.commit and owns(snapshot.territory, found, path)
        else []
    )
    if not commits and not page.offset:
        raise RecordNotFoundError(f"The sheet {sheet!r} has never had a record {path!r}.")
    documents = commit_documents(services().pipeline, commits)
    pairs = zip(documents, changes(repository, found, path, commits), strict=True)
    entries = page.fitting(show(document, change) for document, change in pairs)
    return Shown(page=page, commit=snapshot.commit, entries=entries, has_more=len(commits) > len(entries))


def is_record(snapshot: Snapshot, sheet: str, address: str) -> bool:
    """
    Whether *address*, which could be a record's history or attachments, is a record's own path.

    It is if such a record exists, or if no record exists whose history or attachments it could be.
    """
    found = snapshot.sheet(sheet)
    if not owns(snapshot.territory, found, address):
        return False
    return found.hidden_by(address) is None or snapshot.version(found, address) is not None


def changed(sheet: str, written: Written, *, asked_for: str | None = None) -> Change:
    """
    Return the answer to a write that stored a record.
    """
    headers = {"ETag": f'"{written.version}"'}
    if written.created or written.path != asked_for:
        headers["Location"] = f"/api/sheets/{quote(sheet)}/records/{quote(written.path)}"
    body = {"path": written.path, "record": to_json(written.record)}
    return Change(status=201 if written.created else 200, body=body, headers=headers, sheet=sheet)


def path_of(sheet: str, record: Record) -> str:
    """
    Return the path of a new record, for the commit's trailer; "" if the write will fail.
    """
    with evaluations().looked_for():
        snapshot = services().store.snapshot(evaluations())
        found = snapshot.sheet(sheet)
        return _path_made(snapshot, found, record)


def _path_made(snapshot: Snapshot, sheet: Sheet, record: Record) -> str:
    try:
        return snapshot.renderer().path(sheet, coerce(record, sheet.schema))
    except SheetConfigError:
        return ""
    except (gitsheets.GitsheetsError, OverflowError, ValueError, TypeError):
        return ""
