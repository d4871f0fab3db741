"""
Who may write, and who may operate: bearer tokens, compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac

from flask import request

from app.problems import Problem
from app.services import services
from worker.settings import Token

ANYBODY = "dev"
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="ferry"'}


def reader() -> None:
    """
    Let only pass who may read: anybody, unless CFP_API_READ asks for a token.

    Raises:
        Problem: 401 without a known token.
    """
    if services().pipeline.settings.api_read == "token" and not services().open_access:
        _known()


def writer(*sheets: str) -> str:
    """
    Return the name of whoever sends this request, who may write *sheets*.

    Raises:
        Problem: 401 without a known token, 403 where nobody may write, or not to one of them.
    """
    if services().open_access:
        return ANYBODY
    if not services().pipeline.settings.api_tokens:
        raise Problem(
            403,
            "writes-closed",
            "This server takes no writes.",
            "An operator names writers in CFP_API_TOKENS.",
        )
    name, token = _known()
    refused = sorted(set(sheets) - token.sheets) if token.sheets is not None else []
    if refused:
        raise Problem(
            403,
            "scope-missing",
            f"The token of {name} may not write the sheet {refused[0]!r}.",
            f"It may write {', '.join(sorted(token.sheets or ()))}; an operator grants more.",
        )
    return name


def caller() -> str:
    """
    Return what tells one client from another: its token's hash, or else its address.
    """
    given = request.headers.get("Authorization", "")
    return hashlib.sha256(given.encode()).hexdigest() if given else request.remote_addr or "unknown"


def _known() -> tuple[str, Token]:
    digest = hashlib.sha256(_bearer().encode()).hexdigest()
    # Every digest is compared, so that the time taken names nobody.
    found = [
        (name, token)
        for name, token in services().pipeline.settings.api_tokens.items()
        if hmac.compare_digest(token.digest, digest)
    ]
    if not found:
        raise _unauthorised("The token is not known.")
    return found[0]


def operator() -> None:
    """
    Let only an operator pass.

    Raises:
        Problem: 401 without the admin token, 503 where none is set.
    """
    if services().open_access:
        return
    admin_token()
    if not is_admin_token(_bearer()):
        raise _unauthorised("The token is not the admin token.")


def admin_token() -> str:
    """
    Return the operators' token.

    Raises:
        Problem: 503 where none is set.
    """
    known = services().pipeline.settings.admin_token
    if known is None:
        raise Problem(
            503, "admin-closed", "The operators' endpoints are closed.", "Set CFP_ADMIN_TOKEN to open them."
        )
    return known


def is_admin_token(given: str) -> bool:
    """
    Whether *given* is the operators' token, in a time that tells nothing of it.

    Raises:
        Problem: 503 where none is set.
    """
    return hmac.compare_digest(admin_token().encode(), given.encode())


def is_operator_by_header() -> bool:
    """
    Whether the request carries the operators' token as a bearer token.

    Raises:
        Problem: 503 where none is set.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return is_admin_token(token.strip()) and scheme.lower() == "bearer"


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
