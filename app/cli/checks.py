"""
Commands that check a deployment: ``ferry doctor``, ``ferry verify`` and ``ferry page``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import chain

import click

from ferry.app.cli.context import configured, open_pipeline
from ferry.app.dev import running
from ferry.app.store.survey import read_all, survey
from ferry.worker import paging
from ferry.worker.doctor import examine
from ferry.worker.errors import PushRefused, WorkerError
from ferry.worker.git.credentials import Credentials
from ferry.worker.repair import verify


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
def doctor(as_json: bool) -> None:
    """
    Check everything that a push needs, and every sheet; say what to do about each fault.

    Checks git, the repository, the broker, the workers and every remote (by a dry run), and
    changes nothing. Exit status: 1 if a check failed.
    """
    failed = False
    with open_pipeline() as pipeline:
        is_open = running.serves(pipeline.repository.path)
        for finding in chain(examine(pipeline, is_open=is_open), survey(pipeline.repository)):
            failed = failed or finding.state == "failed"
            if as_json:
                click.echo(json.dumps(finding.as_json()))
                continue
            click.echo(f"{finding.state:<8} {finding.name}: {finding.detail}")
            if finding.remedy:
                click.echo(f"{'':<8} {finding.remedy}")
    if failed:
        sys.exit(1)


@click.command("verify")
@click.option("--remote", help="Only this remote. Default: all remotes.")
@click.option(
    "--clone",
    "restore",
    is_flag=True,
    help="Also clone it to a temporary directory, and read every record.",
)
def verify_remotes(remote: str | None, restore: bool) -> None:
    """
    Verify that each remote holds the branch, and with --clone that it can be restored from there.

    Suits a schedule: `ferry push status` shows the last success as last_verified_at. Exit status: 1
    if a remote holds something else, does not answer, or cannot be restored completely.
    """
    failed = False
    with open_pipeline() as pipeline:
        for name in configured(pipeline, remote):
            try:
                found = verify.verify(pipeline.settings, pipeline.repository, pipeline.ledger, name)
                click.echo(f"{name}: {'ok' if found.is_ours else 'failed'}: {found.detail} (at {found.tip})")
                failed = failed or not found.is_ours
                if restore and found.is_ours and found.tip:
                    click.echo(f"{name}: restoring ...", err=True)
                    credentials = Credentials.from_settings(pipeline.settings, os.environ)
                    done = verify.drill(
                        pipeline.settings, credentials, pipeline.repository, name, read=read_all
                    )
                    click.echo(f"{name}: ok: {done}")
            except WorkerError as exc:
                click.echo(f"{name}: failed: {exc}")
                failed = True
    if failed:
        sys.exit(1)


@click.command("page")
@click.option(
    "--test", "is_test", is_flag=True, required=True, help="Required: the page says that it is a test."
)
def send_page(is_test: bool) -> None:
    """
    Send a test page, as a failed push sends one, to see who receives it.
    """
    with open_pipeline() as pipeline:
        wanted = paging.Page(
            title="test: nothing is wrong, an operator ran ferry page --test",
            error=PushRefused(
                "test", "test", "nothing is wrong: an operator ran `ferry page --test`", "Do nothing."
            ),
            branch=pipeline.repository.branch,
            repository="test",
            path=str(pipeline.repository.path),
            since=time.time(),
            context={"reason": "test"},
        )
        if problem := paging.probe(pipeline.settings, wanted):
            sys.exit(f"ferry: Sentry did not accept the page: {problem}")
    click.echo("sent; Sentry's alert rules decide who is notified")
