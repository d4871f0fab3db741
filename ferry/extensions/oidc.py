"""
Bearer tokens of an OpenID Connect issuer: JSON Web Tokens that one of its published keys has signed.

``CFP_API_OIDC_ISSUER`` turns it on, without an entry in ``CFP_API_EXTENSIONS``; it is asked after the
extensions named there. It accepts a token that is signed by an asymmetric algorithm, and names the issuer,
the audience ``CFP_API_OIDC_AUDIENCE`` and an expiry time. Clocks may differ by half a minute.

The caller has the name in the claim ``CFP_API_OIDC_NAME_CLAIM``, and those scopes in the claim
``CFP_API_OIDC_SCOPE_CLAIM`` that are Ferry's, such as ``read:*`` and ``write:people``.

It refuses any other token with 401 ``unauthorized``, and the reason. It keeps the issuer's keys for ten
minutes, and fetches them again if a token names an unknown key, at most every ten seconds. While the issuer
cannot be reached, it uses them for an hour; after that, and for unknown keys, it answers 503
``issuer-unreachable``.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import threading
import time
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import jwt

from ferry import Caller, Extension, Refused

if TYPE_CHECKING:
    from flask import Request

oidc = Extension("oidc")
log = logging.getLogger(__name__)

_KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_ALGORITHMS = ["EdDSA", *(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512))]
_LEEWAY_S, _FRESH_S, _OLDEST_S = 30.0, 600.0, 3600.0
_AGAIN_S, _TIMEOUT_S, _MOST_BYTES = 10.0, 5.0, 512 * 1024  # of a fetch
_REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "has expired",
    jwt.ImmatureSignatureError: "is not valid yet",
    jwt.InvalidAudienceError: "is for another audience",
    jwt.InvalidIssuerError: "is from another issuer",
    jwt.InvalidSignatureError: "has a wrong signature",
}


@oidc.authenticate
def by_token(request: Request) -> Caller | None:
    """
    Return the caller whom the request's token names; None: it carries no JSON Web Token.
    """
    issuer = os.environ.get("CFP_API_OIDC_ISSUER")
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if not issuer or scheme.lower() != "bearer" or token.count(".") != 2:
        return None
    claims = _verified(token.strip(), issuer)
    name = _claim(claims, os.environ.get("CFP_API_OIDC_NAME_CLAIM") or "sub")
    scopes = _claim(claims, os.environ.get("CFP_API_OIDC_SCOPE_CLAIM") or "scope")
    listed = scopes.split() if isinstance(scopes, str) else scopes if isinstance(scopes, list) else []
    ours = [each for each in listed if isinstance(each, str) and each.startswith(("read:", "write:"))]
    try:
        return Caller(name if isinstance(name, str) else "", ours)
    except ValueError as exc:
        raise _refused("has a name or a scope that Ferry cannot use") from exc


def _verified(token: str, issuer: str) -> Mapping[str, Any]:
    try:
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        if algorithm not in _ALGORITHMS:
            raise _refused("is not signed by an algorithm that is allowed")
        if "crit" in header or "b64" in header:
            raise _refused("has a header that is not understood")
        key = _Keys(issuer).find(header.get("kid"), algorithm)
        if key is None:
            raise _refused("names no key of the issuer")
        return jwt.decode(
            token,
            jwt.PyJWK(key, algorithm),
            algorithms=[algorithm],
            audience=os.environ.get("CFP_API_OIDC_AUDIENCE", "").split(),
            issuer=issuer,
            leeway=_LEEWAY_S,
            options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
        )
    except jwt.MissingRequiredClaimError as exc:
        raise _refused(f"lacks the claim {exc.claim}") from exc
    except jwt.PyJWTError as exc:
        raise _refused(_REASONS.get(type(exc), "cannot be verified")) from exc


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    if name in claims:  # some have dots in their names
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _refused(reason: str) -> Refused:
    said, hint = f"The token {reason}.", "Get a new token from the issuer."
    challenge = f'Bearer realm="ferry", error="invalid_token", error_description="{said}"'
    return Refused(said, code="unauthorized", status=401, hint=hint, headers={"WWW-Authenticate": challenge})


@functools.cache
class _Keys:
    """
    The keys that an issuer publishes. One thread fetches them, and a request waits for five seconds at most.
    """

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self._mutex = threading.Lock()
        self._keys: list[dict[str, Any]] = []
        self._fetched_at = self._tried_at = -math.inf
        self._has_failed = False
        self._running: threading.Event | None = None

    def find(self, kid: str | None, algorithm: str) -> dict[str, Any] | None:
        """
        Return the key *kid*, if it is one for *algorithm*; without a *kid*, the only one that is.

        Raises:
            Refused: 503: the issuer cannot be reached.
        """
        if (age_s := time.monotonic() - self._fetched_at) > _FRESH_S:
            self._fetch(_TIMEOUT_S if age_s > _OLDEST_S else 0.0)
        if (found := self._choose(kid, algorithm)) is None:
            self._fetch(_TIMEOUT_S)
            found = self._choose(kid, algorithm)
        is_unknown = found is None and (self._has_failed or self._running)
        if is_unknown or time.monotonic() - self._fetched_at > _OLDEST_S:
            said, headers = "The issuer of the tokens cannot be reached.", {"Retry-After": f"{_AGAIN_S:.0f}"}
            raise Refused(said, code="issuer-unreachable", status=503, hint="Try again.", headers=headers)
        return found

    def _choose(self, kid: str | None, algorithm: str) -> dict[str, Any] | None:
        found = [
            key
            for key in self._keys
            if key.get("kty") == _KINDS[algorithm[:2]]
            and key.get("alg", algorithm) == algorithm
            and key.get("use", "sig") == "sig"
            and kid in (None, key.get("kid"))
        ]
        return found[0] if len(found) == 1 else None

    def _fetch(self, wait_s: float) -> None:
        with self._mutex:
            if self._running is None and time.monotonic() - self._tried_at >= _AGAIN_S:
                self._tried_at, self._running = time.monotonic(), threading.Event()
                threading.Thread(target=self._run, args=(self._running,), daemon=True).start()
            running = self._running
        if running is not None:
            running.wait(max(0.0, self._tried_at + wait_s - time.monotonic()))

    def _run(self, done: threading.Event) -> None:
        try:
            self._keys, self._fetched_at = _published(self._issuer), time.monotonic()
            self._has_failed = False
        except Exception as exc:  # noqa: BLE001
            # Whatever an issuer answers, it has no keys for us now.
            self._has_failed = True
            log.warning("the keys of %s cannot be fetched: %s", self._issuer, str(exc)[:300])
        self._running = None
        done.set()


def _published(issuer: str) -> list[dict[str, Any]]:
    document = _get(f"{issuer.rstrip('/')}/.well-known/openid-configuration", issuer)
    if document["issuer"] != issuer:
        raise ValueError(f"the discovery document is of the issuer {str(document['issuer'])[:100]!r}")
    return [key for key in _get(document["jwks_uri"], issuer)["keys"] if isinstance(key, dict)]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None: ...


def _get(url: str, issuer: str) -> Any:
    if urlsplit(url).scheme not in ("https", urlsplit(issuer).scheme):
        raise ValueError(f"{url[:200]!r} is no https address")
    until, text = time.monotonic() + _TIMEOUT_S, b""
    with urllib.request.build_opener(_NoRedirect).open(url, timeout=_TIMEOUT_S) as answer:
        while piece := answer.read1(64 * 1024):
            text += piece
            if len(text) > _MOST_BYTES or time.monotonic() > until:
                raise ValueError(f"{url[:200]!r} answers with too much, or too slowly")
    return json.loads(text)
