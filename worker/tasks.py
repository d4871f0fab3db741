"""
What Celery runs: a few lines each over functions that know no Celery.
"""

from __future__ import annotations

from typing import Any

from celery import Celery, Task

from worker.enqueue import SHOWN_CHARACTERS
from worker.errors import PushDeferred, PushError, PushFailed, PushRefused
from worker.logs import TRACED, bound
from worker.maintenance import Maintenance
from worker.paging import CronMonitor
from worker.push import Pusher, Request
from worker.reconcile import Reconciler
from worker.sweep import Sweeper
from worker.watchdog import Watchdog


class PushTask(Task):  # type: ignore[misc]  # Celery ships no types
    """
    A task whose retry waits as long as the failed attempt says.

    Celery's own ``retry_backoff`` counts one task's retries in whole seconds;
    the backoff here is the remote's, across tasks, workers and restarts.
    """

    abstract = True

    def retry(self, *args: Any, exc: Exception | None = None, **options: Any) -> Any:
        """
        Schedule the retry that *exc* asks for.

        Raises:
            celery.exceptions.Retry: Always, unless *exc* wants no retry of its own.
        """
        if isinstance(exc, (PushFailed, PushDeferred)):
            if exc.retry_in_s is None:
                raise exc
            options["countdown"] = exc.retry_in_s
        return super().retry(*args, exc=exc, **options)


def register(
    app: Celery,
    pusher: Pusher,
    sweeper: Sweeper,
    watchdog: Watchdog,
    maintenance: Maintenance,
    reconciler: Reconciler,
    monitor: CronMonitor,
) -> None:
    """
    Register the tasks ``push``, ``sweep`` and ``maintain`` with *app*.
    """

    @app.task(  # type: ignore[untyped-decorator]
        bind=True,
        base=PushTask,
        name="push",
        autoretry_for=(PushFailed, PushDeferred),  # transient: wait and try again
        dont_autoretry_for=(PushRefused,),  # a person is needed: fail, visibly
        max_retries=None,  # commits are not droppable; a limit that is set counts attempts, in the ledger
        # Expected, so neither Celery nor Sentry adds a traceback and an event of
        # its own; Flower shows the task as failed all the same.
        throws=(PushError,),
    )
    def push(
        self: Task,
        remote: str,
        commit: str,
        out_of_turn: bool = False,
        look_first: bool = False,
        look_afresh: bool = False,
    ) -> str:
        """
        Bring *remote* up to date with the branch, and with it *commit*.

        Raises:
            PushFailed: Retried with exponential backoff.
            PushRefused: Not retried; paged once, shown as failed in Flower.
        """
        request = Request(
            remote=remote,
            chain=self.request.id,
            is_retry=self.request.retries > 0,
            out_of_turn=out_of_turn,
            look_first=look_first,
            look_afresh=look_afresh,
        )
        with bound(task=self.request.id, **{name: self.request.get(name) for name in TRACED}):
            return pusher.push(request)

    @app.task(name="sweep")  # type: ignore[untyped-decorator]
    def sweep(out_of_turn: bool = False, at_start: bool = False) -> str:
        """
        Queue a push for each remote that lacks commits and that nobody sees to.

        Args:
            out_of_turn: Queue one also where a retry is scheduled for later.
            at_start: Whether a worker has just started.
        """
        if at_start:
            reconciler.at_start()
        monitor.check_in()
        watchdog.check()
        wanting = sweeper.sweep(out_of_turn=out_of_turn)
        unseen = sweeper.unseen(at_start=at_start)
        for remote in {**wanting, **dict.fromkeys(unseen)}:
            push.delay(
                remote,
                (wanting.get(remote) or "")[:SHOWN_CHARACTERS],
                out_of_turn=out_of_turn,
                look_first=not out_of_turn,
                look_afresh=remote in unseen,
            )
        if maintenance.is_due():
            maintain.delay()
        return f"queued {', '.join(wanting)}" if wanting else "nothing to do"

    @app.task(name="maintain")  # type: ignore[untyped-decorator]
    def maintain() -> str:
        """
        Pack the repository's loose objects.

        Raises:
            RepositoryError: git could not; the next sweep asks again.
        """
        return maintenance.run()
