"""
Whatever a client sends and a commit brings: a few seeds of ``tests.fuzz``, and what it has found by name.
"""

from __future__ import annotations

import pytest

from ferry.app import create_app
from tests.fuzz import DEEP, ODD, Fuzz, Hostile

WHO = b"A <a@example.org> 1700000000 +0000"
DEEP_BODIES = [
    b"[" * DEEP,
    b'{"a":' * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
]


@pytest.mark.parametrize("seed", [1, 2, 3, 7])
def test_no_request_meets_an_error_of_ferrys_own(seed, tmp_path):
    fuzz = Fuzz(tmp_path, seed)

    fuzz.run(120)

    assert sum(fuzz.answered.values()) > 100


@pytest.fixture
def stranger(data):
    return Hostile(data.path)


def declare(stranger: Hostile, **files: bytes | tuple[str, str]) -> None:
    """
    Commit declarations, by name without ``.toml``: their text, or what stands there instead of a file.
    """
    head, tree = stranger.head()
    entries = stranger.listed(tree)
    declared = stranger.listed(entries[b".gitsheets"][1])
    for name, content in files.items():
        is_text = isinstance(content, bytes)
        declared[f"{name}.toml".encode("utf-8", "surrogateescape")] = (
            ("100644", stranger.raw("blob", content)) if is_text else content
        )
    entries[b".gitsheets"] = "40000", stranger.tree(declared)
    stranger.commit(stranger.tree(entries), b"author %b\ncommitter %b\n\nx\n" % (WHO, WHO), [head])


@pytest.mark.parametrize(
    "content",
    [
        b"a = " + b"[" * 5_000,
        b"[gitsheet]\nx = " + b"{a = " * 5_000,
        b"a." * 20_000 + b"b = 1\n",
        ODD + b"[gitsheet.schema.properties.slug]\n" + b"x." * 20_000 + b"y = 1\n",
        b"\xff\xfe",
        b"gitsheet = 'words'\n",
        ODD + b"fields = 'words'\n",
        ODD + b"format = 'words'\n",
        ODD + b"[gitsheet.schema]\n'$ref' = '#'\n",
        ODD + b"implements = 'words'\n",
    ],
)
def test_a_declaration_that_cannot_be_read_closes_one_sheet(client, stranger, content):
    declare(stranger, odd=content)
    api = client()

    for path in ("/api/sheets/odd", "/api/sheets/odd/records", "/api/sheets/odd/records/x/history"):
        answer = api.get(path)
        assert answer.status_code < 500 or answer.json["code"] == "sheet-misconfigured", answer.text
    assert api.post("/api/sheets/odd/records", json={"slug": "x"}).json.get("code") != "internal-error"
    for path in ("/api/sheets", "/api/sheets/people/records", "/openapi.json", "/api/health/ready"):
        assert api.get(path).status_code == 200, path


def test_a_declaration_whose_name_is_no_text_is_one_that_cannot_be_used(client, stranger):
    """
    Its directory is closed to the other sheets, as that of every wrong declaration.
    """
    declare(stranger, **{"\udcff": b"[gitsheet]\nroot = 'people'\npath = '${{ slug }}'\n"})
    api = client()

    assert api.get("/api/sheets").status_code == 200
    assert api.get("/api/sheets/%5Cxff").json["code"] == "sheet-misconfigured"
    assert api.get("/api/sheets/%FF").status_code in (400, 404)
    assert api.get("/api/sheets/people/records").status_code == 200


@pytest.mark.parametrize("body", DEEP_BODIES)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/_internal/reload-data"),
        ("POST", "/api/_internal/push"),
        ("POST", "/api/transactions"),
        ("POST", "/api/sheets/people/records"),
        ("PUT", "/api/sheets/people/records/x"),
        ("PATCH", "/api/sheets/people/records/x"),
        ("PUT", "/api/sheets/people/records/x/attachments/y"),
        ("POST", "/status/sign-in"),
    ],
)
def test_brackets_without_end_are_a_wrong_body(quiet, method, path, body):
    answer = quiet.open(path, method=method, data=body, content_type="application/json")
    assert 400 <= answer.status_code < 500 or path.endswith("/push"), answer.text


@pytest.fixture(scope="module")
def quiet(_sample, tmp_path_factory):
    """
    An API without remotes, for requests that are refused.
    """
    from tests.parts import Bare

    data = Bare.copy(_sample, tmp_path_factory.mktemp("quiet") / "data.git")
    env = {"CFP_DATA_REPO_PATH": str(data.path), "CFP_REDIS_URL": "redis://127.0.0.1:1/0"}
    return create_app(env, open_access=True).test_client()


@pytest.mark.parametrize(
    "name",
    [
        "a%00b",
        "a%0Ab",
        "%FF",
        "%ED%A0%80",
        "..",
        "%2E%2E",
        ".git",
        ".GIT%20",
        "a%5Cb",
        "x" * 4000,
        "%C2%85",
        "con",
        "%7F",
    ],
)
def test_odd_names_are_no_ones(quiet, name):
    record = f"/api/sheets/people/records/{name}"
    for path in (record, f"{record}/history", f"{record}/attachments", f"{record}/attachments/{name}"):
        for method in ("GET", "DELETE"):
            answer = quiet.open(path, method=method)
            assert answer.status_code in (400, 404, 405, 422), (method, path, answer.text)
            assert answer.json["code"], path
    answer = quiet.put(f"{record}/attachments/{name}", data=b"x")
    assert answer.status_code in (400, 404, 422), answer.text
