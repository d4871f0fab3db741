"""
Removing private data from envelopes for Sentry, in every kind of item.

Errors, pages, timings with their spans, breadcrumbs, check-ins and log lines all pass through here
(``ferry.worker.observe.sentry``). Texts are redacted, and URLs lose their query. Of a request, only its
method, its URL and the headers on an allow-list are sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from sentry_sdk.envelope import Envelope, Item, PayloadRef

from ferry.worker.observe.redaction import redact_all

HEADERS = frozenset({
    "accept", "content-length", "content-type", "host", "traceparent", "user-agent", "x-request-id",
})  # fmt: skip

_OF_A_REQUEST = frozenset({"method", "url", "headers"})
# Sentry's integrations store queries, bodies, cookies, variables and users under these names.
_LEFT_OUT = frozenset({
    "query_string", "cookies", "env", "vars", "user",
    "http.query", "http.fragment", "url.query", "url.fragment",
})  # fmt: skip
_LEFT_OUT_FAMILIES = (
    "http.request.body",
    "http.request.cookie",
    "http.request.header",
    "http.response.header",
)
_QUERY = re.compile(r"(?P<address>(?:\b[a-z][a-z0-9+.-]{1,20}://|/)[^\s?'\"<>]*)\?[^\s'\"<>]+", re.IGNORECASE)


def clean_envelope(envelope: Envelope) -> Envelope:
    """
    Return *envelope* without private data. Drops items that are not JSON, such as attachments.
    """
    items = [cleaned for item in envelope.items if (cleaned := _clean_item(item)) is not None]
    return Envelope(headers=clean(envelope.headers), items=items)


def clean(value: Any) -> Any:
    """
    Return plain data without private data, at any depth.
    """
    return _clean(redact_all(value))


def _clean_item(item: Item) -> Item | None:
    content = item.payload.json
    if content is None:
        try:
            content = json.loads(item.get_bytes())
        except ValueError:
            return None
    headers = {name: each for name, each in item.headers.items() if name != "length"}
    return Item(PayloadRef(json=clean(content)), headers=headers)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _QUERY.sub(r"\g<address>", value)
    if isinstance(value, list):
        return [_clean(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    return {
        name: _clean_member(name, each)
        for name, each in value.items()
        if name not in _LEFT_OUT and not str(name).startswith(_LEFT_OUT_FAMILIES)
    }


def _clean_member(name: str, value: Any) -> Any:
    if name == "headers":
        pairs = value.items() if isinstance(value, Mapping) else _pairs(value)
        return {header: _clean(each) for header, each in pairs if str(header).lower() in HEADERS}
    if name == "request" and isinstance(value, Mapping):
        return _clean({each: value[each] for each in value if each in _OF_A_REQUEST})
    return _clean(value)


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    if not isinstance(value, list):
        return []
    return [(each[0], each[1]) for each in value if isinstance(each, list) and len(each) == 2]
