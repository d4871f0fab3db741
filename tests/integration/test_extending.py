"""
What extensions add to the API: routes, transactions of their own, and callers that Ferry does not know.
"""

from __future__ import annotations

import re
import sys
import threading

import pytest
from flask import Blueprint, Flask

from ferry import Extension
from ferry.app.access import may_send
from ferry.app.extending.routes import serve
from ferry.app.replica.following import Following
from ferry.app.store import limit
from ferry.worker.errors import SettingsError
from ferry.worker.files.places import write_lock
from tests.town import ANA, JANE, PEOPLE, town

__all__ = ["town"]  # a fixture

EVENTS = "/api/sheets/events/records"
PICNIC = {"slug": "picnic", "title": "Picnic", "starts_at": "2026-06-01T12:00:00Z"}
AT = "2026/06/picnic"
RSVP = """
import ferry
town = ferry.Extension("town")

@town.route("/api/town/rsvp/<path:event>", methods=["POST"])
def rsvp(caller, event: str) -> dict:
    \"\"\"
    Say that you come.

    Your name is added to the guests.
    \"\"\"
    with town.transact("RSVP", caller=caller) as tx:
        guests = tx.read("events", event).get("guests", [])
        if caller.name not in guests:
            tx.patch("events", event, {"guests": [*guests, caller.name]})
    return tx.answer()
"""
COUNT = """
import ferry, time, threading
from flask import request
town = ferry.Extension("town")
runs = []
"""


@pytest.fixture
def rsvp(town):
    api = town(RSVP)
    assert api.post(EVENTS, json=PICNIC, headers=JANE).status_code == 201
    return api


# --- Transactions ---


def test_a_route_changes_records_in_one_commit_of_its_caller(rsvp, data):
    answer = rsvp.post(f"/api/town/rsvp/{AT}", headers=ANA)

    assert answer.status_code == 200, answer.text
    [result] = answer.json["results"]
    assert (result["op"], result["sheet"], result["path"]) == ("patch", "events", AT)
    assert result["record"]["guests"] == ["ana"]
    assert result["etag"] == rsvp.get(f"{EVENTS}/{AT}").headers["ETag"]
    assert answer.json["commit"] == {"hash": data.head(), "push": {"origin": "pending"}}
    said = data.git("log", "-1", "--format=%an%n%B")
    assert said.startswith("ana\nana: POST /api/town/rsvp/<path:event>\n\nRSVP\n\n")
    assert AT not in said.partition("\n\nRSVP")[0], "a part of a path may be a secret"
    for trailer in ("Action: extension.town", "Subject-Type: events", f"Subject-Path: {AT}"):
        assert trailer in said
    assert rsvp.post(f"/api/town/rsvp/{AT}", headers=ANA).json == {"results": [], "commit": None}


def test_what_a_transaction_refuses_is_a_problem_and_nothing_is_written(rsvp, data):
    head = data.head()
    missing = rsvp.post("/api/town/rsvp/2026/06/none", headers=ANA)

    assert (missing.status_code, missing.json["code"]) == (404, "record-not-found")
    assert missing.json["detail"] == "The sheet 'events' has no record '2026/06/none'."
    assert data.head() == head


def test_a_repeated_request_does_what_it_did_once(rsvp, data):
    """
    The second time, the block runs on what it saw the first time, and its commit is the same.
    """
    key = {"Idempotency-Key": "k1"}
    first = rsvp.post(f"/api/town/rsvp/{AT}", headers={**ANA, **key})
    rsvp.post(f"/api/town/rsvp/{AT}", headers=JANE)
    head = data.head()
    again = rsvp.post(f"/api/town/rsvp/{AT}", headers={**ANA, **key})

    assert again.json["commit"]["hash"] == first.json["commit"]["hash"]
    assert again.json["results"] == first.json["results"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert data.head() == head
    other = rsvp.post("/api/town/rsvp/2026/06/other", headers={**ANA, **key})
    assert (other.status_code, other.json["code"]) == (422, "idempotency-key-reused")


def test_a_repeated_request_is_answered_where_its_block_would_now_fail(town, data):
    api = town(
        COUNT
        + """
@town.route("/api/town/once", methods=["POST"])
def once(caller):
    with town.transact("once", caller=caller) as tx:
        runs.append(1)
        if len(runs) > 1:
            raise ferry.Refused("Only once.")
        tx.create("people", {"slug": "new", "name": "New"})
    return tx.answer(201)
"""
    )
    headers = {**JANE, "Idempotency-Key": "k"}
    first, again = (api.post("/api/town/once", headers=headers) for _ in range(2))

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json["commit"]["hash"] == first.json["commit"]["hash"] == data.head()
    assert api.post("/api/town/once", headers=JANE).json["code"] == "refused"


def test_conditions_are_about_the_first_record_that_is_written(rsvp):
    version = rsvp.get(f"{EVENTS}/{AT}").headers["ETag"]
    assert rsvp.post(f"/api/town/rsvp/{AT}", headers={**ANA, "If-Match": version}).status_code == 200
    refused = rsvp.post(f"/api/town/rsvp/{AT}", headers={**JANE, "If-Match": version})
    assert (refused.status_code, refused.json["code"]) == (412, "precondition-failed")


def test_prefer_waits_for_the_remote(rsvp):
    answer = rsvp.post(f"/api/town/rsvp/{AT}", headers={**ANA, "Prefer": "wait=0"})
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "wait")


def test_every_verb_sees_what_the_others_have_staged(town):
    api = town(
        COUNT
        + """
@town.before_write("people")
def seen(write):
    runs.append((write.operation, write.path, write.caller.name, write.extension))

@town.route("/api/town/all", methods=["POST"])
def everything(caller):
    with town.transact("all") as tx:
        assert tx.create("people", {"slug": "a", "name": "A"}).path == "a"
        assert tx.exists("people", "a") and not tx.exists("people", "b")
        tx.put("people", "b", {"slug": "b", "name": "B", "email": "b@x.org"})
        tx.upsert("people", {"slug": "a", "name": "AA"})
        assert [each.path for each in tx.records("people", name="AA")] == ["a"]
        tx.patch("people", "b", {"slug": "c"})
        assert tx.read("people", "c") == {"slug": "c", "name": "B", "email": "b@x.org"}
        assert [each.path for each in tx.records("people", email="b@x.org")] == ["c"]
        tx.attach("people", "c", "a.txt", b"text")
        tx.delete("people", "a")
        assert tx.records("people", name="AA") == []
    return tx.answer()
"""
    )
    answer = api.post("/api/town/all", headers=JANE)

    assert answer.status_code == 200, answer.text
    assert [each["op"] for each in answer.json["results"]] == [
        "create", "put", "upsert", "patch", "attach", "delete",
    ]  # fmt: skip
    assert api.get(f"{PEOPLE}/c/attachments/a.txt").data == b"text"
    assert sys.modules["town"].runs == [
        (operation, path, "town", "town")
        for operation, path in [
            ("create", "a"), ("create", "b"), ("put", "a"), ("delete", "b"), ("create", "c"), ("attach", "c"),
            ("delete", "a"),
        ]
    ]  # fmt: skip


def test_a_route_that_only_reads_waits_for_no_writer(town, data):
    api = town(
        COUNT
        + """
@town.route("/api/town/people/<slug>")
def named(slug: str) -> dict:
    seen = town.snapshot()
    return {"is_here": seen.exists("people", slug), "record": seen.read("people", slug),
            "paths": [each.path for each in seen.records("people", name="Jane")]}
"""
    )
    assert api.post(PEOPLE, json={"slug": "jane", "name": "Jane"}, headers=JANE).status_code == 201
    with write_lock(data.path).hold(timeout_s=5):
        answer = api.get("/api/town/people/jane", headers=JANE)
        missing = api.get("/api/town/people/joe", headers=JANE)

    assert answer.json == {
        "is_here": True, "record": {"slug": "jane", "name": "Jane"}, "paths": ["jane"],
    }  # fmt: skip
    assert answer.headers["X-Ferry-Commit"] == data.head()
    assert (missing.status_code, missing.json["code"]) == (404, "record-not-found")
    with pytest.raises(RuntimeError, match="functions that answer a request"):
        sys.modules["town"].town.snapshot()


TWICE = """
@town.route("/api/town/twice", methods=["POST"])
def twice(caller):
    for slug in ("one", "two"):
        with town.transact(slug, caller=caller) as tx:
            tx.upsert("people", {"slug": slug, "name": slug})
    return tx.answer()
"""


def test_a_request_with_a_key_has_one_transaction(town):
    """
    The key would stand for the first alone, and the second would be lost.
    """
    api = town(COUNT + TWICE)
    refused = api.post("/api/town/twice", headers={**JANE, "Idempotency-Key": "k"})

    assert (refused.status_code, refused.json["code"]) == (500, "extension-failed")
    assert api.get(f"{PEOPLE}/two").status_code == 404
    assert api.post("/api/town/twice", headers=JANE).status_code == 200
    assert api.get(f"{PEOPLE}/two").status_code == 200


@pytest.mark.parametrize(
    ("fails", "more", "code"),
    [
        ('tx.create("people", {"slug": "ada-quill", "name": "A"})', {}, "record-exists"),
        ('tx.put("people", "one", {"slug": "two", "name": "T"})', {}, "no-twos"),
        ('tx.upsert("people", {"slug": "two", "name": "T"})', {}, "no-twos"),
        ('tx.patch("people", "one", {"slug": "two"})', {}, "no-twos"),
        ('tx.delete("people", "none")', {}, "record-not-found"),
        ('tx.attach("people", "one", "a/b", b"")', {}, "path-invalid"),
        ('tx.patch("people", "ada-quill", {"name": "A"})', {"If-Match": '"0"'}, "precondition-failed"),
    ],
)
def test_a_change_that_failed_is_not_committed_although_the_block_goes_on(town, data, fails, more, code):
    """
    A move, for one, stages the deletion before a rule refuses the creation.
    """
    api = town(
        COUNT
        + f"""
@town.before_write("people")
def no_twos(write):
    if write.path == "two" and write.operation == "create":
        raise ferry.Refused("No.", code="no-twos")

@town.route("/api/town/on", methods=["POST"])
def on(caller):
    with town.transact("on", caller=caller) as tx:
        try:
            {fails}
        except Exception:
            pass
        tx.upsert("people", {{"slug": "three", "name": "Three"}})
    return tx.answer()
"""
    )
    assert api.post(PEOPLE, json={"slug": "one", "name": "One"}, headers=JANE).status_code == 201
    head = data.head()
    refused = api.post("/api/town/on", headers={**JANE, **more})

    assert refused.json["code"] == code
    assert data.head() == head


def test_a_block_may_catch_what_a_read_raises(town):
    api = town(
        COUNT
        + """
@town.route("/api/town/reads", methods=["POST"])
def reads(caller):
    with town.transact("reads", caller=caller) as tx:
        try:
            tx.read("people", "none")
        except ferry.Refused:
            tx.create("people", {"slug": "none", "name": "None"})
    return tx.answer()
"""
    )
    assert api.post("/api/town/reads", headers=JANE).status_code == 200
    assert api.get(f"{PEOPLE}/none").status_code == 200


FORM = """
def form(caller=None):
    slug = request.form["slug"]
    with town.transact("form", caller=caller) as tx:
        tx.upsert("people", {"slug": slug, "name": "N"})
    return tx.answer()
town.route("/api/town/form", methods=["POST"])(form)
town.blueprint.post("/town/form", endpoint="page")(form)
"""


@pytest.mark.parametrize("path", ["/api/town/form", "/town/form"])
@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        ("application/x-www-form-urlencoded", "slug=%s"),
        (
            "multipart/form-data; boundary=x",
            '--x\r\nContent-Disposition: form-data; name="slug"\r\n\r\n%s\r\n--x--\r\n',
        ),
    ],
)
def test_a_key_is_for_the_form_that_was_sent(town, path, content_type, form):
    api = town(COUNT + FORM, CFP_API_MAX_BODY="1k")
    key = {**JANE, "Idempotency-Key": "k"}
    first, again, other = (
        api.post(path, data=form % slug, headers=key, content_type=content_type)
        for slug in ("one", "one", "two")
    )

    assert first.status_code == 200, first.text
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (other.status_code, other.json["code"]) == (422, "idempotency-key-reused")
    assert api.get(f"{PEOPLE}/one").status_code == 200
    large = api.post(path, data=form % ("x" * 2000), headers=JANE, content_type=content_type)
    assert large.json["code"] == "body-too-large"


def test_a_rule_opens_no_transaction_of_its_own(town, data):
    """
    It runs within one, and would wait for its own write turn.
    """
    api = town(
        COUNT
        + """
@town.before_write("people")
def more(write):
    try:
        with town.transact("more"):
            pass
    except RuntimeError as exc:
        runs.append(str(exc))
        raise
"""
    )
    head = data.head()
    failed = api.post(PEOPLE, json={"slug": "jo", "name": "Jo"}, headers=JANE)

    assert (failed.status_code, failed.json["code"]) == (500, "extension-failed")
    assert sys.modules["town"].runs == ["a transaction of this request is open already"]
    assert data.head() == head


def test_a_slow_block_loses_the_lock(town, monkeypatch, data):
    monkeypatch.setattr(limit, "LIMIT_S", 0.3)
    api = town(
        COUNT
        + """
began, may_end = threading.Event(), threading.Event()
@town.route("/api/town/slow", methods=["POST"])
def slow(caller):
    with town.transact("slow", caller=caller) as tx:
        tx.create("people", {"slug": "slow", "name": "Slow"})
        began.set()
        may_end.wait(30)
    return tx.answer()
"""
    )
    module, answers = sys.modules["town"], []
    request = threading.Thread(
        target=lambda: answers.append(api.application.test_client().post("/api/town/slow", headers=JANE))
    )
    request.start()
    try:
        assert module.began.wait(30)
        assert api.post(PEOPLE, json={"slug": "quick", "name": "Q"}, headers=ANA).status_code == 201
    finally:
        module.may_end.set()
        request.join(30)
    assert (answers[0].status_code, answers[0].json["code"]) == (503, "extension-too-slow")
    assert api.get(f"{PEOPLE}/slow").status_code == 404


# --- Routes ---

ROUTES = (
    COUNT
    + """
from typing import TypedDict
from flask import abort

class Greeting(TypedDict):
    hello: str
    times: int

@town.route("/api/town/hello/<name>/<int:times>", public=True)
def hello(caller, name: str, times: int) -> Greeting:
    "Greet somebody."
    return {"hello": name + (caller.name if caller else ""), "times": times}

@town.route("/api/town/mine", openapi={"summary": "Yours", "responses": {"200": {"description": "Yes."}}})
def mine(caller):
    return {"name": caller.name}

@town.route("/api/town/text", public=True)
def text():
    return "plain", 202, {"X-Town": "yes"}

@town.route("/api/town/fails/<how>", public=True)
def fails(how):
    if how == "nothing":
        return None
    if how == "abort":
        abort(410)
    if how == "refused":
        raise ferry.Refused("No.", code="no-way", status=409, errors=[{"field": "a", "message": "b"}])
    raise ValueError("secret")

@town.route("/api/town/echo", methods=["POST"], public=True)
def echo(caller):
    return {"sent": request.get_json(), "streamed": request.stream.read().decode()}

@town.blueprint.get("/town/page")
def page():
    return "<p>page"
"""
)


def test_a_route_is_answered_as_its_function_says(town):
    api = town(ROUTES)

    assert api.get("/api/town/hello/jo/3").json == {"hello": "jo", "times": 3}
    assert api.get("/api/town/hello/jo/3", headers=JANE).json["hello"] == "jojane"
    assert api.get("/api/town/mine", headers=JANE).json == {"name": "jane"}
    text = api.get("/api/town/text")
    assert (text.status_code, text.text, text.headers["X-Town"]) == (202, "plain", "yes")
    assert api.post("/api/town/echo", json=[1]).json == {"sent": [1], "streamed": "[1]"}
    assert api.get("/town/page").text == "<p>page"
    assert api.get("/api/town/text").headers["X-Request-Id"]


def test_a_route_that_is_not_public_needs_a_known_caller(town):
    api = town(ROUTES)
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        refused = api.get("/api/town/mine", headers=headers)
        assert (refused.status_code, refused.json["code"]) == (401, "unauthorized")


def test_what_a_route_raises_is_a_problem(town):
    api = town(ROUTES)
    for how, status, code in (
        ("nothing", 500, "extension-failed"),
        ("abort", 410, "request-refused"),
        ("refused", 409, "no-way"),
        ("otherwise", 500, "extension-failed"),
    ):
        failed = api.get(f"/api/town/fails/{how}")
        assert (failed.status_code, failed.json["code"]) == (status, code)
        assert failed.content_type == "application/problem+json"
        assert "secret" not in failed.text


def test_ferrys_own_guards_stand_before_routes(town):
    api = town(ROUTES, CFP_API_READ="token", CFP_API_RATE_LIMIT="6 per hour", CFP_API_MAX_BODY="1k")
    assert api.get("/api/town/text").json["code"] == "unauthorized"
    assert api.get("/town/page").json["code"] == "unauthorized"
    assert api.get("/api/town/text", headers=JANE).status_code == 202
    assert api.post("/api/town/echo", json={"a": "x" * 2000}).json["code"] == "body-too-large"
    statuses = [api.get("/api/town/text").status_code for _ in range(4)]
    assert statuses == [401, 401, 401, 429]
    assert 'endpoint="town.text"' in api.get("/metrics", headers=JANE).text


def test_a_replica_sends_what_may_write_to_its_primary(town, monkeypatch):
    monkeypatch.setattr(Following, "start", lambda following: None)
    api = town(ROUTES, CFP_API_ROLE="replica", CFP_API_PRIMARY_URL="https://primary.example")
    sent = api.post("/api/town/echo", json={})

    assert (sent.status_code, sent.headers["Location"]) == (307, "https://primary.example/api/town/echo")
    assert api.get("/api/town/hello/jo/3").json == {"hello": "jo", "times": 3}


NESTED = """
from flask import Blueprint
inner = Blueprint("inner", "inner")
inner.route("/town/inner", methods=["GET", "POST"])(lambda: "inner")
town.blueprint.register_blueprint(inner)
"""


def test_a_nested_blueprint_is_of_the_extension_too(town, monkeypatch):
    api = town(COUNT + NESTED, CFP_API_READ="token")
    assert api.get("/town/inner").json["code"] == "unauthorized"
    assert api.get("/town/inner", headers=JANE).text == "inner"
    monkeypatch.setattr(Following, "start", lambda following: None)
    api = town(COUNT + NESTED, CFP_API_ROLE="replica", CFP_API_PRIMARY_URL="https://primary.example")
    assert api.post("/town/inner").status_code == 307


def test_routes_are_in_the_openapi_document(town):
    from openapi_spec_validator import validate  # here, because it takes a second

    document = town(ROUTES).get("/openapi.json").json
    validate(document)
    paths = document["paths"]
    hello = paths["/api/town/hello/{name}/{times}"]["get"]
    assert hello["summary"] == "Greet somebody."
    assert hello["security"] == []
    assert [(each["name"], each["schema"]["type"]) for each in hello["parameters"]] == [
        ("name", "string"), ("times", "integer"),
    ]  # fmt: skip
    schema = hello["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema["properties"] == {"hello": {"type": "string"}, "times": {"type": "integer"}}
    assert paths["/api/town/mine"]["get"]["summary"] == "Yours"
    assert "security" not in paths["/api/town/mine"]["get"]
    assert paths["/api/town/echo"]["post"]["tags"] == ["town"]


@pytest.fixture
def own():
    """
    An app with a few routes of Ferry's.
    """
    app = Flask("app")
    for number, (rule, method) in enumerate([("/api/health", "GET"), ("/api/sheets/<sheet>", "GET")]):
        app.add_url_rule(rule, f"own.{number}", str, methods=[method])
    app.register_blueprint(Blueprint("records", "records"))
    return app


@pytest.mark.parametrize(
    ("name", "routes", "said"),
    [
        ("town", ["/api/sheets/<name>"], "town: the route /api/sheets/<name> is one of Ferry's own"),
        ("town", ["/api/sheets/rsvp"], "town: the route /api/sheets/rsvp is one of Ferry's own"),
        ("town", ["/api/health"], "town: the route /api/health is one of Ferry's own"),
        ("town", ["/api/t", "/api/t"], "town: the route POST /api/t is registered twice"),
        ("town", ["/api/<nope:x>"], "town: the converter 'nope' does not exist"),
        ("records", ["/x"], "records: a part of Ferry has this name; choose another"),
    ],
)
def test_a_route_that_cannot_be_ends_the_start(own, name, routes, said):
    extension = Extension(name)
    for route in routes:
        parameters = re.findall(r"(\w+)>", route)
        extension.route(route, methods=["POST"])(eval(f"lambda {', '.join(parameters)}: {{}}"))  # noqa: S307
    with pytest.raises(SettingsError) as raised:
        serve(own, [extension])

    assert str(raised.value) == f"CFP_API_EXTENSIONS: {said}"


def test_a_route_stands_beside_ferrys_own(own):
    extension = Extension("town")
    extension.route("/api/health/town")(lambda caller: {})
    extension.route("/api/sheets")(lambda caller: {})
    serve(own, [extension])


def test_a_routes_function_takes_what_is_in_its_path():
    town = Extension("town")
    with pytest.raises(TypeError, match=r"must take caller, and of /api/t/<x>: x"):
        town.route("/api/t/<x>")(lambda caller: {})
    with pytest.raises(ValueError, match="a route's path begins with '/'"):
        town.route("api/t")


def test_bodies_of_strangers_are_read_where_an_extension_may_want_them(town):
    """
    Of others the server reads none, so that nobody fills its memory.
    """
    route = "@town.route('/api/town/echo/<x>', methods=['POST'], public=True)\ndef f(x): ...\n"
    built = town(COUNT + route).application.extensions["ferry"]
    assert may_send(built, "/api/town/echo/1", "") == 1 << 20
    assert may_send(built, PEOPLE, "") == 0
    assert may_send(built, PEOPLE, JANE["Authorization"]) > 1 << 20, "an attachment, perhaps"
    assert may_send(town(SESSIONS).application.extensions["ferry"], PEOPLE, "") > 1 << 20


# --- Callers ---

SESSIONS = (
    COUNT
    + """
@town.authenticate
def by_session(request):
    session = request.headers.get("X-Session")
    if session == "limited":
        return ferry.Caller("lena", ["read:people", "write:people"])
    if session == "refused":
        raise ferry.Refused("The session has ended.", code="session-ended", status=401)
    if session == "wrong":
        return "lena"
    return ferry.Caller(name=session) if session else None

@town.route("/api/town/mine")
def mine(caller):
    return {"name": caller.name}
"""
)


def _session(name):
    return {"X-Session": name}


def test_a_login_alone_lets_callers_write(town, capsys):
    api = town(SESSIONS, CFP_API_TOKENS="")
    answer = api.post(PEOPLE, json={"slug": "lena", "name": "Lena"}, headers={"X-Session": "lena"})

    assert answer.status_code == 201, answer.text
    assert "every write is refused" not in capsys.readouterr().err


def test_an_extension_knows_callers_that_ferry_does_not(town, data):
    api = town(SESSIONS)
    written = api.post(PEOPLE, json={"slug": "jo", "name": "Jo"}, headers=_session("jo"))

    assert written.status_code == 201
    assert data.git("log", "-1", "--format=%an %ae") == "jo jo@users.noreply.ferry.invalid"
    assert api.get("/api/town/mine", headers=_session("jo")).json == {"name": "jo"}
    assert api.get("/api/town/mine", headers={**_session("jo"), **ANA}).json == {"name": "ana"}, (
        "tokens first"
    )
    assert api.post(PEOPLE, json={}).json["code"] == "unauthorized"
    assert api.post(PEOPLE, json={}, headers={"Authorization": "Bearer x"}).json["code"] == "unauthorized"


def test_a_callers_scopes_hold_for_ferrys_endpoints(town):
    api, lena = town(SESSIONS, CFP_API_READ="token"), _session("limited")
    assert api.get(PEOPLE, headers=lena).status_code == 200
    assert api.patch(f"{PEOPLE}/ada-quill", json={"name": "A"}, headers=lena).status_code == 200
    for refused in (
        api.get(EVENTS, headers=lena),
        api.get("/api/commits", headers=lena),
        api.post(EVENTS, json=PICNIC, headers=lena),
    ):
        assert (refused.status_code, refused.json["code"]) == (403, "scope-missing")
    assert api.get(EVENTS, headers=_session("jo")).status_code == 200


def test_what_an_authenticator_refuses_or_does_wrong_is_a_problem(town):
    api = town(SESSIONS)
    refused = api.get("/api/town/mine", headers=_session("refused"))
    assert (refused.status_code, refused.json["code"]) == (401, "session-ended")
    for session in ("wrong", "no name at all"):
        failed = api.get("/api/town/mine", headers=_session(session))
        assert (failed.status_code, failed.json["code"]) == (500, "extension-failed")


def test_writes_are_open_where_an_extension_knows_callers_and_there_are_no_tokens(town):
    api = town(SESSIONS, CFP_API_TOKENS="")
    assert api.post(PEOPLE, json={"slug": "jo", "name": "Jo"}, headers=_session("jo")).status_code == 201
    assert api.post(PEOPLE, json={}).json["code"] == "unauthorized"


def test_under_ferry_dev_extensions_are_asked_first(town, data):
    api = town(SESSIONS, open_access=True)
    for session, name in (({}, "dev"), (_session("jo"), "jo"), ({**_session("jo"), **ANA}, "jo")):
        assert api.get("/api/town/mine", headers=session).json == {"name": name}
