"""
What a replica does with a write: it names the primary, which makes it.
"""

from __future__ import annotations

from urllib.parse import quote

from flask import Response, request

from ferry.app.problems import Problem
from ferry.app.services import services

_SAFE = "/:@!$&'()*+,;=~-._"  # what a path may hold as it is (RFC 3986)


def send_to_primary() -> Response | None:
    """
    Answer a request that would change something, on a replica; None where this is the primary.

    Raises:
        Problem: 403 where the replica does not know the primary.
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
