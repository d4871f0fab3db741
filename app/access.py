"""
Who may read, who may write, and who may operate: bearer tokens, compared in constant time.
"""

from __future__ import annotations

import hmac
import sys
from typing import cast

from flask import g, request
from werkzeug.exceptions import HTTPException

from ferry.app.clients.limits import address_key
from ferry.app.clients.signatures import proofs_in
from ferry.app.clients.tokens import Tokens
from ferry.app.problems import Problem
from ferry.app.services import Services, services
from ferry.app.store.rules import call, failed
from ferry.extension import Authenticator
from ferry.worker.ledger.operators import Operator
from ferry.worker.settings import Token
from ferry.writes import Caller

ANYBODY = "dev"
ANY_SHEET = ""  # for an answer that shows no record, such as the names of the sheets
RELOAD_PATH = "/api/_internal/reload-data"
READER_COOKIE = "ferry_reader"
_FORMS = ("/status/", "/browse/")
_FORM_BYTES = 64 * 1024  # a form of the status page may decide hundreds of conflicts
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="ferry"'}


def reader(sheet: str | None = None) -> None:
    """
    Refuse the request unless its sender may read. Everyone may, unless ``CFP_API_READ`` is ``token``.

    Args:
        sheet: The sheet that is read, or ``ANY_SHEET``; None: the request shows every sheet's records.

    Raises:
        Problem: 401 without a known token, 403 where the token may not read that sheet.
    """
    if reads_are_open():
        return
    sender = caller()
    if sheet != ANY_SHEET and not sender.may_read("*" if sheet is None else sheet):
        what = "all sheets" if sheet is None else f"the sheet {sheet!r}"
        raise _out_of_scope(sender, "read", what)


def may_read(sheet: str) -> bool:
    """
    Whether the sender of this request may read *sheet*; ``*`` is every sheet.

    Raises:
        Problem: 401 without a known token, if reads need one.
    """
    return reads_are_open() or caller().may_read(sheet)


def admit_browser() -> None:
    """
    Let the cookie of a browser that has signed in name the sender of this request.

    Only for pages that change nothing: a browser sends the cookie whichever site asks it to.
    """
    if not reads_are_open() and caller_if_known() is None and (ticket := request.cookies.get(READER_COOKIE)):
        found = services().tickets.reader(ticket, services().tokens.known())
        g.caller = _caller_of(*found) if found else None


def listener() -> None:
    """
    Refuse the request unless its sender may read every sheet, or has a ticket from somebody who may.

    Raises:
        Problem: 401 without a known token or with a ticket that is not valid, 403 as ``reader``.
    """
    ticket = request.args.get("ticket")
    if ticket is None or reads_are_open():
        reader()
    elif not services().tickets.is_for_events(ticket):
        raise Problem(
            401,
            "ticket-invalid",
            "The ticket has expired, or this server did not issue it.",
            "Get another: GET /api/events/ticket with the header Authorization: Bearer TOKEN.",
            headers=_CHALLENGE,
        )


def reads_are_open() -> bool:
    """
    Whether everyone may read.
    """
    return services().pipeline.settings.api_read != "token" or services().open_access


def writer(*sheets: str) -> Caller:
    """
    Return the sender of this request; refuse it unless the sender may write *sheets*.

    Raises:
        Problem: 401 without a known token; 403 if the server accepts no writes, or the token may not write
            one of the sheets.
    """
    if not has_writers(services()):
        raise Problem(
            403,
            "writes-closed",
            "This server accepts no writes.",
            "An operator can add writers to CFP_API_TOKENS or CFP_API_TOKENS_PATH.",
        )
    sender = caller()
    if refused := sorted(sheet for sheet in set(sheets) if not sender.may_write(sheet)):
        raise _out_of_scope(sender, "write", f"the sheet {refused[0]!r}")
    return sender


def caller() -> Caller:
    """
    Return the sender of this request; refuse it if its sender is not known.

    Raises:
        Problem: 401 without a known token.
        StoreError: An extension refuses it, or fails.
    """
    if (found := caller_if_known()) is not None:
        return found
    _bearer()
    raise wrong_token("The token is not known.")


def caller_if_known() -> Caller | None:
    """
    Return the sender of this request, as named by one of Ferry's tokens or by an extension; None if neither
    knows it.

    Under open access, extensions are asked first, and an unknown sender is ``dev``.

    Raises:
        StoreError: An extension refuses it, or fails.
    """
    if "caller" not in g:
        is_open, token = services().open_access, _token_in(request.headers.get("Authorization", ""))
        found = None if is_open else services().tokens.find(token)
        anybody = Caller(ANYBODY) if is_open else None
        g.caller = _caller_of(*found) if found else _authenticated() or anybody
    return cast(Caller | None, g.caller)


def _authenticated() -> Caller | None:
    for extension, authenticator in _authenticators(services()):
        found = call(extension, authenticator, request, passing=(HTTPException,))
        if isinstance(found, Caller):
            return found
        if found is not None:
            wrong = TypeError(f"returned {type(found).__name__} instead of ferry.Caller or None")
            raise failed(extension, authenticator, wrong)
    return None


def has_writers(services: Services) -> bool:
    """
    Whether anybody can be known: by a token, by an extension, or because nobody is asked.
    """
    return services.open_access or bool(services.tokens.known() or _authenticators(services))


def _authenticators(services: Services) -> list[tuple[str, Authenticator]]:
    return [(each.name, known) for each in services.extensions for known in each.hooks.authenticators]


def _caller_of(name: str, token: Token) -> Caller:
    reads = ["*"] if token.reads is None or token.sheets is None else sorted(token.reads)
    writes = ["*"] if token.sheets is None else sorted(token.sheets)
    return Caller(name, (*(f"read:{sheet}" for sheet in reads), *(f"write:{sheet}" for sheet in writes)))


def _out_of_scope(sender: Caller, verb: str, what: str) -> Problem:
    scope = sorted(each.partition(":")[2] for each in sender.scopes if each.startswith(f"{verb}:"))
    return Problem(
        403,
        "scope-missing",
        f"The token of {sender.name} may not {verb} {what}.",
        f"Its sheets are: {', '.join(scope) or 'none'}. An operator can grant more.",
    )


def client_of(authorization: str, address: str, tokens: Tokens) -> str:
    """
    Return the key that identifies the sender of a request: its token's name, or else its address.

    Args:
        authorization: The request's header. A token that is not known is ignored.
    """
    known = tokens.find(token) if (token := _token_in(authorization)) else None
    return f"token {known[0]}" if known else address_key(address)


def may_send(services: Services, path: str, authorization: str) -> int:
    """
    Return how many bytes of a request's body to read, by its path and its sender.

    Args:
        authorization: The request's header.
    """
    settings, token = services.pipeline.settings, _token_in(authorization)
    if path == RELOAD_PATH:
        return settings.api_max_body_bytes  # the signature of a webhook covers its body
    if path.startswith(_FORMS):
        return _FORM_BYTES
    is_known = services.open_access or services.tokens.find(token) is not None
    is_admin = settings.admin_token is not None and hmac.compare_digest(
        settings.admin_token.encode(), token.encode()
    )
    if is_known or is_admin or _authenticators(services):
        return sys.maxsize  # an extension may know the sender; the view then applies its own limit
    return settings.api_max_body_bytes if _is_public(services, path) else 0


def _is_public(services: Services, path: str) -> bool:
    """
    Whether *path* may be an address of an extension that any sender may use.
    """
    hooks = [extension.hooks for extension in services.extensions]
    public = [route.path.partition("<")[0] for each in hooks for route in each.routes if route.public]
    return path.startswith(tuple(public)) or any(each.blueprint for each in hooks)


def operator() -> None:
    """
    Refuse the request unless an operator sent it.

    Raises:
        Problem: 401 without the admin token, 503 if none is set.
    """
    if services().open_access:
        return
    admin_token()
    if not is_admin_token(_bearer()):
        raise wrong_token("The token is not the admin token.")


def admin_token() -> str:
    """
    Return the operators' token.

    Raises:
        Problem: 503 if none is set.
    """
    known = services().pipeline.settings.admin_token
    if known is None:
        raise Problem(
            503,
            "admin-closed",
            "The operators' endpoints are off.",
            "Set CFP_ADMIN_TOKEN to enable them.",
        )
    return known


def is_admin_token(given: str) -> bool:
    """
    Whether *given* is the operators' token. Compares in constant time.

    Raises:
        Problem: 503 if none is set.
    """
    return hmac.compare_digest(admin_token().encode(), given.encode())


def is_operator_by_header() -> bool:
    """
    Whether the request carries the operators' token as a bearer token.

    Raises:
        Problem: 503 if none is set.
    """
    token = _token_in(request.headers.get("Authorization", ""))
    if token and not is_admin_token(token):
        services().limits.wrong_token(request.remote_addr or "")
    return bool(token) and is_admin_token(token)


def operator_of(why: str | None = None) -> Operator:
    """
    Return the operator who sent this request: the name of its token, and its address.

    Args:
        why: The reason that the request gives.
    """
    name = ANYBODY if services().open_access else "admin"
    return Operator.of(f"{name}@{request.remote_addr or 'unknown'}", why)


def reloader() -> None:
    """
    Refuse the request unless it carries a reload secret, or is signed with one.

    A secret that is set is required under open access too, so that a webhook can be tried with ``ferry dev``.

    Raises:
        Problem: 401 without a secret or with a wrong one, 503 if none is set.
    """
    known = services().pipeline.settings.data_reload_secrets
    if not known and services().open_access:
        return
    if not known:
        raise Problem(
            503,
            "reload-closed",
            "The reload webhook is off.",
            "Set CFP_DATA_RELOAD_SECRET to enable it.",
        )
    proofs = proofs_in(request.headers)
    if not proofs:
        raise _unauthorised("The request carries neither a signature nor a token.")
    body = request.get_data()
    if not any(proof.holds(body, known) for proof in proofs):
        raise wrong_token("The signature or the token is not made with the reload secret.")


def wrong_token(detail: str) -> Problem:
    """
    Count a wrong token against its sender's limit, and return the problem to answer with.
    """
    services().limits.wrong_token(request.remote_addr or "")
    return _unauthorised(detail)


def _bearer() -> str:
    token = _token_in(request.headers.get("Authorization", ""))
    if not token:
        raise _unauthorised("The request carries no bearer token.")
    return token


def _token_in(authorization: str) -> str:
    """
    Return the bearer token in a header ``Authorization``, or "".
    """
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _unauthorised(detail: str) -> Problem:
    return Problem(
        401, "unauthorized", detail, "Send the header Authorization: Bearer TOKEN.", headers=_CHALLENGE
    )
