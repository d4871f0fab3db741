"""
What operators do to the pushes: each act is logged, and in its remote's history with who did it and why.
"""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ferry.worker.ledger.events import Event, Kind
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.observe.logs import log
from ferry.worker.observe.printable import in_line
from ferry.worker.observe.redaction import redact_typed

_TEXT_CHARACTERS = 300


def _short(text: str) -> str:
    return " ".join(redact_typed(in_line(text)).split())[:_TEXT_CHARACTERS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """
    Who acts, and why.

    Attributes:
        who: ``USER@HOST`` for a command, ``TOKEN@ADDRESS`` for a request, ``ferry`` for Ferry itself.
        why: The reason that was given, or "".
    """

    who: str
    why: str = ""

    @classmethod
    def of(cls, who: str, why: str | None = None) -> Operator:
        """
        Return an operator whose texts fit into one line of a log.
        """
        return cls(who=_short(who), why=_short(why or ""))

    @classmethod
    def here(cls, environ: Mapping[str, str], why: str | None = None) -> Operator:
        """
        Return the user of this machine who runs the command; behind sudo, the one who called it.
        """
        try:
            user = environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # a container's user without a name
            user = str(os.getuid())
        return cls.of(f"{user}@{socket.gethostname()}", why)


FERRY = Operator(who="ferry")


def pause(
    ledger: Ledger, remote: str, by: Operator, *, now: float, until: float | None, timeout_s: float
) -> None:
    """
    Stop the pushes to *remote*; waits for one that runs.

    Args:
        now: Seconds since the epoch.
        until: When the pause ends by itself; None: when an operator ends it.
        timeout_s: Seconds to wait.

    Raises:
        RemoteBusyError: The push that runs has not ended in time.
    """
    with ledger.claim_within(remote, timeout_s) as claim:
        claim.set_paused(now, by=by.who, why=by.why, until=until)
    log().info("push.paused", remote=remote, by=by.who, why=by.why, until=until)
    remember(ledger, remote, "paused", by, now=now)


def resume(ledger: Ledger, remote: str, by: Operator, *, now: float, timeout_s: float) -> None:
    """
    Let the pushes to *remote* be made again.

    Raises:
        RemoteBusyError: Another process holds the remote for too long.
    """
    with ledger.claim_within(remote, timeout_s) as claim:
        claim.set_paused(None)
    tell_resumed(ledger, remote, by, now=now)


def tell_resumed(ledger: Ledger, remote: str, by: Operator, *, now: float, detail: str = "") -> None:
    """
    Tell that the pushes to *remote* may be made again.
    """
    log().info("push.resumed", remote=remote, by=by.who, why=by.why)
    remember(ledger, remote, "resumed", by, now=now, detail=detail)


def request(ledger: Ledger, remotes: Iterable[str], by: Operator, *, now: float) -> list[str]:
    """
    Tell that a push to *remotes* was asked for; returns those that are not paused, to which it is made.

    Raises:
        LedgerError: What is known of a remote cannot be read.
    """
    moving = [remote for remote in remotes if not ledger.read(remote).is_paused(now)]
    for remote in moving:
        log().info("push.requested", remote=remote, by=by.who, why=by.why)
        remember(ledger, remote, "requested", by, now=now)
    return moving


def remember(ledger: Ledger, remote: str, kind: Kind, by: Operator, *, now: float, detail: str = "") -> None:
    """
    Keep what an operator did in the history of *remote*.

    Args:
        detail: What came of it.
    """
    ledger.remember(remote, Event(at=now, kind=kind, by=by.who, why=by.why, detail=detail))
