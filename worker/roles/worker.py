"""
The worker: the process that pushes, sweeps and packs.
"""

from __future__ import annotations

import os
import time
from functools import partial

from celery import Celery
from celery.signals import worker_process_init, worker_ready, worker_shutdown, worker_shutting_down

from ferry.worker import paging
from ferry.worker.bootstrap import build_all
from ferry.worker.broker.children import share_memory
from ferry.worker.broker.shutdown import finish_tasks_first, interrupt
from ferry.worker.episodes.episodes import outbox_of
from ferry.worker.fleet import environments
from ferry.worker.git import remote
from ferry.worker.git.express import lane
from ferry.worker.observe import logs, tracing
from ferry.worker.pipeline import Pipeline
from ferry.worker.tasks import MaintainTask


def start() -> Celery:
    """
    Build the app of this process.
    """
    pipelines = build_all(environments(os.environ), calls=True)
    paging.configure(pipelines[0].settings, "celery")
    if tracing.is_wanted(os.environ):
        worker_process_init.connect(lambda **_: tracing.configure("ferry-worker"), weak=False)
    share_memory()
    worker_shutting_down.connect(_tell_of_the_end)
    finish_tasks_first()
    for pipeline in pipelines:
        lane.get_ready(pipeline.repository)
        worker_shutdown.connect(partial(_hang_up, pipeline), weak=False)
        worker_ready.connect(partial(push_backlog, pipeline), weak=False)
    return pipelines[0].celery


def push_backlog(pipeline: Pipeline, **_: object) -> None:
    """
    Queue pushes of the commits that a start finds pending, ahead of any scheduled retry.

    The sweep that does this also sends the pages that the last worker did not finish sending.
    """
    outbox_of(pipeline.repository).release()
    with logs.bound(repository=pipeline.repository.name or None):
        logs.log().info("worker.serves", path=str(pipeline.repository.path), queue=pipeline.queue)
        if not pipeline.settings.remotes:
            hint = "CFP_DATA_REMOTE is not set: commits stay on this machine"
            logs.log().warning("push.disabled", hint=hint)
    pipeline.celery.send_task(
        "sweep", kwargs={"occasion": "start", "start": time.time()}, queue=pipeline.queue
    )


def _tell_of_the_end(sig: str, how: str, **_: object) -> None:
    logs.log().info("worker.stopping", signal=sig, how=how.lower())
    interrupt(MaintainTask.name)


def _hang_up(pipeline: Pipeline, **_: object) -> None:
    remote.hang_up(pipeline.repository)
