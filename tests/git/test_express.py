"""
The express lane against real remotes: what goes through it, and what is left to ``git push``.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from ferry.worker.git.express import allowed, lane, pushes, standing
from ferry.worker.git.express.pack import chain_of, pack_of
from ferry.worker.git.remote import EXPRESS, Pushed, Remote
from ferry.worker.git.repository import Repository
from tests.line import Deployment
from tests.parts import Bare, wait_until

GIT = "exit-status"  # the rule of a push by git that landed


@pytest.fixture
def push(deployment: Deployment) -> Callable[..., Pushed]:
    """
    Push the branch's tip, as an attempt does.
    """
    repository = deployment.repository

    def pushed(*, timeout_s: float = 20) -> Pushed:
        remote = Remote(repository, "origin", timeout_s=timeout_s)
        return remote.push(repository.head() or "", noted=lambda group: None)

    assert pushed().verdict.rule == GIT, "what a remote has is not known before"
    return pushed


def _whole(remote: Bare) -> None:
    assert remote.git("fsck", "--full", "--strict") == ""


def _once(tmp_path: Path, script: str) -> str:
    return f"[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; {script}; }}"


# --- What goes through ---


def test_the_next_commits_take_the_lane(push, data: Bare, remote: Bare, deployment: Deployment):
    for number in range(2):
        head = data.commit(f"one {number}")
        assert push().verdict.rule == EXPRESS
        assert remote.head() == head == deployment.repository.remote_head("origin")
    data.commit("two")
    data.commit("three")
    assert push().verdict.rule == EXPRESS
    assert remote.head() == data.head()
    _whole(remote)


def test_a_url_of_a_file_takes_the_lane(deploy, data: Bare, remote: Bare):
    repository = deploy(CFP_DATA_REMOTE=f"file://{remote.path}").repository
    way = Remote(repository, "origin", timeout_s=20)
    assert way.push(data.head() or "", noted=lambda group: None).verdict.rule == GIT
    assert way.push(data.commit("next"), noted=lambda group: None).verdict.rule == EXPRESS


def _import(bare: Bare, *commands: str) -> None:
    """
    Make one commit on ``main`` of changes in the words of git fast-import.
    """
    head = "commit refs/heads/main\ncommitter Ana <ana@town.example> 1700000000 +0000\ndata 1\nx\n"
    text = f"{head}from refs/heads/main^0\n" + "\n".join(commands) + "\n"
    command = ["git", "-C", str(bare.path), "fast-import", "--quiet", "--force"]
    subprocess.run(command, input=text.encode(), check=True, timeout=60)


def _file(path: str, text: str) -> str:
    return f"M 100644 inline {path}\ndata {len(text.encode())}\n{text}"


_LONG = "".join(f"{number} some words of a page\n" for number in range(2000))
_CHANGES = (
    [_file("a", "1\n"), _file("z/y/x", "2\n")],
    ["D people"],
    ["R .gitsheets sheets"],
    ["D z", _file("z", "a file now\n")],
    ["D z", _file("z/x", "a directory again\n")],
    [_file("long", _LONG)],
    [_file("flat/000", "the first\n"), _file("flat/299x", "the last\n"), "D flat/150"],
    ["D flat/000", "D flat/299"],
    [_file("flat/000x", "\n"), _file("flat/00000", "\n")],
    [_file("page", _LONG.replace("700 some", "seven hundred"))],
    [_file("page", _LONG + "end\n")],
    [_file("page", "")],
    ["M 160000 1111111111111111111111111111111111111111 module"],
    ["M 120000 inline link", "data 1", "x"],
)


def test_whatever_a_commit_changes_arrives_whole(push, data: Bare, remote: Bare):
    """
    git checks each object against its name, and that none is missing, before it moves the ref.
    """
    _import(data, *[_file(f"flat/{number:03}", f"{number}\n") for number in range(300)], _file("page", _LONG))
    assert push().verdict.rule == GIT, "it is too much"
    for changes in _CHANGES:
        _import(data, *changes)
        assert push().verdict.rule == EXPRESS, changes
        assert remote.head() == data.head()
    _whole(remote)


def test_a_large_tree_goes_as_a_delta(push, data: Bare, deployment: Deployment):
    _import(data, *[_file(f"flat/{number:04}", f"{number}\n") for number in range(3000)])
    old = data.head() or ""
    _import(data, _file("flat/1500", "changed\n"))
    objects = deployment.repository.objects
    assert len(pack_of(objects, old, chain_of(objects, old, data.head() or ""))) < 600


def test_a_hook_sees_the_environment_that_git_push_gives_it(push, data: Bare, remote: Bare, tmp_path: Path):
    remote.hook("post-receive", f"env > {tmp_path}/seen")
    seen = []
    for way in (EXPRESS, GIT):
        if way == GIT:
            data.git("config", "url.x.insteadOf", "y:")
        data.commit(way)
        assert push().verdict.rule == way
        lines = (tmp_path / "seen").read_text().splitlines()
        # What git's shell sets, and numbered configuration whose count git removes.
        others = ("GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_", "_=", "SHLVL=")
        seen.append({line for line in lines if not line.startswith(others)})
    assert seen[0] == seen[1]


# --- The talk that stands ready ---


def _ready() -> list[int]:
    return [waiting.talk.group for waiting in standing._waiting.values()]


def test_each_push_leaves_a_talk_for_the_next_one(push, data: Bare, remote: Bare):
    assert _ready() == []
    for _ in range(3):
        before = _ready()
        head = data.commit("next")
        assert push().verdict.rule == EXPRESS
        assert remote.head() == head
        [now] = _ready()
        assert now not in before
        assert not any(map(psutil.pid_exists, before))


def test_a_talk_whose_refs_are_old_is_used(push, data: Bare, remote: Bare):
    """
    Another process of the worker has pushed since it began, or git has.
    """
    data.commit("by the lane")
    push()
    ready = _ready()
    data.git("config", "url.x.insteadOf", "y:")
    data.commit("by git")
    assert push().verdict.rule == GIT
    data.git("config", "--unset", "url.x.insteadOf")
    assert _ready() == ready
    data.commit("by the lane again")
    assert push().verdict.rule == EXPRESS
    assert not psutil.pid_exists(ready[0])
    assert remote.head() == data.head()


def test_another_repository_at_the_place_is_pushed_to_at_once(push, data: Bare, remote: Bare):
    data.commit("next")
    push()
    former = remote.path.rename(remote.path.with_suffix(".former"))
    shutil.copytree(former, remote.path)
    before = remote.head()
    data.commit("to the new one")
    assert push().verdict.rule == EXPRESS
    assert (remote.head(), Bare(former).head()) == (data.head(), before)


def test_a_configuration_of_the_remote_holds_at_once(push, data: Bare, remote: Bare, tmp_path: Path):
    data.commit("next")
    push()
    remote.git("config", "core.hooksPath", str(tmp_path))
    (tmp_path / "pre-receive").write_text("#!/bin/sh\necho not now >&2\nexit 1\n")
    (tmp_path / "pre-receive").chmod(0o755)
    data.commit("refused")
    assert push().verdict.evidence == "remote: not now"


def test_a_talk_ends_in_time_although_another_may_wait_longer(push, data: Bare, monkeypatch):
    data.commit("next")
    push()
    [first] = _ready()
    monkeypatch.setattr(standing, "IDLE_S", 0.01)
    standing.prepare("elsewhere", next(iter(standing._waiting.values())).program)
    wait_until(lambda: _ready() == [first], what="the end of the second")
    assert psutil.pid_exists(first)
    standing.close()
    wait_until(lambda: standing._ending is None, what="the end of the thread that ends them")


def test_a_worker_of_many_repositories_keeps_no_talk_ready(push, data: Bare, deployment: Deployment):
    deployment.repository.name = "town"
    data.commit("next")
    assert push().verdict.rule == EXPRESS
    assert _ready() == []


# --- What is left to git ---


def test_without_the_setting_git_pushes(deploy, data: Bare):
    way = Remote(deploy(CFP_PUSH_EXPRESS="off").repository, "origin", timeout_s=20)
    for _ in range(2):
        assert way.push(data.commit("x"), noted=lambda group: None).verdict.rule == GIT


def test_many_commits_a_merge_and_a_large_file_are_left_to_git(push, data: Bare, remote: Bare):
    for number in range(17):
        data.commit(str(number))
    assert push().verdict.rule == GIT

    tip, other = data.head() or "", data.git("commit-tree", "-p", "main~3", "-m", "side", "main^{tree}")
    merge = data.git("commit-tree", "-p", tip, "-p", other, "-m", "merge", "main^{tree}")
    data.git("update-ref", "refs/heads/main", merge)
    assert push().verdict.rule == GIT

    _import(data, _file("large", os.urandom(1_200_000).hex()))
    assert push().verdict.rule == GIT
    assert remote.head() == data.head()
    data.commit("small again")
    assert push().verdict.rule == EXPRESS


def test_a_configuration_that_the_lane_does_not_know_closes_it_at_once(push, data: Bare):
    for key, value in (
        ("url.elsewhere.insteadOf", "somewhere:"),
        ("core.sshCommand", "ssh -v"),
        ("core.gitProxy", "proxy"),
        ("protocol.ssh.allow", "never"),
        ("a.new.section", "of a later git"),
        ("core.somethingNew", "true"),
        ("transfer.advertiseSID", "true"),
    ):
        data.git("config", key, value)
        data.commit("by git")
        assert push().verdict.rule == GIT, key
        data.git("config", "--unset", key)
        data.commit("by the lane")
        assert push().verdict.rule == EXPRESS, key


def test_traces_are_git_s(push, data: Bare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace"))
    data.commit("x")
    assert push().verdict.rule == GIT
    assert (tmp_path / "trace").exists()


def test_a_configuration_that_is_not_there_yet_is_found_after_a_minute(deployment: Deployment, monkeypatch):
    """
    A file that is included, and made later, is not among those that are looked at.
    """
    path, repository = deployment.settings.data_repo_path, deployment.repository
    with (path / "config").open("a") as config:
        config.write(f"[include]\n path = {path}/later\n")
    assert allowed.is_plain(path, repository.git.given())
    (path / "later").write_text("[core]\n gitProxy = x\n")
    known = allowed._answers[path]
    assert 0 < known.until - time.monotonic() <= 60
    monkeypatch.setitem(allowed._answers, path, replace(known, until=0.0))
    assert not allowed.is_plain(path, repository.git.given())


def test_what_git_said_at_the_start_is_not_asked_again(deployment: Deployment, monkeypatch):
    """
    A pool process is a fork. A worker of many repositories has many, and each repository's pushes meet all.
    """
    path, repository = deployment.settings.data_repo_path, deployment.repository
    lane.get_ready(repository)
    assert allowed._answers[path].until == math.inf
    monkeypatch.delattr(allowed, "read_all")
    assert allowed.is_plain(path, repository.git.given())


# --- What is wrong there ---


def test_a_refusal_is_named_by_git_and_the_lane_stays_closed(push, data: Bare, remote: Bare, tmp_path: Path):
    """
    The hook runs twice for the first attempt, and once for each one after it, until a push lands.
    """
    before = remote.head()
    remote.hook("pre-receive", f"echo x >> {tmp_path}/ran; echo not today >&2; exit 1")
    data.commit("refused")
    for runs in (2, 3):
        refused = push()
        assert (refused.verdict.reason, refused.verdict.evidence) == ("rejected", "remote: not today")
        assert (tmp_path / "ran").read_text().count("x") == runs
    assert remote.head() == before

    (remote.path / "hooks" / "pre-receive").unlink()
    assert push().verdict.rule == GIT
    data.commit("next")
    assert push().verdict.rule == EXPRESS


def test_a_remote_of_a_kind_that_the_lane_does_not_know_is_tried_less_and_less(
    push, data: Bare, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
):
    key = deployment.settings.data_repo_path, deployment.repository.url_of("origin")
    monkeypatch.setattr("ferry.worker.git.express.wire._NEEDED", frozenset({"what no server has"}))
    waits = []
    for _ in range(4):
        with capture_logs() as logged:
            data.commit("next")
            assert push().verdict.rule == GIT
        assert [event["event"] for event in logged] == ["push.left_to_git"]
        waits.append(round(max(0.0, lane._doubts[key].closed_until - time.monotonic())))
        data.commit("at once")
        if waits[-1]:
            assert push().verdict.rule == GIT
        lane._doubts[key].closed_until = 0.0
    assert waits == [0, 60, 120, 240]

    monkeypatch.undo()
    data.commit("known again")
    assert push().verdict.rule == EXPRESS
    assert key not in lane._doubts


def test_a_remote_that_has_moved_is_named_by_git(push, data: Bare, remote: Bare):
    theirs = remote.commit("theirs")
    data.commit("ours")
    assert push().verdict.reason == "non-fast-forward"
    assert remote.head() == theirs


def test_a_remote_that_moves_after_it_has_listed_its_refs_is_not_overwritten(
    push, data: Bare, remote: Bare, monkeypatch: pytest.MonkeyPatch
):
    theirs = remote.git("commit-tree", "-p", "main", "-m", "theirs", "main^{tree}")
    read_advert = pushes.read_advert

    def moved(*arguments):
        found = read_advert(*arguments)
        remote.git("update-ref", "refs/heads/main", theirs)
        return found

    monkeypatch.setattr(pushes, "read_advert", moved)
    data.commit("ours")
    assert push().verdict.reason == "non-fast-forward"
    assert remote.head() == theirs


def test_a_history_that_was_rewritten_here_is_not_forced(push, data: Bare, remote: Bare):
    before = remote.head()
    other = data.git("commit-tree", "-p", "main^", "-m", "another", "main^{tree}")
    data.git("update-ref", "refs/heads/main", other)
    assert push().verdict.reason == "non-fast-forward"
    assert remote.head() == before


def test_a_remote_that_lost_its_branch_gets_it_again_by_git(push, data: Bare, remote: Bare):
    remote.git("update-ref", "-d", "refs/heads/main")
    data.commit("next")
    assert push().verdict.rule == GIT
    assert remote.head() == data.head()


def test_a_pack_that_the_remote_does_not_take_is_refused_by_git(push, data: Bare, remote: Bare):
    remote.git("config", "receive.maxInputSize", "10")
    before, _ = remote.head(), data.commit("large")
    assert push().verdict.reason == "rejected"
    assert remote.head() == before


def test_a_remote_of_another_format_is_left_to_git(push, data: Bare, remote: Bare):
    remote.path.rename(remote.path.with_suffix(".sha1"))
    subprocess.run(["git", "init", "-q", "--bare", "--object-format=sha256", str(remote.path)], check=True)
    data.commit("next")
    failed = push()
    assert (failed.verdict.landed, failed.verdict.rule != EXPRESS) == (False, True)


@pytest.mark.parametrize("said", ["", "garbage, and no git", "0000", "00ffcut off"])
def test_a_remote_that_talks_nonsense_is_left_to_git(push, data, remote, tmp_path, monkeypatch, said: str):
    (tmp_path / "bin").mkdir()
    git = tmp_path / "bin" / "git"
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    git.write_text(f'#!/bin/sh\n[ "$1" = receive-pack ] || exec {real} "$@"\nprintf "{said}"\n')
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    data.commit("next")
    assert push().verdict.rule == GIT
    assert remote.head() == data.head()


def test_a_remote_that_dies_before_it_has_moved_the_ref_is_pushed_to_again(push, data, remote, tmp_path):
    remote.hook("pre-receive", _once(tmp_path, "kill -9 $PPID"))
    data.commit("next")
    assert push().verdict.rule == GIT
    assert remote.head() == data.head()


def test_a_remote_that_dies_after_it_has_moved_the_ref_was_pushed_to(push, data, remote, tmp_path):
    """
    git finds the commit there. It counts as pushed, because this push brought it.
    """
    remote.hook("post-receive", _once(tmp_path, "kill -9 $PPID"))
    data.commit("next")
    assert push().verdict.reason == "pushed"
    assert remote.head() == data.head()


@pytest.mark.parametrize("hook", ["pre-receive", "post-receive"])
def test_a_remote_that_hangs_is_left_at_the_timeout(push, data, remote, tmp_path, hook: str):
    """
    The caller asks it then. Nothing is left of the talk, and git does not begin after it.
    """
    remote.hook(hook, f"echo $$ >> {tmp_path}/hangs; exec sleep 600")
    data.commit("next")

    late = push(timeout_s=1)

    assert (late.exit_status, late.verdict.reason, late.verdict.ambiguous) == (None, "timeout", True)
    [hanging] = (tmp_path / "hangs").read_text().split()
    wait_until(lambda: not psutil.pid_exists(int(hanging)), what="the end of the hook")


def test_a_hook_that_prints_without_end_is_read_to_its_timeout(push, data, remote):
    remote.hook("post-receive", "exec yes")
    data.commit("next")
    late = push(timeout_s=1)
    assert late.exit_status is None
    assert len(late.stderr) < 1 << 20


def test_an_object_that_is_missing_is_named_by_git(push, data: Bare):
    data.commit("next")
    _import(data, _file("new", "a file\n"))
    blob = data.git("rev-parse", "main:new")
    (data.path / "objects" / blob[:2] / blob[2:]).unlink()
    assert push().verdict.reason == "local"


def test_a_program_that_cannot_be_started_is_left_to_git(push, data: Bare, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(standing, "Talk", fail)
    data.commit("next")
    assert push().verdict.rule == GIT


# --- The worker dies ---

_PUSH = """
import os, signal, sys
from pathlib import Path
from ferry.worker.git.credentials import Credentials
from ferry.worker.git.remote import Remote
from ferry.worker.git.repository import Repository
credentials = Credentials(remotes={"origin": sys.argv[2]}, environ=dict(os.environ))
repository = Repository(Path(sys.argv[1]), branch="main", credentials=credentials, express=True)
def noted(group):
    print(group, flush=True)
    if sys.argv[3] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
print(Remote(repository, "origin", timeout_s=60).push(repository.head(), noted=noted).verdict.rule)
"""


@pytest.fixture
def pusher(push, data: Bare, remote: Bare) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """
    Start a process that pushes and prints the process group of the talk.
    """
    begun: list[subprocess.Popen[str]] = []

    def start(when: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _PUSH, str(data.path), str(remote.path), when]
        root = Path(__file__).resolve().parents[2]
        begun.append(subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def _group(process: subprocess.Popen[str]) -> int:
    assert process.stdout
    return int(process.stdout.readline())


def test_a_worker_that_is_killed_before_its_note_leaves_no_push(pusher, data: Bare, remote: Bare):
    """
    The talk has begun, and nothing was asked for: the other side ends with its input.
    """
    before, _ = remote.head(), data.commit("next")
    group = _group(pusher("before"))
    wait_until(lambda: not psutil.pid_exists(group), what="the end of the talk")
    assert remote.head() == before


def test_a_worker_that_is_killed_after_its_request_leaves_a_push_that_can_be_ended(
    pusher, data, remote, tmp_path
):
    """
    The ledger has the group of what runs on, as it has that of a ``git push``.
    """
    before, _ = remote.head(), data.commit("next")
    remote.hook("pre-receive", f"touch {tmp_path}/began; exec sleep 600")
    process = pusher("after")
    group = _group(process)
    wait_until((tmp_path / "began").exists, what="a push in the middle")
    process.kill()
    process.wait()

    os.killpg(group, 9)

    wait_until(lambda: not psutil.pid_exists(group), what="the end of the push")
    assert remote.head() == before


def test_a_replica_does_not_take_the_lane(deployment: Deployment, push, data: Bare, remote: Bare):
    before, repository = remote.head(), deployment.repository
    repository.pushes = False
    with pytest.raises(Exception, match="replica"):
        Remote(repository, "origin", timeout_s=20).push(data.commit("x"), noted=lambda group: None)
    assert remote.head() == before
    assert isinstance(repository, Repository)
