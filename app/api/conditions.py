"""
Conditions and ranges of a request (RFC 9110, sections 13 and 14), and its preferences (RFC 7240).
"""

from __future__ import annotations

import re
from dataclasses import replace

from flask import Response, request
from werkzeug.datastructures import ETags

from ferry.app.api.parts import Part
from ferry.app.errors import PreconditionError
from ferry.app.problems import Problem, store_problem

_BYTES = re.compile(r"\s*bytes\s*=(.*)", re.IGNORECASE)
_RANGE = re.compile(r"\s*([0-9]{0,40})\s*-\s*([0-9]{0,40})\s*")


def require(version: str | None, what: str) -> None:
    """
    Check the conditions of a write against the current *version*; None if there is none.

    Raises:
        PreconditionError: ``If-Match`` or ``If-None-Match`` does not hold.
    """
    if "If-Match" in request.headers:
        require_match(request.if_match, version, what)
    if version is not None and request.if_none_match.contains_weak(version):
        raise PreconditionError(f"{what} already exists, in a version that If-None-Match names.")


def require_match(wanted: ETags, version: str | None, what: str) -> None:
    """
    Check that *version* is one of *wanted*, of which the weak ones do not count.

    Raises:
        PreconditionError: It is not.
    """
    if version is None:
        raise PreconditionError(f"{what} does not exist, so it is not the version that If-Match names.")
    if not wanted.contains(version):
        raise PreconditionError(f"{what} is not the version that If-Match names.")


def preference(name: str) -> str | None:
    """
    Return the value of a preference in ``Prefer``, or None.
    """
    for each in request.headers.get("Prefer", "").split(","):
        named, _, value = each.partition("=")
        if named.strip().lower() == name:
            return value.partition(";")[0].strip().strip('"')
    return None


def answer_conditionally(response: Response) -> None:
    """
    Turn the answer to a successful read into 304, 412, 206 or 416 if the request asks for it.

    An answer with ``Accept-Ranges: bytes`` is served by range, one range at a time. A request for several, or
    for an invalid one, gets the whole.
    """
    if request.method not in ("GET", "HEAD") or response.status_code != 200 or response.is_streamed:
        return
    if "ETag" not in response.headers:
        response.add_etag()
    etag = str(response.get_etag()[0])
    try:
        if "If-Match" in request.headers:
            require_match(request.if_match, etag, "The resource")
    except PreconditionError as exc:
        _become(response, store_problem(exc))
        return
    if request.if_none_match.contains_weak(etag):
        response.status_code = 304
        response.set_data(b"")
    elif response.headers.get("Accept-Ranges") == "bytes" and request.method == "GET":
        _answer_range(response, etag)


def _answer_range(response: Response, etag: str) -> None:
    if request.headers.get("If-Range", f'"{etag}"').strip() != f'"{etag}"':
        return
    content = response.response if isinstance(response.response, Part) else response.get_data()
    wanted = _wanted(request.headers.get("Range", ""), len(content))
    if wanted is None or len(wanted) > 1:
        return
    if not wanted:
        hint = "Ask for a range inside the resource; Content-Range gives its size."
        headers = {"Content-Range": f"bytes */{len(content)}"}
        detail = "The range is outside the resource."
        problem = Problem(416, "range-unsatisfiable", detail, hint, headers=headers)
        _become(response, problem)
        return
    first, end = wanted[0]
    response.status_code = 206
    response.headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
    if isinstance(content, Part):
        response.response, response.content_length = replace(content, start=first, end=end), end - first
    else:
        response.set_data(content[first:end])


def _wanted(header: str, length: int) -> list[tuple[int, int]] | None:
    """
    Return first byte and end of each range that can be served; None if the header must be ignored.
    """
    ranges = _BYTES.fullmatch(header)
    parsed = [_RANGE.fullmatch(each) for each in ranges[1].split(",")] if ranges else [None]
    found = []
    for each in parsed:
        if each is None or not (each[1] or each[2]):
            return None
        if not each[1]:
            found.append((max(length - int(each[2]), 0), length))
            continue
        first, last = int(each[1]), int(each[2] or length)
        if each[2] and last < first:
            return None
        found.append((first, min(last + 1, length)))
    return [(first, end) for first, end in found if first < end]


def _become(response: Response, problem: Problem) -> None:
    """
    Turn *response* into the answer to *problem*; keep its other headers.
    """
    answer = problem.response()
    for name in ("ETag", "Accept-Ranges", "Content-Disposition"):
        response.headers.pop(name, None)
    response.status_code = answer.status_code
    response.headers.update(answer.headers)
    response.set_data(answer.get_data())
