"""
The tasks that Celery runs. Each is a few lines that call functions without Celery.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

from celery import Celery, Task

from ferry.worker.after.hooks import Hook
from ferry.worker.broker.celery_app import longest_countdown_s
from ferry.worker.broker.shutdown import TaskInterrupted, interruptible
from ferry.worker.enqueue import SHOWN_CHARACTERS
from ferry.worker.errors import HookFailed, PushDeferred, PushError, PushFailed, PushRefused
from ferry.worker.observe.logs import NOTHING_TO_DO, TRACED, bound, log
from ferry.worker.pipeline import Pipeline
from ferry.worker.push import Request
from ferry.worker.turns.turn import OCCASIONS, Occasion


class _FerryTask(Task):  # type: ignore[misc]  # Celery ships no types
    """
    A task that uses the pipelines of this process.

    The queue of a message tells which repository it is for.

    Attributes:
        pipelines: The pipelines of this process, by their queues.
    """

    pipelines: Mapping[str, Pipeline] = MappingProxyType({})

    @property
    def pipeline(self) -> Pipeline:
        """
        The pipeline of the repository whose message runs now.
        """
        return self.pipelines[self.request.delivery_info["routing_key"]]

    def call_after(self, hook: Hook | None = None, *, wait_s: float = 0.0, is_sweep: bool = False) -> None:
        """
        Queue a call of each hook that has something to do. Never raises: the next sweep does the same.

        Args:
            hook: Queue a call of only this hook.
            wait_s: Seconds until the call.
            is_sweep: Whether to queue a call even if one was queued before: its message may be lost.
        """
        pipeline = self.pipeline
        try:
            for each in pipeline.after.due(asked=is_sweep) if hook is None else [hook]:
                commit = pipeline.repository.head() or ""
                if not wait_s:
                    pipeline.after.ask(each)
                self.app.tasks[AfterTask.name].apply_async(
                    (each.extension, commit[:SHOWN_CHARACTERS]),
                    {"occasion": each.event},
                    queue=pipeline.queue,
                    countdown=min(wait_s, longest_countdown_s(self.app)) or None,
                    retry=False,
                )
        except Exception as exc:  # noqa: BLE001 - the task's own result counts, and a broker may raise any error
            log().warning("hook.not_queued", error=str(exc) or type(exc).__name__)

    def logged(self) -> AbstractContextManager[None]:
        """
        Add the task and its repository to each line that is logged in the block.
        """
        traces = {name: self.request.get(name) for name in TRACED}
        return bound(task=self.request.id, repository=self.pipeline.repository.name or None, **traces)


class PushTask(_FerryTask):
    """
    Brings a remote up to date with the branch.

    A retry waits as long as the failed attempt says. Celery's own ``retry_backoff`` counts the
    retries of one task, in whole seconds. The backoff here belongs to the remote, across tasks,
    workers and restarts.
    """

    name = "push"
    autoretry_for = (PushFailed, PushDeferred)  # transient: wait and try again
    dont_autoretry_for = (PushRefused,)  # a person is needed: fail, visibly
    max_retries = None  # commits cannot be dropped; CFP_PUSH_MAX_RETRIES counts attempts in the ledger
    # These errors are expected: Celery logs no traceback and Sentry sends no event
    # for them. Flower still shows the task as failed.
    throws = (PushError,)

    def run(
        self,
        remote: str,
        commit: str,
        *,
        occasion: str = "commit",
        out_of_turn: bool = False,
        look_first: bool = False,
        look_afresh: bool = False,
    ) -> str:
        """
        Bring *remote* up to date, and with it *commit*.

        Args:
            occasion: One of ``OCCASIONS``. An unknown word, from a later release, counts as ``commit``.
            out_of_turn, look_first, look_afresh: The arguments that release 0.1.0 sent instead.

        Raises:
            PushFailed: Retried with exponential backoff.
            PushRefused: Not retried; paged once, shown as failed in Flower.
        """
        if out_of_turn or look_first or look_afresh:
            occasion = "operator" if out_of_turn else "sweep"
        request = Request(
            remote=remote,
            chain=self.request.id,
            occasion="retry" if self.request.retries else _known(occasion),
            retries=self.request.retries,
            may_be_early=longest_countdown_s(self.app) < math.inf,
        )
        with self.logged():
            self.call_after()  # a push may take minutes
            try:
                return self.pipeline.pusher.push(request)
            finally:
                self.call_after()

    def retry(self, *args: Any, exc: Exception | None = None, **options: Any) -> Any:
        """
        Schedule the retry that *exc* asks for; return the exception that Celery then raises.

        Raises:
            PushFailed: *exc*, if it asks for no retry, or if a person is needed: Flower then shows the
                task as failed until its retry has landed.
        """
        if isinstance(exc, (PushFailed, PushDeferred)):
            if exc.retry_in_s is None:
                raise exc
            # If the message comes early, the pusher waits for the rest of the time.
            options["countdown"] = min(exc.retry_in_s, longest_countdown_s(self.app))
        options = {"kwargs": {"occasion": "retry"}, "throw": False, **options}
        scheduled = super().retry(*args, exc=exc, **options)
        if isinstance(exc, PushFailed) and exc.needs_person:
            raise exc
        return scheduled

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """
        Drop the copy of the traceback, which is sent to the main process. That reads only the text, and the
        copy has a tuple for each instruction of each function, some seven thousand.
        """
        einfo.tb = None


class SweepTask(_FerryTask):
    """
    Queues a push for each remote that lacks commits while no push runs and no retry is due.
    """

    name = "sweep"

    def run(self, *, occasion: str = "sweep", start: float = 0.0, out_of_turn: bool = False) -> str:
        """
        Sweep once, and queue the packing if it is due.

        Args:
            occasion: ``sweep``; or ``start``, which also queues a push if a retry is scheduled for later.
            start: When the worker that sent this started, in seconds since the epoch; 0.0 for other sweeps.
            out_of_turn: The argument that release 0.1.0 sent at a start.
        """
        pipeline = self.pipeline
        why: Occasion = "start" if out_of_turn or occasion == "start" else "sweep"
        with self.logged():
            if start:
                pipeline.reconciler.at_start()
            wanting = pipeline.sweeper.sweep(why)
            unseen = pipeline.sweeper.unseen(start=start)
            for remote in {**wanting, **dict.fromkeys(unseen)}:
                self.app.tasks[PushTask.name].apply_async(
                    (remote, (wanting.get(remote) or "")[:SHOWN_CHARACTERS]),
                    {"occasion": why},
                    queue=pipeline.queue,
                )
            if pipeline.follower.is_nudged():  # its message may be lost, or not delivered yet
                self.app.tasks[FollowTask.name].apply_async(
                    (), {"told_by": "sweep", "is_noted": True}, queue=pipeline.queue
                )
            pipeline.monitor.check_in()
            pipeline.watchdog.check()
            self.call_after(is_sweep=True)
        if pipeline.maintenance.is_due():
            self.app.tasks[MaintainTask.name].apply_async(queue=pipeline.queue)
        return f"queued {', '.join(wanting)}" if wanting else NOTHING_TO_DO


class FollowTask(_FerryTask):
    """
    Takes over the commits that others pushed to origin.
    """

    name = "follow"

    def run(self, *, told_by: str = "", is_noted: bool = False) -> str:
        """
        Look at origin once, and take over the commits that we lack.

        Args:
            told_by: Who asked for the look, for people who read the task list; "" for beat.
            is_noted: Whether a nudge in the ledger asks for this look.
        """
        with self.logged():
            try:
                return self.pipeline.follower.follow(is_noted=is_noted)
            finally:
                self.call_after()


class AfterTask(_FerryTask):
    """
    Calls the functions of an extension for the events since the last call.
    """

    name = "after"
    throws = (HookFailed,)  # as for a push

    def run(self, extension: str, commit: str, *, occasion: str = "commit") -> str:
        """
        Call them until nothing waits, or the time of one turn is over.

        Args:
            extension: The extension's name.
            commit: The tip of the branch when this was queued, for people who read the task list.
            occasion: The event: ``commit``, ``push`` or ``divergence``.

        Raises:
            HookFailed: A function failed. Another message is queued for the time of the next call.
        """
        after = self.pipeline.after
        with self.logged():
            hook = after.find(extension, occasion)
            if hook is None:
                return f"{extension} has no function for {occasion}: restart the worker if it should"
            try:
                outcome = after.call(hook)
            except HookFailed as exc:
                if exc.retry_in_s is not None:
                    self.call_after(hook, wait_s=exc.retry_in_s)
                raise
            if after.is_due(hook):  # because of new events, or because the turn was over
                self.call_after(hook)
            return outcome


class MaintainTask(_FerryTask):
    """
    Packs the repository's loose objects.
    """

    name = "maintain"

    def run(self) -> str:
        """
        Pack once. If the worker ends meanwhile, the unfinished part stays loose.

        Raises:
            RepositoryError: git failed; the next sweep queues the task again.
        """
        try:
            with self.logged(), interruptible():
                return self.pipeline.maintenance.run()
        except TaskInterrupted:
            return "interrupted: the worker ends; the next worker's sweep queues it again"


def register(app: Celery, pipelines: Mapping[str, Pipeline]) -> None:
    """
    Register the tasks with *app*. *pipelines* are those of this process, by their queues.
    """
    for kind in (PushTask, SweepTask, FollowTask, AfterTask, MaintainTask):
        # Celery stores the app on the class, and another app of this process may serve other repositories.
        own = type(kind.__name__, (kind,), {"__module__": kind.__module__, "pipelines": pipelines})
        app.register_task(own())


def _known(occasion: str) -> Occasion:
    return next((each for each in OCCASIONS if each == occasion), "commit")
