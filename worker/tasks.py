"""
What Celery runs: a few lines each over functions that know no Celery.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from celery import Celery, Task

from ferry.worker.broker.celery_app import longest_countdown_s
from ferry.worker.enqueue import SHOWN_CHARACTERS
from ferry.worker.errors import PushDeferred, PushError, PushFailed, PushRefused
from ferry.worker.observe.logs import NOTHING_TO_DO, TRACED, bound
from ferry.worker.pipeline import Pipeline
from ferry.worker.push import Request


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
            # A message that comes before its time is put off by the pusher for what is left.
            options["countdown"] = min(exc.retry_in_s, longest_countdown_s(self.app))
        return super().retry(*args, exc=exc, **options)


def register(app: Celery, pipelines: Mapping[str, Pipeline]) -> None:
    """
    Register the tasks ``push``, ``sweep`` and ``maintain`` with *app*.

    A message is a repository's by the queue that it was in; it says no more of it.

    Args:
        pipelines: Those that this process serves, by their queues.
    """

    def _pipeline(task: Task) -> Pipeline:
        return pipelines[task.request.delivery_info["routing_key"]]

    @app.task(  # type: ignore[untyped-decorator]
        bind=True,
        base=PushTask,
        name="push",
        shared=False,  # another app of this process serves other repositories
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
        pipeline = _pipeline(self)
        request = Request(
            remote=remote,
            chain=self.request.id,
            retries=self.request.retries,
            out_of_turn=out_of_turn,
            look_first=look_first,
            look_afresh=look_afresh,
            may_be_early=longest_countdown_s(self.app) < math.inf,
        )
        with _logged_as(self, pipeline):
            return pipeline.pusher.push(request)

    @app.task(bind=True, name="sweep", shared=False)  # type: ignore[untyped-decorator]
    def sweep(self: Task, out_of_turn: bool = False, start: float = 0.0) -> str:
        """
        Queue a push for each remote that lacks commits and that nobody sees to.

        Args:
            out_of_turn: Queue one also where a retry is scheduled for later.
            start: When the worker that asks has started, in seconds since the epoch; 0.0: some time ago.
        """
        pipeline = _pipeline(self)
        with _logged_as(self, pipeline):
            if start:
                pipeline.reconciler.at_start()
            wanting = pipeline.sweeper.sweep(out_of_turn=out_of_turn)
            unseen = pipeline.sweeper.unseen(start=start)
            for remote in {**wanting, **dict.fromkeys(unseen)}:
                push.apply_async(
                    (remote, (wanting.get(remote) or "")[:SHOWN_CHARACTERS]),
                    {
                        "out_of_turn": out_of_turn,
                        "look_first": not out_of_turn,
                        "look_afresh": remote in unseen,
                    },
                    queue=pipeline.queue,
                )
            pipeline.monitor.check_in()
            pipeline.watchdog.check()
        if pipeline.maintenance.is_due():
            maintain.apply_async(queue=pipeline.queue)
        return f"queued {', '.join(wanting)}" if wanting else NOTHING_TO_DO

    @app.task(bind=True, name="maintain", shared=False)  # type: ignore[untyped-decorator]
    def maintain(self: Task) -> str:
        """
        Pack the repository's loose objects.

        Raises:
            RepositoryError: git could not; the next sweep asks again.
        """
        pipeline = _pipeline(self)
        with _logged_as(self, pipeline):
            return pipeline.maintenance.run()


def _logged_as(task: Task, pipeline: Pipeline) -> AbstractContextManager[None]:
    """
    Have each line that is logged in the block say which task it is, and which repository's.
    """
    traces = {name: task.request.get(name) for name in TRACED}
    return bound(task=task.request.id, repository=pipeline.repository.name or None, **traces)
