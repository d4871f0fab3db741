"""
What Flower shows of Ferry's tasks, and what it forgets.
"""

from __future__ import annotations

import pytest
from celery.events.state import Task
from flower.events import EventsState
from flower.options import options
from flower.views.tasks import TASK_COLUMNS, visible_task_columns

from ferry.worker.errors import HookFailed, PushFailed
from ferry.worker.observe import flower
from ferry.worker.observe.logs import NOTHING_TO_DO

OF_A_PUSH = {"name": "push", "args": "('origin', '1a2b3c4d5e6f')", "kwargs": "{'occasion': 'retry'}"}


@pytest.fixture
def configured(monkeypatch):
    """
    Set Flower's options in an environment; everything is put back at the end.
    """
    monkeypatch.setattr(EventsState, "event", EventsState.event)
    before = dict(TASK_COLUMNS)

    def configure(**environ: str) -> dict[str, str]:
        flower.configure(environ)
        return environ

    yield configure
    options.format_task = None
    TASK_COLUMNS.clear()
    TASK_COLUMNS.update(before)


def test_the_columns_tell_of_a_push(configured):
    columns = visible_task_columns(configured()["FLOWER_TASKS_COLUMNS"])

    labels = ["Name", "State", "Remote", "Commit", "Occasion", "Result", "Received", "Runtime", "UUID"]
    assert [label for _, label in columns] == labels
    error = PushFailed("origin", "timeout", "no answer", "Wait.")
    for said, result in (
        ({"result": "'Every commit is already there.'"}, "Every commit is already there."),
        ({"exception": repr(error)}, "timeout: no answer"),
        ({"exception": "OSError(28, 'No space left')"}, "OSError(28, 'No space left')"),
    ):
        shown = options.format_task(Task("id", **OF_A_PUSH, **said)).as_dict()
        names = ("name", "remote", "commit", "occasion", "result")
        assert [shown[name] for name in names] == ["push", "origin", "1a2b3c4d5e6f", "retry", result]


def test_a_call_of_functions_names_its_extension_and_its_event():
    error = HookFailed("extension town, after_commit", "extension", "ValueError: no", "Correct it.")
    told = {"args": "('town', '1a2b3c4d5e6f')", "kwargs": "{'occasion': 'commit'}", "exception": repr(error)}
    shown = flower.told(Task("id", name="after", **told)).as_dict()
    names = ("remote", "commit", "occasion", "result")
    assert [shown[each] for each in names] == ["town", "1a2b3c4d5e6f", "commit", "extension: ValueError: no"]


@pytest.mark.parametrize("text", [None, "", "()", "{}", "('origin', '1a2", "1", "[[]]", "(" * 3000])
def test_a_task_that_tells_nothing_is_shown(text):
    shown = flower.told(Task("id", name="sweep", args=text, kwargs=text, result=text)).as_dict()
    assert shown["name"] == "sweep"
    assert shown["occasion"] == ""


def test_sweeps_that_do_nothing_are_forgotten(configured):
    """
    Those that queue a push, and those that fail, are not.
    """
    configured()
    state = EventsState(max_tasks_in_memory=100)

    def run(task: str, **outcome: object) -> None:
        for event in ({"type": "task-received", "name": "sweep", "args": "()", "kwargs": "{}"}, outcome):
            common = {
                "uuid": task,
                "hostname": "worker@x",
                "clock": 1,
                "timestamp": 1.0,
                "local_received": 1.0,
            }
            state.event({**common, **event})

    run("idle", type="task-succeeded", result=repr(NOTHING_TO_DO), runtime=0.1)
    run("late", type="task-revoked", expired=True, terminated=False, signum=None)
    run("useful", type="task-succeeded", result="'queued origin'", runtime=0.1)
    run("failed", type="task-failed", exception="OSError()", traceback="")

    assert set(state.tasks) == {"useful", "failed"}
    assert set(state.search_engine.documents) == {"useful", "failed"}


def test_its_history_is_kept_where_there_is_a_place_for_it(configured, tmp_path):
    assert configured(FLOWER_DB=str(tmp_path / "history"))["FLOWER_PERSISTENT"] == "true"
    assert "FLOWER_PERSISTENT" not in configured()
    assert configured(FLOWER_DB=str(tmp_path / "none" / "history"))["FLOWER_PERSISTENT"] == "false"


def test_what_is_set_wins(configured):
    set_so = {"FLOWER_MAX_TASKS": "7", "FLOWER_TASKS_COLUMNS": "name", "FLOWER_PERSISTENT": "false"}
    assert configured(**set_so, FLOWER_DB="/tmp/history").items() >= set_so.items()
