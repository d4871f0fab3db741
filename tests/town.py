"""
An API process with an extension, in this process, and the callers who use it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from ferry.app import create_app

PEOPLE = "/api/sheets/people/records"
JANE, ANA = ({"Authorization": f"Bearer {name}-token"} for name in ("jane", "ana"))
_DIGESTS = {name: hashlib.sha256(f"{name}-token".encode()).hexdigest() for name in ("jane", "ana")}
_TOKENS = " ".join(f"{name}:{digest}" for name, digest in _DIGESTS.items())

Town = Callable[..., FlaskClient]


@pytest.fixture
def town(env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    """
    Start an API whose extension is the module ``town``, with the text that is given, and with tokens of jane
    and ana.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def start(text: str, *, open_access: bool = False, **more: str) -> FlaskClient:
        (tmp_path / "town.py").write_text(text)
        sys.modules.pop("town", None)
        quick = {"CFP_REDIS_URL": "redis://127.0.0.1:1/0", "CFP_API_EXTENSIONS": "town"}
        tokens = {} if open_access else {"CFP_API_TOKENS": _TOKENS}
        return create_app({**env, **quick, **tokens, **more}, open_access=open_access).test_client()

    yield start
    sys.modules.pop("town", None)
