"""
Writes sent to a replica: it redirects them to the primary.
"""

from __future__ import annotations

from urllib.parse import quote

from flask import Response, request

from ferry.app.problems import Problem
from ferry.app.services import services

_SAFE = "/:@!$&'()*+,;=~-._"  # characters that a path may hold unquoted (RFC 3986)


def send_to_primary() -> Response | None:
    """
    Answer the current request, a write, with a redirect to the primary; None if this is the primary.

    Raises:
        Problem: 403 if CFP_API_PRIMARY_URL is not set on the replica.
    """
    settings = services().pipeline.settings
    if not settings.is_replica:
        return None
    if settings.api_primary_url is None:
        raise Problem(
            403,
            "read-only-replica",
            "This is a replica, which reads only.",
            "Send the request to the primary. An operator can name it in CFP_API_PRIMARY_URL.",
        )
    query = request.query_string.decode("latin-1")
    place = quote(request.path, safe=_SAFE) + (f"?{query}" if query else "")
    return Response(status=307, headers={"Location": f"{settings.api_primary_url}{place}"})
