"""
Operators' actions on pushes. Each is logged and added to its remote's history, with who did it and why.
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
    Who acts, with the reason.

    Attributes:
        who: ``USER@HOST`` for a command, ``TOKEN@ADDRESS`` for a request, ``ferry`` for Ferry itself.
        why: The reason, or "".
    """

    who: str
    why: str = ""

    @classmethod
    def of(cls, who: str, why: str | None = None) -> Operator:
        """
        Return an operator; both texts are cut to fit in one line of a log.
        """
        return cls(who=_short(who), why=_short(why or ""))

    @classmethod
    def here(cls, environ: Mapping[str, str], why: str | None = None) -> Operator:
        """
        Return the user who runs the command; under sudo, the user who called sudo.
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
    Pause the pushes to *remote*; waits for a running push.

    Args:
        now: Seconds since the epoch.
        until: When the pause ends by itself; None: it lasts until an operator ends it.
        timeout_s: Seconds to wait.

    Raises:
        RemoteBusyError: The running push has not ended in time.
    """
    with ledger.claim_within(remote, timeout_s) as claim:
        claim.set_paused(now, by=by.who, why=by.why, until=until)
    log().info("push.paused", remote=remote, by=by.who, why=by.why, until=until)
    remember(ledger, remote, "paused", by, now=now)


def resume(ledger: Ledger, remote: str, by: Operator, *, now: float, timeout_s: float) -> None:
    """
    Resume the pushes to *remote*.

    Raises:
        RemoteBusyError: Another process held the remote's claim for too long.
    """
    with ledger.claim_within(remote, timeout_s) as claim:
        claim.set_paused(None)
    tell_resumed(ledger, remote, by, now=now)


def tell_resumed(ledger: Ledger, remote: str, by: Operator, *, now: float, detail: str = "") -> None:
    """
    Log and record that the pushes to *remote* were resumed.
    """
    log().info("push.resumed", remote=remote, by=by.who, why=by.why)
    remember(ledger, remote, "resumed", by, now=now, detail=detail)


def request(ledger: Ledger, remotes: Iterable[str], by: Operator, *, now: float) -> list[str]:
    """
    Log and record that an operator requested a push to *remotes*; returns those that are not paused.

    Raises:
        LedgerError: A remote's entry cannot be read.
    """
    moving = [remote for remote in remotes if not ledger.read(remote).is_paused(now)]
    for remote in moving:
        log().info("push.requested", remote=remote, by=by.who, why=by.why)
        remember(ledger, remote, "requested", by, now=now)
    return moving


def remember(ledger: Ledger, remote: str, kind: Kind, by: Operator, *, now: float, detail: str = "") -> None:
    """
    Add an operator's action to the history of *remote*.

    Args:
        detail: The result.
    """
    ledger.remember(remote, Event(at=now, kind=kind, by=by.who, why=by.why, detail=detail))
