"""
What follows when the branch has taken over commits of others: it is told whose they are, and the other
remotes get them.
"""

from __future__ import annotations

from collections.abc import Callable

from ferry.worker.errors import RepositoryError
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.events import Event
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.observe.logs import log
from ferry.worker.observe.printable import many
from ferry.worker.settings import Settings

_AUTHORS_OF = 50  # the newest commits, whose authors are named
_SHOWN_DIGITS = 12


def tell_received(
    repository: Repository, ledger: Ledger, remote: str, before: str | None, after: str, *, now: float
) -> None:
    """
    Tell in the log and in the history of *remote* whose commits the branch took over.

    Args:
        before, after: Where it stood, and where it stands now.
        now: Seconds since the epoch.
    """
    count, authors = _counted(repository, before, after)
    log().info(
        "follow.done",
        remote=remote,
        branch=repository.branch,
        before=before,
        after=after,
        commits=count,
        authors=authors,
    )
    detail = f"{many(count, 'commit')} by {', '.join(authors)}, to {after[:_SHOWN_DIGITS]}"
    ledger.remember(remote, Event(at=now, kind="received", detail=detail))


def send_on(settings: Settings, remote: str, head: str, send: Callable[[str, str], object]) -> None:
    """
    Queue a push of *head* to every remote but *remote*, where it came from.

    The sweep finds what is not queued.

    Args:
        send: Queues a push of a commit to a remote; raises what the broker's library does.
    """
    for other in settings.remotes:
        if other != remote:
            try:
                send(other, head)
            except Exception as exc:  # noqa: BLE001 - a broker's library may raise anything
                log().warning("push.enqueue_failed", remote=other, commit=head, error=str(exc))


def _counted(repository: Repository, before: str | None, after: str) -> tuple[int, list[str]]:
    try:
        commits = repository.log(after, limit=_AUTHORS_OF, without=before)
        authors = dict.fromkeys(commit.author[0] for commit in commits)
        return repository.count_between(before, after), list(authors)
    except RepositoryError:
        return 0, []  # the branch has them all the same
