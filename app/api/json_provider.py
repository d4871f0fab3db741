"""
Flask's JSON provider for answers that hold records.
"""

from __future__ import annotations

from typing import Any

from flask.json.provider import DefaultJSONProvider

from ferry.app.records.json_form import to_json


class RecordJsonProvider(DefaultJSONProvider):
    """
    Flask's JSON, with a record's own types.
    """

    sort_keys = False
    ensure_ascii = False

    def dumps(self, obj: Any, **options: Any) -> str:
        """
        Write *obj* as JSON that every parser accepts.
        """
        return super().dumps(to_json(obj), allow_nan=False, **options)

    def loads(self, s: str | bytes, **options: Any) -> Any:
        """
        Parse JSON that a client sent.

        Raises:
            ValueError: It is not JSON, or nested too deeply.
        """
        try:
            return super().loads(s, **options)
        except RecursionError:
            raise ValueError("nested too deeply") from None
