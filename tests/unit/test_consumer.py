"""
What the worker's consumer makes of messages, and how it tells Flower of tasks.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker import state
from celery.worker.consumer.events import Events
from kombu import Connection
from kombu.asynchronous import Hub
from kombu.asynchronous.timer import Timer
from structlog.testing import capture_logs

from ferry.worker.bootstrap import build
from ferry.worker.broker import consumer as module
from ferry.worker.broker.consumer import FerryConsumer
from ferry.worker.enqueue import send_push
from ferry.worker.pipeline import Pipeline
from tests.fake_broker import FakeBroker
from tests.messages import no_messages
from tests.parts import wait_until

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def pipeline(env: dict[str, str], patient: None) -> Pipeline:
    return build(env)


@pytest.fixture
def celery(pipeline: Pipeline) -> Celery:
    return pipeline.celery


@pytest.fixture
def tasks() -> list[Any]:
    """
    The tasks that the consumer has handed on to the pool.
    """
    return []


@pytest.fixture
def consumer(celery: Celery, tasks: list[Any]) -> Iterator[FerryConsumer]:
    """
    The consumer as the worker builds it, short of a pool and of a loop that runs by itself.
    """
    made = FerryConsumer(
        tasks.append,
        app=celery,
        hostname="celery@test",
        hub=Hub(timer=Timer()),
        timer=Timer(),
        pool=SimpleNamespace(is_green=False, apply_async=None),
        controller=SimpleNamespace(state=state, use_eventloop=True),
        amqheartbeat=0,
    )
    Events(made).start(made)
    made.update_strategies()
    yield made
    if made.event_dispatcher:
        made.event_dispatcher.disable()
        made.event_dispatcher.connection.release()
    made.conninfo.release()
    made.hub.close()


@pytest.fixture
def drain(celery: Celery, consumer: FerryConsumer) -> Iterator[Callable[[], None]]:
    """
    Let the consumer take what stands in its queue now.
    """
    with celery.connection_for_read() as connection:
        taking = celery.amqp.TaskConsumer(connection, on_message=consumer.create_task_handler())
        taking.consume()

        yield lambda: _drain(connection)


def _counts(broker: FakeBroker, queue: str) -> tuple[int, int]:
    """
    Return how many messages wait, and how many were taken and not acknowledged.
    """
    with broker.client() as client:
        return client.llen(queue), client.hlen(f"{queue}.unacked")


def test_what_is_no_message_is_logged_and_acknowledged_and_the_next_task_runs(
    pipeline, celery, broker, tasks, drain
):
    send_push(celery, "origin", COMMIT)
    with broker.client() as client:
        junk = no_messages(json.loads(client.rpop(pipeline.queue)))
        for each in junk:
            client.lpush(pipeline.queue, each)
    send_push(celery, "origin", COMMIT)

    with capture_logs() as logs:
        wait_until(lambda: drain() or tasks, what="the task behind the junk")
    discarded = [entry for entry in logs if entry["event"] == "message.discarded"]
    assert len(discarded) == len(junk)
    assert {entry["log_level"] for entry in discarded} == {"warning"}
    assert [(task.name, task.argsrepr) for task in tasks] == [("push", f"('origin', '{COMMIT[:12]}')")]
    # A task is acknowledged when it has run.
    assert _counts(broker, pipeline.queue) == (0, 1)


def test_what_celerys_own_handling_raises_is_its_messages_error(
    pipeline, celery, broker, consumer, drain, monkeypatch
):
    def fail(*_: Any) -> None:
        raise KeyError("whatever a later Celery stumbles over")

    monkeypatch.setitem(consumer.strategies, "push", fail)
    send_push(celery, "origin", COMMIT)
    with capture_logs() as logs:
        wait_until(lambda: drain() or logs, what="the line about it")
    assert [entry["error"] for entry in logs if entry["event"] == "message.discarded"] == [
        "KeyError: 'whatever a later Celery stumbles over'"
    ]
    assert _counts(broker, pipeline.queue) == (0, 0)


def test_an_error_of_the_broker_is_none_of_the_messages(celery, consumer, monkeypatch):
    """
    It goes its way, to a new connection, and the message stays in the queue.
    """

    def fail(*_: Any) -> None:
        raise consumer.connection_errors[0]("the broker is gone")

    handle = consumer.create_task_handler()
    monkeypatch.setattr(module, "check", fail)
    with capture_logs() as logs, pytest.raises(consumer.connection_errors[0], match="the broker is gone"):
        handle(SimpleNamespace(headers={"task": "push"}))
    assert logs == []


def _drain(connection: Connection) -> None:
    with contextlib.suppress(TimeoutError):
        while True:
            connection.drain_events(timeout=0.1)


@pytest.fixture
def heard(celery: Celery, broker: FakeBroker) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """
    Read, as Flower does, the messages about tasks that were sent; each is a batch of events.
    """
    with celery.connection_for_read() as connection:
        receiver = celery.events.Receiver(connection, handlers={})
        batches: list[Any] = []
        receiver._receive = lambda body, message: batches.append(body)  # type: ignore[method-assign]
        with receiver.consumer_context() as (listening, _channel, _consumers):
            wait_until(lambda: _drain(listening) or "PSUBSCRIBE" in broker.commands, what="the subscription")

            def read() -> list[Any]:
                wait_until(lambda: _drain(listening) or batches, what="what Flower is told")
                return batches

            yield read


def _events(consumer: FerryConsumer, count: int) -> None:
    for number in range(count):
        consumer.event_dispatcher.send("task-received", uuid=str(number), name="push")


def test_many_tasks_are_told_to_flower_in_one_message(consumer, heard, monkeypatch):
    """
    The hub's timer fires after a tenth of a second; until then events are kept, up to Celery's limit of 24.
    """
    later: list[Callable[[], None]] = []
    monkeypatch.setattr(consumer.hub, "call_later", lambda delay_s, flush: later.append(flush))
    _events(consumer, 20)
    assert len(later) == 1
    later[0]()
    [batch] = heard()
    assert [event["uuid"] for event in batch] == [str(number) for number in range(20)]


def test_ten_messages_a_second_are_the_most(consumer, monkeypatch):
    now = 100.0
    later: list[float] = []
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    monkeypatch.setattr(consumer.hub, "call_later", lambda delay_s, flush: later.append(now + delay_s))
    for _ in range(300):
        _events(consumer, 1)
        now += 0.01
    assert 25 <= len(later) <= 31
    assert min(second - first for first, second in itertools.pairwise(later)) >= 0.1 - 1e-6


def test_what_is_left_at_the_end_is_sent(consumer, heard):
    _events(consumer, 3)
    consumer.shutdown()
    [batch] = heard()
    assert [event["uuid"] for event in batch] == ["0", "1", "2"]


def test_a_connection_that_is_lost_at_once_is_made_again_after_a_moment_only(consumer, monkeypatch):
    """
    A server that answers and refuses would otherwise be asked without end.
    """
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    consumer.connect().release()
    consumer.on_connection_error_before_connected(OSError("refused"))
    assert pauses == [module._PAUSE_S]
    consumer._tried_at -= module._PAUSE_S
    consumer.on_connection_error_before_connected(OSError("lost later"))
    assert len(pauses) == 1
