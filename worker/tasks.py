"""
What Celery runs: a few lines each over functions that know no Celery.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """
    Those who work on one repository.

    Attributes:
        name: What the repository is called where one worker serves several, else "".
    """

    name: str
    pusher: Pusher
    sweeper: Sweeper
    watchdog: Watchdog
    maintenance: Maintenance
    reconciler: Reconciler
    monitor: CronMonitor


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


def register(app: Celery, crews: Mapping[str, Crew]) -> None:
    """
    Register the tasks ``push``, ``sweep`` and ``maintain`` with *app*.

    A message is a repository's by the queue that it was in; it says no more of it.

    Args:
        crews: For each queue, those who work on its repository.
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
        crew = crews[_queue(self)]
        request = Request(
            remote=remote,
            chain=self.request.id,
            is_retry=self.request.retries > 0,
            out_of_turn=out_of_turn,
            look_first=look_first,
            look_afresh=look_afresh,
        )
        with _logged_as(self, crew):
            return crew.pusher.push(request)

    @app.task(bind=True, name="sweep")  # type: ignore[untyped-decorator]
    def sweep(self: Task, out_of_turn: bool = False, start: float = 0.0) -> str:
        """
        Queue a push for each remote that lacks commits and that nobody sees to.

        Args:
            out_of_turn: Queue one also where a retry is scheduled for later.
            start: When the worker that asks has started, in seconds since the epoch; 0.0: some time ago.
        """
        queue = _queue(self)
        crew = crews[queue]
        with _logged_as(self, crew):
            if start:
                crew.reconciler.at_start()
            crew.monitor.check_in()
            crew.watchdog.check()
            wanting = crew.sweeper.sweep(out_of_turn=out_of_turn)
            unseen = crew.sweeper.unseen(start=start)
        for remote in {**wanting, **dict.fromkeys(unseen)}:
            push.apply_async(
                (remote, (wanting.get(remote) or "")[:SHOWN_CHARACTERS]),
                {
                    "out_of_turn": out_of_turn,
                    "look_first": not out_of_turn,
                    "look_afresh": remote in unseen,
                },
                queue=queue,
            )
        if crew.maintenance.is_due():
            maintain.apply_async(queue=queue)
        return f"queued {', '.join(wanting)}" if wanting else "nothing to do"

    @app.task(bind=True, name="maintain")  # type: ignore[untyped-decorator]
    def maintain(self: Task) -> str:
        """
        Pack the repository's loose objects.

        Raises:
            RepositoryError: git could not; the next sweep asks again.
        """
        crew = crews[_queue(self)]
        with _logged_as(self, crew):
            return crew.maintenance.run()


def _queue(task: Task) -> str:
    return str(task.request.delivery_info["routing_key"])


def _logged_as(task: Task, crew: Crew) -> AbstractContextManager[None]:
    """
    Have each line that is logged in the block say which task it is, and which repository's.
    """
    traces = {name: task.request.get(name) for name in TRACED}
    return bound(task=task.request.id, repository=crew.name or None, **traces)
