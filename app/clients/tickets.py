"""
Tickets: signed and dated, for a browser that cannot send its token with each request.

A ticket reveals nothing of the token. It begins as Ferry's tokens do, so that logs show it as ``***``.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from itsdangerous import BadData, URLSafeTimedSerializer
from itsdangerous.encoding import base64_decode, base64_encode

from ferry.worker.settings import Token

EVENTS_LASTS_S = 60
READER_LASTS_S = 12 * 3600
_EVENTS, _READER = "events", "reader"
_PREFIX = "ferry_"


class Tickets:
    """
    Issues tickets, and reads those of every process with the same key.

    Args:
        key: See ``shared_key``.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def for_events(self) -> str:
        """
        Return a ticket for the event stream.
        """
        return self._issue(_EVENTS, "")

    def is_for_events(self, ticket: str) -> bool:
        """
        Whether *ticket* is one for the event stream that has not expired.
        """
        return self._read(_EVENTS, ticket, EVENTS_LASTS_S) is not None

    def for_reader(self, name: str, token: Token) -> str:
        """
        Return a ticket for the pages that people read, for the holder of *token*.
        """
        return self._issue(_READER, f"{name}:{self._mark(token)}")

    def reader(self, ticket: str, known: Mapping[str, Token]) -> tuple[str, Token] | None:
        """
        Return the name and the rights of the token that *ticket* stands for, if it is still among *known*.
        """
        name, _, mark = (self._read(_READER, ticket, READER_LASTS_S) or "").rpartition(":")
        token = known.get(name)
        return (name, token) if token and hmac.compare_digest(self._mark(token), mark) else None

    def _mark(self, token: Token) -> str:
        return hmac.digest(self._key, token.digest.encode(), "sha256").hex()

    def _issue(self, purpose: str, holder: str) -> str:
        return _PREFIX + base64_encode(self._serializer(purpose).dumps(holder)).decode()

    def _read(self, purpose: str, ticket: str, lasts_s: int) -> str | None:
        """
        Return the holder that *ticket* was issued to; None if it is none, or has expired.
        """
        try:
            signed = base64_decode(ticket.removeprefix(_PREFIX))
            return str(self._serializer(purpose).loads(signed, max_age=lasts_s))
        except (BadData, UnicodeError):
            return None

    def _serializer(self, purpose: str) -> URLSafeTimedSerializer:
        signed = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
        return URLSafeTimedSerializer(self._key, salt=f"ferry ticket: {purpose}", signer_kwargs=signed)
