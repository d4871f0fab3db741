"""
The API as an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.0), made for one repository.

``openapi.json`` holds the part that is the same for every repository, and a template of one sheet's paths.
Limits and names come from the modules that check them, and each sheet's own JSON Schema stands in the
document under the sheet's own paths; so a generated client has the repository's types.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote

from ferry import __version__
from ferry.app.api.cursors import DEFAULT_LIMIT, MAX_LIMIT
from ferry.app.api.exchange.importing import MOST_EVERY
from ferry.app.api.reading import MAX_DELAY_S
from ferry.app.api.record_schema import component, for_requests, partial, plain_object
from ferry.app.api.transactions import MAX_OPERATIONS
from ferry.app.api.transactions import OPERATIONS as CHANGES
from ferry.app.api.writing import MAX_WAIT_S
from ferry.app.errors import StoreError
from ferry.app.finding.comparisons import OPERATORS
from ferry.app.finding.query import GROUPS, MOST_PATHS, RESERVED
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.snapshot import Snapshot
from ferry.worker.settings import Settings

Json = dict[str, Any]

_KINDS = ("upsert", "patch", "delete")
_TEMPLATE = Path(__file__).with_suffix(".json")
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


def document(snapshot: Snapshot, settings: Settings, more: Mapping[str, Json], *, root: str = "/") -> Json:
    """
    Return the document for the sheets that *snapshot* declares.

    Args:
        more: Paths of extensions, with their operations.
        root: Where the API is, for the client that asks.
    """
    sheets = _usable(snapshot)
    found: Json = _filled(_template()["document"], _values(sheets, settings) | {"root": root})
    paths, schemas = found["paths"], found["components"]["schemas"]
    for sheet in sheets:
        contracts = snapshot.contracts(sheet)
        paths |= _sheet_paths(sheet, contracts)
        schemas |= _sheet_schemas(sheet, _record(sheet, contracts))
    _name_commits(paths)
    if settings.api_read == "open":
        for path in paths.values():
            if "get" in path:
                path["get"]["security"] = []
    paths |= copy.deepcopy(more)
    _name_apart(paths)
    theirs = (tag for path in more.values() for operation in path.values() for tag in operation["tags"])
    names = *(sheet.name for sheet in sheets), *theirs
    tags = dict.fromkeys(("sheets", "commits", "service", *names))
    return {**found, "tags": [{"name": tag} for tag in tags]}


class Operation(NamedTuple):
    """
    What the document says of one method of one address.

    Attributes:
        path: The address, with its variables in braces.
        method: In lower case.
        parameters: The names of its parameters in the query.
        answers: The media types in which it answers, where it succeeds.
    """

    path: str
    method: str
    parameters: frozenset[str]
    answers: frozenset[str]


def operations() -> Iterator[Operation]:
    """
    Return each operation of the API. A sheet's address has a variable where the document names the sheet.
    """
    known = _template()["document"]["components"]["parameters"]
    for path, item in (_template()["document"]["paths"] | _template()["sheet_paths"]).items():
        for method, operation in item.items():
            if method != "parameters":
                listed = operation.get("parameters", [])
                found = (
                    known[each["$ref"].rpartition("/")[2]] if "$ref" in each else each for each in listed
                )
                names = frozenset(each["name"] for each in found if each["in"] == "query")
                good = (each for status, each in operation["responses"].items() if status[0] == "2")
                media = [kind for each in good for kind in each.get("content", ())]
                # In "content" they would make the type of a list "a page or a string" in generated clients.
                media += operation.get("x-answers-too", ())
                yield Operation(path, method, names, frozenset(media))


def _usable(snapshot: Snapshot) -> list[Sheet]:
    sheets = []
    for name in snapshot.sheet_names():
        try:
            sheets.append(snapshot.sheet(name))
        except StoreError:
            continue  # a request to the sheet reports the fault
    return sheets


@cache
def _template() -> Json:
    return cast(Json, json.loads(_TEMPLATE.read_text("utf-8")))


def _name_commits(paths: Json) -> None:
    """
    Add to each read of the repository what ``reading`` does for all of them.
    """
    for name, path in paths.items():
        if "get" in path and not name.startswith("/api/health"):
            path["get"]["parameters"] += [{"$ref": "#/components/parameters/at_least"}]
            if name.startswith("/api/events"):
                continue  # neither a stream nor a ticket is read from one commit
            headers = path["get"]["responses"]["200"].setdefault("headers", {})
            headers["X-Ferry-Commit"] = {"$ref": "#/components/headers/X-Ferry-Commit"}


def _values(sheets: Sequence[Sheet], settings: Settings) -> Json:
    """
    Return what stands in the place of the document's placeholders.
    """
    names = [_schema_name(sheet) for sheet in sheets]
    codes = {"type": "string", "enum": _template()["codes"]}
    return {
        # An extension refuses with codes of its own.
        "code": {"anyOf": [codes, {"type": "string"}]} if settings.api_extensions else codes,
        "changes": _one_of([f"{name}.{kind}_operation" for name in names for kind in _KINDS]),
        "results": _one_of([f"{name}.result" for name in names]),
        "version": __version__,
        "most_entries": MAX_LIMIT,
        "default_entries": DEFAULT_LIMIT,
        "most_paths": MOST_PATHS,
        "most_operations": MAX_OPERATIONS,
        "most_wait_s": f"{MAX_WAIT_S:g}",
        "most_delay_s": f"{MAX_DELAY_S:g}",
    }


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    """
    Return a copy of *template* with *values* in the place of its ``${name}``.
    """
    if isinstance(template, dict):
        return {_filled(key, values): _filled(item, values) for key, item in template.items()}
    if isinstance(template, list):
        return [_filled(item, values) for item in template]
    if not isinstance(template, str):
        return template
    if whole := _PLACEHOLDER.fullmatch(template):
        return values[whole[1]]
    return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), template)


def _sheet_paths(sheet: Sheet, contracts: Mapping[str, Mapping[str, Any]]) -> Json:
    """
    Return the paths of one sheet. A record's path is one parameter, and may hold slashes.
    """
    paths: Json = _filled(_template()["sheet_paths"], _names(sheet))
    records = paths[f"/api/sheets/{quote(sheet.name)}/records"]
    records["get"]["parameters"] += _filters([*contracts.values(), sheet.schema or {}])
    return paths


def _sheet_schemas(sheet: Sheet, record: Json) -> Json:
    """
    Return what an answer or a request says of the sheet's records, whose schema is *record*.
    """
    name, request = _schema_name(sheet), for_requests(record, _ref("DateTime"))
    schemas: Json = _filled(_template()["sheet_schemas"], _names(sheet))
    return {
        name: record,
        f"{name}.partial": partial(record),
        f"{name}.request": request,
        f"{name}.patch": partial(request, or_null=True),
        **schemas,
    }


def _names(sheet: Sheet) -> Json:
    return {
        "sheet": sheet.name,
        "quoted": quote(sheet.name),
        "record": _schema_name(sheet),
        "operations": list(CHANGES),
        "most_every": MOST_EVERY,
    }


def _one_of(names: Sequence[str]) -> Json:
    return {"anyOf": [_ref(name) for name in names]} if names else plain_object()


def _ref(name: str, kind: str = "schemas") -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _schema_name(sheet: Sheet) -> str:
    """
    Return the name of the sheet's component. It is unique: a "." appears only where a character is replaced.
    """
    return "record_" + re.sub(r"[^A-Za-z0-9_-]", lambda found: f".{ord(found[0]):x}.", sheet.name)


def _name_apart(paths: Json) -> None:
    """
    Make each operation's identifier unique: "get_attachment_x" may belong to two sheets.
    """
    taken: set[str] = set()
    for path in paths.values():
        for operation in path.values():
            if isinstance(operation, dict):
                while operation["operationId"] in taken:
                    operation["operationId"] += "_"
                taken.add(operation["operationId"])


def _record(sheet: Sheet, contracts: Mapping[str, Mapping[str, Any]]) -> Json:
    """
    Return the schema of the sheet's records: the sheet's own and its contracts' schemas.
    """
    place = _ref(_schema_name(sheet))["$ref"]
    if not contracts:
        return component(sheet.schema, place)
    # A contract's $id is a name, not an address.
    documents = [{key: value for key, value in each.items() if key != "$id"} for each in contracts.values()]
    parts = [*documents, *([dict(sheet.schema)] if sheet.schema else [])]
    return {"allOf": [component(part, f"{place}/allOf/{number}") for number, part in enumerate(parts)]}


def _filters(schemas: Sequence[Mapping[str, Any]]) -> list[Json]:
    """
    Return the parameters for each field that the schemas declare: one for each operator.
    """
    fields = dict.fromkeys(field for schema in schemas for field in schema.get("properties", {}))
    return [
        {
            "name": field if word == "eq" else f"{field}[{word}]",
            "in": "query",
            "description": each.meaning.format(field=field),
            "schema": {"type": "boolean" if word == "exists" else "string"},
        }
        for field in fields
        if re.fullmatch(r"[A-Za-z0-9_-]+", field) and field not in (*RESERVED, *GROUPS)
        for word, each in OPERATORS.items()
    ]
