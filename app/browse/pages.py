"""
``/`` and ``/browse``: the data for people with a browser, read only.

``CFP_API_READ`` guards the pages as it guards the API's reads. A browser sends no token, so
``signing_in`` asks for one.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, redirect, request, send_from_directory, url_for
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import MultiDict

from ferry.app import access
from ferry.app.api import attachments
from ferry.app.api.asked import Asked
from ferry.app.api.commits import changes_of, commit_documents, commit_of
from ferry.app.api.exchange.lines import lines_of
from ferry.app.api.push import commit_states
from ferry.app.api.reading import snapshot_of
from ferry.app.api.records import find, versions
from ferry.app.browse import curl, tables
from ferry.app.browse.answers import finish, page
from ferry.app.browse.counts import count_of
from ferry.app.browse.differences import record_change
from ferry.app.browse.values import value_of
from ferry.app.errors import RecordNotFoundError, StoreError, UnreadableRecordError
from ferry.app.exchange.forms import FORMS
from ferry.app.finding.fields import Fields
from ferry.app.records.codec import Record
from ferry.app.services import services
from ferry.app.sheets.sheet import Sheet
from ferry.app.status_page import status
from ferry.app.store.changes import ChangedFile
from ferry.app.store.listing import NO_TEXT
from ferry.app.store.snapshot import Snapshot
from ferry.worker.git.history import Commit

bp = Blueprint("browse", __name__, template_folder="templates")
bp.after_request(finish)
# Those of the status page, at an address that is for everyone: the form that asks for a token needs them.
assets = Blueprint("browse_assets", __name__)

EVERY_SHEET = "browse.commit"  # the page that shows records of every sheet
_LATEST = 10
_VERSIONS = "10"


@assets.get("/browse/assets/status.css", defaults={"name": "status.css"})
@assets.get("/browse/assets/icon.svg", defaults={"name": "icon.svg"})
def asset(name: str) -> Response:
    """
    Return one of the pages' own files.
    """
    return send_from_directory(str(status.bp.static_folder), name, max_age=3600)


@bp.get("/")
def home() -> ResponseReturnValue:
    """
    Show the sheets, and the latest commits.
    """
    snapshot, pipeline = snapshot_of(), services().pipeline
    latest: list[Commit] = []
    if snapshot.commit and access.may_read("*"):
        latest = pipeline.repository.log(snapshot.commit, limit=_LATEST, children_first=True)
    return page(
        "home",
        sheets=[_summary(snapshot, name) for name in snapshot.sheet_names()],
        commits=commit_documents(pipeline, latest),
        branch=pipeline.repository.branch,
        lines=[curl.reading("/api/sheets"), curl.reading("/api/commits", MultiDict({"limit": str(_LATEST)}))],
    )


@bp.get("/browse", strict_slashes=False)
def to_home() -> ResponseReturnValue:
    """
    Lead to the page with the sheets.
    """
    return redirect(url_for("browse.home"))


@bp.get("/browse/<sheet>", strict_slashes=False)
def sheet(sheet: str) -> ResponseReturnValue:
    """
    Show the records of a sheet that pass every filter, as a table. The query is that of the API's list.
    """
    found = find(sheet, request.args)
    shown = found.shown
    return page(
        "sheet",
        sheet=sheet,
        found=found,
        about=found.sheet.schema or {},
        search=" ".join(request.args.getlist("q")),
        table=tables.table_of(found, request.args),
        no_page=NO_TEXT,
        at=request.args.get("at"),
        first=shown.page.offset + 1,
        last=shown.page.offset + len(shown.entries),
        lines=[curl.reading(curl.address_of(sheet), request.args, prefer="count=exact")],
    )


@bp.get("/browse/<sheet>/filter")
def add_filter(sheet: str) -> ResponseReturnValue:
    """
    Lead to the table with one more filter: a form cannot write its field into the name of a parameter.
    """
    given = request.args
    query = tables.with_filter(
        given.get("query", ""), given.get("field", ""), given.get("operator", ""), given.get("value", "")
    )
    return redirect(f"{url_for('browse.sheet', sheet=sheet)}?{query}", HTTPStatus.SEE_OTHER)


@bp.get("/browse/<sheet>/csv")
def as_csv(sheet: str) -> Response:
    """
    Return all records that pass the filters as CSV, as the API does: a link cannot ask for a media type.
    """
    return lines_of(Asked.of(sheet, request.args), FORMS["csv"])


@bp.get("/browse/<sheet>/records/<path:path>")
def record(sheet: str, path: str) -> ResponseReturnValue:
    """
    Show a record as it is, or was at the commit ``at``; its attachments, and what changed it.
    """
    snapshot = snapshot_of(request.args.get("at"))
    found = snapshot.sheet(sheet)
    fields = Fields.of(found, snapshot.contracts(found))
    asked = _only("at", "cursor") | MultiDict({"limit": _VERSIONS})
    past = versions(
        sheet,
        path,
        asked,
        lambda commit, change: {"commit": commit, "change": record_change(change, fields.schemas)},
    )
    stored, fault, code = _stored(snapshot, found, path)
    shown: dict[str, Any] = {"lines": []}
    if stored is not None:
        address, of_path = curl.address_of(sheet, path), found.names.fields if found.names else ()
        shown = {
            "value": value_of(stored, fields.schemas),
            "attachments": attachments.documents(snapshot, found, path),
            "change": "" if "at" in request.args else curl.changing(address, stored, of_path, fields.schemas),
            "lines": [curl.reading(address, _only("at"))],
        }
    shown["lines"].append(curl.reading(curl.address_of(sheet, path, "history"), asked))
    return page(
        "record", sheet=sheet, path=path, at=request.args.get("at"), fault=fault, past=past, **shown
    ), code


@bp.get("/browse/<sheet>/attachments/<path:path>/<name>")
def attachment(sheet: str, path: str, name: str) -> Response:
    """
    Return an attachment's bytes, as the API does.
    """
    snapshot = snapshot_of(request.args.get("at"))
    return attachments.content_of(snapshot, snapshot.sheet(sheet), path, name)


@bp.get("/browse/commits/<name>")
def commit(name: str) -> ResponseReturnValue:
    """
    Show a commit, what it changed, and which remotes have it.
    """
    found = commit_of(name)
    asked = _only("cursor")
    address = f"/api/commits/{name}"
    return page(
        "commit",
        commit=found,
        body=found.message.partition("\n")[2].strip(),
        push=commit_states(services().pipeline, name),
        changed=changes_of(found, asked, _change_of),
        lines=[curl.reading(address), curl.reading(f"{address}/changes", asked)],
    )


def _summary(snapshot: Snapshot, name: str) -> dict[str, Any]:
    """
    Return what the first page says of a sheet: how many records it has, or why it cannot be read.
    """
    if not access.may_read(name):
        return {"name": name, "fault": "Your token may not read it."}
    try:
        found = snapshot.sheet(name)
        return {"name": name, "about": found.schema or {}, "count": count_of(snapshot, found)}
    except StoreError as exc:
        return {"name": name, "fault": f"{exc} {exc.hint}"}


def _change_of(file: ChangedFile) -> dict[str, Any]:
    schema = file.owner.sheet.schema if file.owner else None
    schemas = [schema] if isinstance(schema, dict) else []  # it stands as it was pushed
    change = record_change(file.difference, schemas) if file.difference else None
    return {"file": file, "change": change}


def _stored(snapshot: Snapshot, sheet: Sheet, path: str) -> tuple[Record | None, str, HTTPStatus]:
    """
    Return the record at *path*; or None, why the page cannot show it, and the page's status.
    """
    try:
        return snapshot.record(sheet, path).record, "", HTTPStatus.OK
    except RecordNotFoundError:
        return None, "This record was removed.", HTTPStatus.NOT_FOUND
    except UnreadableRecordError as exc:
        return None, str(exc), HTTPStatus.OK


def _only(*names: str) -> MultiDict[str, str]:
    """
    Return the parameters of the request with these *names*.
    """
    return MultiDict([pair for pair in request.args.items(multi=True) if pair[0] in names])
