"""
``ferry demo``: shows the main job.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from ferry.app.dev.console import end_of
from ferry.app.dev.nursery import Nursery
from ferry.app.dev.sample import AUTHOR
from ferry.app.dev.sentry_sink import Event, SentrySink, sentry_sink
from ferry.app.dev.stack import Stack, free_port, make_sample
from ferry.worker.process.gitpython import git

_ARRIVAL_TIMEOUT_S = 20.0
_POLL_S = 0.01
_WRITES = 3


class DemoError(Exception):
    """
    A step of the demo did not happen.
    """


def run_demo(nursery: Nursery) -> None:
    """
    Show commits arriving, a divergence paging once, and pushing that resumes by itself.

    Args:
        nursery: Forks the processes.

    Raises:
        DemoError: A step did not happen; prints the end of the log first.
    """
    directory = Path(tempfile.mkdtemp(prefix="ferry-demo-"))
    log_path = directory / "ferry.log"
    _stay_apart(directory)
    env = dict(os.environ)
    try:
        with log_path.open("wb") as output, sentry_sink() as sink:
            repository, remote = make_sample(directory)
            env |= {
                "CFP_DATA_REPO_PATH": str(repository),
                "CFP_DATA_REMOTE": str(remote),
                "CFP_PUSH_SWEEP_INTERVAL": "2",
                "SENTRY_DSN": sink.dsn,
                "SENTRY_ENVIRONMENT": "demo",
                "FLOWER_UNAUTHENTICATED_API": "true",
            }
            ports = {"port": free_port(), "flower_port": free_port()}
            stack = Stack(env, directory, nursery=nursery, output=output, **ports)
            _say("Starting Valkey, worker, beat, Flower and API over a sample repository ...")
            try:
                stack.start()
                _Demo(stack, remote, sink).run()
            finally:
                stack.stop()
    except Exception:
        _say(end_of(log_path))
        raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _stay_apart(home: Path) -> None:
    """
    Remove from this process's environment, which its children inherit, what would change the demo.

    That is a real deployment's settings and git's configuration: the user's may be broken, name hooks, or
    forbid operations on a bare repository.
    """
    for name in [*os.environ]:
        if name.startswith(("CFP_", "SENTRY_", "GIT_")):
            del os.environ[name]
    os.environ |= {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }


class _Demo:
    def __init__(self, stack: Stack, remote: Path, sink: SentrySink) -> None:
        self._stack = stack
        self._remote = remote
        self._git_on_remote = git.Git(remote)
        self._sink = sink
        self._commits: list[str] = []

    def run(self) -> None:
        _say(f"Ferry is ready: {self._stack.url} (tasks: {self._stack.flower_url})")
        self._await("the startup backlog on the remote", lambda: self._status()["state"] == "idle")
        _say(f"The sample's first commits are on the remote {self._remote}.")
        for number in range(1, _WRITES + 1):
            self._show_arrival({"slug": f"visitor-{number}", "name": f"Visitor {number}"})
        self._show_merge_by_others()
        self._show_divergence()
        self._show_recovery()
        total = len(self._commits)
        _say(
            f"Summary: {total} of {total} commits arrived; 1 divergence, 1 page; nothing was forced. "
            f"For a browser: run {shlex.quote(sys.argv[0])} dev, and open http://127.0.0.1:8000/"
        )

    def _show_arrival(self, record: dict[str, str]) -> None:
        begun = time.monotonic()
        commit = self._write(record)
        _say(f"POST /api/sheets/people/records {json.dumps(record)} -> commit {commit[:7]}, push pending")
        self._await(f"commit {commit[:7]} on the remote", lambda: self._remote_has(commit))
        _say(
            f"  commit {commit[:7]} arrived at the remote "
            f"{(time.monotonic() - begun) * 1000:.0f} ms after the request"
        )

    def _show_divergence(self) -> None:
        theirs = self._commit_by_another_user()
        _say(f"Another user pushed {theirs[:7]} to the remote: the branches diverge.")
        ours = self._write({"slug": "latecomer", "name": "Late Comer"})
        also_ours = self._write({"slug": "latecomer-2", "name": "Even Later"})
        self._await("a blocked remote", lambda: self._status()["state"] == "blocked")
        self._await("the page", lambda: bool(self._sink.events))
        status = self._status()
        _expect(self._tip() == theirs, "the other user's commit was overwritten")
        _expect(status["last_error"]["reason"] == "non-fast-forward", f"the reason is {status['last_error']}")
        _say(
            f"  commits {ours[:7]} and {also_ours[:7]} were accepted and wait: "
            f"{status['pending_commits']} pending"
        )
        _say("  the page, as Sentry got it:")
        for line in _page_lines(self._sink.events[0]):
            _say(f"    {line}")

    def _show_recovery(self) -> None:
        parent = self._git("rev-parse", "main^")
        self._git("update-ref", "refs/heads/main", parent)
        _say("An operator removes that commit from the remote, and does not tell Ferry.")
        self._await("the waiting commits on the remote", lambda: self._remote_has(self._commits[-1]))
        self._await("an idle remote", lambda: self._status()["state"] == "idle")
        _expect(len(self._sink.events) == 1, f"{len(self._sink.events)} pages were sent, not 1")
        for commit in self._commits:
            _expect(self._remote_has(commit), f"{commit} is not on the remote")
        _say("  the sweep found it: everything is on the remote, and one page was sent in all")

    def _write(self, record: dict[str, str]) -> str:
        answer = self._request("/api/sheets/people/records", record)
        commit = str(answer["commit"]["hash"])
        self._commits.append(commit)
        return commit

    def _status(self) -> dict[str, Any]:
        return dict(self._request("/api/_internal/push")["remotes"]["origin"])

    def _request(
        self, path: str, body: dict[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        request = urllib.request.Request(  # noqa: S310 - a loopback URL of our own
            self._stack.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **(headers or {})},
        )
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            return json.load(response)

    def _show_merge_by_others(self) -> None:
        """
        Show that a pull request merged at the host is read here as soon as the host's webhook reports it.
        """
        merged, begun = self._merge_by_another_user(), time.monotonic()
        _say(
            f"Another user merges a pull request at the remote: commit {merged[:7]}; the webhook tells Ferry"
        )
        push = {"ref": "refs/heads/main", "after": merged}
        told = self._request("/api/_internal/reload-data", push, {"X-GitHub-Event": "push"})
        _expect(told["state"] == "queued", f"the webhook's answer was {told}")
        self._await("the merged commit here", lambda: self._status()["local_head"] == merged)
        read = self._request("/api/sheets/people/records/sam")["record"]
        _say(
            f"  GET /api/sheets/people/records/sam -> {json.dumps(read)}, "
            f"{(time.monotonic() - begun) * 1000:.0f} ms after the merge"
        )

    def _merge_by_another_user(self) -> str:
        with tempfile.TemporaryDirectory() as directory:
            record = Path(directory) / "sam.toml"
            record.write_text('name = "Sam Merged"\nslug = "sam"\n')
            blob, index = self._git("hash-object", "-w", str(record)), f"{directory}/index"
            with self._git_on_remote.custom_environment(GIT_INDEX_FILE=index):
                self._git("read-tree", "main")
                self._git("update-index", "--add", "--cacheinfo", f"100644,{blob},people/sam.toml")
                tree = self._git("write-tree")
        return self._commit_by_another_user(tree, "Merge pull request #1")

    def _commit_by_another_user(self, tree: str = "main^{tree}", message: str = "From elsewhere") -> str:
        name, email = AUTHOR
        identity = ["-c", f"user.name={name}", "-c", f"user.email={email}"]
        theirs = self._git(*identity, "commit-tree", "-p", "main", "-m", message, tree)
        self._git("update-ref", "refs/heads/main", theirs)
        return theirs

    def _tip(self) -> str:
        return self._git("rev-parse", "main")

    def _remote_has(self, commit: str) -> bool:
        # In the demo this stands for a person who works on the remote itself.
        known = self._git_on_remote.execute(
            ["git", "merge-base", "--is-ancestor", commit, "main"],
            with_extended_output=True,
            with_exceptions=False,
        )
        return known[0] == 0

    def _git(self, *arguments: str) -> str:
        return str(self._git_on_remote.execute(["git", *arguments], kill_after_timeout=30))

    def _await(self, what: str, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _ARRIVAL_TIMEOUT_S
        while not happened():
            if time.monotonic() > deadline:
                raise DemoError(f"waited {_ARRIVAL_TIMEOUT_S:.0f} s for {what}")
            time.sleep(_POLL_S)


def _page_lines(event: Event) -> list[str]:
    context = event["contexts"]["push"]
    return [
        f"level {event['level']}, tags {json.dumps(event['tags'])}",
        f"fingerprint {json.dumps(event['fingerprint'])}",
        f"ahead {context['ahead']}, behind {context['behind']}",
        f"local {context['local_head'][:7]}, remote {context['remote_head'][:7]}",
        f"way out: {context['way_out']}",
    ]


def _expect(true: bool, otherwise: str) -> None:
    if not true:
        raise DemoError(otherwise)


def _say(line: str) -> None:
    click.echo(line)
