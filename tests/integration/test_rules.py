"""
The rules of extensions: what they see, refuse and change, whichever way a write takes.
"""

from __future__ import annotations

import json
import sys
import threading
from types import SimpleNamespace

import pytest

import ferry
from ferry.app.errors import ExtensionTooSlowError
from ferry.app.sheets.evaluation import Evaluations
from ferry.app.store import limit
from ferry.app.store.rules import Guard
from tests.town import ANA, JANE, PEOPLE, town

__all__ = ["town"]  # a fixture

JANES = {"slug": "jane", "name": "Jane"}
HEADER = "import ferry, time\ntown = ferry.Extension('town')\n"
OWN_ALONE = (
    HEADER
    + """
@town.before_write("people")
def only_their_own(write):
    if write.caller.name != write.path:
        raise ferry.Refused("You may change your own record only.", code="not-yours", status=403)
"""
)
SEEN = (
    HEADER
    + """
seen = []
@town.before_write
def see(write):
    seen.append((write.operation, write.sheet, write.path, write.before and write.before["name"],
                 write.after and write.after["name"], write.attachment, write.caller.name))
"""
)


def _module():
    return sys.modules["town"]


def test_a_rule_refuses_with_its_own_words(town, data):
    api, head = town(OWN_ALONE), data.head()
    refused = api.post(PEOPLE, json=JANES, headers=ANA)

    assert refused.status_code == 403
    assert refused.content_type == "application/problem+json"
    assert refused.json["code"] == "not-yours"
    assert refused.json["detail"] == "You may change your own record only."
    assert data.head() == head, "nothing was written"
    assert api.post(PEOPLE, json=JANES, headers=JANE).status_code == 201


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_no_way_of_writing_a_record_passes_by_a_rule(town, method):
    api = town(OWN_ALONE)
    api.post(PEOPLE, json=JANES, headers=JANE)
    body = {} if method == "delete" else {"json": {**JANES, "name": "Other"}}

    assert api.open(f"{PEOPLE}/jane", method=method, headers=ANA, **body).json["code"] == "not-yours"
    assert api.get(f"{PEOPLE}/jane").json["record"]["name"] == "Jane"
    assert api.open(f"{PEOPLE}/jane", method=method, headers=JANE, **body).status_code == 200


def test_nor_does_a_transaction_or_an_attachment(town):
    api = town(OWN_ALONE)
    api.post(PEOPLE, json=JANES, headers=JANE)
    photo = f"{PEOPLE}/jane/attachments/photo.jpg"
    for operation in ({"op": "upsert", "record": JANES}, {"op": "delete", "path": "jane"}):
        body = {"operations": [{"sheet": "people", **operation}]}
        refused = api.post("/api/transactions", json=body, headers=ANA)
        assert (refused.status_code, refused.json["code"], refused.json["operation"]) == (403, "not-yours", 0)
    assert api.put(photo, data=b"a", headers=ANA).json["code"] == "not-yours"
    assert api.put(photo, data=b"a", headers=JANE).status_code == 201
    assert api.delete(photo, headers=ANA).json["code"] == "not-yours"


def test_nobody_takes_a_record_away_by_a_move(town):
    """
    A move is a deletion at one path and a creation at another, and each is asked about.
    """
    api = town(OWN_ALONE)
    api.post(PEOPLE, json=JANES, headers=JANE)
    moved = {"slug": "ana"}

    assert api.patch(f"{PEOPLE}/jane", json=moved, headers=ANA).json["code"] == "not-yours"
    assert api.patch(f"{PEOPLE}/jane", json=moved, headers=JANE).json["code"] == "not-yours"


def test_a_rule_sees_each_write(town):
    api = town(SEEN)
    api.post(PEOPLE, json=JANES, headers=JANE)
    api.put(f"{PEOPLE}/jane", json={**JANES, "name": "Jo"}, headers=ANA)
    api.put(f"{PEOPLE}/jane/attachments/a.txt", data=b"a", headers=JANE)
    api.delete(f"{PEOPLE}/jane/attachments/a.txt", headers=JANE)
    api.patch(f"{PEOPLE}/jane", json={"slug": "jo"}, headers=JANE)
    api.patch(f"{PEOPLE}/jo", json={"name": "J"}, headers=JANE)
    api.delete(f"{PEOPLE}/jo", headers=JANE)

    assert _module().seen == [
        ("create", "people", "jane", None, "Jane", None, "jane"),
        ("put", "people", "jane", "Jane", "Jo", None, "ana"),
        ("attach", "people", "jane", "Jo", "Jo", "a.txt", "jane"),
        ("detach", "people", "jane", "Jo", "Jo", "a.txt", "jane"),
        ("delete", "people", "jane", "Jo", None, None, "jane"),
        ("create", "people", "jo", None, "Jo", None, "jane"),
        ("patch", "people", "jo", "Jo", "J", None, "jane"),
        ("delete", "people", "jo", "J", None, None, "jane"),
    ]


def test_the_caller_of_an_open_server_is_dev(town):
    town(SEEN, open_access=True).post(PEOPLE, json=JANES)

    assert _module().seen[0][-1] == "dev"


def test_a_rule_reads_what_the_transaction_has_staged(town):
    api = town(
        HEADER
        + """
@town.before_write("people")
def one_address(write):
    if write.after is None:
        return
    others = [each.path for each in write.records("people", email=write.after.get("email"))]
    if write.after.get("email") and set(others) - {write.path}:
        fault = {"field": "email", "message": "taken by " + others[0]}
        raise ferry.Refused("Two people share an address.", code="taken", status=409, errors=[fault])

@town.before_write("places")
def known_owner(write):
    assert write.read("people", "jane").path == "jane"
    if not write.exists("people", write.after["owner"]):
        raise ferry.Refused("Nobody has that name.")
"""
    )
    jane, jo = {**JANES, "email": "j@x.org"}, {"slug": "jo", "name": "Jo", "email": "j@x.org"}

    def send(*operations):
        body = {"operations": [{"op": "upsert", "sheet": s, "record": r} for s, r in operations]}
        return api.post("/api/transactions", json=body, headers=JANE)

    refused = send(("people", jane), ("people", jo))
    assert (refused.status_code, refused.json["code"], refused.json["operation"]) == (409, "taken", 1)
    assert refused.json["errors"] == [{"field": "email", "message": "taken by jane"}]
    hall = {"district": "hill", "slug": "hall", "name": "Hall"}
    assert send(("people", jane), ("places", {**hall, "owner": "jo"})).json["code"] == "refused"
    assert send(("people", jane), ("places", {**hall, "owner": "jane"})).status_code == 200
    assert api.patch(f"{PEOPLE}/jane", json={"slug": "janet"}, headers=JANE).status_code == 200, "not its own"


def test_a_rule_changes_the_record_and_the_schema_has_the_last_word(town):
    api = town(
        HEADER
        + """
@town.before_write("people")
def stamp(write):
    write.set(name=write.after["name"].title(), joined_year=write.after.get("joined_year", 2026), email=None)

@town.before_write("people")
def then(write):
    assert write.after["joined_year"] >= 1, "the second rule sees what the first has changed"
    write.after["skills"] = ["music", "data"]
"""
    )
    sent = {"slug": "jane", "name": "jane doe", "email": "j@x.org"}
    stored = api.post(PEOPLE, json=sent, headers=JANE).json["record"]
    assert stored == {"slug": "jane", "name": "Jane Doe", "joined_year": 2026, "skills": ["data", "music"]}
    assert api.get(f"{PEOPLE}/jane").json["record"] == stored
    refused = api.put(f"{PEOPLE}/jo", json={"slug": "jo", "name": "jo", "joined_year": 1}, headers=JANE)
    assert refused.json["errors"][0]["field"] == "joined_year"


def test_a_rule_may_stamp_the_time_on_records_that_are_rendered_apart(town, data):
    """
    Each call of the rule makes another record, so that no rehearsal can have rendered it.
    """
    data.edit({".gitsheets/notes.toml": "[gitsheet]\nroot = 'notes'\npath = '${{ slug.toLowerCase() }}'\n"})
    api = town(
        HEADER
        + """
calls = []
@town.before_write("notes")
def stamp(write):
    calls.append(write.path)
    if write.after is not None:
        write.set(stamp=len(calls))
"""
    )
    notes = "/api/sheets/notes/records"
    assert api.post(notes, json={"slug": "A"}, headers=JANE).json["record"] == {"slug": "A", "stamp": 2}
    assert _module().calls == ["a", "a"], "once in the rehearsal, once under the lock"
    changed = api.patch(f"{notes}/a", json={"text": "x"}, headers=JANE)
    assert (changed.status_code, changed.json["record"]["stamp"]) == (200, 4)


def test_a_sheet_that_declares_what_extensions_read_calls_a_rule_once(town, data):
    rest = "unique = { text = true }\nreferences = { who = 'people' }\n"
    data.edit({".gitsheets/notes.toml": f"[gitsheet]\nroot = 'notes'\npath = '${{{{ slug }}}}'\n{rest}"})
    api = town(
        f"{HEADER}calls = []\n@town.before_write('notes')\ndef note(write):\n    calls.append(write.path)\n"
    )
    notes = "/api/sheets/notes/records"

    assert api.post(notes, json={"slug": "a", "text": "x"}, headers=JANE).status_code == 201
    assert _module().calls == ["a"]


def test_what_a_rule_makes_ferry_render_is_in_the_rules_time(town, data, monkeypatch):
    data.edit({".gitsheets/notes.toml": "[gitsheet]\nroot = 'notes'\npath = '${{ slug.toLowerCase() }}'\n"})
    api = town(
        HEADER
        + """
@town.before_write("notes")
def stamp(write):
    write.set(stamp=time.time_ns())
"""
    )
    monkeypatch.setattr(limit, "LIMIT_S", 0.0)
    refused = api.post("/api/sheets/notes/records", json={"slug": "A"}, headers=JANE)
    assert (refused.status_code, refused.json["code"]) == (503, "extension-too-slow")


def test_a_rule_sees_what_an_upsert_replaces_wherever_its_path_leads(town, data):
    """
    A template may make another path of the same fields when it is rendered again.
    """
    path = "${{ Math.random() < 0.5 ? 'a' : 'b' }}"
    data.edit({".gitsheets/notes.toml": f'[gitsheet]\nroot = "notes"\npath = "{path}"\n'})
    api = town(
        HEADER
        + """
@town.before_write("notes")
def see(write):
    stands = write.read("notes", write.path) if write.exists("notes", write.path) else None
    if write.before != stands or (write.operation == "create") != (stands is None):
        raise ferry.Refused(f"{write.operation}: {write.before}, and there stands {stands}")
"""
    )
    operations = [{"op": "upsert", "sheet": "notes", "record": {"n": n}} for n in range(24)]
    sent = {"message": "m", "operations": operations}
    done = api.post("/api/transactions", json=sent, headers=JANE)
    assert done.status_code == 200, done.json


def test_a_rule_cannot_move_a_record(town):
    api = town(HEADER + "@town.before_write\ndef move(write):\n    write.set(slug='other')\n")

    failed = api.post(PEOPLE, json=JANES, headers=JANE)
    assert (failed.status_code, failed.json["code"]) == (500, "extension-failed")


def test_what_else_a_rule_raises_is_its_own_fault(town, data, capsys):
    api, head = town(HEADER + "@town.before_write\ndef divide(write):\n    1 / 0\n"), data.head()
    failed = api.post(PEOPLE, json=JANES, headers=JANE)

    assert (failed.status_code, failed.json["code"]) == (500, "extension-failed")
    assert failed.json["detail"] == "The extension 'town' failed in divide."
    assert '"error": "ZeroDivisionError: division by zero (town.py, line 5)"' in capsys.readouterr().err
    assert data.head() == head


def test_rules_run_in_the_order_of_the_setting_and_then_of_registration(town, tmp_path):
    text = "import ferry\n{0} = ferry.Extension('{0}')\n"
    refuse = "@{0}.before_write('people')\ndef {1}(write):\n    raise ferry.Refused('by {0} {1}')\n"
    for name in ("first", "second"):
        body = text + refuse.replace("{1}", "a") + refuse.replace("{1}", "b")
        (tmp_path / f"order_{name}.py").write_text(body.format(name))

    def by(modules):
        api = town("", CFP_API_EXTENSIONS=modules)
        return api.post(PEOPLE, json=JANES, headers=JANE).json["detail"]

    assert by("order_first order_second") == "by first a"
    assert by("order_second, order_first") == "by second a"


def test_one_writers_refusal_does_not_touch_others(town, data):
    """
    They share one lock and one flush.
    """
    app, answers = town(OWN_ALONE).application, {}

    def write(name, headers):
        sent = app.test_client().post(PEOPLE, json={**JANES, "slug": name}, headers=headers)
        answers[name] = sent.status_code

    names = [("jane", JANE), ("ana", ANA), *((f"x{n}", JANE) for n in range(6))]
    threads = [threading.Thread(target=write, args=each) for each in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert {name for name, status in answers.items() if status == 201} == {"jane", "ana"}
    assert list(answers.values()).count(403) == 6


def test_a_repeated_request_is_answered_without_asking_again(town):
    api = town(
        HEADER
        + """
asked = []
@town.before_write
def once(write):
    asked.append(write.path)
    if len(asked) > 1:
        raise ferry.Refused("again")
"""
    )
    headers = {**JANE, "Idempotency-Key": "k1"}
    first = api.post(PEOPLE, json=JANES, headers=headers)
    again = api.post(PEOPLE, json=JANES, headers=headers)

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json["commit"]["hash"] == first.json["commit"]["hash"]


SLOW = (
    HEADER
    + """
import threading
began, may_end = threading.Event(), threading.Event()
@town.before_write("people")
def wait(write):
    if write.path == "slow":
        began.set()
        may_end.wait(30)
"""
)


def test_a_slow_rule_loses_the_lock_and_others_write_on(town, data, monkeypatch, capsys):
    """
    The others do not wait until the rule returns, and what it let pass is not written.
    """
    monkeypatch.setattr(limit, "LIMIT_S", 0.3)
    app, answers = town(SLOW).application, {}

    def write(slug):
        answers[slug] = app.test_client().post(PEOPLE, json={"slug": slug, "name": "N"}, headers=JANE)

    slow = threading.Thread(target=write, args=["slow"])
    slow.start()
    try:
        assert _module().began.wait(30)
        monkeypatch.setattr(limit, "LIMIT_S", 60.0)  # the others may take their time on a busy machine
        write("quick")
        assert answers["quick"].status_code == 201
        assert slow.is_alive(), "the rule runs on"
    finally:
        _module().may_end.set()
        slow.join(30)
    refused = answers["slow"]
    assert (refused.status_code, refused.json["code"]) == (503, "extension-too-slow")
    assert refused.json["detail"].startswith("town.wait held the write lock")
    assert refused.headers["Retry-After"] == "1"
    [told] = [line for line in capsys.readouterr().err.splitlines() if "extension.too_slow" in line]
    assert json.loads(told)["request_id"] == refused.headers["X-Request-Id"], (
        "though a timer's thread tells it"
    )
    write("later")
    assert answers["later"].status_code == 201
    assert app.test_client().get(f"{PEOPLE}/slow").status_code == 404
    assert data.head() == answers["later"].json["commit"]["hash"]


def test_the_time_is_that_of_the_rules_alone(monkeypatch):
    """
    What Ferry itself does in a long transaction counts against nobody.
    """
    now = [0.0]
    monkeypatch.setattr(limit, "time", SimpleNamespace(monotonic=lambda: now[0]))
    spent = limit.Limit(10.0)
    for _ in range(3):
        with spent.running("a"):
            now[0] += 3.0
        now[0] += 60.0  # Ferry's own work
    with pytest.raises(ExtensionTooSlowError), spent.running("b"):
        now[0] += 3.0
    assert not spent.settle()
    timer = spent._timer
    spent._watch()
    assert spent._timer is timer, "nothing is watched any more"


def test_no_thread_watches_a_rehearsal_or_a_repeat_after_its_end(town, data, monkeypatch):
    monkeypatch.setattr(limit, "LIMIT_S", 60.0)  # no second timer on a busy machine
    built = town(SEEN).application.extensions["ferry"]
    guard = Guard(rules=built.rules, caller=ferry.Caller("jane"))
    for opened in (built.store.rehearsal(Evaluations(), guard), built.store.repeat(data.head(), guard)):
        before = set(threading.enumerate())
        with opened as transaction:
            transaction.upsert("people", dict(JANES))
            [watch] = [each for each in _timers() if each not in before]
        watch.join(30)
        assert not watch.is_alive()


def _timers():
    return [each for each in threading.enumerate() if isinstance(each, threading.Timer)]


def test_the_public_package_is_these_names():
    assert ferry.__all__ == [
        "Caller", "Change", "Commit", "Divergence", "Extension", "Failed", "Landing", "Reader", "Record",
        "Refused", "Transaction", "Write", "__version__",
    ]  # fmt: skip
    for name in ferry.__all__:
        assert name == "__version__" or getattr(ferry, name).__doc__
    with pytest.raises(AttributeError):
        _ = ferry.Hooks  # type: ignore[attr-defined]
