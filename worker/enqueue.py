"""
The API's only door into the worker: one push task per commit and remote.

A task only wakes a worker: git knows what is pending, and the sweep finds commits
whose task was lost. So a request that has committed neither fails nor waits when
the broker is away.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ferry.worker.ledger.ledger import Ledger
from ferry.worker.observe.logs import log, traced
from ferry.worker.settings import ORIGIN
from ferry.worker.turns.turn import Occasion

if TYPE_CHECKING:
    from celery import Celery

BUDGET_S = 0.25
# The task pushes the branch's tip at the time when it runs. The commit is for people who read the task list.
SHOWN_CHARACTERS = 12
_SENDERS = 4


class PushQueue:
    """
    Sends push tasks, within a quarter of a second in total.

    Args:
        celery: An app that was built as a publisher.
        remotes: Names of the remotes that every commit goes to.
        on_failure: Called with the name of each remote whose push the broker did not accept.
        budget_s: The most seconds that one ``enqueue_push`` takes.
    """

    def __init__(
        self,
        celery: Celery,
        remotes: Sequence[str],
        *,
        on_failure: Callable[[str], None] = lambda remote: None,
        budget_s: float = BUDGET_S,
    ) -> None:
        self._celery = celery
        self._remotes = tuple(remotes)
        self._on_failure = on_failure
        self._budget_s = budget_s
        # Sockets have timeouts; name look-ups and TLS handshakes have none. So another thread
        # sends, and this one waits for as long as the budget lasts.
        self._senders = _senders()
        # Neither threads nor a connection survive a fork (gunicorn --preload).
        os.register_at_fork(after_in_child=self._start_afresh)

    def enqueue_push(self, commit: str, occasion: Occasion = "commit", *, only: str | None = None) -> bool:
        """
        Queue a push of *commit* to every remote. Never raises, never waits longer than the budget.

        Args:
            commit: Full object name of a commit that is on the branch.
            occasion: Why; an ``operator`` does not wait for a retry that is scheduled for later.
            only: The one remote to push to; None: all.

        Returns:
            Whether the broker accepted every task.
        """
        deadline = time.monotonic() + self._budget_s
        remotes = self._remotes if only is None else (only,)
        sent = [self._enqueue(remote, commit, occasion, deadline) for remote in remotes]
        return all(sent)

    def enqueue_follow(self, ledger: Ledger, told_by: str) -> str | None:
        """
        Record a nudge for origin, and queue a look there for commits of others. Never raises, never waits
        longer than the budget.

        Args:
            ledger: Stores the nudge: if the task is lost, the sweep finds it.
            told_by: Where the news came from; Flower shows it.

        Returns:
            The task's id; None if the broker did not accept it.
        """
        is_noted = ledger.nudge(ORIGIN)
        if not self._remotes:
            return None  # a replica's process finds the nudge, without a broker
        context = contextvars.copy_context()
        try:
            sending = self._senders.submit(
                context.run, partial(send_follow, self._celery, told_by, is_noted=is_noted)
            )
            return sending.result(timeout=self._budget_s)
        except Exception as exc:  # noqa: BLE001 - as for a push
            self._on_failure(ORIGIN)
            log().warning("follow.enqueue_failed", remote=ORIGIN, error=str(exc) or type(exc).__name__)
            return None

    def _enqueue(self, remote: str, commit: str, occasion: Occasion, deadline: float) -> bool:
        # Pass the request's id and trace on, because the sending thread has its own context.
        context = contextvars.copy_context()
        try:
            sending = self._senders.submit(context.run, self._send, remote, commit, occasion)
            try:
                sending.result(timeout=max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                sending.cancel()
                raise TimeoutError(f"the broker did not answer within {self._budget_s:g} s") from None
        except Exception as exc:  # noqa: BLE001
            # A broker's library may raise anything, and threading raises where no thread can start or
            # the interpreter ends. The commit is durable, and the client must get that answer: an error
            # would make it write the same record again.
            self._report(remote, commit, str(exc))
            return False
        return True

    def _start_afresh(self) -> None:
        self._senders = _senders()
        self._celery._after_fork()

    def _send(self, remote: str, commit: str, occasion: Occasion) -> None:
        send_push(self._celery, remote, commit, occasion)

    def _report(self, remote: str, commit: str, error: str) -> None:
        self._on_failure(remote)
        log().warning("push.enqueue_failed", remote=remote, commit=commit, error=error)


def send_push(
    celery: Celery, remote: str, commit: str, occasion: Occasion = "commit", *, queue: str | None = None
) -> None:
    """
    Send one push task; raises the exceptions of the broker's library.

    Args:
        commit: Full object name of a commit that is on the branch.
        occasion: Why; Flower shows it.
        queue: The repository's queue; None: the app's only one.
    """
    celery.send_task(
        "push",
        args=(remote, commit[:SHOWN_CHARACTERS]),
        headers=traced(),
        kwargs={"occasion": occasion},
        **({"queue": queue} if queue else {}),
        retry=False,
        ignore_result=True,
    )


def send_follow(
    celery: Celery, told_by: str = "", *, is_noted: bool = False, queue: str | None = None
) -> str:
    """
    Send one task that looks at origin for commits of others; returns its id. Raises the exceptions of the
    broker's library.

    Args:
        told_by: Where the news came from; Flower shows it.
        is_noted: Whether the ledger has a nudge: if another task takes it first, this task ends.
        queue: The repository's queue; None: the app's only one.
    """
    sent = celery.send_task(
        "follow",
        kwargs={"told_by": told_by, "is_noted": is_noted},
        headers=traced(),
        **({"queue": queue} if queue else {}),
        retry=False,
        ignore_result=True,
    )
    return str(sent.id)


def _senders() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(_SENDERS, thread_name_prefix="push-queue")
