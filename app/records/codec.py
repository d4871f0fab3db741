"""
Reading a record from its file.

gitsheets parses one file at a time, so that an invalid file does not keep the others from being read.
"""

from __future__ import annotations

from typing import Any

import gitsheets

from ferry.app.errors import UnreadableRecordError
from ferry.worker.records.markdown import parse

Record = dict[str, Any]
MOST_RECORD_BYTES = 8 << 20  # of a record's file; parsed fields take up to twenty times as much memory


def fields_of(content: bytes, body_field: str | None) -> Record:
    """
    Return the fields of a record.

    Args:
        content: Its file's bytes.
        body_field: The field that holds a markdown record's text; None for a TOML record.

    Raises:
        UnreadableRecordError: It is not a valid record.
    """
    try:
        text = content.decode("utf-8")
        record: Record = gitsheets.parse_records([text])[0] if body_field is None else parse(text, body_field)
    except (gitsheets.GitsheetsError, ValueError, OverflowError) as exc:
        raise UnreadableRecordError(" ".join(str(exc).split())) from exc
    return record
