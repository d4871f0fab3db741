"""
The certificates of private authorities that Ferry trusts: when each ends, for an alert before pushes fail.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Mapping

VARIABLE = "FERRY_CA_BUNDLE"


def authority_ends(env: Mapping[str, str] = os.environ) -> dict[str, float]:
    """
    Return when each authority in the file that *env* names ends, in seconds since the epoch, by its name.

    While an authority's certificate is replaced, the file holds both the old and the new one; the later end
    counts.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with contextlib.suppress(OSError):  # no file, or no certificate in it: ssl's errors are OSErrors
        context.load_verify_locations(env.get(VARIABLE) or os.devnull)
    found: dict[str, float] = {}
    for certificate in context.get_ca_certs():
        name = _name(certificate["subject"])
        found[name] = max(found.get(name, 0.0), ssl.cert_time_to_seconds(str(certificate["notAfter"])))
    return found


def _name(subject: object) -> str:
    """
    Return the common name in a *subject* as ``ssl`` represents it, or else the subject's last part.
    """
    parts = dict(part for parts in subject for part in parts)  # type: ignore[attr-defined]
    return str(parts.get("commonName") or list(parts.values())[-1])
