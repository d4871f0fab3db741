"""
Whether a worker of this repository answers, as the API process knows it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from ferry.app import liveness
from ferry.app.liveness import Liveness, Workers
from ferry.worker.bootstrap import build
from tests.fake_broker import FakeBroker, fake_broker
from tests.parts import least, wait_until


@pytest.fixture
def celery(env: dict[str, str], patient: None) -> Celery:
    return build(env, publisher=True).celery


@contextlib.contextmanager
def _worker(broker: FakeBroker, celery: Celery, name: str, *queues: str) -> Iterator[list[str]]:
    """
    Answer for a worker that takes from *queues*, as its remote control does; yields what it was asked.
    """
    asked: list[str] = []

    def active_queues(*_: Any, **__: Any) -> list[dict[str, str]]:
        asked.append("active_queues")
        return [{"name": queue} for queue in queues]

    heard = broker.commands.count("PSUBSCRIBE")
    ends = threading.Event()
    connection = celery.connection_for_read()
    node = celery.control.mailbox.Node(
        name, handlers={"active_queues": active_queues}, channel=connection.channel()
    )
    listening = node.listen(callback=node.handle_message)

    def serve() -> None:
        while not ends.is_set():
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=0.02)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        wait_until(lambda: broker.commands.count("PSUBSCRIBE") > heard, what="the worker to listen")
        yield asked
    finally:
        ends.set()
        thread.join(10)
        listening.cancel()
        connection.release()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "_ASK_S", 0.15)
    monkeypatch.setattr(liveness, "_PATIENCE_S", 20.0)


@pytest.mark.usefixtures("hurried")
def test_workers_that_take_from_our_queue_are_ours_and_others_are_not(celery, broker):
    """
    Several repositories may share a broker.
    """
    ours = celery.conf.task_default_queue
    with (
        _worker(broker, celery, "celery@zoe", ours),
        _worker(broker, celery, "celery@amy", "push.another", ours),
        _worker(broker, celery, "celery@ben", "push.another"),
    ):
        both = Workers(state="alive", names=("celery@amy", "celery@zoe"))
        wait_until(lambda: Liveness(celery).look() == both, what="the answers of both")
    assert Liveness(celery).look() == Workers(state="none")


@pytest.mark.usefixtures("hurried")
def test_many_lookers_ask_the_workers_once(celery, broker):
    with _worker(broker, celery, "celery@amy", celery.conf.task_default_queue) as asked:
        known = Liveness(celery)
        looking = [threading.Thread(target=known.look) for _ in range(8)]
        for each in looking:
            each.start()
        for each in looking:
            each.join(30)
        wait_until(lambda: asked, what="the question")
    assert len(asked) == 1


@pytest.mark.usefixtures("hurried")
def test_a_stale_answer_is_given_at_once_and_renewed_beside(celery, broker, monkeypatch):

    def alive() -> Liveness | None:
        known = Liveness(celery)
        return known if known.look().state == "alive" else None

    with _worker(broker, celery, "celery@amy", celery.conf.task_default_queue):
        known = wait_until(alive, what="an answer")
    monkeypatch.setattr(liveness, "_FRESH_S", 0.0)
    assert known.look().state == "alive"
    wait_until(lambda: known.look().state == "none", what="the renewed answer")


@pytest.mark.usefixtures("hurried")
def test_a_broker_that_is_away_leaves_it_unknown_not_none(env):
    with fake_broker() as broker:
        celery = build({**env, "CFP_REDIS_URL": broker.url}, publisher=True).celery
    assert Liveness(celery).look() == Workers(state="unknown")


def test_a_broker_that_hangs_keeps_a_looker_less_than_a_second(celery, broker, monkeypatch):
    monkeypatch.setattr(liveness, "_PATIENCE_S", 0.1)

    def look_s() -> float:
        begun = time.monotonic()
        assert Liveness(celery).look().state in ("asking", "unknown")
        return time.monotonic() - begun

    with broker.hung():
        assert least(look_s, below_s=1) < 1


class _Slow(Liveness):
    """
    Its question ends when the test says so.
    """

    def __init__(self) -> None:
        super().__init__(Celery(set_as_current=False))
        self.may_end = threading.Event()

    def _found(self) -> Workers:
        assert self.may_end.wait(60)
        return Workers(state="none")


def test_a_question_that_lasts_is_no_answer_until_it_has_lasted_too_long(monkeypatch):
    """
    A busy machine takes longer than the looker waits, though the broker is well.
    """
    monkeypatch.setattr(liveness, "_PATIENCE_S", 0.01)
    known = _Slow()
    assert known.look() == Workers(state="asking")
    monkeypatch.setattr(liveness, "_SLOW_S", 0.0)
    assert known.look() == Workers(state="unknown")
    known.may_end.set()
    wait_until(lambda: known.look() == Workers(state="none"), what="the answer")
