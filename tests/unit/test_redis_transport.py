"""
Ferry's Redis transport: what is an error of the broker, what is one of a message, and what it costs.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from celery import Celery
from celery.utils.imports import load_extension_class_names
from kombu import Connection, Consumer, Exchange, Queue
from kombu.asynchronous import Hub, set_event_loop
from kombu.transport import pyamqp
from kombu.transport import redis as kombu_redis
from redis import Connection as RedisConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from ferry.worker.bootstrap import build
from ferry.worker.broker.celery_app import build_celery
from ferry.worker.broker.redis_transport import RefusedForNow, SentinelTransport, Transport, _packed
from ferry.worker.enqueue import send_push
from ferry.worker.settings import Settings
from tests.parts import wait_until

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def celery(env: dict[str, str], patient: None) -> Celery:
    return build(env, publisher=True).celery


@pytest.fixture
def connection(celery: Celery) -> Iterator[Connection]:
    with celery.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)
        yield connection


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://one/0", Transport),
        ("rediss://one/0", Transport),
        ("redis+socket:///run/redis.sock", Transport),
        ("sentinel://one:1;sentinel://two:2#main", SentinelTransport),
        ("amqp://one//", pyamqp.Transport),
    ],
)
def test_every_form_of_url_gets_ferrys_transport_and_keeps_it(env, url, kind):
    """
    Also where the connection goes on to the next server of a list, or is cloned for a pool.
    """
    settings = Settings.from_env({**env, "CFP_BROKER_URL": url})
    with build_celery({"push.x": settings}, publisher=True).connection_for_write() as connection:
        assert connection.get_transport_cls() is kind
        assert connection.clone().get_transport_cls() is kind
        connection.maybe_switch_next()
        assert connection.get_transport_cls() is kind


@pytest.mark.parametrize(
    "answer",
    [
        "READONLY You can't write against a read only replica.",
        "NOREPLICAS Not enough good replicas to write.",
        "MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "CLUSTERDOWN The cluster is down",
    ],
)
def test_a_server_that_refuses_for_now_counts_as_one_that_is_away(connection, broker, answer):
    """
    To a worker a lost connection is a reason to wait; any other error of the broker would end it.
    """
    broker.refusal = answer
    with pytest.raises(RefusedForNow, match=answer.split()[-1].rstrip(".?)")) as refused:
        connection.default_channel.client.lpush("x", "y")
    assert isinstance(refused.value, connection.connection_errors)
    broker.refusal = None
    assert connection.default_channel.client.lpush("x", "y") == 1


def test_an_answer_to_a_wrong_question_is_no_reason_to_wait(connection):
    client = connection.default_channel.client
    client.set("text", "x")
    with pytest.raises(ResponseError, match="wrong kind of value") as refused:
        client.lpush("text", "y")
    assert not isinstance(refused.value, RefusedForNow)


def test_a_channel_whose_connection_is_lost_says_so_by_an_error_that_celery_waits_for(connection):
    """
    kombu 5.7 raises AttributeError there, over which the worker ends.
    """
    channel = connection.default_channel
    channel.connection.client = None
    with pytest.raises(RedisConnectionError, match="was lost") as lost:
        channel._connparams()
    assert isinstance(lost.value, connection.connection_errors)


def test_one_client_serves_all_commands_of_a_channel(celery, broker, monkeypatch):
    """
    kombu makes one for each command, a fifth of what sending a message takes.
    """
    made: list[object] = []
    create = kombu_redis.Channel._create_client

    def count(channel: Any, asynchronous: bool = False) -> Any:
        if not asynchronous:  # those kombu keeps itself
            made.append(channel)
        return create(channel, asynchronous)

    monkeypatch.setattr(kombu_redis.Channel, "_create_client", count)
    for _ in range(5):
        send_push(celery, "origin", COMMIT)
    assert len(made) == 1
    with broker.client() as client:
        assert client.llen(celery.conf.task_default_queue) == 5


def test_a_message_is_sent_without_a_look_at_what_is_installed(celery, broker, monkeypatch):
    """
    Celery would look for result backends in the metadata of every package, and redis-py for its own version.
    """
    looks: list[str] = []
    monkeypatch.setattr("celery.utils.imports.entry_points", lambda **group: looks.append("Celery") or ())
    monkeypatch.setattr("redis.utils.get_lib_version", lambda: looks.append("redis-py"))
    load_extension_class_names.cache_clear()

    send_push(celery, "origin", COMMIT)

    assert looks == []
    with broker.client() as client:
        assert client.llen(celery.conf.task_default_queue) == 1


def test_each_look_at_a_queue_is_one_question(connection, broker):
    """
    No message has a priority; kombu would ask for four of them.
    """
    broker.commands.clear()
    assert connection.default_channel._size("push.x") == 0
    assert broker.commands.count("LLEN") == 1


def test_a_look_at_the_queues_is_packed_as_redis_packs_it(connection):
    words = ("BRPOP", *(f"push.\u00e9{number}" for number in range(100)), 1, 1.5)
    theirs = RedisConnection().pack_command(*words)
    assert _packed(words) == b"".join(theirs)


def test_a_queue_is_looked_at_from_its_first_consumer_to_its_last(connection):
    channel = connection.default_channel
    assert list(channel.active_queues) == []
    with Consumer(channel, [Queue("jobs"), Queue("others")]):
        assert list(channel.active_queues) == ["jobs", "others"]
    assert list(channel.active_queues) == []


@pytest.fixture
def consume(connection: Connection) -> Callable[..., None]:
    """
    Take what stands in the queue ``jobs`` and what is said on ``news``, with a callback for each.
    """
    queues = [Queue("jobs"), Queue("listener", Exchange("news", "fanout"), auto_delete=True)]

    def consume(callback: Callable[[Any, Any], None], *, until: Callable[[], bool]) -> None:
        with Consumer(connection, queues, callbacks=[callback], no_ack=True):
            while not until():
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=0.1)

    return consume


@pytest.fixture
def hub() -> Iterator[Hub]:
    """
    The event loop of a worker; nothing runs it but the test.
    """
    made = Hub()
    set_event_loop(made)
    yield made
    made.close()
    set_event_loop(None)


@pytest.mark.parametrize("ending", ["ack", "reject", "requeue", "restore"])
@pytest.mark.parametrize("is_early", [True, False])
def test_a_task_begins_before_its_message_is_stored_and_then_nothing_is_left_of_it(
    connection, broker, hub: Hub, ending: str, is_early: bool
):
    """
    Whether it ends before or after that, and whether the worker does.
    """
    channel, taken = connection.default_channel, []
    connection.Producer().publish("x", routing_key="jobs", declare=[Queue("jobs")])
    with broker.client() as client:
        stored = partial(client.hlen, channel.unacked_key)
        with Consumer(channel, [Queue("jobs")], callbacks=[lambda body, message: taken.append(message)]):
            while not taken:
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=0.1)
            assert (stored(), len(channel.qos._delivered)) == (0, 1)
            if not is_early:
                wait_until(lambda: hub.fire_timers() and stored(), what="the message in Redis")
        if ending == "restore":
            channel.qos.restore_unacked()
        else:
            getattr(taken[0], ending)()
        hub.fire_timers()
        assert (stored(), client.zcard(channel.unacked_index_key)) == (0, 0)
        assert client.llen("jobs") == (ending in ("requeue", "restore"))
    assert ("ZADD" in broker.commands) == (not is_early or ending != "ack"), "it was needed"


@pytest.mark.parametrize("junk", [b"not JSON", b"\xff\xfe\x00", b"[1]", b'{"body": 7}', b"[" * 5000])
def test_what_is_no_message_is_logged_and_gone_and_the_next_one_comes(connection, broker, consume, junk):
    """
    kombu takes it apart before anybody is asked, and its error would end the process.
    """
    taken: list[Any] = []
    with broker.client() as client:
        client.lpush("jobs", junk)
        with capture_logs() as logs:
            connection.Producer().publish({"a": "message"}, routing_key="jobs", declare=[Queue("jobs")])
            consume(lambda body, message: taken.append(body), until=lambda: bool(taken))
        assert client.llen("jobs") == 0
    assert taken == [{"a": "message"}]
    [discarded] = [entry for entry in logs if entry["event"] == "message.discarded"]
    assert discarded["log_level"] == "warning"


def test_an_error_over_one_message_does_not_end_the_consumer(connection, consume):
    heard: list[Any] = []

    def stumble(body: Any, _: Any) -> None:
        heard.append(body)
        if body == "first":
            raise KeyError("a field that the receiver expects")

    with capture_logs() as logs:
        for body in ("first", "second"):
            connection.Producer().publish(body, routing_key="jobs", declare=[Queue("jobs")])
        consume(stumble, until=lambda: len(heard) == 2)
    assert heard == ["first", "second"]
    assert [entry["origin"] for entry in logs if entry["event"] == "message.discarded"] == ["jobs"]


def test_an_error_of_the_broker_in_a_callback_goes_its_way(connection, consume):
    """
    Such as an acknowledgement that finds the connection lost.
    """

    def lose(*_: Any) -> None:
        raise RedisConnectionError("lost meanwhile")

    connection.Producer().publish("x", routing_key="jobs", declare=[Queue("jobs")])
    with pytest.raises(RedisConnectionError, match="lost meanwhile"):
        consume(lose, until=lambda: False)


def test_a_broadcast_that_is_no_message_is_survived(connection, broker, consume):
    """
    Every client of the server may say what it likes on the channel of the workers' remote control.
    """
    heard: list[Any] = []
    said: list[bytes] = []

    def speak() -> bool:
        with broker.client() as client:
            if not said and client.publish("/0.news", b"7"):
                said.append(b"7")
                client.publish("/0.news", json.dumps({"properties": [], "body": "x"}))
                connection.Producer().publish("hello", exchange=Exchange("news", "fanout"))
        return bool(heard)

    with capture_logs() as logs:
        consume(lambda body, message: heard.append(body), until=speak)
    assert heard == ["hello"]
    assert len([entry for entry in logs if entry["event"] == "message.discarded"]) == 2
