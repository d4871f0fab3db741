"""
Commands for the data repository: ``ferry init`` and ``ferry commits``.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from ferry.app.cli.context import configure_logs, enqueue, one_line_errors, open_pipeline
from ferry.worker.bootstrap import build
from ferry.worker.git import clone
from ferry.worker.git.credentials import Credentials
from ferry.worker.git.history import Commit
from ferry.worker.settings import Settings

_TELL_EVERY_S = 5.0


@click.command()
def init() -> None:
    """
    Prepare the data repository for a start. Safe to repeat, and to run in several places at once.

    If CFP_DATA_REPO_PATH is empty, fetches the branch and its whole history from
    CFP_DATA_REMOTE. Sets the remotes' URLs and fetch refspecs and checks the repository. If
    CFP_DATA_RECONCILE is boot or auto, joins the branch with origin's.
    """
    configure_logs()
    with one_line_errors():
        settings = Settings.from_env(os.environ)
        with _progress(settings.data_repo_path):
            made = clone.make(settings, Credentials.from_settings(settings, os.environ))
        pipeline = build(os.environ, publisher=True, is_brief=True)
        warnings = clone.check(settings, pipeline.repository)
        pipeline.reconciler.at_start()
    for warning in warnings:
        click.echo(f"ferry: {warning}", err=True)
    path, head = settings.data_repo_path, pipeline.repository.head()
    state = "was cloned from origin" if made else "exists"
    click.echo(f"{path} {state}; {settings.data_branch} is at {head}")
    waiting = [remote for remote in settings.remotes if head and not pipeline.repository.is_pushed(remote)]
    if waiting and head:
        enqueue(pipeline, waiting, "commit")
        click.echo(f"commits are pending for {', '.join(waiting)}; a worker pushes them when it starts")


@contextmanager
def _progress(path: Path) -> Iterator[None]:
    """
    Print every few seconds how much of the clone for *path* has arrived.
    """
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(_TELL_EVERY_S):
            click.echo(f"ferry: fetching, {clone.fetched_bytes(path) >> 20} MiB so far", err=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


@click.command()
@click.option("--pending", is_flag=True, help="Only commits that a remote lacks.")
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 10000), help="At most this many."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
def commits(pending: bool, limit: int, as_json: bool) -> None:
    """
    List the branch's commits, newest first, with the state of each on every remote.
    """
    with open_pipeline() as pipeline:
        repository, head = pipeline.repository, pipeline.repository.head()
        remotes = list(pipeline.settings.remotes)
        found: list[Commit] = []
        if head and pending:
            missing = {
                commit
                for remote in remotes
                for commit in repository.commits_between(repository.remote_head(remote), head)
            }
            found = [commit for commit in repository.log(head, limit=10000) if commit.hash in missing]
        elif head:
            found = repository.log(head, limit=limit)
        for commit in found[:limit]:
            is_pushed = {remote: repository.is_pushed(remote, commit.hash) for remote in remotes}
            states = {remote: "pushed" if pushed else "pending" for remote, pushed in is_pushed.items()}
            _print_commit(commit, states, as_json=as_json)
    if len(found) > limit:
        click.echo(f"... and {len(found) - limit} more; show them with --limit", err=True)


def _print_commit(commit: Commit, states: Mapping[str, str], *, as_json: bool) -> None:
    if as_json:
        facts = {
            "hash": commit.hash,
            "authored_at": commit.authored_at,
            "subject": commit.subject,
            "push": states,
        }
        click.echo(json.dumps({**facts, "push": states}))
        return
    marks = " ".join(f"{remote}:{state}" for remote, state in states.items())
    click.echo(f"{commit.hash[:12]} {commit.authored_at} {marks} {commit.subject}")
