"""
The secret key that all API processes of one repository share: what one of them signs, the others accept.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from ferry.worker.observe.logs import log

_KEY_BYTES = 32


def shared_key(directory: Path) -> bytes:
    """
    Return the key in *directory*; the first process creates it.

    If it can be neither read nor created, that is logged, and the key is this process's own.
    """
    path, draft = directory / "sessions.key", directory / f"sessions.key.{secrets.token_hex(8)}"
    try:
        with contextlib.suppress(FileNotFoundError):
            if len(key := path.read_bytes()) == _KEY_BYTES:
                return key
            path.unlink()  # truncated by a full disk or a power cut
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, secrets.token_bytes(_KEY_BYTES))
            os.fsync(fd)
        finally:
            os.close(fd)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        return path.read_bytes()
    except OSError as exc:
        log().warning("status.sessions_not_shared", path=str(path), error=str(exc))
        return secrets.token_bytes(_KEY_BYTES)
    finally:
        draft.unlink(missing_ok=True)
