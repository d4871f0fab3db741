"""
Bearer tokens of an OpenID Connect issuer, which runs on loopback here: who is let in, and who is not.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from ferry.extensions import oidc
from ferry.worker.settings import Settings
from tests.town import ANA, PEOPLE, town

__all__ = ["town"]  # a fixture

DISCOVERY, KEYS = "/.well-known/openid-configuration", "/keys"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = Ed25519PrivateKey.generate()
STRANGER = ec.generate_private_key(ec.SECP256R1())


def _published(kid: str, key: Any, **more: str) -> dict[str, Any]:
    kinds = {
        rsa.RSAPrivateKey: RSAAlgorithm,
        ec.EllipticCurvePrivateKey: ECAlgorithm,
        Ed25519PrivateKey: OKPAlgorithm,
    }
    [algorithm] = (found for kind, found in kinds.items() if isinstance(key, kind))
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


@dataclass
class Issuer:
    """
    An issuer, and what it publishes.

    Attributes:
        asked: The paths that it was asked for.
        answers: What it answers to each path: JSON, bytes, or a function that writes to the handler.
    """

    port: int
    asked: list[str] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def publish(self, *keys: dict[str, Any]) -> None:
        self.answers = {
            DISCOVERY: {"issuer": self.url, "jwks_uri": f"{self.url}{KEYS}"},
            KEYS: {"keys": keys},
        }

    def token(self, key: Any = EC, *, algorithm: str = "ES256", kid: str | None = "ec", **claims: Any) -> str:
        """
        Return a token; a claim that is None is left out.
        """
        given = {
            "iss": self.url,
            "aud": "ferry",
            "sub": "jane",
            "exp": time.time() + 600,
            "scope": "openid write:people",
        }
        kept = {name: value for name, value in {**given, **claims}.items() if value is not None}
        return jwt.encode(kept, key, algorithm, headers={"kid": kid} if kid else None)


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            answer = found.answers.get(self.path)
            if callable(answer):
                answer(self)
                return
            self.send_response(404 if answer is None else 200)
            self.end_headers()
            self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Issuer(server.server_port)
        found.publish(
            _published("rsa", RSA), _published("ec", EC, use="sig", alg="ES256"), _published("ed", ED)
        )
        monkeypatch.setattr(oidc, "_TIMEOUT_S", 60.0)  # a busy machine takes its time
        monkeypatch.setattr(oidc, "_AGAIN_S", 600.0)
        monkeypatch.setenv("CFP_API_OIDC_ISSUER", found.url)
        monkeypatch.setenv("CFP_API_OIDC_AUDIENCE", "other ferry")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield found
        server.shutdown()


Ask = Callable[..., Any]


@pytest.fixture
def ask(town: Any, issuer: Issuer) -> Ask:
    """
    Write Jane's record with a token, and return the answer.
    """
    api = town("", CFP_API_EXTENSIONS="", CFP_API_OIDC_ISSUER=issuer.url, CFP_API_OIDC_AUDIENCE="ferry")

    def ask(token: str, record: dict[str, str] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        return api.post(PEOPLE, json=record or {"slug": "jane", "name": "Jane"}, headers=headers)

    ask.api = api  # type: ignore[attr-defined]
    return ask


def _keys(issuer: Issuer) -> Any:
    return oidc._Keys(issuer.url)


# --- Who is let in ---


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [
        (RSA, "RS256", "rsa"),
        (RSA, "PS384", "rsa"),
        (EC, "ES256", "ec"),
        (ED, "EdDSA", "ed"),
        (EC, "ES256", None),
    ],
)
def test_a_good_token_names_the_caller(issuer, key, algorithm, kid):
    claims = oidc._verified(issuer.token(key, algorithm=algorithm, kid=kid, aud=["x", "ferry"]), issuer.url)
    assert claims["sub"] == "jane"


def test_a_caller_writes_by_the_scopes_of_its_token(ask, issuer):
    answer = ask(issuer.token())
    assert answer.status_code == 201
    made = ask.api.get(f"/api/commits/{answer.json['commit']['hash']}").json
    assert made["author"]["name"] == "jane"

    assert ask(issuer.token(scope="openid profile")).json["code"] == "scope-missing"
    assert (
        ask.api.post(PEOPLE, json={"slug": "ana", "name": "A"}, headers=ANA).status_code == 201
    )  # as before


def test_name_and_scopes_are_in_the_claims_that_the_settings_name(ask, issuer, monkeypatch):
    monkeypatch.setenv("CFP_API_OIDC_NAME_CLAIM", "https://town.example/name")
    monkeypatch.setenv("CFP_API_OIDC_SCOPE_CLAIM", "realm.roles")
    claims = {
        "https://town.example/name": "bo",
        "realm": {"roles": ["write:people", "staff", 7]},
        "scope": "write:*",
    }
    found = ask(issuer.token(**claims))
    assert ask.api.get(f"/api/commits/{found.json['commit']['hash']}").json["author"]["name"] == "bo"

    for realm in ("staff", {"roles": {"write:people": True}}, None, ["roles"]):
        assert ask(issuer.token(**{**claims, "realm": realm})).json["code"] == "scope-missing"


# --- Who is not ---


def _forged(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in (header, claims)]
    signature = hmac.new(secret, b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def test_a_bad_token_is_refused_with_the_reason(ask, issuer):
    claims = {"iss": issuer.url, "aud": "ferry", "sub": "jane", "exp": time.time() + 600, "scope": "write:*"}
    public = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    good = issuer.token()
    bad = {
        issuer.token(aud="another"): "is for another audience",
        issuer.token(aud=None): "lacks the claim aud",
        issuer.token(iss="https://elsewhere.example"): "is from another issuer",
        issuer.token(iss=None): "lacks the claim iss",
        issuer.token(exp=time.time() - 400): "has expired",
        issuer.token(exp=None): "lacks the claim exp",
        issuer.token(nbf=time.time() + 400): "is not valid yet",
        issuer.token(STRANGER): "has a wrong signature",
        f"{good[:-8]}AAAAAAAA": "has a wrong signature",
        issuer.token(kid="gone"): "names no key of the issuer",
        # An algorithm of another family than the key's.
        issuer.token(RSA, algorithm="RS256", kid="ec"): "names no key of the issuer",
        _forged(
            {"alg": "HS256", "kid": "rsa"}, claims, public
        ): "is not signed by an algorithm that is allowed",
        _forged({"alg": "none", "kid": "rsa"}, claims, b""): "is not signed by an algorithm that is allowed",
        _forged(
            {"alg": ["ES256"], "kid": "ec"}, claims, b""
        ): "is not signed by an algorithm that is allowed",
        _forged({"alg": "RS256", "kid": "rsa"}, claims, public): "has a wrong signature",
        _forged(
            {"alg": "ES256", "kid": "ec", "crit": ["b64"], "b64": True}, claims, b""
        ): "has a header that is not understood",
        _forged({"alg": "ES256", "kid": 7}, claims, b""): "cannot be verified",
        _forged(
            {"alg": "ES256", "kid": "ec", "jwk": _published("ec", STRANGER)}, claims, b""
        ): "has a wrong signature",
        "a.b.c": "cannot be verified",
        f"{good}é": "cannot be verified",
        issuer.token(sub="Jane Doe <jane@example.org>"): "has a name or a scope that Ferry cannot use",
        issuer.token(sub=None): "has a name or a scope that Ferry cannot use",
    }
    for token, reason in bad.items():
        answer = ask(token)
        assert (answer.status_code, answer.json["detail"]) == (401, f"The token {reason}."), token
        assert answer.headers["WWW-Authenticate"] == (
            f'Bearer realm="ferry", error="invalid_token", error_description="The token {reason}."'
        )
        assert token not in answer.text

    assert ask("no-jwt").json["detail"] == "The token is not known."
    assert ask(issuer.token(exp=time.time() - 5)).status_code == 201  # clocks differ
    assert ask.api.get("/api/health", headers={"Authorization": "Bearer a.b.c"}).status_code == 200


def test_two_keys_that_suit_a_token_without_a_kid_suit_none(issuer):
    issuer.publish(_published("one", EC), _published("two", STRANGER))
    assert _keys(issuer).find(None, "ES256") is None
    assert _keys(issuer).find("two", "ES256")["kid"] == "two"


@pytest.mark.parametrize(
    "key",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "ec"},
        _published("ec", EC, use="enc"),
        _published("ec", EC, alg="ES384"),
        "text",
    ],
)
def test_a_key_for_something_else_signs_no_token(issuer, key):
    issuer.publish(key)
    assert _keys(issuer).find("ec", "ES256") is None


def test_a_short_key_signs_no_token(issuer):
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505
    issuer.publish(_published("short", short))
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = issuer.token(short, algorithm="RS256", kid="short")
    with pytest.raises(oidc.Refused, match="cannot be verified"):
        oidc._verified(token, issuer.url)


# --- Keys that change, and issuers that do not answer ---


def test_keys_are_fetched_once_and_again_for_an_unknown_one(issuer, monkeypatch):
    keys = _keys(issuer)
    for _ in range(3):
        assert keys.find("ec", "ES256")
    assert issuer.asked == [DISCOVERY, KEYS]

    issuer.publish(_published("new", STRANGER))
    assert keys.find("new", "ES256") is None  # too soon
    assert issuer.asked == [DISCOVERY, KEYS]
    monkeypatch.setattr(oidc, "_AGAIN_S", 0.0)
    assert keys.find("new", "ES256")["kid"] == "new"
    assert keys.find("ec", "ES256") is None, "a key that is withdrawn counts no more"


def test_an_issuer_that_is_down_is_told_as_such_and_asked_seldom(ask, issuer):
    issuer.answers = {}
    for _ in range(3):
        answer = ask(issuer.token())
        assert (answer.status_code, answer.json["code"]) == (503, "issuer-unreachable")
        assert answer.headers["Retry-After"] == "600"
    assert issuer.asked == [DISCOVERY]
    assert ask.api.post(PEOPLE, json={"slug": "ana", "name": "A"}, headers=ANA).status_code == 201


def test_known_keys_are_used_for_an_hour_while_the_issuer_is_down(issuer, monkeypatch):
    keys = _keys(issuer)
    assert keys.find("ec", "ES256")
    monkeypatch.setattr(oidc, "_AGAIN_S", 0.0)
    issuer.answers = {}
    keys._fetched_at -= oidc._FRESH_S
    assert keys.find("ec", "ES256")
    with pytest.raises(oidc.Refused, match="cannot be reached"):
        keys.find("new", "ES256")
    keys._fetched_at -= oidc._OLDEST_S
    with pytest.raises(oidc.Refused, match="cannot be reached"):
        keys.find("ec", "ES256")


def _redirect(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", KEYS)
    handler.end_headers()


@pytest.mark.parametrize(
    "answers",
    [
        {DISCOVERY: {"issuer": "https://elsewhere.example", "jwks_uri": "URL/keys"}},
        {DISCOVERY: {"issuer": "URL", "jwks_uri": "file:///etc/passwd"}},
        {DISCOVERY: {"issuer": "URL"}},
        {DISCOVERY: ["URL"]},
        {DISCOVERY: b"<html>"},
        {DISCOVERY: b"[" * 100_000},
        {DISCOVERY: _redirect},
        {KEYS: {"keys": 7}},
        {KEYS: b'{"keys": []}' + b" " * oidc._MOST_BYTES},
    ],
)  # fmt: skip
def test_what_is_no_proper_answer_of_the_issuer_lets_nobody_in(issuer, answers):
    text = {
        path: json.loads(json.dumps(answer).replace("URL", issuer.url))
        if isinstance(answer, dict | list)
        else answer
        for path, answer in answers.items()
    }
    issuer.answers |= text
    with pytest.raises(oidc.Refused, match="cannot be reached"):
        _keys(issuer).find("ec", "ES256")


def test_an_issuer_that_hangs_holds_up_nobody_for_longer_than_the_limit(issuer, monkeypatch):
    """
    A request that comes while another one's fetch hangs waits for what is left of its time.
    """
    monkeypatch.setattr(oidc, "_TIMEOUT_S", 0.2)
    release = threading.Event()
    issuer.answers[DISCOVERY] = lambda handler: release.wait(30)
    for _ in range(3):
        with pytest.raises(oidc.Refused, match="cannot be reached"):
            _keys(issuer).find("ec", "ES256")
    release.set()
    assert len(issuer.asked) <= 1


def test_an_issuer_that_drips_is_given_up(issuer, monkeypatch):
    monkeypatch.setattr(oidc, "_TIMEOUT_S", 0.2)

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        until = time.monotonic() + 20
        with contextlib.suppress(OSError):  # the client has gone
            while time.monotonic() < until:
                handler.wfile.write(b" ")
                ended.wait(0.02)

    ended = threading.Event()
    issuer.answers[DISCOVERY] = drip
    with pytest.raises((ValueError, TimeoutError), match=r"too slowly|timed out"):
        oidc._published(issuer.url)
    ended.set()


# --- Settings ---

NEEDED = {"CFP_DATA_REPO_PATH": "/srv/data.git", "CFP_REDIS_URL": "redis://127.0.0.1:1/0"}


def test_the_issuer_turns_the_extension_on_after_the_named_ones():
    oidc_settings = {
        "CFP_API_OIDC_ISSUER": "https://login.example.org/realms/town",
        "CFP_API_OIDC_AUDIENCE": "ferry",
    }
    named = {"CFP_API_EXTENSIONS": "town"}
    assert Settings.from_env({**NEEDED, **named}).extensions == ("town",)
    found = Settings.from_env({**NEEDED, **named, **oidc_settings})
    assert found.extensions == ("town", "ferry.extensions.oidc")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"CFP_API_OIDC_ISSUER": "https://login.example.org"}, "set both, or none"),
        ({"CFP_API_OIDC_AUDIENCE": "ferry"}, "set both, or none"),
        (
            {"CFP_API_OIDC_ISSUER": "http://login.example.org", "CFP_API_OIDC_AUDIENCE": "x"},
            "must be an https:// URL",
        ),
        (
            {"CFP_API_OIDC_ISSUER": "https://a.example?x=1", "CFP_API_OIDC_AUDIENCE": "x"},
            "must be an https:// URL",
        ),
        (
            {"CFP_API_OIDC_ISSUER": "login.example.org", "CFP_API_OIDC_AUDIENCE": "x"},
            "must be an https:// URL",
        ),
    ],
)
def test_a_wrong_setting_ends_the_start(given, said):
    with pytest.raises(Exception, match=said):
        Settings.from_env({**NEEDED, **given})
