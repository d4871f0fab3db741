"""
Who looks at a page, by a signed cookie; and that a form was sent from a page of ours.

Nothing is kept on the server: every API process reads what any of them signed,
because the key is made from the admin token. A new admin token is a new key, and
so signs everybody out.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import cast

from flask import Flask, Response, current_app, g, request
from itsdangerous import BadData, URLSafeSerializer, URLSafeTimedSerializer

COOKIE = "ferry_status"
LASTS_S = 12 * 3600
_EXTENSION = "ferry.sessions"
_SIGNED = {"key_derivation": "hmac", "digest_method": hashlib.sha256}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """
    One browser.

    Attributes:
        name: What tells it from others; random.
        signed_in: Whether the admin token was given.
    """

    name: str
    signed_in: bool


class Sessions:
    """
    Signs and reads sessions and form tokens.

    Args:
        admin_token: What the key is made from; None: the key is made up, and holds for this process.
    """

    def __init__(self, admin_token: str | None) -> None:
        key = secrets.token_bytes(32) if admin_token is None else _stretch(admin_token)
        self._cookies = URLSafeTimedSerializer(key, salt="ferry session", signer_kwargs=_SIGNED)
        self._forms = URLSafeSerializer(key, salt="ferry form", signer_kwargs=_SIGNED)

    def read(self, cookie: str) -> Session | None:
        """
        Return the session that *cookie* was signed for, or None.
        """
        try:
            name, signed_in = self._cookies.loads(cookie, max_age=LASTS_S)
        except (BadData, TypeError, ValueError):
            return None
        return Session(name=name, signed_in=signed_in)

    def cookie(self, session: Session) -> str:
        """
        Return the cookie of *session*.
        """
        return str(self._cookies.dumps([session.name, session.signed_in]))

    def form_token(self, session: Session) -> str:
        """
        Return what every form of *session* carries.
        """
        return str(self._forms.dumps(session.name))

    def is_form_token(self, session: Session, given: str) -> bool:
        """
        Whether *given* is what the forms of *session* carry.
        """
        return hmac.compare_digest(self.form_token(session).encode(), given.encode())


def _stretch(admin_token: str) -> bytes:
    # A cookie would otherwise let its holder try millions of short tokens a second at home.
    return hashlib.scrypt(admin_token.encode(), salt=b"ferry status page", n=2**14, r=8, p=1)


def register(app: Flask, admin_token: str | None) -> None:
    """
    Make *app* know its sessions.
    """
    app.extensions[_EXTENSION] = Sessions(admin_token)


def sessions() -> Sessions:
    """
    Return the sessions of the app that handles this request.
    """
    return cast(Sessions, current_app.extensions[_EXTENSION])


def current_session() -> Session:
    """
    Return the session of this request; a new one, not signed in, where it came without.
    """
    if "session" not in g:
        g.session = sessions().read(request.cookies.get(COOKIE, "")) or begin(signed_in=False)
    return cast(Session, g.session)


def begin(*, signed_in: bool) -> Session:
    """
    Give this request's browser a new session, so that none from before is signed in by it.
    """
    g.session = Session(name=secrets.token_urlsafe(16), signed_in=signed_in)
    g.session_is_new = True
    return cast(Session, g.session)


def keep(response: Response) -> None:
    """
    Set the cookie, where the session is new.
    """
    if not g.get("session_is_new"):
        return
    # Behind a proxy that ends TLS, the header is all that tells; to claim it falsely harms only oneself.
    secure = request.is_secure or request.headers.get("X-Forwarded-Proto") == "https"
    response.set_cookie(
        COOKIE,
        sessions().cookie(g.session),
        max_age=LASTS_S,
        path="/status",
        secure=secure,
        httponly=True,
        samesite="Strict",
    )
