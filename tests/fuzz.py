"""
Ask the API whatever a client could, over a repository that holds whatever a commit could bring.

``python -m tests.fuzz --minutes 10`` goes on with seed after seed; the tests run the first ones. What is
held: no answer is an error of Ferry's own, each error is a problem document with a documented code, and
what is refused writes nothing. A failure names its seed: ``--seed S`` meets it again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from flask import Flask
from werkzeug.test import EnvironBuilder, run_wsgi_app
from werkzeug.wrappers import Response

from ferry.app import create_app
from ferry.app.dev.sample import make_sample_repository
from ferry.worker.git.objects import Objects

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTED = set(
    re.findall(
        r"^\| \d{3} \| `([a-z-]+)`", (ROOT / "docs/reference/http.md").read_text("utf-8"), re.MULTILINE
    )
)
# Not the client's affair, and told by name: what a commit brought can be read by nobody.
OF_THE_REPOSITORY = {"record-unreadable", "sheet-misconfigured"}
TOKEN, ADMIN, SECRET = "t" * 20, "a" * 20, "s" * 20
DEEP = 100_000


class Fault(AssertionError):
    """
    An answer that no client should get.
    """


# --- What a commit may bring ---


class Hostile:
    """
    A bare repository in which commits are made of raw objects, as a stranger's push may bring them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._branch = path / "refs/heads/main"

    def raw(self, kind: str, content: bytes) -> str:
        """
        Store an object as it is, and return its name.
        """
        return Objects(self.path).write(kind, content)

    def tree(self, entries: dict[bytes, Thing]) -> str:
        """
        Store a tree, sorted as git sorts, with whatever names.
        """
        ordered = sorted(entries.items(), key=lambda each: each[0] + (b"/" if each[1][0] == "40000" else b""))
        lines = [f"{mode} ".encode() + name + b"\0" + bytes.fromhex(of) for name, (mode, of) in ordered]
        return self.raw("tree", b"".join(lines))

    def listed(self, tree: str) -> dict[bytes, Thing]:
        """
        Return the entries of *tree*, by name.
        """
        content = Objects(self.path).read(tree)
        found = re.findall(rb"([0-7]+) ([^\0]+)\0(.{20})", content, re.DOTALL)
        return {name: (mode.decode(), of.hex()) for mode, name, of in found}

    def head(self) -> tuple[str, str]:
        """
        Return the branch's commit and its tree.
        """
        commit = self._branch.read_text().strip()
        return commit, Objects(self.path).read(commit)[5:45].decode()

    def commit(self, tree: str, rest: bytes, parents: list[str]) -> None:
        """
        Move the branch to a commit of *tree* whose text after the parents is *rest*, as it is.
        """
        head = [f"tree {tree}", *(f"parent {parent}" for parent in parents)]
        commit = self.raw("commit", "".join(f"{line}\n" for line in head).encode() + rest)
        self._branch.write_text(f"{commit}\n")


Thing = tuple[str, str]  # a mode and an object
DECLARED = [
    b"odd.toml", b"odd2.toml", b"odd3.toml", b"places.toml", b"a b.toml", b"\xff.toml", b".toml", b"people",
]  # fmt: skip
WHO = b"A <a@example.org> 1700000000 +0000"
COMMITS = [
    b"author %b\ncommitter %b\n\nplain\n" % (WHO, WHO), b"author  <> 0 +0000\ncommitter  <> 0 +0000\n\n",
    b"author \xff\xfe <\xff@\xfe> 99999999999999999999 +9999\ncommitter \xff <> -5 -9999\n\n\xff\xfe\n",
    b"committer %b\n\nno author\n" % WHO, b"author nobody\ncommitter nobody\n\nno date\n",
    b"author %b\ncommitter A <a@b> 253402300800 +2400\n\nafter the year 9999\n" % WHO,
    b"author A <a@b> 1e9 +00\ncommitter A <a@b> soon zone\n\nwords for a date\n",
    b"author %b\ncommitter %b\nencoding nonsense\ngpgsig -----BEGIN\n x\n\nsubject\n\nA: b\nA: c\n: d\n"
    % (WHO, WHO),
    b"author %b\ncommitter %b\n\nnul \0 in it\x1b[31m\n\nRequest-Id: \xff\nPush: \0\n" % (WHO, WHO),
    b"author %b\ncommitter %b\n\n%b" % (WHO, WHO, b"long " * 40_000), b"\n\nno header at all",
]  # fmt: skip
ODD = b"[gitsheet]\nroot = 'odd'\npath = '${{ slug }}'\n"
DECLARATIONS = [
    b"", b"[gitsheet]\n", b"[gitsheet]\nroot = 'people'\npath = '${{ slug }}'\n", b"\xff\xfe", b"[[[[",
    b"[gitsheet]\nroot = 3\npath = []\n", b"[gitsheet]\nroot = '../..'\npath = '${{ slug }}'\n",
    b"[gitsheet]\nroot = '/'\npath = '/'\n", b"[gitsheet]\nroot = 'odd'\npath = '${{'\n",
    b"[gitsheet]\nroot = 'odd'\npath = '${{ a.b.c[0] }}'\n", b"gitsheet = 'words'\n",
    ODD + b"[gitsheet.fields]\nslug = 'text'\n",
    ODD + b"[gitsheet.fields.slug]\nsort = [1]\ntype = 7\nenum = 'x'\n",
    ODD + b"[gitsheet.schema]\ntype = 'nonsense'\npattern = '('\n",
    ODD + b"[gitsheet.schema.properties.slug]\npattern = '(['\n",
    ODD + b"[gitsheet.schema]\n'$ref' = '#'\n",
    ODD + b"implements = ['none', 3]\n",
    ODD + b"[gitsheet.format]\ntype = 'mdx'\nbody = 7\n",
    b"a = " + b"[" * 5_000, b"[gitsheet]\nx = " + b"{a = " * 2_000, b"a." * 5_000 + b"b = 1\n",
    b"# \n" * 200_000,
]  # fmt: skip
RECORDS = [
    b"", b"slug = 'x'\n", b"\xff\xfe\n", b"slug = ", b"a = " + b"[" * 5_000, b"a." * 5_000 + b"b = 1\n",
    b"n = 99999999999999999999999\n", b"d = 9999-99-99\n", b"t = 0000-01-01T00:00:00-23:59\n",
    b"f = nan\ng = -inf\n", b's = "\\uD800"\n', b"slug = 'x'\nslug = 'y'\n", b"\0",
    b"k = '" + b"x" * 200_000 + b"'\n", b"[a]\n[[a]]\n", b"'' = 1\n\"\\u0000\" = 2\n",
    b"t = 23:59:60\nd = 0001-01-01\n", b"\xef\xbb\xbfslug = 'bom'\r\n",
    b"---\n" + b"- " * 3_000 + b"\n---\n", b"---\nslug: &a [*a]\n---\n",
]  # fmt: skip
NAMES = [
    b"a\nb.toml", b"\xff\xfe.toml", b"..", b".git", b".", b"con.toml", b"a b.toml", b".toml", b"toml",
    b"-rf.toml", b"x" * 300 + b".toml", b"a\\b.toml", b"e\xcc\x81.toml", b"\xe2\x80\xae.toml", b"A.toml",
    b"a.toml", b"%00.toml", b"jane", b"jane.toml", b"attachments", b"history.toml", b"a'\"<>.toml",
]  # fmt: skip


def spoil(repository: Hostile, random: Random) -> None:
    """
    Put a few commits on the branch, each of which brings something that no tool of a person's would.
    """
    for _ in range(random.randint(1, 4)):
        head, tree = repository.head()
        found = repository.listed(tree)
        for place, contents in ((b".gitsheets", DECLARATIONS), (b"people", RECORDS), (b"odd", RECORDS)):
            if random.random() < 0.6:
                found[place] = _spoiled(repository, random, found.get(place), contents)
        parents = [head] * random.choice([1, 1, 1, 1, 2])
        repository.commit(repository.tree(found), random.choice(COMMITS), parents)


def _spoiled(repository: Hostile, random: Random, found: Thing | None, contents: list[bytes]) -> Thing:
    if random.random() < 0.03:  # the directory itself is something else
        return _thing(repository, contents, random)
    entries = repository.listed(found[1]) if found and found[0] == "40000" else {}
    known = DECLARED if contents is DECLARATIONS else NAMES
    for _ in range(random.randint(1, 5)):
        entries[random.choice(known)] = _thing(repository, contents, random)
    return "40000", repository.tree(entries)


def _thing(repository: Hostile, contents: list[bytes], random: Random) -> Thing:
    blob = repository.raw("blob", random.choice(contents))
    match random.randrange(10):
        case 0:
            to = random.choice([b"../../etc/passwd", b".", b"\xff", b"people.toml"])
            return "120000", repository.raw("blob", to)
        case 1:
            return "40000", repository.tree({random.choice(NAMES): ("100644", blob)})
        case 2:
            return "160000", "1" * 40
        case 3:
            return random.choice(["100755", "100640", "100600"]), blob
        case _:
            return "100644", blob


# --- What a client may send ---

WORDS = [
    "people", "jane", "places", "odd", "odd2", "main", "a\0b", "a\nb", "..", ".", ".git", ".gitsheets", "",
    " ", "x" * 5_000, "\\", "a\\b", "\ud800", "\udcff", "é", "\u202e", "%", "%00", "a/b", "/", "//",
    "a/../b", "con", "history", "attachments", "-1", "0", "1", "99999999999999999999", "1e309", "NaN",
    "Infinity", "null", "true", "[]", "{}", "*", "2" * 40, "f" * 41, "HEAD", "main~1", "refs/heads/main",
    "${{ slug }}", "__proto__", "'", '"', "<script>", "\x7f", "a" * 300, "slug", "name", "email",
    "2026-01-01", "0000-00-00T99:99:99Z", "people:read", "=", "&", "?", "#",
]  # fmt: skip
ROUTES = [
    "/api/sheets", "/api/sheets/{}", "/api/sheets/{}/records", "/api/sheets/{}/records/{}",
    "/api/sheets/{}/records/{}/history", "/api/sheets/{}/records/{}/attachments",
    "/api/sheets/{}/records/{}/attachments/{}", "/api/transactions", "/api/commits", "/api/commits/{}",
    "/api/_internal/push", "/api/_internal/reload-data", "/api/health", "/api/health/ready",
    "/openapi.json", "/docs", "/docs/{}", "/metrics", "/status", "/status/live", "/status/runbook",
    "/status/history", "/status/branches",
    "/status/sign-in", "/status/push", "/status/pause", "/status/reconcile", "/status/sign-out", "/{}",
    "/api/{}", "/api/events", "/", "/browse", "/browse/{}", "/browse/{}/csv", "/browse/{}/filter",
    "/browse/{}/records/{}", "/browse/{}/attachments/{}/{}", "/browse/commits/{}", "/browse/sign-in",
]  # fmt: skip
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "get", "X" * 300, "PROPFIND"]
USUAL = {
    "/api/sheets/{}/records": ["GET", "GET", "POST"],
    "/api/sheets/{}/records/{}": ["GET", "PUT", "PATCH", "DELETE"],
    "/api/sheets/{}/records/{}/attachments/{}": ["GET", "PUT", "DELETE"], "/api/transactions": ["POST"],
    "/api/_internal/push": ["GET", "POST"], "/api/_internal/reload-data": ["POST"],
    "/status/sign-in": ["POST"], "/status/sign-out": ["POST"], "/status/push": ["POST"],
    "/status/pause": ["POST"], "/status/reconcile": ["POST"],
    "/status/branches": ["GET", "POST"], "/browse/sign-in": ["GET", "POST"],
}  # fmt: skip
Seen = dict[str, list[str]]
PARAMETERS = [
    "limit", "cursor", "sort", "fields", "since", "path", "sheet", "slug", "name", "name[in]", "name[",
    "slug[gte]", "remote", "born[lt]", "email[ne]", "count", "author", "after", "until", "x", "a.b.c", "[]",
    "slug[regex]", "message", "or[0][name]", "or[0][not][slug][gte]", "and[1][x]", "not[name][contains]",
    "or", "not[]", "q", "name[exists]", "email[startswith]",
]  # fmt: skip
VALUES_OF = {
    "If-Match": ["*", '"x"', 'W/"x"', "x", '"' * 99, ",,,", '"a", *', "\xff"],
    "If-None-Match": ["*", '"x"', "W/", "\xff", '"a","b"' * 200],
    "If-Modified-Since": ["Thu, 01 Jan 1970 00:00:00 GMT", "soon", "Thu, 99 Xxx 99999 99:99:99 GMT"],
    "If-Range": ['"x"', "Thu, 01 Jan 1970 00:00:00 GMT", "\xff"],
    "Range": [
        "bytes=0-1",
        "bytes=-1",
        "bytes=5-1",
        "bytes=99999999999999999999-",
        "bytes=0-0,5-6" * 50,
        "lines=1",
        "bytes=" + "0-," * 500,
        "bytes=--1",
    ],
    "Prefer": [
        "wait=0",
        "wait=-1",
        "wait=x",
        "wait=1e9;a",
        "count=exact",
        "wait=0, wait=0",
        "return=minimal",
        ";;=",
        "\xff",
    ],
    "Idempotency-Key": ["k", "", "\xff", "x" * 300, '"', "a b", "k1"],
    "Accept": [
        "*/*", "text/html", "text/csv", ";q=", "application/json;q=NaN", "a/b;q=2;x=" + "y" * 999, "\xff",
    ],
    "Accept-Encoding": ["gzip", "gzip;q=NaN", "*;q=0", "\xff"],
    "Content-Type": [
        "application/json",
        "application/json; charset=nonsense",
        "application/json; charset=utf-16",
        "text/plain",
        "",
        "application/merge-patch+json",
        "multipart/form-data",
        "multipart/form-data; boundary=" + "x" * 300,
        "\xff/\xff",
        "application/x-www-form-urlencoded",
        'application/json; charset="',
        "application/json;" * 40,
        "image/png",
    ],
    "Commit-Message": ["plain", "%00", "%ff", "%", "x" * 600, "a%0ab", "%f0%9f%9a%80", "\xff"],
    "Commit-Trailers": ["a=b", "\xff"],
    "Last-Event-ID": ["x", "0", "2" * 40, "\xff", "99999999999999999999"],
    "X-Request-Id": ["x", "\xff", "x" * 500, "a b"],
    "traceparent": ["00-" + "0" * 32 + "-" + "0" * 16 + "-00", "x", "\xff"],
    "X-Forwarded-For": ["1.2.3.4", "::1, nonsense", "\xff", "," * 99],
    "X-Forwarded-Proto": ["https", "javascript", "\xff"],
    "Host": ["x", "", "[::1", "a" * 300, "x:99999999", "\xff", "a b"],
    "Cookie": ["session=x", "\xff=\xff", "=;" * 99, "ferry=" + "x" * 5_000],
    "X-Hub-Signature-256": ["sha256=x", "\xff", "sha256=" + "0" * 64], "X-Gitlab-Token": ["x", "\xff"],
    "Origin": ["null", "https://x", "\xff"], "Transfer-Encoding": ["chunked", "gzip"],
    "Content-Length": ["0", "-1", "5", "99999999999999999999", "x", "1.5", "+3", " 7"],
    "X-Ferry-At-Least": ["x", "f" * 40, "\xff"],
    "Authorization": [
        "Bearer x",
        "Bearer ",
        "Basic \xff",
        "Bearer \xff",
        "bearer " + TOKEN,
        "Bearer" + " " * 999,
    ],
}  # fmt: skip
BODIES = [
    *(
        [
            b'{"slug": "new", "name": "New", "email": "n@example.org"}',
            b'{"name": "Jane"}',
            b'{"slug": "jane", "name": "J"}',
        ]
        * 4
    ),
    b"", b"{}", b"[]", b"null", b"7", b"\xff\xfe", b"\0", b'"words"', b"{", b"[" * DEEP, b'{"a":' * DEEP,
    b"[" * DEEP + b"]" * DEEP, b'{"a":' * 900 + b"1" + b"}" * 900, b'{"slug": NaN}',
    b'{"n": Infinity, "m": -Infinity}', b'{"slug": 1e999}', b'{"slug": ' + b"9" * 5_000 + b"}",
    b'{"slug": "\\ud800"}', b'{"\\udfff": 1}', b'{"": {"": ""}}', b'{"slug": "a\\u0000b", "name": "x"}',
    b'{"slug": "..", "name": "x"}', b'{"slug": ".git", "name": "x"}', b'{"slug": "new", "name": "x"}',
    b'{"slug": "jane", "name": null}', b'{"slug": [], "name": {}}',
    '{"slug": "é", "name": "x"}'.encode("utf-16"), b'\xef\xbb\xbf{"slug": "bom", "name": "x"}',
    b'{"slug": "a", "slug": "b"}', b'{"operations": 7}', b'{"operations": [7, null, []]}',
    b'{"message": 7, "operations": []}', b'{"branch": [], "commit_hash": 7}',
    b'{"operations": [{"op": "upsert", "sheet": "people", "record": {"slug": "z", "name": "z"}}]}',
    b'{"operations": [{"op": "patch", "sheet": "a\\u0000", "path": "\\ud800", "record": {}}]}',
    b'{"operations": [{"op": "delete", "sheet": {}, "path": []}]}',
    b'{"operations": [{"op": "upsert", "sheet": "people", "record": '
    + b'{"a":' * 5_000
    + b"1"
    + b"}" * 5_000
    + b"}]}", b'{"message": "\\u0000\\ud800", "operations": [{}]}',
    b'{"ref": "refs/heads/main", "after": 7}', b'{"ref": ["x"], "after": "\\ud800"}',
    b'{"ref": {}, "push": {"changes": [7, {"new": 7}]}}', b'{"checkout_sha": {}, "branch": "\\u0000"}',
    b'{"branch": "main", "commit_hash": "' + b"0" * 40 + b'"}', b"a=b&" * 9_999, b"x" * 70_000,
    b'{"name": "' + b"x" * 60_000 + b'"}', b'{"born": "9999-99-99", "slug": "d", "name": "d"}',
    b'{"a": 1, "slug": "s", "name": "\\u202e"}',
]  # fmt: skip


def _path(random: Random, template: str, seen: Seen) -> str:
    first, *rest = template.split("{}")
    likely = iter(
        [["people", "people", "places", "odd", "odd2"], ["jane", "a", "con", "x", "a b"], ["photo.png", "a"]]
    )
    if "commits" in template:
        likely = iter([seen["hash"]])
    path = first
    for part in rest:
        word = random.choice(next(likely) if random.random() < 0.7 else WORDS)
        if random.random() < 0.1:
            word += random.choice(WORDS)
        raw = word.encode("utf-8", "surrogatepass")
        path += quote(raw, safe="/" if random.random() < 0.3 else "") + part
    return path


def requests(random: Random, count: int, seen: Seen) -> Iterator[dict[str, Any]]:
    """
    Yield what to send.

    Args:
        seen: What answers have told so far: commits, cursors and versions, for the next requests.
    """
    for _ in range(count):
        route = random.choice(ROUTES[:11] if random.random() < 0.7 else ROUTES)
        method = random.choice(USUAL.get(route, ["GET"]) if random.random() < 0.85 else METHODS)
        names = random.sample(PARAMETERS, random.choice([0, 0, 1, 1, 2, 5]))
        pairs = [(name, quote(random.choice(WORDS).encode("utf-8", "surrogatepass"))) for name in names]
        if random.random() < 0.1:
            pairs = [*pairs, ("cursor", quote(random.choice(seen["cursor"]))), ("limit", "1")]
        if random.random() < 0.02:
            pairs = [("sort", ",".join(["name"] * 500)), *(("slug", "x") for _ in range(500))]
        right = SECRET if "reload" in route else ADMIN if "_internal" in route or "status" in route else TOKEN
        headers = [("Authorization", f"Bearer {right}")]
        if random.random() < 0.8:
            headers.append(("Content-Type", "application/json"))
        for name in random.sample(sorted(VALUES_OF), random.choice([0, 0, 1, 2, 4])):
            value = random.choice([*VALUES_OF[name], *seen.get(name, ())])
            headers = [each for each in headers if each[0] != name] + [(name, value)]
        yield {
            "path": _path(random, route, seen),
            "query": "&".join(f"{quote(name, safe='[].')}={value}" for name, value in pairs),
            "method": method,
            "headers": headers,
            "body": random.choice(BODIES) if method not in ("GET", "HEAD") or random.random() < 0.1 else b"",
        }


def _environ(request: dict[str, Any]) -> dict[str, Any]:
    """
    Return the WSGI environment that the server would make of *request*: bytes as Latin-1, nothing mended.
    """
    environ = EnvironBuilder(path="/", method="GET").get_environ()
    body = request["body"]
    environ |= {
        "REQUEST_METHOD": request["method"],
        "PATH_INFO": unquote_to_bytes(request["path"]).decode("latin-1"),
        "QUERY_STRING": request["query"],
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "CONTENT_LENGTH": str(len(body)),
    }
    for name, value in request["headers"]:
        key = name.upper().replace("-", "_")
        environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
    return environ


def _plain(request: dict[str, Any]) -> dict[str, Any]:
    """
    Return the request whose answer, if it is an error, is a problem document.
    """
    headers = [pair for pair in request["headers"] if pair != ("Accept", "text/html")]
    method = "GET" if request["method"] == "HEAD" else request["method"]
    return {**request, "method": method, "headers": headers}


# --- What is held ---


class Fuzz:
    """
    One API in this process over one hostile repository.

    Args:
        directory: Where the repository is made.
        seed: What decides everything.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 - to be repeated
        self._seed = seed
        self._path = directory / f"data-{seed}.git"
        make_sample_repository(self._path)
        spoil(Hostile(self._path), self._random)
        self._api = self._started()
        self.answered: Counter[str] = Counter()
        self._seen: Seen = {
            "hash": [self._head().decode().strip()],
            "cursor": ["W10"],
            "If-Match": [],
            "If-None-Match": [],
        }

    def _started(self) -> Flask:
        return create_app(
            {
                "CFP_DATA_REPO_PATH": str(self._path),
                "CFP_REDIS_URL": "redis://127.0.0.1:1/0",
                "CFP_API_TOKENS": f"t:{hashlib.sha256(TOKEN.encode()).hexdigest()}",
                "CFP_ADMIN_TOKEN": ADMIN,
                "CFP_DATA_RELOAD_SECRET": SECRET,
                "CFP_API_MAX_BODY": "1MiB",
                "CFP_API_MAX_ATTACHMENT": "64kiB",
            },
            open_access=False,
        )

    def run(self, count: int) -> None:
        """
        Send *count* requests.

        Raises:
            Fault: One was not answered as it must be.
        """
        for number, request in enumerate(requests(self._random, count, self._seen)):
            before = self._head()
            try:
                self._check(request, before)
            except Exception as exc:
                shown = {**request, "body": request["body"][:200]}
                raise Fault(
                    f"seed {self._seed}, request {number}: {shown}\n{type(exc).__name__}: {exc}"
                ) from exc

    def _check(self, request: dict[str, Any], before: bytes) -> None:
        pieces, told, headers = run_wsgi_app(self._api.wsgi_app, _environ(request))
        answer = Response(pieces, told, headers)
        status = answer.status_code
        if answer.mimetype == "text/event-stream":  # which has no end
            answer.close()
            return
        data = b"".join(answer.response)
        answer.close()
        self.answered[str(status)] += 1
        if answer.headers.get("X-Content-Type-Options") != "nosniff":
            raise Fault("no nosniff")
        if status < 400:
            self._remember(answer, data)
            return
        if before != self._head():
            raise Fault(f"{status}, and something was written")
        if request["method"] == "HEAD" or answer.mimetype == "text/html":
            code = "-"
        else:
            document = json.loads(data)
            code = document["code"]
            if answer.mimetype != "application/problem+json" or document["status"] != status:
                raise Fault(f"{answer.mimetype}: {data[:500]!r}")
            if code not in DOCUMENTED:
                raise Fault(f"the code {code} is not documented: {data[:500]!r}")
        self.answered[f"{status} {code}"] += 1
        if status == 500 and (plain := _plain(request)) != request:
            self._check(plain, before)
        elif status == 500 and code not in OF_THE_REPOSITORY:
            raise Fault(f"an error of Ferry's own: {data[:500]!r}")

    def _remember(self, answer: Response, data: bytes) -> None:
        if answer.mimetype == "application/json" and data:
            text = data.decode("utf-8")
            self._seen["hash"] += re.findall('"hash": ?"([0-9a-f]{40})"', text)[:3]
            self._seen["cursor"] += re.findall('"next_cursor": ?"([^"]+)"', text)
        if etag := answer.headers.get("ETag"):
            self._seen["If-Match"].append(etag)
            self._seen["If-None-Match"].append(etag)

    def _head(self) -> bytes:
        return (self._path / "refs/heads/main").read_bytes()


def main() -> int:
    """
    Go on for some minutes; status 1 and the request where an answer was not as it must be.
    """
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=1.0)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--requests", type=int, default=300, help="for each seed")
    given = arguments.parse_args()
    ends, seed = time.monotonic() + 60 * given.minutes, given.seed
    answered: Counter[str] = Counter()
    faults = 0
    while time.monotonic() < ends:
        with tempfile.TemporaryDirectory(prefix="ferry-fuzz-") as directory:
            try:
                fuzz = Fuzz(Path(directory), seed)
                fuzz.run(given.requests)
                answered += fuzz.answered
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is shown, and the next seed is tried
                faults += 1
                sys.stdout.write(f"seed {seed}: {type(exc).__name__}: {exc}\n\n")
        seed += 1
    lines = [f"{name:<32} {count:>7}" for name, count in sorted(answered.items())]
    sys.stdout.write("\n".join([f"seeds {given.seed} to {seed - 1}", *lines, f"{faults} faults", ""]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
