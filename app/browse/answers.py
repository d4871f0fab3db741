"""
What the endpoints of these pages answer with.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Response, render_template, request

from ferry.app import access
from ferry.app.problems import MEDIA_TYPE
from ferry.app.status_page import words
from ferry.worker.observe.printable import in_line

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
}


def page(name: str, **values: Any) -> str:
    """
    Render the template *name* with what every page needs.
    """
    return render_template(
        f"browse/{name}.html",
        **values,
        words=words,
        in_line=in_line,
        curl_needs_token=not access.reads_are_open(),
        is_signed_in=access.READER_COOKIE in request.cookies and not access.reads_are_open(),
    )


def finish(response: Response) -> Response:
    """
    Show an error as a page, unless a program asked; and add the headers of every page.
    """
    if response.mimetype == MEDIA_TYPE and "text/html" in request.headers.get("Accept", ""):
        response.set_data(_error_page(response.get_json()))
        response.content_type = "text/html; charset=utf-8"
    if response.mimetype == "text/html" and "Content-Security-Policy" not in response.headers:
        response.headers.update(_HEADERS)  # an attachment has stricter ones of its own
    return response


def _error_page(problem: Mapping[str, Any]) -> str:
    if problem["status"] == HTTPStatus.UNAUTHORIZED:
        return page("sign_in", back=request.full_path.removesuffix("?"), refused=False)
    return page("problem", problem=problem)
