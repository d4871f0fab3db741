"""
Sessions of browsers, by a signed cookie; and tokens that prove that a form came from our page.

All API processes share one random key, in a file, so that each accepts the others' cookies, and a cookie
reveals nothing of the admin token. A session belongs to one admin token: a new token signs every browser out.
A sign-out is remembered until the cookie expires.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from flask import Flask, Response, current_app, g, request
from itsdangerous import BadData, URLSafeSerializer, URLSafeTimedSerializer

from ferry.app.clients import cookies
from ferry.app.clients.shared_key import shared_key

COOKIE = "ferry_status"
LASTS_S = 12 * 3600
_EXTENSION = "ferry.sessions"
_SIGNED = {"key_derivation": "hmac", "digest_method": hashlib.sha256}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """
    One browser.

    Attributes:
        name: Random; identifies the session.
        signed_in: Whether the admin token was given.
    """

    name: str
    signed_in: bool


class Sessions:
    """
    Signs and reads sessions and form tokens.

    Args:
        directory: Directory of the key and of the sign-outs.
        admin_token: The token that signs browsers in.
    """

    def __init__(self, directory: Path, admin_token: str | None) -> None:
        key = shared_key(directory)
        salt = hmac.digest(key, (admin_token or "").encode(), "sha256")
        self._cookies = URLSafeTimedSerializer(key, salt=b"ferry session" + salt, signer_kwargs=_SIGNED)
        self._forms = URLSafeSerializer(key, salt="ferry form", signer_kwargs=_SIGNED)
        self._signed_out = directory / "signed-out"

    def read(self, cookie: str) -> Session | None:
        """
        Return the session that *cookie* was signed for, or None.
        """
        try:
            name, signed_in = self._cookies.loads(cookie, max_age=LASTS_S)
        except (BadData, TypeError, ValueError):
            return None
        if signed_in and (self._signed_out / name).exists():
            return None
        return Session(name=name, signed_in=signed_in)

    def cookie(self, session: Session) -> str:
        """
        Return the cookie of *session*.
        """
        return str(self._cookies.dumps([session.name, session.signed_in]))

    def sign_out(self, session: Session) -> None:
        """
        Refuse the cookie of *session* from now on, in every process.

        Raises:
            OSError: The sign-out cannot be stored; the disk is full.
        """
        self._signed_out.mkdir(exist_ok=True)
        for left_over in self._signed_out.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - left_over.stat().st_mtime > LASTS_S:
                    left_over.unlink()
        (self._signed_out / session.name).touch()

    def form_token(self, session: Session) -> str:
        """
        Return the form token of *session*.
        """
        return str(self._forms.dumps(session.name))

    def is_form_token(self, session: Session, given: str) -> bool:
        """
        Whether *given* is the form token of *session*.
        """
        return hmac.compare_digest(self.form_token(session).encode(), given.encode())


def register(app: Flask, directory: Path, admin_token: str | None) -> None:
    """
    Add sessions to *app*.
    """
    app.extensions[_EXTENSION] = Sessions(directory, admin_token)


def sessions() -> Sessions:
    """
    Return the sessions of the app that handles this request.
    """
    return cast(Sessions, current_app.extensions[_EXTENSION])


def current_session() -> Session:
    """
    Return the session of this request, or a new one that is not signed in.
    """
    if "session" not in g:
        g.session = sessions().read(request.cookies.get(COOKIE, "")) or begin(signed_in=False)
    return cast(Session, g.session)


def begin(*, signed_in: bool) -> Session:
    """
    Start a new session for this browser, so that signing in does not sign in an older cookie.
    """
    g.session = Session(name=secrets.token_urlsafe(16), signed_in=signed_in)
    g.session_is_new = True
    return cast(Session, g.session)


def keep(response: Response) -> None:
    """
    Set the cookie if the session is new.
    """
    if g.get("session_is_new"):
        value = sessions().cookie(g.session)
        cookies.keep(response, COOKIE, value, lasts_s=LASTS_S, path="/status", samesite="Strict")
