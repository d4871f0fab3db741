"""
Who may write, and who may operate: bearer tokens, compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac

from flask import request

from app.problems import Problem
from app.services import services

ANYBODY = "dev"
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="ferry"'}


def writer() -> str:
    """
    Return the name of whoever sends this request, who may write.

    Raises:
        Problem: 401 without a known token, 403 where nobody may write.
    """
    if services().open_access:
        return ANYBODY
    tokens = services().pipeline.settings.api_tokens
    if not tokens:
        raise Problem(
            403,
            "writes-closed",
            "This server takes no writes.",
            "An operator names writers in CFP_API_TOKENS.",
        )
    digest = hashlib.sha256(_bearer().encode()).hexdigest()
    # Every digest is compared, so that the time taken names nobody.
    names = [name for name, known in tokens.items() if hmac.compare_digest(known, digest)]
    if not names:
        raise _unauthorised("The token is not known.")
    return names[0]


def operator() -> None:
    """
    Let only an operator pass.

    Raises:
        Problem: 401 without the admin token, 503 where none is set.
    """
    if services().open_access:
        return
    known = services().pipeline.settings.admin_token
    if known is None:
        raise Problem(
            503, "admin-closed", "The operators' endpoints are closed.", "Set CFP_ADMIN_TOKEN to open them."
        )
    if not hmac.compare_digest(known.encode(), _bearer().encode()):
        raise _unauthorised("The token is not the admin token.")


def reloader() -> None:
    """
    Let only pass who may have the repository reloaded: the remote's webhook.

    Raises:
        Problem: 401 without the secret, 503 where none is set.
    """
    if services().open_access:
        return
    known = services().pipeline.settings.data_reload_secret
    if known is None:
        raise Problem(
            503, "reload-closed", "The reload webhook is closed.", "Set CFP_DATA_RELOAD_SECRET to open it."
        )
    if not hmac.compare_digest(known.encode(), _bearer().encode()):
        raise _unauthorised("The token is not the reload secret.")


def _bearer() -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise _unauthorised("The request carries no bearer token.")
    return token.strip()


def _unauthorised(detail: str) -> Problem:
    return Problem(
        401, "unauthorized", detail, "Send the header Authorization: Bearer TOKEN.", headers=_CHALLENGE
    )
