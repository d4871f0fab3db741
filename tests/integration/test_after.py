"""
Functions of extensions after commits, pushes and divergences: called at least once, in order, from git.

Each call is a process of its own, as in a worker; what a worker adds is in ``faults/test_after.py``.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time

import pytest

from ferry.worker import paging
from ferry.worker.after import turns
from ferry.worker.after.calling import Outcome, registered_in
from ferry.worker.after.hooks import Hook
from ferry.worker.after.status import hook_statuses
from ferry.worker.after.turns import CLAIMED, CROWDED, UNREADABLE, WAITS
from ferry.worker.bootstrap import build
from ferry.worker.errors import HookFailed, NonFastForward, SettingsError
from ferry.worker.files.places import hook_places
from ferry.worker.observe.logs import NOTHING_TO_DO
from ferry.worker.push import Request
from tests.parts import wait_until

COMMIT, PUSH, DIVERGENCE = (Hook("town", event) for event in ("commit", "push", "divergence"))
HEAD = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
import ferry
town = ferry.Extension("town")

def tell(*told):
    with open("told", "a") as file:
        file.write(json.dumps(told) + "\\n")
"""
TELL = (
    HEAD
    + """
@town.after_commit
def told(commit):
    tell(commit.hash)
"""
)


@pytest.fixture
def town(data, env, tmp_path, monkeypatch):
    """
    Write the module ``town`` into the current directory, and build what calls its functions.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "told").touch()

    def start(text=TELL, **more):
        (tmp_path / "town.py").write_text(text)
        pipeline = build({**env, "CFP_API_EXTENSIONS": "town", **more}, publisher=True)
        events = dict.fromkeys(re.findall(r"town\.after_(\w+)", text))
        pipeline.after.serve([Hook("town", event) for event in events])
        return pipeline

    return start


@pytest.fixture
def told(tmp_path):
    return lambda: [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]


def _names(told):
    return [line[0] for line in told()]


# --- What is told ---


def test_each_commit_is_told_once_in_order_from_the_first_start_on(town, told, data):
    after = town().after
    assert after.due() == []
    commits = [data.commit(f"number {number}") for number in range(3)]

    assert after.due() == [COMMIT]
    assert after.call(COMMIT).startswith("3 calls in ")
    assert after.due() == []
    assert _names(told) == commits
    assert after.call(COMMIT) == NOTHING_TO_DO


def test_a_function_sees_what_its_commit_changes(town, data):
    work, head = town().after.work, data.head()
    jane = 'name = "Jane"\nslug = "jane"\n'
    data.edit({"people/jane.toml": jane, "README": "x", "people/jane/photo.jpg": "x"})
    data.edit({"people/jane.toml": jane.replace("Jane", "Janet")})
    data.edit({"people/jane.toml": None})
    added, changed, removed = (commit for _, commit, _ in work.items("commit", (head,)))

    assert (added.author, added.message.strip(), added.parents) == ("Sam", "edit", (head,))
    assert added.files == ("README", "people/jane.toml", "people/jane/photo.jpg")
    [change] = added.changes
    assert (change.sheet, change.path, change.operation, change.before) == ("people", "jane", "create", None)
    assert change.after == {"name": "Jane", "slug": "jane"}
    assert change.after.path == "jane"
    [change] = changed.changes
    assert (change.operation, change.before["name"], change.after["name"]) == ("change", "Jane", "Janet")
    [change] = removed.changes
    assert (change.operation, change.before["name"], change.after) == ("delete", "Janet", None)


def test_a_change_belongs_to_the_sheet_that_owns_its_path(town, data):
    """
    Also where sheets share a root, and where one of them is declared or removed by the commit itself.
    """
    work, head = town().after.work, data.head()
    notes = "root = 'people'\npath = 'note-${{ slug }}'\nformat = {type = 'markdown', body = 'text'}\n"
    notes = f"[gitsheet]\n{notes}"
    data.edit({".gitsheets/notes.toml": notes, "people/note-a.md": "+++\nslug = 'a'\n+++\n\nHello\n"})
    data.edit({".gitsheets/notes.toml": None, "people/note-a.md": None, ".gitsheets/broken.toml": "["})
    data.edit({"people/wrong.toml": "[", "people/other.txt": "x"})
    added, removed, wrong = (commit for _, commit, _ in work.items("commit", (head,)))

    [change] = added.changes
    assert (change.sheet, change.path, change.after) == ("notes", "note-a", {"slug": "a", "text": "Hello"})
    [change] = removed.changes
    assert (change.sheet, change.before) == ("notes", {"slug": "a", "text": "Hello"})
    [change] = wrong.changes
    with pytest.raises(ValueError, match="people/wrong is no valid record"):
        change.after  # noqa: B018 - it is read when it is asked for


def test_a_landing_tells_what_has_arrived_whoever_pushed_it(town, data):
    data.git("update-ref", "refs/remotes/origin/main", "main")
    after, first = town(TELL + "town.after_push(print)").after, data.head()
    commits = [data.commit("one"), data.commit("two")]
    assert after.due() == [COMMIT], "they have not arrived"
    data.git("update-ref", "refs/remotes/origin/main", "main")

    assert after.due() == [COMMIT, PUSH]
    [(_, landing, done)] = after.work.items("push", (first,))
    assert (landing.remote, landing.before, landing.after) == ("origin", first, commits[1])
    assert landing.count == 2
    assert [commit.hash for commit in landing.commits] == commits
    after.positions.write(PUSH, done)
    assert after.due() == [COMMIT]


def test_a_divergence_is_told_once(town, data, remote):
    pipeline = town(HEAD + "town.after_divergence(print)")
    after = pipeline.after
    data.git("push", "--quiet", str(remote.path), "main")
    remote.commit("theirs")
    ours, told = data.commit("ours"), []
    for _ in range(2):
        with pytest.raises(NonFastForward):
            pipeline.pusher.push(Request(remote="origin", chain="1", occasion="operator"))
        assert after.due() == ([] if told else [DIVERGENCE])
        for _, divergence, done in after.work.items("divergence", after.positions.read(DIVERGENCE)):
            told.append(divergence)
            after.positions.write(DIVERGENCE, done)

    [divergence] = told
    assert (divergence.remote, divergence.head) == ("origin", ours)
    assert divergence.hint == "See what each side holds, and join it."


# --- In which order ---


def test_commits_of_merges_are_told_after_their_parents_and_once_though_each_call_is_the_last(town, data):
    """
    A crash after any call: what follows is read anew from the position that it left.
    """
    pipeline, start = town(), data.head()
    one = data.commit("ours")
    for parent in (start, one, one):
        theirs = data.git("commit-tree", "-p", parent, "-m", f"theirs on {parent}", "main^{tree}")
        merge = data.git("commit-tree", "-p", theirs, "-p", "main", "-m", "merge", "main^{tree}")
        data.git("update-ref", "refs/heads/main", merge)
    wanted = data.git("rev-list", f"{start}..main").split()

    seen, position = [], (start,)
    while item := next(pipeline.after.work.items("commit", position), None):
        name, commit, position = item
        assert not (set(commit.parents) & set(wanted)) - set(seen), "a parent comes first"
        seen.append(name)
        assert len(seen) <= len(wanted)
    assert sorted(seen) == sorted(wanted)
    assert position == (data.head(),)


def test_after_a_rewritten_history_what_is_new_is_told(town, data):
    after, base = town().after, data.commit("kept")
    gone = data.commit("gone")
    data.git("update-ref", "refs/heads/main", base)
    assert not after.work.waits("commit", (gone,)), "what it went back to is done"
    new = [data.commit("instead"), data.commit("further")]

    *_, last = found = list(after.work.items("commit", (gone,)))
    assert [name for name, *_ in found] == new
    assert last[2] == (new[1],)


def test_a_thousand_commits_take_no_more_memory_than_a_few(town, told, data):
    text = (
        HEAD
        + """
import resource
@town.after_commit
def told(commit):
    tell(commit.hash, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    )
    after, start = town(text).after, data.head()
    data.grow(1100)
    for _ in range(20):
        if after.due():
            after.call(COMMIT)

    assert _names(told) == data.git("rev-list", "--reverse", f"{start}..main").split()
    kib = [line[1] for line in told()]
    assert kib[-1] - kib[60] < 8 << 10


# --- What fails ---


FAILS = (
    HEAD
    + """
@town.after_commit
def told(commit):
    tell(commit.hash)
    if not os.path.exists("mended"):
        print("trying")
        {fault}
"""
)


def test_a_function_that_fails_is_called_again_for_the_same_commit(town, told, data, tmp_path):
    pipeline = town(FAILS.format(fault="raise ValueError('https://jane:hunter2@example.org')"))
    after = pipeline.after
    one, two = data.commit("one"), data.commit("two")
    with pytest.raises(HookFailed) as failed:
        after.call(COMMIT)

    assert "hunter2" not in str(failed.value)
    assert failed.value.detail == f"ValueError: https://***@example.org (for {one[:12]})"
    entry = pipeline.ledger.read(COMMIT.entry)
    assert (entry.attempt, entry.last_failure.reason) == (1, "extension")
    assert "in told" in entry.last_failure.said
    assert after.call(COMMIT) == WAITS
    (tmp_path / "mended").touch()
    wait_until(after.due)
    after.call(COMMIT)

    assert _names(told) == [one, one, two]
    assert pipeline.ledger.read(COMMIT.entry).last_failure is None


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("sys.exit(3)", "SystemExit: 3"),
        ("os._exit(0)", "ended its process with status 0"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)", "took longer than 0.5 s"),
        ("[print('x' * (1 << 20)) for _ in range(100)]; os.kill(os.getpid(), 9)", "with status -9"),
    ],
)
def test_whatever_a_function_does_is_a_failure_of_it(town, told, data, fault, said):
    limit_s = "0.5" if "sleep" in fault else "60"
    pipeline = town(FAILS.format(fault=fault), CFP_API_HOOK_TIMEOUT=limit_s)
    data.commit("one")
    with pytest.raises(HookFailed, match=re.escape(said)):
        pipeline.after.call(COMMIT)

    assert len(pipeline.ledger.read(COMMIT.entry).last_failure.said) < 10_000
    assert len(told()) == 1


def test_what_a_function_leaves_running_calls_nothing_and_ends_with_it(town, told, data):
    """
    A fork that returns from the function would go on to the next commit.
    """
    text = FAILS.format(fault="os.fork(); subprocess.Popen(['sleep', '300'])")
    after = town(text).after
    commits = [data.commit("one"), data.commit("two")]
    begun = time.monotonic()
    after.call(COMMIT)

    assert time.monotonic() - begun < 25
    assert _names(told) == commits


def test_one_extension_that_fails_holds_up_no_other(town, told, data):
    pipeline = town(
        FAILS.format(fault="1 / 0")
        + """
parks = ferry.Extension("parks")
@parks.after_commit
def told_too(commit):
    tell("parks")
"""
    )
    pipeline.after.serve([COMMIT, parks := Hook("parks", "commit")])
    data.commit("one")
    with pytest.raises(HookFailed):
        pipeline.after.call(COMMIT)
    pipeline.after.call(parks)

    assert told()[-1] == ["parks"]


def test_a_function_that_goes_on_failing_pages_once(town, data, sentry, monkeypatch):
    pipeline = town(CFP_PUSH_PAGE_AFTER="0.3", SENTRY_DSN=sentry.dsn)
    paging.configure(pipeline.settings)
    data.commit("one")
    failed = Outcome(failed="ZeroDivisionError: division by zero", at="f" * 40)
    monkeypatch.setattr(turns, "call", lambda *_: failed)
    while not pipeline.ledger.read(COMMIT.entry).paged:
        wait_until(pipeline.after.due)
        with pytest.raises(HookFailed):
            pipeline.after.call(COMMIT)
    wait_until(pipeline.after.due)
    with pytest.raises(HookFailed):
        pipeline.after.call(COMMIT)
    paging.flush(10)

    [page] = sentry.events
    assert page["level"] == "fatal"
    assert "extension town, after_commit: ZeroDivisionError" in page["message"]
    assert page["contexts"]["push"]["commands"][1] == "ferry hooks skip town --event commit"


# --- Who calls ---


def test_only_one_process_calls_the_functions_of_a_hook(town, told, data):
    pipeline = town()
    data.commit("one")
    with pipeline.ledger.claim(COMMIT.entry) as claim:
        claim.looks_again = True
        assert pipeline.after.due() == []
        assert pipeline.after.call(COMMIT) == CLAIMED
    assert told() == []
    assert pipeline.after.due() == [COMMIT]


def test_a_burst_asks_for_one_task_and_a_sweep_trusts_none(town, told, data):
    after = town().after
    commit = data.commit("one")
    assert after.due() == [COMMIT]
    after.ask(COMMIT)
    assert after.due() == []
    assert after.due(asked=True) == [COMMIT]
    after.call(COMMIT)
    assert _names(told) == [commit]
    data.commit("two")
    assert after.due() == [COMMIT]


def test_a_task_that_comes_too_late_starts_no_process(town, monkeypatch):
    after = town().after
    monkeypatch.setattr(turns, "call", None)
    assert after.call(COMMIT) == NOTHING_TO_DO


def test_no_more_hooks_are_called_at_once_than_there_are_places(town, told, data):
    pipeline = town()
    data.commit("one")
    [place] = hook_places(data.path, 1)
    pipeline.after.serve([COMMIT], [place])
    with place.try_hold():
        assert pipeline.after.call(COMMIT) == CROWDED
    assert told() == []


def test_an_extension_that_comes_back_goes_on_where_it_was(town, told, data):
    first, head = town().after, data.head()
    one = data.commit("while it was away")
    again = town().after

    assert again.due() == [COMMIT]
    assert again.positions.read(COMMIT) == (head,)
    again.call(COMMIT)
    assert _names(told) == [one]
    assert first.due() == []


def test_a_replica_calls_nothing(town, data, remote):
    data.git("push", "--quiet", str(remote.path), "main")
    assert town(CFP_API_ROLE="replica").after.hooks == ()


# --- What cannot be read or written ---


def test_a_ledger_that_cannot_be_read_stops_the_calls_of_its_hook(town, told, data):
    pipeline = town()
    data.commit("one")
    entry = data.path / "ferry/remotes" / f"{COMMIT.entry}.json"
    entry.unlink(missing_ok=True)
    entry.mkdir()

    assert pipeline.after.due() == []
    assert pipeline.after.call(COMMIT) == UNREADABLE
    assert told() == []


def test_a_position_that_cannot_be_read_is_a_failure_with_its_remedy_and_skips_nothing(town, told, data):
    pipeline = town()
    path = pipeline.after.positions.path(COMMIT)
    data.commit("one")
    path.write_text("[")

    assert pipeline.after.due() == [COMMIT]
    [status] = hook_statuses(pipeline.after, page_after_s=60)
    assert (status.state, status.sentence) == ("blocked", "The position cannot be read.")
    with pytest.raises(HookFailed, match="remove it to begin at the present tip"):
        pipeline.after.call(COMMIT)
    assert told() == []


def test_a_full_disk_keeps_no_position_from_moving(town, told, data, monkeypatch):
    """
    Else each retry would tell the same commit again until there is room.
    """
    after = town().after
    one = data.commit("one")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    after.positions.write(COMMIT, [one])
    assert after.positions.read(COMMIT) == (one,)


def test_a_worker_asks_a_process_of_its_own_which_hooks_there_are(town, env, tmp_path):
    settings = town(TELL + "town.after_push(print)\n").settings
    env = {**env, "CFP_API_EXTENSIONS": "town"}
    assert registered_in(settings, env).hooks == (COMMIT, PUSH)
    (tmp_path / "town.py").write_text("1 / 0")
    with pytest.raises(SettingsError, match="town: cannot be imported: ZeroDivisionError"):
        registered_in(settings, env)
    (tmp_path / "town.py").write_text("import os; os._exit(7)")
    with pytest.raises(SettingsError, match="ended its process with status 7"):
        registered_in(settings, env)


def test_of_two_processes_that_start_at_once_the_first_says_where_a_hook_begins(town, data):
    """
    Else what is committed between their reads would be skipped, and what the first has done would be undone.
    """
    one, other = town().after, town().after
    one.positions.path(COMMIT).unlink()
    first, now = data.head(), other.work.now

    def slowly(event):
        assert one.is_due(COMMIT) is False
        data.commit("between")
        return now(event)

    other.work.now = slowly
    assert other.is_due(COMMIT)
    assert one.positions.read(COMMIT) == (first,)
    assert [*one.positions.path(COMMIT).parent.glob("*.position*")] == [one.positions.path(COMMIT)]


# --- The operator's hands ---


def test_an_operator_leaves_a_commit_out(town, told, data):
    pipeline = town(FAILS.format(fault="if commit.message.startswith('bad'): 1 / 0"))
    bad, good = data.commit("bad"), data.commit("good")
    with pytest.raises(HookFailed):
        pipeline.after.call(COMMIT)
    assert pipeline.after.skip(COMMIT) == bad

    assert pipeline.after.due() == [COMMIT], "its retry is not waited for"
    pipeline.after.call(COMMIT)
    assert _names(told) == [bad, good]
    assert pipeline.after.skip(COMMIT) is None


def test_an_operator_has_a_commit_told_again(town, told, data):
    pipeline = town()
    one, two = data.commit("one"), data.commit("two")
    pipeline.after.positions.write(COMMIT, [two])
    assert pipeline.after.call_again(COMMIT, one).failed is None

    assert _names(told) == [one]
    assert pipeline.after.due() == []
