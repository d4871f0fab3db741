"""
What the town promises to its people.
"""

import pytest

import worker

JANE = {"slug": "jane", "name": "Jane Doe", "email": "jane@example.org"}
PEOPLE = "/api/sheets/people/records"


@pytest.fixture
def jane(ferry):
    """
    A browser in which Jane is signed in.
    """
    browser = ferry.anonymous()
    assert browser.post("/api/town/login", data={"name": "jane", "password": "picnic"}).status_code == 200
    return browser


def test_a_wrong_password_gets_no_session(ferry):
    answer = ferry.anonymous().post("/api/town/login", data={"name": "jane", "password": "guess"})
    assert (answer.status_code, answer.json["code"]) == (401, "login-wrong")
    assert "Set-Cookie" not in answer.headers


def test_people_change_their_own_record_only(ferry, jane):
    assert jane.post(PEOPLE, json=JANE).status_code == 201
    assert jane.post(PEOPLE, json={"slug": "bob", "name": "Bob"}).json["code"] == "not-yours"
    assert ferry.anonymous().post(PEOPLE, json=JANE).status_code == 401


def test_a_guest_is_in_both_records_and_gets_a_letter_once_it_is_pushed(ferry, jane, monkeypatch):
    sent = []
    monkeypatch.setattr(worker, "send", lambda *letter: sent.append(letter))
    event = ferry.client.get("/api/sheets/events/records").json["records"][0]["path"]
    jane.post(PEOPLE, json=JANE)

    answer = jane.post(f"/api/town/rsvp/{event}")
    assert answer.status_code == 200, answer.json
    assert jane.post(f"/api/town/rsvp/{event}").json["commit"] is None, "once is enough"
    assert sent == []

    ferry.push()
    assert ferry.remote.record(f"events/{event}.toml")["guests"] == ["jane"]
    assert ferry.remote.record("people/jane.toml")["coming"] == [event]
    assert ferry.remote.log()[0].author == "jane"
    assert sent == [("jane@example.org", event, answer.json["commit"]["hash"])]
