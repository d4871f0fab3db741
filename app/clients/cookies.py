"""
Cookies that stand for a browser's sign-in.
"""

from __future__ import annotations

from typing import Literal

from flask import request
from werkzeug.wrappers import Response


def keep(
    response: Response, name: str, value: str, *, lasts_s: int, path: str, samesite: Literal["Lax", "Strict"]
) -> None:
    """
    Set a cookie that no script reads, and that travels by https alone if the request did.
    """
    # Behind a proxy that terminates TLS only the header shows it; a false header harms only its sender.
    secure = request.is_secure or request.headers.get("X-Forwarded-Proto") == "https"
    response.set_cookie(
        name, value, max_age=lasts_s, path=path, secure=secure, httponly=True, samesite=samesite
    )
