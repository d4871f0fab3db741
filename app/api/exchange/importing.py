"""
Bringing a file of CSV or NDJSON into a sheet.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from flask import Blueprint, g, request
from flask.typing import ResponseReturnValue

from ferry.app.access import writer
from ferry.app.api.writing import Change, Made, answer, committed, is_dry_run, open_transaction, write
from ferry.app.errors import PreconditionError, StoreError
from ferry.app.exchange.columns import Columns
from ferry.app.exchange.forms import FORMS, Form, decoded
from ferry.app.exchange.importing import FEW, MODES, Counts, Import, Line, parts
from ferry.app.finding.fields import Fields
from ferry.app.problems import Problem, store_problem
from ferry.app.provenance import provenance
from ferry.app.services import services
from ferry.app.store.transaction import Transaction

bp = Blueprint("importing", __name__, url_prefix="/api/sheets/<sheet>/import")

MOST_EVERY = 10_000
_TYPES = {form.media_type: form for form in FORMS.values()}
_BYTES = "application/octet-stream"


@bp.post("")
def create(sheet: str) -> ResponseReturnValue:
    """
    Store each line of the body as a record, in one commit or in several.
    """
    actor = writer(sheet)
    if "If-Match" in request.headers:
        raise PreconditionError("An import has no version; send mode=create to change no record.")
    form, create_only, every = _form(), _mode() == "create", _commit_every()
    request.max_content_length = services().pipeline.settings.api_max_attachment_bytes
    lines = partial(_lines, form, request.get_data(), _columns(sheet))
    about = provenance(actor, "records.import", [(sheet, "")])
    if is_dry_run():
        return write(actor, about, _change(sheet, lines, create_only, is_large=False))
    made: list[Made] = []
    try:
        with open_transaction():
            for number, part in enumerate(parts(lines, every)):
                g.pop("evaluations", None)  # each commit has the time of a request for what runs apart
                change = _change(sheet, part, create_only, is_large=every is None or every > FEW)
                made.append(committed(actor, about, change, part=number))
    except StoreError as exc:
        if not made:
            raise
        raise store_problem(exc, **_summary(made)) from exc
    return _answer(sheet, made)


def _change(
    sheet: str, lines: Callable[[], Iterator[Line]], create_only: bool, *, is_large: bool
) -> Callable[[Transaction], Change]:
    keep = services().store.keep
    found = Import(sheet=sheet, lines=lines, create_only=create_only, keep=keep, is_large=is_large)
    return lambda transaction: Change(body={"sheet": sheet, **found.stage(transaction).as_json()})


def _answer(sheet: str, made: list[Made]) -> ResponseReturnValue:
    last = made[-1]
    commit = next((each.commit for each in reversed(made) if each.commit), None)
    body = {"sheet": sheet, **_summary(made)}
    is_replayed = all(each.is_replayed for each in made)
    return answer(Change(body=body), commit, stands_in=last.stands_in, replayed=is_replayed)


def _summary(made: list[Made]) -> dict[str, Any]:
    counts = Counts()
    for each in made:
        counts.add(each.change.body)
    return {**counts.as_json(), "commits": [each.commit for each in made if each.commit]}


def _lines(form: Form, body: bytes, columns: Columns) -> Iterator[Line]:
    return form.read(decoded(io.BytesIO(body)), columns)


def _columns(sheet: str) -> Columns:
    snapshot = services().store.snapshot()
    found = snapshot.sheet(sheet)
    return Columns(found, Fields.of(found, snapshot.contracts(found)))


def _form() -> Form:
    """
    Return the form of the body: that of its type or, if its type says nothing, that which ``format`` names.
    """
    name = request.args.get("format")
    if name is not None and name not in FORMS:
        raise _invalid("format", f"is {name[:40]!r}", f"Send {' or '.join(FORMS)}.")
    # With no other type: a page of another site can make a browser send text.
    if name and request.mimetype == _BYTES:
        return FORMS[name]
    if request.mimetype not in _TYPES:
        raise Problem(
            415,
            "media-type-unsupported",
            f"The body is {request.mimetype[:80] or 'of no type'}.",
            f"Send it as Content-Type: {' or '.join(_TYPES)}; or {_BYTES}, with format=csv or ndjson.",
            headers={"Accept-Post": ", ".join(_TYPES)},
        )
    return _TYPES[request.mimetype]


def _mode() -> str:
    mode = request.args.get("mode", MODES[0])
    if mode not in MODES:
        raise _invalid("mode", f"is {mode[:40]!r}", f"Send {' or '.join(MODES)}.")
    return mode


def _commit_every() -> int | None:
    text = request.args.get("commit_every")
    if text is None:
        return None
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= MOST_EVERY:
        raise _invalid("commit_every", f"is {text[:40]!r}", f"Send a whole number from 1 to {MOST_EVERY}.")
    return int(text)


def _invalid(parameter: str, detail: str, hint: str) -> Problem:
    return Problem(400, "query-invalid", f"{parameter} {detail}.", hint, parameter=parameter)
