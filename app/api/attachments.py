"""
Attachments: files that belong to a record, such as photos and documents.
"""

from __future__ import annotations

import io
import mimetypes
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, request, send_file
from flask.typing import ResponseReturnValue

from ferry.app.access import writer
from ferry.app.api import records
from ferry.app.api.conditions import require
from ferry.app.api.parts import Part
from ferry.app.api.reading import snapshot_of
from ferry.app.api.records import is_record
from ferry.app.api.writing import Change, write
from ferry.app.errors import AttachmentNotFoundError, RecordNotFoundError
from ferry.app.provenance import provenance
from ferry.app.services import services
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.snapshot import Snapshot, owns
from ferry.app.store.transaction import Transaction
from ferry.worker.git import blobs

bp = Blueprint("attachments", __name__, url_prefix="/api/sheets/<sheet>/records/<path:path>/attachments")


@bp.get("")
def index(sheet: str, path: str) -> ResponseReturnValue:
    """
    List the attachments of a record.
    """
    snapshot = snapshot_of(request.args.get("at"))
    found = snapshot.sheet(sheet)
    if is_record(snapshot, sheet, f"{path}/attachments"):
        return records.show(sheet, f"{path}/attachments")
    if snapshot.version(found, path) is None:
        raise RecordNotFoundError(f"The sheet {sheet!r} has no record {path!r}.")
    return {"attachments": documents(snapshot, found, path)}


@bp.get("/<name>")
def show(sheet: str, path: str, name: str) -> ResponseReturnValue:
    """
    Return an attachment's bytes, or a range of them. The media type follows from its name.
    """
    snapshot = snapshot_of(request.args.get("at"))
    if is_record(snapshot, sheet, address := f"{path}/attachments/{name}"):
        return records.show(sheet, address)
    if name in ("history", "attachments") and not owns(snapshot.territory, snapshot.sheet(sheet), path):
        # There is no record at `path`, so the request is for the record named "attachments".
        beside = records.history if name == "history" else index
        return beside(sheet, f"{path}/attachments")
    return content_of(snapshot, snapshot.sheet(sheet), path, name)


def documents(snapshot: Snapshot, sheet: Sheet, path: str) -> list[dict[str, Any]]:
    """
    Return the JSON documents of a record's attachments, by name.
    """
    attached = sorted(snapshot.attachments(sheet, path).items())
    return [_document(snapshot, name, blob) for name, blob in attached]


def content_of(snapshot: Snapshot, sheet: Sheet, path: str, name: str) -> Response:
    """
    Return an attachment's bytes.

    Raises:
        AttachmentNotFoundError: There is no such attachment.
    """
    blob = snapshot.attachments(sheet, path).get(name)
    if blob is None:
        raise AttachmentNotFoundError(f"The record {path!r} has no attachment {name!r}.")
    content = Part.whole(blobs.find(snapshot.git_dir, blob))
    response = send_file(io.BytesIO(), _type(name), etag=blob, conditional=False, download_name=name)
    response.direct_passthrough = False
    response.response, response.content_length = content, len(content)
    response.headers["Accept-Ranges"] = "bytes"
    # An attachment may be a page with a script; it must not run with this site's rights.
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


@bp.put("/<name>")
def replace(sheet: str, path: str, name: str) -> ResponseReturnValue:
    """
    Store the body as an attachment; it replaces one of the same name.
    """
    if is_record(services().store.snapshot(), sheet, address := f"{path}/attachments/{name}"):
        return records.replace(sheet, address)
    actor = writer(sheet)
    request.max_content_length = services().pipeline.settings.api_max_attachment_bytes
    content = request.get_data()

    def change(transaction: Transaction) -> Change:
        require(transaction.attachment(sheet, path, name), f"The attachment {name!r}")
        blob, is_new = transaction.attach(sheet, path, name, content)
        headers = {"ETag": f'"{blob}"'}
        if is_new:
            headers["Location"] = (
                f"/api/sheets/{quote(sheet)}/records/{quote(path)}/attachments/{quote(name)}"
            )
        body = {"path": path, "attachment": {"name": name, "type": _type(name), "bytes": len(content)}}
        return Change(status=201 if is_new else 200, body=body, headers=headers)

    return write(actor, provenance(actor, "attachment.put", [(sheet, path)]), change)


@bp.delete("/<name>")
def delete(sheet: str, path: str, name: str) -> ResponseReturnValue:
    """
    Delete an attachment.
    """
    if is_record(services().store.snapshot(), sheet, address := f"{path}/attachments/{name}"):
        return records.delete(sheet, address)
    actor = writer(sheet)

    def change(transaction: Transaction) -> Change:
        require(transaction.attachment(sheet, path, name), f"The attachment {name!r}")
        transaction.detach(sheet, path, name)
        return Change(body={"path": path, "attachment": None})

    return write(actor, provenance(actor, "attachment.delete", [(sheet, path)]), change)


def _document(snapshot: Snapshot, name: str, blob: str) -> dict[str, Any]:
    size = blobs.find(snapshot.git_dir, blob).size
    return {"name": name, "type": _type(name), "bytes": size, "etag": f'"{blob}"'}


def _type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
