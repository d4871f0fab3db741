"""
The API's tokens: those of the environment, and those of a file that is read again when it changes.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from ferry.worker.errors import SettingsError
from ferry.worker.observe.logs import log
from ferry.worker.settings import Settings, Token, parse_tokens


class Tokens:
    """
    Looks up tokens.

    Args:
        settings: They hold the tokens, and name the file.

    Raises:
        SettingsError: The file cannot be read or parsed.
    """

    def __init__(self, settings: Settings) -> None:
        self._fixed = settings.api_tokens
        self._path = settings.api_tokens_path
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._of_file: Mapping[str, Token] = {}
        if self._path is not None:
            try:
                self._seen, self._of_file = _version(self._path), _read(self._path)
            except (OSError, ValueError) as exc:
                raise SettingsError(f"CFP_API_TOKENS_PATH: {self._path}: {exc}") from exc

    def find(self, token: str) -> tuple[str, Token] | None:
        """
        Return the name and the rights of *token*, or None.
        """
        digest = hashlib.sha256(token.encode()).hexdigest()
        # Compares every digest, so that the time taken does not depend on the token.
        found = [
            (name, each) for name, each in self.known().items() if hmac.compare_digest(each.digest, digest)
        ]
        return found[-1] if found and token else None

    def known(self) -> Mapping[str, Token]:
        """
        Return every token by name. The file overrides the environment.

        If the file cannot be read now, that is logged, and its previous tokens stay valid.
        """
        if self._path is None:
            return self._fixed
        with self._lock:
            try:
                version = _version(self._path)
                if version != self._seen:
                    self._seen = version
                    self._of_file = _read(self._path)
                    log().info("api.tokens_read", path=str(self._path), tokens=len(self._of_file))
            except (OSError, ValueError) as exc:
                if self._seen is not None:
                    log().error("api.tokens_unreadable", path=str(self._path), error=str(exc))
                    self._seen = None if isinstance(exc, OSError) else self._seen
            return {**self._fixed, **self._of_file}


def _version(path: Path) -> tuple[int, int, int]:
    stat = os.stat(path)
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _read(path: Path) -> Mapping[str, Token]:
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).strip()
    return parse_tokens(text) if text else {}
