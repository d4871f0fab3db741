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
# Some proxies name the client's port, too, which is another with each connection.
_WITH_PORT = re.compile(r"\[([^\]]+)\](?::[0-9]+)?|([^:]+):[0-9]+")
_NETWORK_BITS = 64  # who has one address of such an IPv6 network has all of them


class Limits:
    """
    Counts by client, and refuses what is beyond a limit.

    Args:
        rate: Requests of one client, such as ``600 per minute``; None: any number.
    """

    def __init__(self, rate: str | None) -> None:
        # Its memory grows with the clients of two windows, and not with their requests.
        self._counter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._rate = parse(rate) if rate else None
        self._wrong = parse(WRONG_TOKENS)

    def request(self, client: str) -> dict[str, str]:
        """
        Count a request of *client*; returns the headers that tell it where it stands.

        Raises:
            Problem: 429, it is one too many.
        """
        if self._rate is None:
            return {}
        self._count(self._rate, client, "Requests are limited to")
        return self._standing(self._rate, client)

    def wrong_token(self, address: str) -> None:
        """
        Count a token from *address* that is not known.

        A known token is never refused for it: others may share the address.

        Raises:
            Problem: 429, it is one too many.
        """
        self._count(self._wrong, address_key(address), "Wrong tokens are limited to")

    def _count(self, rate: RateLimitItem, client: str, what: str) -> None:
        if not self._counter.hit(rate, client):
            headers = self._standing(rate, client)
            wait_s = max(1, int(headers["X-RateLimit-Reset"]) - int(time.time()))
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
    Return what stands for all addresses that the client at *address* may choose from.
    """
    found = _WITH_PORT.fullmatch(address)
    try:
        parsed = ipaddress.ip_address(found[1] or found[2] if found else address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:  # how a socket for both kinds shows an IPv4 client: all would be one network
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _NETWORK_BITS), strict=False))
