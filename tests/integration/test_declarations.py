"""
Sheets as their declarations are met in the wild: each wrong one is its own sheet's problem and no other's.
"""

from __future__ import annotations

import subprocess
from urllib.parse import quote, unquote

import gitsheets
import jsonschema_rs
import pytest

from ferry.app import create_app
from tests.parts import Bare

PATH = 'path = "${{ slug }}"\n'
SCHEMA = '[gitsheet.schema]\ntype = "object"\nrequired = ["slug"]\n'


def _sheet(name, more="", *, path=PATH):
    return f'[gitsheet]\nroot = "{name}"\n{path}{more}'


def _field(schema):
    return SCHEMA + "[gitsheet.schema.properties.n]\n" + schema


# What is wrong, and a part of what gitsheets says of it.
WRONG = {
    "no-toml": ("[gitsheet\n", "invalid table header"),
    "no-utf-8": (b'[gitsheet]\npath = "\xff"\n', "not valid UTF-8"),
    "no-table": ("x = 1\n", "missing [gitsheet] table"),
    "table-is-text": ('gitsheet = "x"\n', "missing [gitsheet] table"),
    "no-path": ('[gitsheet]\nroot = "x"\n', "gitsheet.path must be a non-empty string"),
    "empty-path": (_sheet("x", path='path = ""\n'), "gitsheet.path must be a non-empty string"),
    "path-is-a-number": ("[gitsheet]\npath = 1\n", "gitsheet.path must be a non-empty string"),
    "root-is-a-number": ("[gitsheet]\nroot = 1\n" + PATH, "gitsheet.root must be a string"),
    "root-leads-out": ('[gitsheet]\nroot = "a/../../b"\n' + PATH, "leads out of the repository"),
    "unfinished": (_sheet("x", path='path = "${{ slug"\n'), "was not closed with }}"),
    "no-expression": (_sheet("x", path='path = "${{ a b( }}"\n'), "failed to compile: SyntaxError"),
    "missing-contract": (_sheet("x", 'implements = ["example.org/people"]\n'), "example.org/people"),
    "contract-is-a-table": (
        _sheet("x", '[[gitsheet.implements]]\nname = "a/b"\n'),
        "entries must be strings",
    ),
    "format-is-text": (_sheet("x", 'format = "markdown"\n'), "[gitsheet.format] must be a table"),
    "unknown-format": (_sheet("x", '[gitsheet.format]\ntype = "yaml"\n'), 'unknown sheet format "yaml"'),
    "markdown-without-body": (_sheet("x", '[gitsheet.format]\ntype = "markdown"\n'), ".body is required"),
    "fields-is-text": (_sheet("x", 'fields = "x"\n'), "gitsheet.fields must be a table"),
    "no-sort": (_sheet("x", '[gitsheet.fields.a]\nsort = "(a, b) =>"\n'), "SyntaxError"),
    "schema-is-text": (_sheet("x", 'schema = "text"\n'), "gitsheet.schema must be a table"),
    "schema-is-true": (_sheet("x", "schema = true\n"), "gitsheet.schema must be a table"),
    "properties-is-a-list": (_sheet("x", '[gitsheet.schema]\nproperties = ["a"]\n'), "not of type"),
    "unknown-type": (_sheet("x", '[gitsheet.schema]\ntype = "objekt"\n'), "objekt"),
    "unknown-keyword": (_sheet("x", SCHEMA + "whatever = 1\n"), "unknown JSON Schema keyword 'whatever'"),
    "bad-pattern": (_sheet("x", _field('type = "string"\npattern = "("\n')), "regex"),
    "dangling-ref": (_sheet("x", _field('"$ref" = "#/$defs/none"\n')), "/$defs/none"),
    "ref-elsewhere": (_sheet("x", _field('"$ref" = "https://example.org/x.json"\n')), "example.org/x.json"),
    "path-field-not-required": (_sheet("x", '[gitsheet.schema]\ntype = "object"\n'), 'field "slug"'),
}

# What can be used, however odd.
RIGHT = {
    "plain": _sheet("plain"),
    "bom": "\ufeff" + _sheet("bom"),
    "a b": _sheet("ab"),
    "a_b": _sheet("ab2"),
    "attachment_a_b": _sheet("ab3"),
    "über": _sheet("u"),
    "a+b{c}": _sheet("braces"),
    "50%20": _sheet("percent"),
    "sheets": _sheet("sheets"),
    "Problem": _sheet("problem"),
    "no-json": _sheet("no-json", _field('type = "number"\ndefault = nan\n')),
    "a-date": _sheet("a-date", _field('type = "string"\ndefault = 1979-05-27T07:32:00Z\n')),
    "other-default": _sheet("other-default", _field('type = "integer"\ndefault = "x"\n')),
    "defs": _sheet("defs", _field('"$ref" = "#/$defs/x"\n[gitsheet.schema."$defs".x]\ntype = "integer"\n')),
    "definitions": _sheet(
        "definitions",
        _field('"$ref" = "#/definitions/x"\n[gitsheet.schema.definitions.x]\ntype = "integer"\n'),
    ),
    "ref-to-a-property": _sheet(
        "rp", _field('"$ref" = "#/properties/m"\n[gitsheet.schema.properties.m]\ntype = "integer"\n')
    ),
    "a-tree": _sheet("tree", _field('type = "array"\nitems = {"$ref" = "#"}\n')),
    "named": _sheet("named", '[gitsheet.schema]\n"$id" = "https://example.org/me"\nrequired = ["slug"]\n'),
    "draft-7": _sheet(
        "draft-7",
        SCHEMA.replace("type =", '"$schema" = "http://json-schema.org/draft-07/schema#"\ntype =')
        + '[gitsheet.schema.properties.n]\nitems = [{type = "string"}]\n',
    ),
    "words": _sheet(
        "words",
        SCHEMA + '[gitsheet.schema.properties]\n"$ref" = {type = "string"}\nid = {type = "string"}\n'
        '"a b" = {type = "string"}\nlimit = {type = "integer"}\n',
    ),
    "old": _sheet(
        "old", '[gitsheet.fields.a]\ntype = "number"\nenum = [1]\n[gitsheet.fields.b]\nsort = ["x"]\n'
    ),
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """
    The app of a repository with every sheet of this module.
    """
    directory = tmp_path_factory.mktemp("zoo")
    data = Bare.init(directory / "data.git")
    tree = []
    for name, declared in {**RIGHT, **{name: text for name, (text, _) in WRONG.items()}}.items():
        content = declared if isinstance(declared, bytes) else declared.encode()
        blob = gitsheets.write_blob(str(data.path), content)
        tree.append(f"100644 blob {blob}\t.gitsheets/{name}.toml")
    index = {"GIT_DIR": str(data.path), "GIT_INDEX_FILE": str(directory / "index"), "PATH": "/usr/bin:/bin"}
    subprocess.run(
        ["git", "update-index", "-z", "--index-info"], input="\0".join(tree).encode(), env=index, check=True
    )
    written = subprocess.run(["git", "write-tree"], env=index, check=True, capture_output=True, text=True)
    commit = data.git("commit-tree", "-m", "zoo", written.stdout.strip()).strip()
    data.git("update-ref", "refs/heads/main", commit)
    return create_app(
        {"CFP_DATA_REPO_PATH": str(data.path), "CFP_REDIS_URL": "redis://127.0.0.1:1/0"}, open_access=True
    )


@pytest.fixture
def api(zoo):
    return zoo.test_client()


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_declaration_is_told_at_each_address_of_its_sheet(api, name):
    """
    Each address answers ``sheet-misconfigured``, in gitsheets' words.
    """
    sheet, record = f"/api/sheets/{name}", {"slug": "x"}
    for answer in (
        api.get(sheet),
        api.get(f"{sheet}/records"),
        api.post(f"{sheet}/records", json=record),
        api.get(f"{sheet}/records/x"),
        api.put(f"{sheet}/records/x", json=record),
        api.patch(f"{sheet}/records/x", json=record),
        api.delete(f"{sheet}/records/x"),
        api.get(f"{sheet}/records/x/history"),
        api.get(f"{sheet}/records/x/attachments"),
    ):
        assert (answer.status_code, answer.json["code"]) == (500, "sheet-misconfigured"), answer.text
        assert repr(name) in answer.json["detail"]
        assert WRONG[name][1] in answer.json["detail"]


@pytest.mark.parametrize("name", RIGHT)
def test_a_sheet_beside_wrong_ones_is_served(api, name):
    records = f"/api/sheets/{quote(name)}/records"
    assert api.get(f"/api/sheets/{quote(name)}").status_code == 200
    stored = api.put(f"{records}/x", json={"slug": "x"})
    assert stored.status_code in (200, 201), stored.text
    assert api.get(f"{records}/x").json["record"]["slug"] == "x"
    assert [each["path"] for each in api.get(records).json["records"]] == ["x"]


@pytest.mark.parametrize("expression", ["nope()", "slug.nope()", "(() => { throw 1 })()", "null.x"])
def test_an_expression_that_fails_on_every_record_is_the_sheets_fault(client, data, expression):
    _declare(data, "failing", _sheet("failing", path=f'path = "${{{{ {expression} }}}}"\n'))
    answer = client().post("/api/sheets/failing/records", json={"slug": "x"})
    assert (answer.status_code, answer.json["code"]) == (500, "sheet-misconfigured"), answer.text


@pytest.mark.parametrize("record", [{}, {"slug": 5}, {"slug": ""}])
def test_an_expression_that_fails_on_this_record_is_the_records_fault(client, data, record):
    _declare(data, "upper", _sheet("upper", path='path = "${{ slug.toUpperCase() }}"\n'))
    answer = client().post("/api/sheets/upper/records", json=record)
    assert (answer.status_code, answer.json["code"]) == (422, "path-invalid"), answer.text


def test_a_contract_that_comes_or_goes_counts_at_once(client, data):
    """
    The declaration stays as it is; the file that it names is what changes.
    """
    _declare(data, "bound", _sheet("bound", 'implements = ["example.org/thing"]\n'))
    api = client()
    assert api.get("/api/sheets/bound").json["code"] == "sheet-misconfigured"
    contract = {"$id": "https://example.org/thing", "type": "object", "required": ["slug"]}
    [text] = gitsheets.serialize_records([contract])
    _write(data, ".gitsheets/contracts/example.org/thing.toml", text)
    assert api.get("/api/sheets/bound").status_code == 200
    assert api.post("/api/sheets/bound/records", json={"slug": "x"}).status_code == 201
    _write(data, ".gitsheets/contracts/example.org/thing.toml", None)
    assert api.get("/api/sheets/bound").json["code"] == "sheet-misconfigured"


def test_a_start_names_wrong_and_outdated_declarations(client, data, capfd):
    _declare(data, "wrong", _sheet("wrong", 'format = "markdown"\n'))
    _declare(data, "old", RIGHT["old"])
    client()
    logged = capfd.readouterr().err.splitlines()
    assert any("sheet.misconfigured" in line and "must be a table" in line for line in logged), logged
    assert any(
        "sheet.outdated" in line and "fields.a.type" in line and "fields.a.enum" in line for line in logged
    )
    assert not any("fields.b" in line for line in logged)


# --- The OpenAPI document ---


def test_the_document_is_valid_whatever_sheets_declare(api):
    from openapi_spec_validator import OpenAPIV31SpecValidator  # here, because it takes a second

    document = api.get("/openapi.json").json
    assert [str(error)[:300] for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    assert {f"/api/sheets/{quote(name)}/records" for name in RIGHT} <= set(document["paths"])
    operations = [
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
        if isinstance(operation, dict)
    ]
    assert len(operations) == len(set(operations))
    tags = [tag["name"] for tag in document["tags"]]
    assert len(tags) == len(set(tags))


def test_each_path_of_the_document_is_a_route(zoo, api):
    routes = zoo.url_map.bind("localhost")
    for path, operations in api.get("/openapi.json").json["paths"].items():
        concrete = unquote(path.replace("{path}", "x").replace("{name}", "x").replace("{hash}", "0" * 40))
        for method in {"get", "put", "post", "patch", "delete"} & operations.keys():
            routes.match(concrete.replace("{sheet}", "x"), method=method.upper())


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("defs", {"slug": "x", "n": 1}, {"slug": "x", "n": "1"}),
        ("definitions", {"slug": "x", "n": 1}, {"slug": "x", "n": "1"}),
        ("ref-to-a-property", {"slug": "x", "n": 1}, {"slug": "x", "n": "1"}),
        ("a-tree", {"slug": "x", "n": [{"slug": "y"}]}, {"slug": "x", "n": [{"sluggish": "y"}]}),
    ],
)
def test_references_within_a_schema_hold_in_the_document(api, name, good, bad):
    """
    What the sheet takes and refuses, the document takes and refuses.
    """
    document = api.get("/openapi.json").json
    body = document["paths"][f"/api/sheets/{name}/records"]["post"]["requestBody"]["content"]
    schema = {**body["application/json"]["schema"], "components": document["components"]}
    for record, is_good in ((good, True), (bad, False)):
        assert jsonschema_rs.is_valid(schema, record) is is_good
        stored = api.put(f"/api/sheets/{name}/records/x", json=record)
        assert (stored.status_code in (200, 201)) is is_good, stored.text


@pytest.mark.parametrize("name", ["plain", "named", "draft-7"])
def test_what_the_document_cannot_express_is_a_plain_object(api, name):
    schemas = api.get("/openapi.json").json["components"]["schemas"]
    assert schemas[f"record_{name}"] == {"type": "object", "additionalProperties": True}


def _declare(data, name, text):
    _write(data, f".gitsheets/{name}.toml", text)


def _write(data, path, text):
    transaction = gitsheets.CoreTransaction.begin(
        str(data.path), "by hand", 1, 0, data.head(), "refs/heads/main", ("A", "a@b"), ("A", "a@b")
    )
    if text is None:
        transaction.delete_file(path)
    else:
        transaction.write_file(path, text)
    transaction.finalize()
