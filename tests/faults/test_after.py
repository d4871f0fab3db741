"""
Functions of extensions in a real worker: whatever is lost or killed, each commit is told.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.parts import sample, wait_until

PEOPLE = "/api/sheets/people/records"
TOWN = """
import os, time
from pathlib import Path
import ferry
town = ferry.Extension("town")

@town.after_commit
def told(commit):
    with open("told", "a") as file:
        file.write(f"{commit.hash}\\n")
    while commit.message.startswith("slow") and not os.path.exists("go on"):
        time.sleep(0.01)

@town.after_push
def arrived(landing):
    with open("landed", "a") as file:
        file.writelines(f"{commit.hash}\\n" for commit in landing.commits)
"""


@pytest.fixture
def town(env, tmp_path):
    (tmp_path / "town.py").write_text(TOWN)
    env["CFP_API_EXTENSIONS"] = "town"
    return tmp_path


def _lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_a_write_is_told_after_its_commit_and_after_its_push(town, client, worker, data, env, monkeypatch):
    monkeypatch.chdir(town)
    monkeypatch.syspath_prepend(town)
    worker()
    api = client()
    api.put(f"{PEOPLE}/jane", json={"slug": "jane", "name": "Jane"})

    wait_until(lambda: _lines(town / "told") == [data.head()])
    wait_until(lambda: _lines(town / "landed")[-1:] == [data.head()])
    wait_until(lambda: {each["state"] for each in api.get("/api/_internal/push").json["hooks"]} == {"idle"})
    commit, push = api.get("/api/_internal/push").json["hooks"]
    assert (commit["extension"], commit["event"], push["event"]) == ("town", "commit", "push")
    assert (commit["position"], commit["pending"], commit["done"]) == (data.head(), 0, 1)
    metrics = api.get("/metrics").text
    assert sample(metrics, "ferry_hook_calls_total", extension="town", event="commit") == 1
    assert sample(metrics, "ferry_hook_pending", extension="town") == 0
    assert "after_commit" in api.get("/status").text


def test_a_worker_killed_in_the_midst_of_a_function_calls_it_again_at_its_next_start(town, worker, data):
    """
    With two workers before: one alone calls it. No message tells of the commits but the starts'.
    """
    worker().stop()  # a first start begins at the tip
    slow, after = data.commit("slow"), data.commit("after it")
    first, second = worker(), worker()
    wait_until(lambda: _lines(town / "told") == [slow])
    children = [child for each in (first, second) for child in each.children()]
    for each in (first, second):
        each.kill()
    wait_until(lambda: not any(child.is_running() for child in children))
    assert _lines(town / "told") == [slow]
    (town / "go on").touch()
    worker()

    wait_until(lambda: _lines(town / "told") == [slow, slow, after])


def test_a_commit_whose_message_was_lost_is_told_by_a_sweep_and_a_hung_function_holds_up_no_push(
    town, worker, beat, data, remote
):
    worker()
    beat()
    slow = data.commit("slow")

    wait_until(lambda: _lines(town / "told") == [slow])
    more = data.commit("more")
    wait_until(lambda: remote.head() == more)
    assert _lines(town / "told") == [slow]
    (town / "go on").touch()
    wait_until(lambda: _lines(town / "told") == [slow, more])


def test_a_worker_that_stops_lets_a_function_end_and_the_next_goes_on_after_it(town, worker, data):
    worker().stop()
    slow, more = data.commit("slow"), data.commit("slow, too")
    running = worker()
    wait_until(lambda: _lines(town / "told") == [slow])
    running.signal(signal.SIGTERM)
    running.await_event("worker.stopping")
    (town / "go on").touch()

    assert running.wait() == 0
    worker()
    wait_until(lambda: _lines(town / "told")[-1] == more)
    assert _lines(town / "told") == [slow, more]


def test_a_function_that_fails_is_called_again_and_sentry_hears_of_it_by_one_page(town, worker, data, sentry):
    failing = TOWN.replace("    while commit.", "    1 / os.path.exists('mended')\n    while commit.")
    (town / "town.py").write_text(failing)
    worker(CFP_PUSH_PAGE_AFTER="1", SENTRY_DSN=sentry.dsn).stop()
    commit = data.commit("one")
    running = worker(CFP_PUSH_PAGE_AFTER="1", SENTRY_DSN=sentry.dsn)
    wait_until(lambda: [each for each in sentry.events if each["level"] == "fatal"])
    running.await_event("hook.failed", count=4)
    (town / "mended").touch()
    running.await_event("hook.recovered")

    assert set(_lines(town / "told")) == {commit}
    [page] = sentry.events
    assert page["tags"]["reason"] == "extension"
    assert "extension town, after_commit: ZeroDivisionError" in page["message"]
