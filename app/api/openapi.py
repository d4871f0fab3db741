"""
The API as an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.0), made for one repository.

Limits and names come from the modules that check them, and each sheet's own JSON
Schema stands in it under the sheet's own paths; so a client that is generated
from it has the repository's types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ferry import __version__
from ferry.app.api.cursors import DEFAULT_LIMIT, MAX_LIMIT
from ferry.app.api.record_schema import component, for_requests
from ferry.app.api.transactions import MAX_OPERATIONS, OPERATIONS
from ferry.app.api.writing import MAX_WAIT_S
from ferry.app.errors import StoreError
from ferry.app.records.toml_types import DATE
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.snapshot import Snapshot
from ferry.worker.settings import Settings

Json = dict[str, Any]

_MERGE_PATCH = "application/merge-patch+json"
_MILLISECONDS = r"^[^.]+(\.[0-9]{1,3}0*)?([Zz]|[+-][0-9]{2}:[0-9]{2})$"  # gitsheets would cut what is finer


def document(snapshot: Snapshot, settings: Settings) -> Json:
    """
    Return the document for the sheets that *snapshot* declares.
    """
    sheets = []
    for name in snapshot.sheet_names():
        try:
            sheets.append(snapshot.sheet(name))
        except StoreError:
            continue  # its own path says what is wrong with it
    paths = _general()
    schemas = _schemas()
    for sheet in sheets:
        contracts = snapshot.contracts(sheet)
        paths |= _sheet_paths(sheet, contracts)
        schema = _record(sheet, contracts)
        schemas[_schema_name(sheet)] = schema
        schemas[_request_name(sheet)] = for_requests(schema, _ref("DateTime"))
    _name_apart(paths)
    if settings.api_read == "open":
        for path in paths.values():
            if "get" in path:
                path["get"]["security"] = []
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ferry",
            "version": __version__,
            "summary": "Records in git, over HTTP; every commit reaches the remote.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "tags": [
            {"name": tag}
            for tag in dict.fromkeys(("sheets", "commits", "service", *(sheet.name for sheet in sheets)))
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": _parameters(),
            "headers": _headers(),
            "responses": {
                "Problem": _problem("A problem (RFC 9457), with a stable code and a hint."),
                "NotModified": {"description": "The client has it already."},
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _ref(name: str, kind: str = "schemas") -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _schema_name(sheet: Sheet) -> str:
    """
    Return the component's name; each sheet has one of its own ("." stands only where something is replaced).
    """
    return "record_" + re.sub(r"[^A-Za-z0-9_-]", lambda found: f".{ord(found[0]):x}.", sheet.name)


def _request_name(sheet: Sheet) -> str:
    """
    Return the component's name of a record in a request, where a date-time may be said to be one.
    """
    return f"{_schema_name(sheet)}.request"


def _name_apart(paths: Json) -> None:
    """
    Give each operation an identifier of its own: "get_attachment_x" may be meant of two sheets.
    """
    taken: set[str] = set()
    for path in paths.values():
        for operation in path.values():
            if isinstance(operation, dict):
                while operation["operationId"] in taken:
                    operation["operationId"] += "_"
                taken.add(operation["operationId"])


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> Json:
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, "required": list(required)}


def _json(schema: Json, description: str, *, headers: tuple[str, ...] = ("ETag",)) -> Json:
    return {
        "description": description,
        "headers": {name: _ref(name, "headers") for name in headers},
        "content": {"application/json": {"schema": schema}},
    }


def _file(description: str) -> Json:
    return {"description": description, "content": {"*/*": {"schema": {}}}}


def _problem(description: str) -> Json:
    return {"description": description, "content": {"application/problem+json": {"schema": _ref("Problem")}}}


def _read(tag: str, identifier: str, summary: str, schema: Json, parameters: list[Json]) -> Json:
    return {
        "tags": [tag],
        "operationId": identifier,
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": _json(schema, "Found."),
            "304": _ref("NotModified", "responses"),
            "default": _ref("Problem", "responses"),
        },
    }


def _write(
    tag: str,
    identifier: str,
    summary: str,
    answer: Json,
    *,
    body: Json | None = None,
    media_types: tuple[str, ...] = ("application/json",),
    creates: bool = False,
    conditional: bool = True,
    leaves: bool = True,
) -> Json:
    names = ["idempotency_key", "prefer", "commit_message", "request_id"]
    names += ["if_match", "if_none_match"] if conditional else []
    headers = ("ETag",) if leaves else ()
    responses = {
        "200": _json(answer, "Done; commit is null where nothing changed.", headers=headers),
        "202": _json(
            answer, "Done, and not on the remote within the time that Prefer named.", headers=headers
        ),
        "default": _ref("Problem", "responses"),
    }
    if creates:
        responses["201"] = _json(answer, "Created.", headers=("ETag", "Location"))
    operation: Json = {
        "tags": [tag],
        "operationId": identifier,
        "summary": summary,
        "parameters": [_ref(name, "parameters") for name in names],
        "responses": responses,
    }
    if body is not None:
        content = {media_type: {"schema": body} for media_type in media_types}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _record(sheet: Sheet, contracts: Mapping[str, Mapping[str, Any]]) -> Json:
    """
    Return the schema of the sheet's records: its own, and those of its contracts.
    """
    place = _ref(_schema_name(sheet))["$ref"]
    if not contracts:
        return component(sheet.schema, place)
    # A contract's $id is its name, and nothing that could be fetched.
    documents = [{key: value for key, value in each.items() if key != "$id"} for each in contracts.values()]
    parts = [*documents, *([dict(sheet.schema)] if sheet.schema else [])]
    return {"allOf": [component(part, f"{place}/allOf/{number}") for number, part in enumerate(parts)]}


def _sheet_paths(sheet: Sheet, contracts: Mapping[str, Mapping[str, Any]]) -> Json:
    """
    Return the paths of one sheet. A record's path is one parameter, and may hold slashes.
    """
    name, record, sent = sheet.name, _ref(_schema_name(sheet)), _ref(_request_name(sheet))
    root = f"/api/sheets/{quote(name)}/records"
    stored = _object({"path": {"type": "string"}, "record": record})
    written = _object({"path": {"type": "string"}, "record": record, "commit": _ref("MaybeCommit")})
    gone = _object({"path": {"type": "string"}, "record": {"type": "null"}, "commit": _ref("MaybeCommit")})
    one = [{"name": "path", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]
    at = [_ref("at", "parameters")]
    paging = [_ref(each, "parameters") for each in ("limit", "cursor")]
    query = [
        *paging,
        *at,
        *(_ref(each, "parameters") for each in ("sort", "fields")),
        *_filters([*contracts.values(), sheet.schema or {}]),
    ]
    listed = _object(
        {
            "records": {
                "type": "array",
                "items": _object({"path": {"type": "string"}, "record": {"type": "object"}}),
            },
            "next_cursor": _ref("Cursor"),
        },
        {"unreadable": {"type": "array", "items": _ref("Unreadable")}},
    )
    history = _object({"history": {"type": "array", "items": _ref("Change")}, "next_cursor": _ref("Cursor")})
    attachment = _object(
        {
            "path": {"type": "string"},
            "attachment": {"type": ["object", "null"]},
            "commit": _ref("MaybeCommit"),
        }
    )
    file = [
        *one,
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}},
    ]
    binary: Json = {"application/octet-stream": {"schema": {}}}
    return {
        root: {
            "get": _read(name, f"list_{name}", "List records", listed, query),
            "post": _write(
                name,
                f"create_{name}",
                "Create a record",
                written,
                body=sent,
                creates=True,
            ),
        },
        f"{root}/{{path}}": {
            "parameters": one,
            "get": _read(name, f"get_{name}", "Read a record", stored, at),
            "put": _write(
                name, f"put_{name}", "Create or replace a record", written, body=sent, creates=True
            ),
            "patch": _write(
                name,
                f"patch_{name}",
                "Change some fields (RFC 7396)",
                written,
                body={"type": "object"},
                media_types=(_MERGE_PATCH, "application/json"),
            ),
            "delete": _write(
                name, f"delete_{name}", "Delete a record with its attachments", gone, leaves=False
            ),
        },
        f"{root}/{{path}}/history": {
            "parameters": one,
            "get": _read(name, f"history_{name}", "List what changed a record", history, [*paging, *at]),
        },
        f"{root}/{{path}}/attachments": {
            "parameters": one,
            "get": _read(
                name,
                f"attachments_{name}",
                "List a record's attachments",
                _object({"attachments": {"type": "array", "items": _ref("Attachment")}}),
                at,
            ),
        },
        f"{root}/{{path}}/attachments/{{name}}": {
            "parameters": file,
            "get": {
                "tags": [name],
                "operationId": f"get_attachment_{name}",
                "summary": "Read an attachment, or a range of it",
                "parameters": at,
                "responses": {
                    "200": {**_file("All of it."), "headers": {"ETag": _ref("ETag", "headers")}},
                    "206": {
                        **_file("The range asked for."),
                        "headers": {each: _ref(each, "headers") for each in ("ETag", "Content-Range")},
                    },
                    "304": _ref("NotModified", "responses"),
                    "416": {
                        **_problem("There is no such range."),
                        "headers": {"Content-Range": _ref("Content-Range", "headers")},
                    },
                    "default": _ref("Problem", "responses"),
                },
            },
            "put": {
                **_write(name, f"put_attachment_{name}", "Store an attachment", attachment, creates=True),
                "requestBody": {"required": True, "content": binary},
            },
            "delete": _write(
                name, f"delete_attachment_{name}", "Delete an attachment", attachment, leaves=False
            ),
        },
    }


def _filters(schemas: Sequence[Mapping[str, Any]]) -> list[Json]:
    """
    Return one parameter for each field that the schemas declare; its comparisons are described with it.
    """
    fields = dict.fromkeys(field for schema in schemas for field in schema.get("properties", {}))
    return [
        {
            "name": field,
            "in": "query",
            "description": f"Only records with this {field}; {field}[gte] and its like compare.",
            "schema": {"type": "string"},
        }
        for field in fields
        if re.fullmatch(r"[A-Za-z0-9_-]+", field) and field not in ("limit", "cursor", "at", "sort", "fields")
    ]


def _general() -> Json:
    paging = [_ref(each, "parameters") for each in ("limit", "cursor")]
    name = {"name": "sheet", "in": "path", "required": True, "schema": {"type": "string"}}
    anything: Json = {"type": "object", "additionalProperties": True}
    sheet = _object(
        {"name": {"type": "string"}, "config": anything, "schema": {"anyOf": [anything, {"type": "null"}]}},
        {"contracts": {"type": "object", "additionalProperties": anything}},
    )
    commit_hash = {
        "name": "hash",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9a-f]{40}$"},
    }
    listed = _object({"commits": {"type": "array", "items": _ref("Commit")}, "next_cursor": _ref("Cursor")})
    names = _object({"sheets": {"type": "array", "items": _object({"name": {"type": "string"}})}})
    operation = _object(
        {"op": {"type": "string", "enum": list(OPERATIONS)}, "sheet": {"type": "string"}},
        {"path": {"type": "string"}, "record": {"type": "object"}, "if_match": {"type": "string"}},
    )
    wish = _object(
        {"operations": {"type": "array", "items": operation, "minItems": 1, "maxItems": MAX_OPERATIONS}},
        {"message": {"type": "string"}},
    )
    results = _object(
        {"results": {"type": "array", "items": {"type": "object"}}, "commit": _ref("MaybeCommit")}
    )
    alive = {
        "200": _json(_object({"status": {"type": "string"}}), "It does."),
        "default": _ref("Problem", "responses"),
    }
    return {
        "/api/sheets": {"get": _read("sheets", "index_sheets", "List the sheets", names, [])},
        "/api/sheets/{sheet}": {
            "parameters": [name],
            "get": _read("sheets", "show_sheet", "Read a sheet's configuration and schema", sheet, []),
        },
        "/api/transactions": {
            "post": _write(
                "sheets",
                "transact",
                "Change several records in one commit, all or nothing",
                results,
                body=wish,
                conditional=False,
                leaves=False,
            ),
        },
        "/api/commits": {
            "get": _read(
                "commits",
                "index_commits",
                "List commits, newest first",
                listed,
                [*paging, _ref("at", "parameters")],
            )
        },
        "/api/commits/{hash}": {
            "parameters": [commit_hash],
            "get": _read(
                "commits", "show_commit", "Read a commit, and which remotes have it", _ref("Commit"), []
            ),
        },
        "/api/events": {
            "get": {
                "tags": ["commits"],
                "operationId": "stream_events",
                "summary": "Stream commits and pushes as server-sent events",
                "parameters": [{"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}}],
                "responses": {
                    "200": {
                        "description": "A stream without an end.",
                        "content": {"text/event-stream": {"schema": {"type": "string"}}},
                    },
                    "default": _ref("Problem", "responses"),
                },
            },
        },
        "/api/health": {
            "get": {
                "tags": ["service"],
                "operationId": "alive",
                "summary": "Whether the process answers",
                "responses": alive,
            }
        },
        "/api/health/ready": {
            "get": {
                "tags": ["service"],
                "operationId": "ready",
                "summary": "Whether the branch can be read",
                "responses": alive,
            }
        },
    }


def _parameters() -> Json:
    def query(name: str, description: str, schema: Json) -> Json:
        return {"name": name, "in": "query", "description": description, "schema": schema}

    def header(name: str, description: str, schema: Json | None = None) -> Json:
        return {
            "name": name,
            "in": "header",
            "description": description,
            "schema": schema or {"type": "string"},
        }

    return {
        "limit": query(
            "limit",
            "How many at most.",
            {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        ),
        "cursor": query("cursor", "next_cursor of the page before, with the same query.", {"type": "string"}),
        "at": query("at", "Read as it was at this commit.", {"type": "string", "pattern": "^[0-9a-f]{40}$"}),
        "sort": query(
            "sort",
            "Fields to sort by, separated by commas; a minus turns the order round.",
            {"type": "string"},
        ),
        "fields": query("fields", "The only fields to show, separated by commas.", {"type": "string"}),
        "if_match": header("If-Match", "Only if this is the version that stands there."),
        "if_none_match": header(
            "If-None-Match", "`*`: only if nothing stands there; or versions: only if it is none of these."
        ),
        "idempotency_key": header(
            "Idempotency-Key",
            "Repeat the write with the same key and it is made once.",
            {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        ),
        "prefer": header(
            "Prefer", f"`wait=10` waits that many seconds for the remote, at most {MAX_WAIT_S:g}."
        ),
        "commit_message": header("Commit-Message", "Why, in one line; percent-encoded UTF-8."),
        "request_id": header("X-Request-Id", "The client's own id of the request."),
    }


def _headers() -> Json:
    return {
        "ETag": {"description": "The version that is shown.", "schema": {"type": "string"}},
        "Location": {"description": "Where it is.", "schema": {"type": "string"}},
        "Content-Range": {"description": "Which bytes, and of how many.", "schema": {"type": "string"}},
    }


def _schemas() -> Json:
    text, push = (
        {"type": "string"},
        {"type": "object", "additionalProperties": {"type": "string", "enum": ["pushed", "pending"]}},
    )
    several: Json = {"type": "array", "items": text}
    commit = {
        "hash": text,
        "parents": several,
        "author": _object({"name": text, "email": text}),
        "authored_at": {"type": "string", "format": "date-time"},
        "message": text,
        "trailers": {"type": "object", "additionalProperties": {"anyOf": [text, several]}},
        "push": push,
    }
    return {
        "Problem": _object(
            {
                "type": text,
                "title": text,
                "status": {"type": "integer"},
                "detail": text,
                "code": text,
                "hint": text,
            },
            {"errors": {"type": "array", "items": _object({"field": text, "message": text})}},
        ),
        "Cursor": {"type": ["string", "null"]},
        "DateTime": {
            "description": "A TOML date-time; a string stays a string, except in the place of a date-time.",
            **_object({DATE: {"type": "string", "format": "date-time", "pattern": _MILLISECONDS}}),
            "additionalProperties": False,
        },
        "CommitMade": _object({"hash": text, "push": push}),
        "MaybeCommit": {"anyOf": [_ref("CommitMade"), {"type": "null"}]},
        "Commit": _object(commit),
        "Change": _object(
            {**commit, "patch": {"type": "array", "items": {"type": "object"}}}, {"unreadable": text}
        ),
        "Unreadable": _object({"path": text, "detail": text}),
        "Attachment": _object({"name": text, "type": text, "bytes": {"type": "integer"}, "etag": text}),
    }
