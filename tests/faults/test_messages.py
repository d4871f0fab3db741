"""
What may stand in a queue, and what happens to it: logged, acknowledged, survived.
"""

from __future__ import annotations

import json
import urllib.request

import pytest

from ferry.app.dev.stack import free_port
from ferry.worker.bootstrap import build
from tests.messages import no_messages, with_body
from tests.parts import CELERY, Process, wait_until
from tests.valkey_server import ValkeyServer


@pytest.fixture(scope="module")
def broker():
    """
    A Valkey server for these tests: what they look at is all that is in it.
    """
    with ValkeyServer() as server:
        yield server.client()


@pytest.fixture
def env(env, broker):
    broker.flushall()
    port = broker.connection_pool.connection_kwargs["port"]
    return {**env, "CFP_REDIS_URL": f"redis://127.0.0.1:{port}/0"}


@pytest.fixture
def queue(env):
    return build(env, publisher=True).queue


@pytest.fixture
def message(env, broker, queue):
    """
    A message as the API sends it, taken out of the queue again.
    """
    build(env, publisher=True).celery.send_task("push", ("origin", "abc"))
    return json.loads(broker.rpop(queue))


_NO_COMMANDS = [
    {"method": method, "arguments": arguments, "destination": destination, "reply_to": reply_to}
    for method, arguments, destination, reply_to in (
        ("no_such_command", {}, None, None),
        (["ping"], {}, None, None),
        (None, {}, None, None),
        ("ping", "x", None, None),
        ("ping", {"x": 1}, None, None),
        ("ping", {}, 7, None),
        ("ping", {}, None, "x"),
        ("ping", {}, None, {"exchange": 7}),
        ("rate_limit", {"task_name": [], "rate_limit": {}}, None, None),
    )
] + [{"type": 7}, {"type": "task-received"}, {"type": "worker-heartbeat", "clock": "x"}, [{"type": "x"}, 7]]


def test_what_is_no_message_is_logged_acknowledged_and_survived(
    client, worker, remote, broker, queue, message
):
    """
    All of it at once, before the worker starts and while it runs; the next commit arrives as ever.
    """
    junk = no_messages(message)
    for each in junk:
        broker.lpush(queue, each)
    api, running = client(), worker()
    wait_until(lambda: len(running.events("message.discarded")) >= len(junk), what="all that is none")
    for each in junk:
        broker.lpush(queue, each)
    wait_until(lambda: len(running.events("message.discarded")) >= 2 * len(junk), what="it again")

    commit = api.post("/api/sheets/people/records", json={"slug": "jane", "name": "Jane"}).json["commit"][
        "hash"
    ]
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")
    wait_until(lambda: broker.llen(queue) == 0 and broker.hlen(f"{queue}.unacked") == 0, what="empty queues")
    assert len(running.events("message.discarded")) == 2 * len(junk)
    assert not running.logged("Traceback")
    assert not running.logged("Trying to re-establish the connection")
    assert not running.ended()
    assert running.stop() == 0


@pytest.fixture
def flower(env, tmp_path):
    """
    A real Flower, and where it answers.
    """
    port = free_port()
    command = [*CELERY, "flower", "--address=127.0.0.1", f"--port={port}"]
    process = Process(command, {**env, "FLOWER_UNAUTHENTICATED_API": "true"}, tmp_path / "flower.log")
    process.spawn()
    yield process, f"http://127.0.0.1:{port}/api/tasks"
    process.kill()


def _tasks(url):
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return json.load(response)
    except OSError:
        return {}


def _listeners(broker):
    """
    Return the lists that the listeners for events wait at.
    """
    return [member.split(b"\x06\x16")[2] for member in broker.smembers("_kombu.binding.celeryev")]


def test_what_is_broadcast_to_workers_and_to_flower_is_survived_too(
    client, env, worker, flower, remote, broker, message
):
    """
    Commands that are none, events that tell of nothing: the worker answers, and the dashboard goes on.
    """
    dashboard, url = flower
    running, api = worker(), client()
    wait_until(lambda: _listeners(broker), what="Flower listening for events")
    for each in [*no_messages(message), *(with_body(message, each) for each in _NO_COMMANDS)]:
        broker.publish("/0.celery.pidbox", each)
        for listener in _listeners(broker):
            broker.lpush(listener, each)

    commit = api.post("/api/sheets/people/records", json={"slug": "jane", "name": "Jane"}).json["commit"][
        "hash"
    ]
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")
    wait_until(
        lambda: any(commit[:12] in (task["args"] or "") for task in _tasks(url).values()), what="it in Flower"
    )
    assert build(env, publisher=True).celery.control.ping(timeout=60, limit=1)
    assert not dashboard.logged("Failed to capture events"), dashboard.text()
    assert not running.logged("Trying to re-establish the connection"), running.text()
    assert not running.ended()
    assert not dashboard.ended()


def test_a_worker_asks_no_neighbours_at_its_start_nor_on_a_new_connection(worker, broker):
    """
    To ask takes a second, in which no task runs.
    """
    running = worker()

    def connects_again() -> bool:
        # One that is closed before the worker waits at it is not missed.
        broker.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        return running.text().count("Connected to") > 1

    wait_until(connects_again, every_s=2, what="a new connection")

    assert not running.logged("mingle")
    assert not running.logged("Gossip")
    assert _listeners(broker) == []
