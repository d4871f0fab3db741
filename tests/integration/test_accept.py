"""
What a client accepts: an answer that it cannot read is no answer, and no write.
"""

from __future__ import annotations

import pytest

PEOPLE = "/api/sheets/people/records"


@pytest.mark.parametrize(
    ("address", "accept"),
    [
        (PEOPLE, "text/html"),
        (f"{PEOPLE}/jane", "application/xml, text/*;q=0.5"),
        (PEOPLE, "application/json;q=0"),
        ("/api/commits", "image/png"),
        ("/api/sheets", "text/plain"),
        (f"{PEOPLE}/jane/history", "text/html"),
        ("/api/events", "application/json"),
    ],
)
def test_what_cannot_be_met_is_refused(client, address, accept):
    answer = client().get(address, headers={"Accept": accept})

    assert (answer.status_code, answer.json["code"]) == (406, "not-acceptable")
    assert "Send Accept: " in answer.json["hint"]


@pytest.mark.parametrize("accept", ["", "*/*", "application/json", "application/*", "text/html, */*;q=0.8"])
def test_what_can_be_met_is_answered(client, accept):
    assert client().get(PEOPLE, headers={"Accept": accept}).status_code == 200


def test_a_write_whose_answer_cannot_be_read_is_not_made(client, data):
    before = data.head()
    body = {"slug": "ann", "name": "Ann"}

    assert client().put(f"{PEOPLE}/ann", json=body, headers={"Accept": "text/html"}).status_code == 406
    assert data.head() == before


@pytest.mark.parametrize("address", ["/api/health", "/metrics", "/openapi.json", "/docs"])
def test_probes_and_pages_are_answered_whatever_they_accept(client, address):
    assert client().get(address, headers={"Accept": "text/x-odd"}).status_code == 200


def test_an_attachment_has_the_type_of_its_name(client):
    api = client()
    api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"})
    api.put(f"{PEOPLE}/ann/attachments/photo.png", data=b"png")

    answer = api.get(f"{PEOPLE}/ann/attachments/photo.png", headers={"Accept": "image/*"})
    assert (answer.status_code, answer.mimetype) == (200, "image/png")


def test_an_address_that_does_not_exist_is_not_found_first(client):
    assert client().get("/api/nowhere", headers={"Accept": "text/html"}).status_code == 404
    assert client().delete("/api/commits", headers={"Accept": "text/html"}).status_code == 405
