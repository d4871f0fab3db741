"""
Which requests a server without tokens answers: those of programs on its own machine, and of its own pages.

Any web page can make its visitor's browser send requests to loopback, and a page whose name resolves to
loopback (DNS rebinding) can read the answers. The headers ``Host``, ``Origin`` and ``Sec-Fetch-Site`` show
that. Under ``ferry dev`` the API and Flower check each request here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

_READS = ("GET", "HEAD", "OPTIONS")
_OWN_SITE = (None, "same-origin", "none")  # None: no browser; "none": typed into it, or a bookmark


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    Why a request is refused.

    Attributes:
        code: ``foreign-host`` or ``cross-site``.
        detail: What is wrong, for people.
    """

    code: str
    detail: str


def refusal(
    method: str, header: Callable[[str], str | None], origins: Collection[str] = ()
) -> Refusal | None:
    """
    Return why a request is refused, or None.

    Args:
        header: Returns the request's header of that name.
        origins: Other origins whose pages may write; ``*`` does not count.
    """
    host = header("Host") or ""
    if host and not _is_loopback(host):
        return Refusal(
            "foreign-host", f"The request is for {host[:80]!r}; this server is for its own machine."
        )
    if method in _READS:
        return None
    origin, site = header("Origin"), header("Sec-Fetch-Site")
    if origin is not None and origin in origins and origin != "*":
        return None
    # A page without a referrer, such as ours, has no origin either; then Sec-Fetch-Site decides.
    is_ours = urlsplit(origin or "").netloc == host or (origin == "null" and site == "same-origin")
    if origin is not None and not is_ours:
        return Refusal("cross-site", f"A page of {origin[:80]!r} sent the request.")
    if not is_own_site(site):
        return Refusal("cross-site", f"A page of another site sent the request ({site!r:.22}).")
    return None


def is_own_site(site: str | None) -> bool:
    """
    Whether a request with this ``Sec-Fetch-Site`` did not come from another site's page.
    """
    return site in _OWN_SITE


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
