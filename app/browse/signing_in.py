"""
Signing a browser in, where reads need a token: a form takes one, and from then on a cookie stands for it.

These pages and ``/docs`` accept the cookie, see ``access.admit_browser``; the API does not.
"""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import urlsplit

from flask import Blueprint, redirect, request, url_for
from flask.typing import ResponseReturnValue

from ferry.app import access
from ferry.app.api import docs
from ferry.app.browse.answers import finish, page
from ferry.app.clients import cookies
from ferry.app.clients.neighbours import is_own_site
from ferry.app.clients.tickets import READER_LASTS_S
from ferry.app.problems import Problem
from ferry.app.services import services

bp = Blueprint("browse_sign_in", __name__, url_prefix="/browse")
_OTHERS = ("/", "/docs", "/openapi.json")
for blueprint in (bp, docs.bp):
    blueprint.after_request(finish)


@bp.post("/sign-in")
def sign_in() -> ResponseReturnValue:
    """
    Check an API token, and let this browser read with it for some hours.
    """
    _refuse_other_sites()
    back = request.form.get("back", "")
    found = services().tokens.find(request.form.get("token", "").strip())
    if found is None:
        services().limits.wrong_token(request.remote_addr or "")
        return page("sign_in", back=back, refused=True), HTTPStatus.UNAUTHORIZED
    response = redirect(_own_page(back), HTTPStatus.SEE_OTHER)
    ticket = services().tickets.for_reader(*found)
    cookies.keep(response, access.READER_COOKIE, ticket, lasts_s=READER_LASTS_S, path="/", samesite="Lax")
    return response


@bp.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """
    Forget the token of this browser.
    """
    _refuse_other_sites()
    response = redirect(url_for("browse.home"), HTTPStatus.SEE_OTHER)
    response.delete_cookie(access.READER_COOKIE)
    return response


def _own_page(address: str) -> str:
    """
    Return *address* if it is one of the pages that accept the cookie, else the first of these.
    """
    parts = urlsplit(address)
    is_ours = parts.path in _OTHERS or parts.path.startswith("/browse/")
    if parts.scheme or parts.netloc or not is_ours:
        return url_for("browse.home")
    return request.script_root + address


def _refuse_other_sites() -> None:
    if not is_own_site(request.headers.get("Sec-Fetch-Site")):
        raise Problem(403, "cross-site", "A page of another site sent the form.", "Open / and repeat it.")
