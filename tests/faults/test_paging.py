"""
Whatever Sentry, the worker and the broker go through: one page, and nothing but pages.
"""

from __future__ import annotations

import os
import signal

from tests.parts import wait_until
from tests.valkey_server import ValkeyServer


def test_a_page_is_sent_until_it_is_taken_and_a_brokers_restart_wakes_nobody(
    env, client, worker, beat, own_valkey, remote, sentry
):
    """
    Refused at first; then the broker is restarted and the worker killed; its successor sends the page.
    """
    env |= {"CFP_REDIS_URL": f"redis://127.0.0.1:{own_valkey.port}/0", "CFP_PUSH_SWEEP_INTERVAL": "1"}
    api, running, _ = client(), worker(SENTRY_DSN=sentry.dsn), beat(SENTRY_DSN=sentry.dsn)
    wait_until(lambda: remote.head(), what="the first push")
    wait_until(lambda: api.get("/api/_internal/push").json["remotes"]["origin"]["state"] == "idle")
    sentry.answer = lambda: (429, {})
    remote.commit("theirs")
    api.post("/api/sheets/people/records", json={"slug": "jane", "name": "Jane"})
    wait_until(lambda: sentry.refused, what="a page that is refused")

    os.kill(own_valkey.pid, signal.SIGKILL)
    wait_until(lambda: running.logged("Connection to broker lost"), what="a worker without a broker")
    with ValkeyServer(port=own_valkey.port):
        # Celery tries again ever later, the longer a busy machine takes for the server's start.
        wait_until(
            lambda: running.text().count("Connected to redis") > 1,
            timeout_s=120,
            what="a worker with a broker",
        )
        running.kill()
        running.log_path.write_text("")
        running.spawn()
        running.await_ready()
        sentry.answer = lambda: (200, {})
        wait_until(lambda: _pages(sentry.events), what="the page")
        sweeps = running.text().count("Task sweep")
        wait_until(lambda: running.text().count("Task sweep") > sweeps + 1, what="more sweeps")
    [taken] = _pages(sentry.events)
    assert taken["level"] == "fatal"
    refused = _pages(event for _, event in sentry.refused)
    assert {event["event_id"] for event in refused} == {taken["event_id"]}


def _pages(events):
    """
    Leave out what a busy machine adds: commits may stall before a worker is back, which has its own page.
    """
    return [event for event in events if event.get("tags", {}).get("reason") != "stalled"]
