"""
Resolving an episode's issues in Sentry once a push has landed, if a token for Sentry's API is set.

A separate thread does this, so that no push waits for it. If it fails, an operator closes the issue by hand;
the next episode's page is sent in any case.
"""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from ferry.worker.observe.logs import log
from ferry.worker.settings import Settings

_TIMEOUT_S = 10.0
_WAITS_S = (0.0, 5.0, 30.0)  # Sentry's API finds an accepted event only after a moment


class Resolver:
    """
    Resolves issues by the events in them.

    Args:
        settings: Sentry's address, organization and token; without these nothing is resolved.
    """

    def __init__(self, settings: Settings, *, waits_s: Sequence[float] = _WAITS_S) -> None:
        dsn, self._token, org = settings.sentry_dsn, settings.sentry_auth_token, settings.sentry_org
        self._url = f"{api_of(dsn)}/organizations/{org}" if dsn and self._token and org else None
        self._waits_s = waits_s

    def resolve(self, event_ids: Sequence[str]) -> None:
        """
        Resolve the issues of *event_ids*; does not wait for Sentry.
        """
        if self._url and event_ids:
            threading.Thread(target=self._resolve, args=(event_ids,), name="resolver", daemon=True).start()

    def _resolve(self, event_ids: Sequence[str]) -> None:
        for event_id in event_ids:
            if error := self._try(event_id):
                log().warning("page.not_resolved", event_id=event_id, error=error)

    def _try(self, event_id: str) -> str:
        """
        Resolve the issue of *event_id*; returns the last error, or "".
        """
        error = ""
        for wait_s in self._waits_s:
            time.sleep(wait_s)
            try:
                issue = self._ask("GET", f"eventids/{event_id}/")["groupId"]
                self._ask("PUT", f"issues/{issue}/", {"status": "resolved"})
            except (OSError, ValueError, LookupError, TypeError) as exc:
                error = f"{type(exc).__name__}: {exc}"
            else:
                return ""
        return error

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the settings allow only http:// and https://
            f"{self._url}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with _opener.open(request, timeout=_TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as exc:
            exc.close()
            raise


def api_of(dsn: str) -> str:
    """
    Return the address of the API of the Sentry that *dsn* names; at sentry.io, events go to other hosts.
    """
    parts = urlsplit(dsn)
    host = re.sub(r"^o\d+\.ingest\.", "", parts.netloc.rpartition("@")[2])
    return f"{parts.scheme}://{host}{parts.path.rstrip('/').rpartition('/')[0]}/api/0"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """
        Follow no redirect: another host would get the token.
        """


_opener = urllib.request.build_opener(_NoRedirects)
