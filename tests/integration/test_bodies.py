"""
What is acknowledged is what was sent: a body is stored whole, or refused.
"""

from __future__ import annotations

import hashlib
import io
import json

import pytest

from ferry.app import create_app

LIMIT = 4096
ATTACHMENT_LIMIT = 3 * LIMIT
ADA = "/api/sheets/people/records/ada-quill"


class _Unread(io.BytesIO):
    """
    A body that must not be read.
    """

    def read(self, *_):
        raise AssertionError("the body was read")

    readinto = readline = read


@pytest.fixture
def api(env):
    env["CFP_API_TOKENS"] = f"ana:{hashlib.sha256(b'secret').hexdigest()}"
    env["CFP_API_MAX_BODY"] = str(LIMIT)
    env["CFP_API_MAX_ATTACHMENT"] = str(ATTACHMENT_LIMIT)
    return create_app(env).test_client()


def _chunked(api, method, path, body, **headers):
    """
    Send *body* as a server hands over a chunked upload: without a length, and with an end.
    """
    return api.open(
        path,
        method=method,
        input_stream=body if isinstance(body, io.BytesIO) else io.BytesIO(body),
        environ_overrides={"wsgi.input_terminated": True},
        headers={
            "Transfer-Encoding": "chunked",
            "Authorization": "Bearer secret",
            "Content-Type": "application/json",
            **headers,
        },
    )


@pytest.mark.parametrize("size", [0, 1, ATTACHMENT_LIMIT - 1, ATTACHMENT_LIMIT])
def test_a_chunked_attachment_is_stored_whole(api, size):
    body = bytes(number % 251 for number in range(size))
    assert _chunked(api, "PUT", f"{ADA}/attachments/a.bin", body).status_code == 201
    assert api.get(f"{ADA}/attachments/a.bin").data == body


@pytest.mark.parametrize("more", [1, 2, 70_000, 3_000_000])
def test_a_chunked_attachment_beyond_the_limit_is_refused(api, more):
    answer = _chunked(api, "PUT", f"{ADA}/attachments/a.bin", bytes(ATTACHMENT_LIMIT + more))
    assert (answer.status_code, answer.json["code"]) == (413, "body-too-large")
    assert api.get(f"{ADA}/attachments/a.bin").status_code == 404


@pytest.mark.parametrize("more", [1, 2, 70_000])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/sheets/people/records"),
        ("PUT", "/api/sheets/people/records/x"),
        ("PATCH", ADA),
        ("POST", "/api/transactions"),
    ],
)
def test_a_chunked_body_beyond_the_limit_is_refused(api, method, path, more):
    """
    Also where what the limit lets through would be JSON by itself.
    """
    body = json.dumps({"slug": "x", "name": "X"}).encode().ljust(LIMIT + more)
    answer = _chunked(api, method, path, body)
    assert (answer.status_code, answer.json["code"]) == (413, "body-too-large")


def test_a_chunked_record_is_stored(api):
    body = json.dumps({"slug": "x", "name": "X"}).encode().ljust(LIMIT)
    assert _chunked(api, "POST", "/api/sheets/people/records", body).status_code == 201


@pytest.mark.parametrize("length", [LIMIT + 1, ATTACHMENT_LIMIT + 1])
def test_a_declared_length_beyond_the_limit_is_refused_unread(api, length):
    path = f"{ADA}/attachments/a.bin" if length > ATTACHMENT_LIMIT else ADA
    answer = api.put(
        path,
        input_stream=_Unread(),
        environ_overrides={"CONTENT_LENGTH": str(length)},
        headers={"Authorization": "Bearer secret"},
    )
    assert (answer.status_code, answer.json["code"]) == (413, "body-too-large")


@pytest.mark.parametrize("token", [None, "Bearer wrong", "Basic c2VjcmV0"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/sheets/people/records"),
        ("PUT", ADA),
        ("PATCH", ADA),
        ("PUT", f"{ADA}/attachments/a.bin"),
        ("POST", "/api/transactions"),
    ],
)
def test_the_body_of_a_stranger_is_not_read(api, method, path, token):
    answer = _chunked(
        api, method, path, _Unread(), **({"Authorization": token} if token else {"Authorization": ""})
    )
    assert (answer.status_code, answer.json["code"]) == (401, "unauthorized")
