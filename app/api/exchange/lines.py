"""
Lists of records as lines, in CSV or NDJSON: all that pass the filters, in one answer of any size.

The answer is made while it is sent, from one commit. If the sheet is too large for the memory of lists, its
records are read from git meanwhile, in parts; the lines then come in the order of their paths. With
``limit``, the answer is one page, as in JSON, and its header ``Link`` leads to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from flask import Response, request

from ferry.app.api.asked import Asked
from ferry.app.api.cursors import Shown
from ferry.app.errors import BusyError, SheetTooLargeError
from ferry.app.exchange.columns import Columns
from ferry.app.exchange.forms import FORMS, Form, pieces
from ferry.app.problems import Problem, did_you_mean
from ferry.app.records.codec import Record
from ferry.app.services import services
from ferry.worker.errors import RepositoryError

UNREADABLE = "X-Ferry-Unreadable"
_JSON = "json"
_Read = Callable[[], Iterable[Record]]


def form_asked_for() -> Form | None:
    """
    Return the form of lines that the current request asks for, by ``format`` or by Accept; None for JSON.

    Raises:
        Problem: 400 if there is no such format.
    """
    name = request.args.get("format")
    if name is None:
        types = {form.media_type: form for form in FORMS.values()}
        found = request.accept_mimetypes.best_match(["application/json", *types])
        return types.get(found or "")
    if name != _JSON and name not in FORMS:
        known = [_JSON, *FORMS]
        raise _refused("format", f"there is no format {name[:40]!r}{did_you_mean(name, known)}", known)
    return FORMS.get(name)


def lines_of(asked: Asked, form: Form) -> Response:
    """
    Answer with the records that pass the filters, as lines of *form*.

    Raises:
        Problem: 400 for a cursor without a limit: the list has no pages.
        SheetTooLargeError: The sheet is too large to be sorted.
    """
    has_pages = "limit" in request.args
    if asked.page.is_continued and not has_pages:
        raise _refused("cursor", f"a list as {form.name} without a limit has no pages", ["a limit"])
    read, unreadable = _records(asked)
    links = {}
    if has_pages:
        shown = _page(asked, read())
        links, read = shown.link(), lambda: shown.entries
    lines = form.write(read, Columns(asked.sheet, asked.fields), asked.query.fields)
    response = Response(pieces(lines), content_type=f"{form.media_type}; charset=utf-8")
    response.headers.set("Content-Disposition", "attachment", filename=f"{asked.sheet.name}.{form.name}")
    response.headers["Vary"] = "Accept, Prefer"
    response.headers.update(links)
    if unreadable:
        response.headers[UNREADABLE] = str(unreadable)
    return response


def _page(asked: Asked, records: Iterable[Record]) -> Shown[Record]:
    """
    Return the page of *records* that the request asks for.
    """
    page = asked.page
    found = list(islice(records, page.offset, page.offset + page.limit + 1))
    entries = page.fitting(found)
    return Shown(page=page, commit=asked.snapshot.commit, entries=entries, has_more=len(found) > len(entries))


def _records(asked: Asked) -> tuple[_Read, int]:
    """
    Return what reads the records that pass, and how many of the sheet cannot be read.
    """
    query = asked.query
    try:
        listed = asked.listed()
    except (SheetTooLargeError, BusyError):
        if query.order:
            raise
        return _from_git(asked), 0
    matching = query.select(listed.records)
    return lambda: (query.shown(record) for _, record in matching), len(listed.unreadable)


def _from_git(asked: Asked) -> _Read:
    listing, query = services().listing, asked.query

    def read() -> Iterator[Record]:
        unreadable = 0
        for part in listing.parts(asked.snapshot, asked.sheet):
            yield from (query.shown(record) for _, record in query.select(part.records))
            unreadable += len(part.unreadable)
        if unreadable:  # too late for a header: the client sees that the answer is not whole
            raise RepositoryError(
                f"{unreadable} files of the sheet {asked.sheet.name!r} are not valid records"
            )

    return read


def _refused(parameter: str, detail: str, known: Iterable[str]) -> Problem:
    hint = f"Send {', '.join(known)}."
    return Problem(400, "query-invalid", f"{parameter}: {detail}.", hint, parameter=parameter)
