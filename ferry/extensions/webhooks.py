"""
Webhooks: reports commits, pushes and divergences to the URLs in ``CFP_WEBHOOKS``.

``CFP_WEBHOOKS`` turns it on, without an entry in ``CFP_API_EXTENSIONS``. Each URL is an extension of its own,
``webhook-HOST-…``, so that a receiver that is down delays no other. Each gets every event in order and at
least once; Ferry repeats a message after growing pauses until the answer has a status of 200 to 299. It obeys
the ``Retry-After`` of an answer 429 or 503, up to ``CFP_PUSH_BACKOFF_CAP``. After an answer 410 (Gone), Ferry
sends nothing to that URL until ``ferry hooks resume``, also after a restart.

A message is JSON as https://www.standardwebhooks.com has it, ``{"type": …, "timestamp": …, "data": {…}}``,
signed by ``CFP_WEBHOOKS_SECRET`` in the headers ``webhook-id``, ``webhook-timestamp`` and
``webhook-signature``; several secrets all sign, for a change of them. The id is the same each time that a
message is sent.

``commit`` has ``hash``, ``parents``, ``author``, ``authored_at``, ``message``, ``trailers``, and ``changes``,
each with ``sheet``, ``path`` and ``operation``, but no field of a record; 200 at most, and ``changes_total``
counts all. ``push`` has ``remote``, ``branch``, ``before``, ``after``, ``commits`` (hashes; none where
they are more than 200) and ``commits_total``. ``divergence`` has ``remote``, ``branch``, ``since``, ``head``
and ``remote_head``.

A host is connected to if all its addresses are public, at one that was checked. No proxy is used, and a
redirect is a failure. ``CFP_WEBHOOKS_PRIVATE=on`` allows private addresses and ``http://``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from standardwebhooks import Webhook

from ferry import Commit, Divergence, Extension, Landing
from ferry.extensions.posting import NotDelivered, post

_LATER = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_MOST = 200  # changes, or commits, of one message
_MESSAGE_CHARACTERS = 10_000


class Receiver:
    """
    One URL and what is sent to it.

    Args:
        url: Where the messages go; it may hold a secret.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._host = urlsplit(url).hostname or ""
        digest = hashlib.sha256(url.encode()).hexdigest()[:8]
        self.extension = Extension(f"webhook-{re.sub('[^A-Za-z0-9]+', '-', self._host)[:40]}-{digest}")
        self.extension.after_commit(self.commit)
        self.extension.after_push(self.push)
        self.extension.after_divergence(self.divergence)

    def commit(self, commit: Commit) -> None:
        """
        Tell of *commit*.
        """
        changes = [
            {"sheet": each.sheet, "path": each.path, "operation": each.operation} for each in commit.changes
        ]
        data = {
            "hash": commit.hash,
            "parents": list(commit.parents),
            "author": commit.author,
            "authored_at": commit.authored_at,
            "message": commit.message[:_MESSAGE_CHARACTERS],
            "trailers": {name: value[:1000] for name, value in [*commit.trailers.items()][:100]},
            "changes": changes[:_MOST],
            "changes_total": len(changes),
        }
        self._send("commit", commit.hash, data)

    def push(self, landing: Landing) -> None:
        """
        Tell of *landing*.
        """
        total = landing.count
        data = {
            "remote": landing.remote,
            "branch": landing.branch,
            "before": landing.before,
            "after": landing.after,
            "commits": [commit.hash for commit in landing.commits] if total <= _MOST else [],
            "commits_total": total,
        }
        self._send("push", f"{landing.before} {landing.after}", data)

    def divergence(self, divergence: Divergence) -> None:
        """
        Tell of *divergence*.
        """
        names = ("remote", "branch", "since", "head", "remote_head")
        self._send("divergence", divergence.since, {name: getattr(divergence, name) for name in names})

    def _send(self, kind: str, key: str, data: Mapping[str, Any]) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        name = hashlib.sha256(f"{self._url} {kind} {key}".encode()).hexdigest()[:32]
        text = json.dumps({"type": kind, "timestamp": now.isoformat(), "data": data})
        secrets = os.environ.get("CFP_WEBHOOKS_SECRET", "").split()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Ferry",
            "Connection": "close",
            "webhook-id": f"msg_{name}",
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(Webhook(each).sign(f"msg_{name}", now, text) for each in secrets),
        }
        status, retry_after = post(self._url, text.encode(), headers)
        if not 200 <= status < 300:
            wait_s = seconds(retry_after, now) if status in _LATER else None
            told = f"{self._host} answered with status {status}"
            raise NotDelivered(told, wait_s=wait_s, stops=status == HTTPStatus.GONE)


def seconds(retry_after: str, now: datetime) -> float | None:
    """
    Return how long a header ``Retry-After`` says to wait; None if it does not (RFC 9110, 10.2.3).
    """
    if re.fullmatch("[0-9]{1,9}", retry_after):
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - now).total_seconds())
    except (TypeError, ValueError):  # it is no date, or one without a zone
        return None


extensions = [Receiver(url).extension for url in dict.fromkeys(os.environ.get("CFP_WEBHOOKS", "").split())]
