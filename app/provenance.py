"""
A commit's author, message and trailers, from the request that makes it.

They never contain an address, a user agent, a token or a body: a commit is public for ever.
"""

from __future__ import annotations

import re
import unicodedata
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from flask import g, request

from ferry.app.problems import Problem
from ferry.app.services import services
from ferry.writes import Caller

MAX_SUMMARY = 500
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """
    The description of a commit.

    Attributes:
        message: ``ACTOR: METHOD PATH``, or the route of an extension, and the caller's own summary below it.
        author: Name and pseudonymous address.
        trailers: ``Action``, ``Actor``, ``Subject-Type``, ``Subject-Path``, ``Request-Id``.
    """

    message: str
    author: tuple[str, str]
    trailers: list[tuple[str, str]]


def provenance(
    actor: Caller,
    action: str,
    subjects: Sequence[tuple[str, str]],
    *,
    summary: str | None = None,
    route: str | None = None,
) -> Provenance:
    """
    Describe the commit that the current request makes.

    Args:
        actor: Who makes it.
        action: Such as ``record.put``.
        subjects: Sheet and path of each thing that changes.
        summary: The caller's own words; default: the header ``Commit-Message``, percent-encoded UTF-8.
        route: Replaces the request's path, a part of which may be secret; default: that path.

    Raises:
        Problem: 400 if the summary cannot be part of a commit.
    """
    said = _checked(unquote(request.headers.get("Commit-Message", "")) if summary is None else summary)
    message = f"{actor.name}: {request.method} {quote(request.path) if route is None else route}"
    return Provenance(
        message=f"{message}\n\n{said}" if said else message,
        author=(actor.name, f"{actor.name}@users.noreply.{services().pipeline.settings.api_host}"),
        trailers=[
            ("Action", action),
            ("Actor", actor.name),
            *subject_trailers(subjects),
            ("Request-Id", request_id()),
        ],
    )


def subject_trailers(subjects: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """
    Return the trailers that name what a commit changes.

    Args:
        subjects: Sheet and path of each thing.
    """
    # A trailer is one line.
    return [
        (name, quote(value, safe="/ ", errors="replace"))
        for subject in subjects
        for name, value in _named(subject)
    ]


def request_id() -> str:
    """
    Return the id of the current request: the client's own, if it is valid.
    """
    if "request_id" not in g:
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    return str(g.request_id)


def _named(subject: tuple[str, str]) -> list[tuple[str, str]]:
    sheet, path = subject
    # Without a path, the write fails, or gitsheets fills in a field that was not sent.
    return [("Subject-Type", sheet), *([("Subject-Path", path)] if path else [])]


def _checked(summary: str) -> str:
    # A line break would let a caller forge trailers; a surrogate has no UTF-8.
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in summary):
        raise _refused("holds a control character or a line break")
    if len(summary) > MAX_SUMMARY:
        raise _refused(f"is longer than {MAX_SUMMARY} characters")
    if "\ufffd" in summary:
        raise _refused("is not percent-encoded UTF-8")
    return summary.strip()


def _refused(detail: str) -> Problem:
    return Problem(400, "message-invalid", f"The commit's message {detail}.", "Send one plain line, or none.")
