"""
Checking that a webhook's sender knows the secret; each host has its own header for it.

GitHub, Gitea, Forgejo and Bitbucket sign the body with HMAC-SHA256; GitLab sends the secret itself, as others
send a bearer token. Digests and secrets are compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from werkzeug.datastructures import Headers

# Each header with the text before its digest. GitHub's older X-Hub-Signature is a SHA-1, which is too weak.
_SIGNATURES = (
    ("X-Hub-Signature-256", "sha256="),  # GitHub, Gitea, Forgejo
    ("X-Hub-Signature", "sha256="),  # Bitbucket
    ("X-Forgejo-Signature", ""),
    ("X-Gitea-Signature", ""),
)
_TOKEN = "X-Gitlab-Token"  # noqa: S105 - the header's name


@dataclass(frozen=True, slots=True)
class Proof:
    """
    What a request carries to show that its sender knows a secret.

    Attributes:
        given: The digest in hexadecimal, or the secret.
        is_signature: Whether *given* is a digest.
    """

    given: str
    is_signature: bool

    def holds(self, body: bytes, secrets: Iterable[str]) -> bool:
        """
        Whether the proof was made with one of *secrets*. Compares in constant time.
        """
        given = self.given.encode()
        matches = [hmac.compare_digest(self._expected(body, secret), given) for secret in secrets]
        return any(matches)

    def _expected(self, body: bytes, secret: str) -> bytes:
        if self.is_signature:
            return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest().encode()
        return secret.encode()


def proofs_in(headers: Headers) -> list[Proof]:
    """
    Return the proofs in the *headers* of a request; a host may send the same proof in several headers.
    """
    found = []
    for name, prefix in _SIGNATURES:
        value = headers.get(name, "").strip()
        if value and value.startswith(prefix):
            found.append(Proof(value.removeprefix(prefix).lower(), is_signature=True))
    if token := headers.get(_TOKEN, ""):
        found.append(Proof(token, is_signature=False))
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        found.append(Proof(token.strip(), is_signature=False))
    return found
