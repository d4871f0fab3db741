"""
Webhooks: commits, pushes and divergences are told to the URLs in ``CFP_WEBHOOKS``.

``CFP_WEBHOOKS`` turns it on; then it need not stand in ``CFP_API_EXTENSIONS``. Each URL is an extension of
its own, ``webhook-HOST-…``, so that a receiver that is away holds up no other. Each is sent what happens in
order, at least once, and again with growing pauses until it answers with a status of 200 to 299.

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
import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from standardwebhooks import Webhook

from ferry import Commit, Divergence, Extension, Landing

_TIMEOUT_S = 10.0
_MOST = 200  # changes, or commits, of one message
_MESSAGE_CHARACTERS = 10_000
_ANSWER_BYTES = 64 << 10
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class NotDelivered(Exception):
    """
    A receiver did not take a message. The text names its host, and no more of its URL.
    """


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
        try:
            status = _post(self._url, text.encode(), headers)
        except (OSError, http.client.HTTPException, UnicodeError) as exc:
            raise NotDelivered(f"{self._host}: {type(exc).__name__}: {exc}") from None
        if not 200 <= status < 300:
            raise NotDelivered(f"{self._host} answered with status {status}")


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """
    Send *body* to *url*, and read at most a part of the answer; returns its status.
    """
    parts = urlsplit(url)
    host, is_private_allowed = parts.hostname or "", os.environ.get("CFP_WEBHOOKS_PRIVATE") == "on"
    if parts.scheme != "https" and not is_private_allowed:
        raise NotDelivered(f"{host}: http:// is allowed with CFP_WEBHOOKS_PRIVATE=on alone")
    port = parts.port or _PORTS[parts.scheme]
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    connection.sock = _connected(host, port, private=is_private_allowed)
    try:
        if parts.scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=host)
        path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        name = f"[{host}]" if ":" in host else host
        with_port = name if port == _PORTS[parts.scheme] else f"{name}:{port}"
        connection.request("POST", path, body, {"Host": with_port, **headers})
        with connection.getresponse() as answer:
            answer.read(_ANSWER_BYTES)
            return answer.status
    finally:
        connection.close()


def _connected(host: str, port: int, *, private: bool) -> socket.socket:
    """
    Return a connection to *host*, at an address that was checked: a second look-up might name another.
    """
    found = [info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    addresses = [str(address) for address in dict.fromkeys(found)]
    if not private and not all(map(is_public, addresses)):
        raise NotDelivered(f"{host} has an address that is not public; see CFP_WEBHOOKS_PRIVATE")
    error: OSError = OSError("it has no address")
    ends = time.monotonic() + _TIMEOUT_S
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=max(0.1, ends - time.monotonic()))
        except OSError as exc:
            error = exc
    raise error


def is_public(text: str) -> bool:
    """
    Whether an IP address, and each that it holds for a gateway, is one of the public internet.
    """
    address: _Address = ipaddress.ip_address(text.partition("%")[0])
    held: list[_Address | None] = []
    if isinstance(address, ipaddress.IPv6Address):
        held = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        held += [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)] if address in _NAT64 else []
        if address.ipv4_mapped:
            return is_public(str(address.ipv4_mapped))
    is_own = address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)
    return is_own and all(is_public(str(each)) for each in held if each is not None)


extensions = [Receiver(url).extension for url in dict.fromkeys(os.environ.get("CFP_WEBHOOKS", "").split())]
