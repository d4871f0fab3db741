"""
How many requests one client may make, and how many wrong tokens may come from one address.

Counted in this process's memory: a Redis that hangs must not keep a request waiting.
"""

from __future__ import annotations

import ipaddress
import math
import re
import time

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from ferry.app.problems import Problem

WRONG_TOKENS = "30 per minute"
# Some proxies also name the client's port, which differs with each connection.
_WITH_PORT = re.compile(r"\[([^\]]+)\](?::[0-9]+)?|([^:]+):[0-9]+")
_NETWORK_BITS = 64  # a client with one address of such an IPv6 network has all of them


class Limits:
    """
    Counts requests and wrong tokens by client, and refuses those beyond the limit.

    Args:
        rate: Requests of one client, such as ``600 per minute``; None: no limit.
    """

    def __init__(self, rate: str | None) -> None:
        # Its memory grows with the number of clients in two windows, not with their requests.
        self._counter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._rate = parse(rate) if rate else None
        self._wrong = parse(WRONG_TOKENS)

    def request(self, client: str) -> dict[str, str]:
        """
        Count a request of *client*; returns the headers that show its limit.

        Raises:
            Problem: 429 beyond the limit.
        """
        if self._rate is None:
            return {}
        self._count(self._rate, client, "Requests are limited to")
        return self._standing(self._rate, client)

    def wrong_token(self, address: str) -> None:
        """
        Count an unknown token from *address*.

        Requests with a known token are not refused for it: several clients may share the address.

        Raises:
            Problem: 429 beyond the limit.
        """
        self._count(self._wrong, address_key(address), "Wrong tokens are limited to")

    def _count(self, rate: RateLimitItem, client: str, what: str) -> None:
        if not self._counter.hit(rate, client):
            headers = self._standing(rate, client)
            # The reset time is late by microseconds and rounded up: a second more than a new window lasts.
            wait_s = min(rate.get_expiry(), max(1, int(headers["X-RateLimit-Reset"]) - int(time.time())))
            raise Problem(
                429,
                "rate-limited",
                f"{what} {rate}.",
                "Wait as long as Retry-After says.",
                headers={**headers, "Retry-After": str(wait_s)},
            )

    def _standing(self, rate: RateLimitItem, client: str) -> dict[str, str]:
        reset_at, left = self._counter.get_window_stats(rate, client)
        return {
            "X-RateLimit-Limit": str(rate.amount),
            "X-RateLimit-Remaining": str(left),
            "X-RateLimit-Reset": str(math.ceil(reset_at)),
        }


def address_key(address: str) -> str:
    """
    Return the key for *address*: the whole IPv6 network that its client may choose addresses from.
    """
    found = _WITH_PORT.fullmatch(address)
    try:
        parsed = ipaddress.ip_address(found[1] or found[2] if found else address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:  # a socket for IPv4 and IPv6 shows IPv4 clients so, all in one network
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _NETWORK_BITS), strict=False))
