"""
What the pipeline asks of git, with real repositories on both sides.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from ferry.worker.errors import RepositoryError
from ferry.worker.failures import POLICIES
from ferry.worker.git import history, objects
from ferry.worker.git.packs import Packs
from ferry.worker.git.remote import Remote, _why
from ferry.worker.git.repository import Repository
from ferry.worker.process.groups import TERM_GRACE_S, end_group, give_way, is_running
from ferry.worker.process.running import Finished
from tests.git_http import GitHttpServer
from tests.line import Deployment
from tests.parts import Bare, wait_until

SECRET = "s3cr3t-w0rd"

# What git says when it may not ask for a password; the last is 2.53's.
_NO_PASSWORD = "could not read Password for|terminal prompts disabled|unable to get password from user"


@pytest.fixture
def repository(deployment: Deployment) -> Repository:
    return deployment.repository


def _push(repository: Repository, commit: str | None = None, *, timeout_s: float = 20.0) -> Finished:
    head = repository.head() if commit is None else commit
    return Remote(repository, "origin", timeout_s=timeout_s).push(head or "", started=lambda group: None)


# --- Pushing ---


def test_a_push_brings_the_commit_and_remembers_that_it_did(repository: Repository, data: Bare, remote: Bare):
    finished = _push(repository)

    assert finished.exit_status == 0
    assert "Done" in finished.stdout
    assert remote.head() == data.head() == repository.remote_head("origin")
    assert repository.is_pushed("origin")


def test_a_push_brings_the_commit_it_was_asked_for_and_none_after_it(repository, data: Bare, remote: Bare):
    earlier, later = data.head(), data.commit("later")

    _push(repository, earlier)

    assert remote.head() == earlier
    assert repository.is_pushed("origin", earlier)
    assert not repository.is_pushed("origin", later)
    assert not repository.is_pushed("origin")


def test_a_push_touches_no_other_branch_and_no_tag(repository: Repository, data: Bare, remote: Bare):
    data.git("branch", "other")
    data.git("tag", "v1")
    _push(repository)
    assert remote.git("for-each-ref", "--format=%(refname)") == "refs/heads/main"


def test_a_push_never_overwrites(repository: Repository, data: Bare, remote: Bare):
    """
    Even where the configuration of the remote would force it.
    """
    _push(repository)
    theirs = remote.commit("theirs")
    data.commit("ours")
    data.git("config", "remote.origin.push", "+refs/heads/*:refs/heads/*")

    finished = _push(repository)

    assert finished.exit_status == 1
    assert "!\t" in finished.stdout
    assert "[rejected]" in finished.stdout
    assert remote.head() == theirs


def test_an_empty_commit_does_not_delete_the_remotes_branch(repository: Repository, remote: Bare):
    """
    ``git push origin :refs/heads/main`` would.
    """
    _push(repository)
    before = remote.head()

    with pytest.raises(RepositoryError, match="is not a commit"):
        Remote(repository, "origin", timeout_s=20).push("", started=lambda group: None)

    assert remote.head() == before


def test_only_commits_that_we_have_are_pushed(repository: Repository, data: Bare, remote: Bare):
    for name in ("0" * 40, "1234567890" * 4, data.git("rev-parse", "main^{tree}")):
        with pytest.raises(RepositoryError, match=f"{name}' is not a commit"):
            _push(repository, name)
    assert remote.head() is None


@pytest.mark.parametrize("name", ["main", "HEAD", "--all", "main:refs/heads/x", "a612c2b4"])
def test_only_full_object_names_are_pushed(repository: Repository, remote: Bare, name: str):
    with pytest.raises(RepositoryError, match="is not a commit"):
        _push(repository, name)
    assert remote.head() is None


def test_who_pushes_learns_the_process_group_while_it_runs(repository: Repository):
    groups = []
    Remote(repository, "origin", timeout_s=20).push(
        repository.head() or "",
        started=lambda group: groups.append((group, os.getpgid(group), os.getsid(group))),
    )

    (seen,) = groups
    assert set(seen) == {seen[0]}
    assert seen[0] != os.getpgrp()


# --- A push that hangs ---


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let SIGKILL follow SIGTERM sooner than the two seconds that git is given to tidy up.
    """
    monkeypatch.setattr("ferry.worker.process.groups.TERM_GRACE_S", 0.3)


def _group(number: int) -> list[str]:
    """
    Return what still runs in a process group; what only waits to be collected does not.
    """
    found = []
    for process in psutil.process_iter(["pid", "name", "status"]):
        try:
            if os.getpgid(process.pid) == number and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.info["name"])
        except ProcessLookupError:
            continue
    return found


@pytest.mark.parametrize(
    "hook",
    ["sleep 600", "trap '' TERM; sleep 600 & sleep 600"],
    ids=["that would end", "that ignores SIGTERM"],
)
def test_a_push_that_hangs_is_ended_with_every_process_it_started(
    repository, remote: Bare, tmp_path, hook: str
):
    started, groups = tmp_path / "started", []
    remote.hook("pre-receive", f"touch {started}; {hook}")
    seen: list[str] = []

    def watch(group: int) -> None:
        groups.append(group)
        wait_until(started.exists, what="the hook")
        seen.extend(_group(group))

    finished = Remote(repository, "origin", timeout_s=0.3).push(repository.head() or "", started=watch)

    assert finished.exit_status is None
    assert 0.3 <= finished.duration_s < 6
    assert "git" in seen
    assert len(seen) > 2, "git, its counterpart and the hook were to be there"
    wait_until(lambda: not _group(groups[0]), what="the end of the whole group")
    assert remote.head() is None


@pytest.mark.usefixtures("impatient")
def test_a_child_that_leaves_the_group_with_the_pipes_in_hand_does_not_hold_us(
    deploy: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """
    Nobody can end a process that hides in another session, but nobody waits for it either.
    """
    pid = tmp_path / "pid"
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\nsetsid sh -c 'echo $$ > {pid}; exec sleep 600' & sleep 600\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(ssh))
    monkeypatch.setenv("GIT_SSH_VARIANT", "simple")
    repository = deploy(CFP_DATA_REMOTE="ssh://git@127.0.0.1/data.git").repository
    begun = time.monotonic()
    try:
        finished = _push(repository, timeout_s=0.3)
    finally:
        os.kill(int(wait_until(lambda: pid.exists() and pid.read_text().strip())), signal.SIGKILL)

    assert finished.exit_status is None
    assert time.monotonic() - begun < 60


def test_a_push_that_is_interrupted_leaves_nothing_running(repository, remote: Bare, tmp_path):
    """
    Whatever ends the wait, such as the time limit of a task.
    """

    class Interrupted(BaseException):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    groups = []
    remote.hook("pre-receive", "sleep 600")
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(Interrupted):
            Remote(repository, "origin", timeout_s=20).push(repository.head() or "", started=groups.append)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    wait_until(lambda: not _group(groups[0]), what="the end of the whole group")


@pytest.mark.usefixtures("impatient")
def test_a_group_that_is_not_ours_can_be_ended_too(tmp_path: Path):
    """
    The push of a worker that was killed; one that ignores SIGTERM as well.
    """
    script = "trap '' TERM; touch ready; sleep 600 & sleep 600"
    with subprocess.Popen(["sh", "-c", script], cwd=tmp_path, start_new_session=True) as process:
        wait_until((tmp_path / "ready").exists)
        end_group(process.pid)
        assert process.wait(5) == -signal.SIGKILL
        wait_until(lambda: not _group(process.pid), what="the end of the whole group")
    end_group(process.pid)  # and one that is gone is no error


def test_a_group_that_has_ended_is_not_waited_for_while_nobody_asked_for_its_status():
    """
    Process 1 of a container may ask late or never; until then, the kernel counts it as a member.
    """
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        assert is_running(process.pid)
        begun = time.monotonic()
        end_group(process.pid)
        assert not is_running(process.pid)
        assert time.monotonic() - begun < TERM_GRACE_S
        os.killpg(process.pid, 0)  # it still has a number


# --- Asking and fetching ---


def test_a_remote_says_where_its_branch_stands(repository: Repository, remote: Bare):
    assert Remote(repository, "origin", timeout_s=20).ask() is None

    _push(repository)
    theirs = remote.commit("theirs")

    assert Remote(repository, "origin", timeout_s=20).ask() == theirs
    assert repository.remote_head("origin") != theirs, "asking is not fetching"


def test_a_branch_of_a_similar_name_is_not_the_branch(repository: Repository, data: Bare, remote: Bare):
    """
    ``git ls-remote`` answers with every ref whose name ends alike.
    """
    head = data.head()
    for ref in ("refs/x/refs/heads/main", "refs/heads/refs/heads/main", "refs/heads/main2"):
        data.git("push", "--quiet", str(remote.path), f"{head}:{ref}")

    assert Remote(repository, "origin", timeout_s=20).ask() is None


def test_a_remote_that_does_not_answer_is_an_error(repository: Repository, remote: Bare, tmp_path: Path):
    remote.path.rename(tmp_path / "away.git")

    with pytest.raises(RepositoryError, match="origin did not list main: "):
        Remote(repository, "origin", timeout_s=20).ask()
    with pytest.raises(RepositoryError, match="cannot fetch main from origin: "):
        Remote(repository, "origin", timeout_s=20).fetch()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            "ssh: Could not resolve hostname nowhere: Name or service not known",
            "network: ssh: Could not resolve",
        ),
        (
            "git@git.example.org: Permission denied (publickey).",
            "auth: git@git.example.org: Permission denied",
        ),
        ("Host key verification failed.", "host-key: Host key verification failed"),
    ],
)
def test_why_a_remote_does_not_answer_is_not_what_ssh_says_last(said: str, why: str):
    farewell = (
        "fatal: Could not read from remote repository.\n\n"
        "Please make sure you have the correct access rights\nand the repository exists.\n"
    )
    finished = Finished(exit_status=128, stdout="", stderr=f"{said}\n{farewell}", duration_s=0.1)
    explained = _why(finished)

    assert explained.startswith(why)
    assert POLICIES[why.partition(":")[0]].hint in explained


def test_fetching_shows_what_each_side_has_alone(repository: Repository, data: Bare, remote: Bare):
    _push(repository)
    base = data.head()
    theirs = [remote.commit(f"theirs {n}") for n in range(3)]
    ours = [data.commit(f"ours {n}") for n in range(2)]

    assert (
        Remote(repository, "origin", timeout_s=20).fetch() == theirs[-1] == repository.remote_head("origin")
    )

    assert repository.merge_base(ours[-1], theirs[-1]) == base
    assert repository.count_between(theirs[-1], ours[-1]) == 2
    assert repository.count_between(ours[-1], theirs[-1]) == 3
    assert [commit.hash for commit in repository.log(theirs[-1], limit=9, without=ours[-1])] == theirs[::-1]
    assert repository.head() == ours[-1], "fetching moves no branch of ours"
    assert repository.contains(theirs[0], theirs[-1])


def test_a_remote_that_was_rewritten_can_still_be_fetched(repository: Repository, data: Bare, remote: Bare):
    _push(repository)
    orphan = remote.git("commit-tree", "-m", "a new beginning", "main^{tree}")
    remote.git("update-ref", "refs/heads/main", orphan)

    assert Remote(repository, "origin", timeout_s=20).fetch() == orphan


def test_a_directory_in_the_place_of_what_is_fetched_stops_nothing(repository: Repository, remote: Bare):
    _push(repository)
    (repository.path / "refs/ferry/fetched/origin/x").mkdir(parents=True)
    theirs = remote.commit("theirs")
    assert Remote(repository, "origin", timeout_s=20).fetch() == theirs == repository.remote_head("origin")


def test_what_is_not_known_here_cannot_be_compared(repository: Repository):
    head, unknown = repository.head() or "", "1" * 40
    for compare in (repository.merge_base, repository.count_between, repository.files_changed):
        with pytest.raises(RepositoryError):
            compare(head, unknown)


def test_commits_without_a_common_history_have_no_merge_base(repository: Repository, data: Bare):
    orphan = data.git("commit-tree", "-m", "a new beginning", "main^{tree}")
    assert repository.merge_base(repository.head() or "", orphan) is None
    assert repository.files_changed(repository.head() or "", orphan) == []


# --- Who has what ---


def test_a_commit_contains_itself_and_what_is_before_it(repository: Repository, data: Bare):
    first, second = data.git("rev-list", "--reverse", "main").splitlines()[:2]
    stranger = data.git("commit-tree", "-m", "elsewhere", "main^{tree}")

    assert repository.contains(second, second)
    assert repository.contains(first, second)
    assert not repository.contains(second, first)
    assert not repository.contains(stranger, second)
    assert not repository.contains(first, None)
    assert not repository.contains(first, "0" * 39 + "1"), "what is unknown contains nothing"
    assert not repository.contains("0" * 39 + "1", second)


def test_ancestors_are_known_among_merges_of_clocks_that_differ(
    repository: Repository, data: Bare, monkeypatch: pytest.MonkeyPatch
):
    """
    Among these, gitsheets takes the eighth commit for no ancestor of the last.
    """
    shape: list[tuple[list[int], int]] = [  # parents, and what the clock said
        ([], 2213), ([0], -1256), ([1], 1744), ([2], 4188), ([0], 3729), ([4], -574), ([5, 3], 3049),
        ([6], -1041), ([2], 4511), ([7], 3256), ([8, 9], 166), ([10], -2905), ([3], -3558), ([0], 4225),
        ([11, 13], 4228), ([14, 12], 368),
    ]  # fmt: skip
    commits: list[str] = []
    for parents, seconds in shape:
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"{1_700_000_000 + seconds} +0000")
        options = [option for parent in parents for option in ("-p", commits[parent])]
        commits.append(data.git("commit-tree", "-m", str(len(commits)), *options, "main^{tree}"))

    for tip in (commits[11], commits[14], commits[15]):
        known = set(data.git("rev-list", tip).split())
        assert {commit for commit in commits if repository.contains(commit, tip)} == known


def test_among_loose_commits_git_is_not_asked_who_has_what(
    repository: Repository, data: Bare, asked: list[tuple[str, ...]]
):
    base = data.head()
    ours, theirs = (data.git("commit-tree", "-m", side, "-p", base, "main^{tree}") for side in "ab")
    merge = data.git("commit-tree", "-m", "both", "-p", ours, "-p", theirs, "main^{tree}")
    pairs = [(commit, tip) for commit in (base, ours, theirs, merge) for tip in (base, ours, theirs, merge)]

    loose = [repository.contains(*pair) for pair in pairs]

    assert loose == [
        True, True, True, True,
        False, True, False, True,
        False, False, True, True,
        False, False, False, True,
    ]  # fmt: skip
    assert asked == []
    data.git("update-ref", "refs/heads/main", merge)
    data.git("config", "extensions.preciousObjects", "false")
    data.git("repack", "-a", "-d", "--quiet")
    for cached in (history._is_ancestor, objects._parents):
        cached.cache_clear()
    assert [repository.contains(*pair) for pair in pairs] == loose
    assert asked


def test_pending_are_the_commits_that_the_remote_lacks_newest_first(repository: Repository, data: Bare):
    everything = data.git("rev-list", "main").splitlines()
    assert repository.commits_between(None, everything[0]) == everything

    _push(repository)
    seen = repository.remote_head("origin")
    later = [data.commit(f"later {n}") for n in range(3)]

    assert repository.commits_between(seen, later[-1]) == later[::-1]
    assert repository.commits_between(later[-1], later[-1]) == []
    assert repository.commits_between(later[-1], later[0]) == []


def test_commits_of_an_unknown_remote_head_are_an_error(repository: Repository):
    with pytest.raises(RepositoryError, match="rev-list"):
        repository.commits_between("0" * 39 + "1", repository.head() or "")


def test_an_empty_branch_has_no_head_and_nothing_to_push(tmp_path: Path):
    empty = Repository(Bare.init(tmp_path / "empty.git").path, branch="main")

    assert empty.head() is None
    assert empty.is_pushed("origin")


def test_a_damaged_branch_is_an_error_and_not_an_empty_one(repository: Repository, data: Bare):
    (data.path / "refs" / "heads" / "main").write_text("")

    with pytest.raises(RepositoryError, match="refs/heads/main"):
        repository.head()
    with pytest.raises(RepositoryError, match="refs/heads/main"):
        repository.is_pushed("origin")


def test_a_branchs_name_may_have_slashes(data: Bare, remote: Bare, deploy: Callable[..., Deployment]):
    data.git("branch", "team/data", "main")
    repository = deploy(CFP_DATA_BRANCH="team/data").repository

    assert _push(repository).exit_status == 0
    assert remote.git("rev-parse", "refs/heads/team/data") == repository.head()
    assert repository.is_pushed("origin")


# --- Remembering what was seen ---


def test_what_was_seen_on_a_remote_is_remembered(repository: Repository, data: Bare):
    commit = data.commit("later")

    repository.saw_on_remote("origin", commit)

    assert repository.remote_head("origin") == commit == data.git("rev-parse", "refs/remotes/origin/main")


def test_seeing_an_older_commit_forgets_nothing(repository: Repository, data: Bare):
    earlier, later = data.head() or "", data.commit("later")
    repository.saw_on_remote("origin", later)

    repository.saw_on_remote("origin", earlier)

    assert repository.remote_head("origin") == later


# --- Commits ---


def test_a_fresh_commits_time_is_known_to_the_millisecond(repository: Repository, data: Bare):
    """
    git itself knows the second, which would make the lag of every push a lie.
    """
    before = time.time()
    commit = data.commit("now")
    after = time.time()

    assert before - 0.01 <= repository.commit_time(commit) <= after + 0.01


def test_a_packed_commits_time_is_gits(repository: Repository, data: Bare):
    commit = data.commit("now")
    data.git("repack", "-a", "--quiet")
    data.git("prune-packed")

    assert repository.commit_time(commit) == float(data.git("show", "-s", "--format=%ct", commit))


def test_the_time_of_a_commit_that_nobody_has_is_an_error(repository: Repository):
    with pytest.raises(RepositoryError, match="show"):
        repository.commit_time("0" * 39 + "1")


def _commit(data: Bare, message: str, *, author: str = "Ana") -> str:
    """
    Commit on top of main with every byte of *message* and *author* as it is, as other programs do.
    """
    tree, parent = data.git("rev-parse", "main^{tree}"), data.head()
    text = (
        f"tree {tree}\nparent {parent}\nauthor {author} <ana@town.example> 1700000000 +0230\n"
        f"committer Ben <ben@town.example> 1700000000 +0000\n\n{message}"
    )
    stored = subprocess.run(
        ["git", "-C", str(data.path), "hash-object", "-w", "-t", "commit", "--stdin"],
        input=text.encode(),
        capture_output=True,
        check=True,
    )
    commit = stored.stdout.decode().strip()
    data.git("update-ref", "refs/heads/main", commit)
    return commit


def test_a_commit_is_told_as_it_was_made(repository: Repository, data: Bare):
    parent = data.head()
    name = _commit(
        data,
        "Add Jane\n\nShe moved in.\n\nWith: a colon\n\nReviewed-by: Ben <ben@town.example>\nSheet: people\n",
        author="Ana Ünal",
    )

    (commit,) = repository.log(name, skip=0, limit=1)

    assert (commit.hash, commit.parents) == (name, (parent,))
    assert commit.author == ("Ana Ünal", "ana@town.example")
    assert datetime.fromisoformat(commit.authored_at).isoformat() == "2023-11-15T00:43:20+02:30"
    assert commit.message.startswith("Add Jane\n\nShe moved in.\n\nWith: a colon")
    assert commit.trailers == {"Reviewed-by": "Ben <ben@town.example>", "Sheet": "people"}


def test_the_log_is_read_in_parts(repository: Repository, data: Bare):
    for number in range(5):
        data.commit(f"commit {number}")
    names = data.git("rev-list", "main").splitlines()
    tip = names[0]

    assert [commit.hash for commit in repository.log(tip, skip=0, limit=100)] == names
    assert [commit.hash for commit in repository.log(tip, skip=2, limit=3)] == names[2:5]
    assert repository.log(tip, skip=100, limit=3) == []
    assert repository.log(tip, skip=0, limit=100)[-1].parents == ()


def test_a_merge_has_all_its_parents(repository: Repository, data: Bare):
    ours, theirs = data.head() or "", data.git("commit-tree", "-p", "main", "-m", "theirs", "main^{tree}")
    merge = data.git("commit-tree", "-p", ours, "-p", theirs, "-m", "merge", "main^{tree}")

    assert repository.log(merge, skip=0, limit=1)[0].parents == (ours, theirs)


@pytest.mark.parametrize(
    ("message", "author"),
    [
        ("", "Ana"),
        ("no line break at its end", "Ana"),
        ("\n\n\nonly after blank lines\n\n\n", "Ana"),
        ("a subject\n\nKey: value", "Ana"),
        ("a subject\n\nKey: value\nKey: again\n", "Ana"),
        ("%x00 %H -- \\0 \x01 \x1e é 漢", "A B C % \x01"),
        ("a" * 1000, "A" * 1000),
        ("see https://town.example", "Ana"),
        ("rotate the key -----BEGIN RSA PRIVATE KEY-----\n", "Ana"),
        ("a subject\n", "https://town.example"),
    ],
    ids=lambda value: value[:30],
)
def test_no_message_and_no_name_mixes_the_log_up(
    repository: Repository, data: Bare, message: str, author: str
):
    """
    Whatever one commit says, the ones around it are told as they are.
    """
    names = [_commit(data, message, author=author) for _ in range(2)]
    above = data.commit("above")

    commits = repository.log(above, skip=0, limit=4)

    assert [commit.hash for commit in commits] == data.git("rev-list", "--max-count=4", "main").splitlines()
    assert [commit.author[1] for commit in commits[1:3]] == ["ana@town.example"] * 2
    assert commits[0].message == "above"
    assert names[1] == commits[1].hash
    assert commits[0].parents == (names[1],)


# --- Secrets ---


def _said(finished: Finished) -> str:
    return f"{finished}"


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("credentials", [f"ana:{SECRET}", SECRET, f"{SECRET}:x-oauth-basic"])
def test_a_remote_that_cannot_be_reached_gives_no_secret_away(
    deploy: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch, credentials: str, trace: bool
):
    """
    Port 9 on loopback is closed; git says the URL, and with tracing on, every command with it.
    """
    if trace:
        monkeypatch.setenv("GIT_TRACE", "1")
        monkeypatch.setenv("GIT_TRACE_CURL", "1")
        monkeypatch.setenv("GIT_TRACE_REDACT", "0")
    repository = deploy(CFP_DATA_REMOTE=f"https://{credentials}@127.0.0.1:9/data.git").repository

    finished = _push(repository)

    assert finished.exit_status == 128
    assert "127.0.0.1" in finished.stderr
    assert ("trace:" in finished.stderr) is trace
    assert SECRET not in _said(finished)
    with pytest.raises(RepositoryError) as failed:
        Remote(repository, "origin", timeout_s=20).ask()
    assert SECRET not in str(failed.value)


@pytest.mark.parametrize("trace", [False, True])
def test_a_token_that_is_refused_is_not_repeated(
    deploy: Callable[..., Deployment],
    http_remote: GitHttpServer,
    monkeypatch: pytest.MonkeyPatch,
    trace: bool,
):
    """
    As the user's name, git repeats it where it asks for the password, and curl where it is told to trace.
    """
    if trace:
        monkeypatch.setenv("GIT_TRACE_CURL", "1")
        monkeypatch.setenv("GIT_TRACE_REDACT", "0")
    http_remote.password = "another"
    url = http_remote.url("web.git").replace("http://", f"http://{SECRET}@")

    finished = _push(deploy(CFP_DATA_REMOTE=url).repository)

    assert finished.exit_status == 128
    assert re.search(_NO_PASSWORD, finished.stderr)
    assert SECRET not in _said(finished)


def test_what_a_hook_says_is_redacted_too(repository: Repository, remote: Bare):
    """
    And what is not UTF-8 in it does not get in the way.
    """
    remote.hook("pre-receive", f"printf 'ask https://ana:{SECRET}@host \\377\\n' >&2; exit 1")

    finished = _push(repository)

    assert "ask https://***@host" in finished.stderr
    assert SECRET not in _said(finished)


def test_git_never_asks_a_person(deploy: Callable[..., Deployment], http_remote: GitHttpServer):
    """
    A prompt would wait for the whole timeout, on a terminal that nobody sees.
    """
    http_remote.password = "any"

    finished = _push(deploy(CFP_DATA_REMOTE=http_remote.url("web.git")).repository)

    assert finished.exit_status == 128
    assert re.search(_NO_PASSWORD, finished.stderr)


def test_git_speaks_english(repository: Repository, remote: Bare, monkeypatch: pytest.MonkeyPatch, tmp_path):
    """
    The rules for failures read its words; the operator's locale must not change them.
    """
    told = tmp_path / "told"
    remote.hook("pre-receive", f'echo "$LC_ALL" > {told}')
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")

    _push(repository)

    assert told.read_text() == "C\n"


def test_what_people_look_at_gives_way_to_pushes(repository: Repository, monkeypatch: pytest.MonkeyPatch):
    given: list[int] = []

    def note(group: int) -> None:
        give_way(group)
        given.append(os.getpriority(os.PRIO_PGRP, group))

    monkeypatch.setattr("ferry.worker.process.groups.give_way", note)
    head = repository.head() or ""
    repository.log(head, limit=1)
    Packs(repository.git).write_commit_graph(timeout_s=20)
    assert given == [10, 10]
    _push(repository)
    repository.contains(head, head)
    assert given == [10, 10]
