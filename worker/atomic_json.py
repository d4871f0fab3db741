"""
Small JSON files that are replaced whole: a reader sees the old one or the new one.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.sharing import inherit


def read_json(path: Path) -> dict[str, Any]:
    """
    Return the object in *path*; an empty one where the file is missing or damaged.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any], *, default: Callable[[Any], Any] | None = None) -> None:
    """
    Replace *path* by *value*. Not flushed to disk: what is kept like this may be lost.

    Args:
        default: Makes JSON of what is none, as for ``json.dumps``.

    Raises:
        OSError: The disk refused; the old file is still there.
    """
    fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        fresh.write_text(json.dumps(value, default=default), "utf-8")
        inherit(fresh, path.parent)
        os.replace(fresh, path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
