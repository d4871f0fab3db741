"""
One message to one URL, at an address of the public internet; of ``webhooks``.

No proxy is used, no redirect is followed, and a name is looked up once: the address that was checked is the
one that is connected to.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from ferry import Failed

_TIMEOUT_S = 10.0
_ANSWER_BYTES = 64 << 10
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class NotDelivered(Failed):
    """
    A receiver did not take a message. The text names its host, and no more of its URL.
    """


def post(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
    """
    Send *body* to *url*, and read at most a part of the answer; returns its status and its ``Retry-After``.

    Raises:
        NotDelivered: There is no answer, or nothing may be sent there.
    """
    try:
        return _posted(url, body, headers)
    except (OSError, http.client.HTTPException, UnicodeError) as exc:
        raise NotDelivered(f"{urlsplit(url).hostname}: {type(exc).__name__}: {exc}") from None


def _posted(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
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
            return answer.status, (answer.headers.get("Retry-After") or "").strip()
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
