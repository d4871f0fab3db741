"""
Tickets: signed and dated, for a browser that cannot send its token with a request.

A ticket reveals nothing of the token. It begins as Ferry's tokens do, so that logs show it as ``***``.
"""

from __future__ import annotations

import hashlib

from itsdangerous import BadData, URLSafeTimedSerializer
from itsdangerous.encoding import base64_decode, base64_encode

EVENTS_LASTS_S = 60
_EVENTS = "events"
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
