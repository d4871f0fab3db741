"""
``ferry branches``: the branches that Ferry made to keep commits safe.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

import click

from ferry.app.cli.context import REASON, configured, open_pipeline
from ferry.app.status_page import words
from ferry.worker.errors import WorkerError
from ferry.worker.ledger.operators import Operator
from ferry.worker.repair import kept


@click.command()
@click.option("--remote", help="Only this remote and this machine. Default: all remotes.")
@click.option("--remove", is_flag=True, help="Remove those whose commits are all in the branch; asks first.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
@REASON
def branches(remote: str | None, remove: bool, yes: bool, as_json: bool, reason: str | None) -> None:
    """
    List the branches that Ferry made to keep commits safe: rescue/BRANCH-UTC and conflicts/UTC.

    With --remove, removes those that are no longer needed, on the remotes and here, if they have
    not moved. Exit status: 1 if a remote did not answer, or a branch could not be removed.
    """
    failed = False
    with open_pipeline() as pipeline:
        by = Operator.here(os.environ, reason)
        repository, timeout_s = pipeline.repository, pipeline.settings.push_timeout_s
        found: list[kept.Kept] = []
        for name in (*configured(pipeline, remote), kept.HERE):
            try:
                found += kept.kept_branches(repository, name, timeout_s=timeout_s)
            except WorkerError as exc:
                click.echo(f"ferry: {exc}", err=True)
                failed = True
        for each in found:
            click.echo(json.dumps(asdict(each)) if as_json else _line(each, repository.branch))
        spare = [each for each in found if each.is_contained]
        if remove and spare and (yes or _may_remove(len(spare), repository.branch)):
            for each in spare:
                try:
                    kept.remove(repository, pipeline.ledger, each, by=by, timeout_s=timeout_s)
                    click.echo(f"removed {each.branch} {words.place(each.remote)}", err=as_json)
                except WorkerError as exc:
                    click.echo(f"ferry: {exc}", err=True)
                    failed = True
    if failed:
        sys.exit(1)


def _line(each: kept.Kept, branch: str) -> str:
    holds = f"{branch} contains it" if each.is_contained else f"it holds commits that {branch} lacks"
    return f"{each.branch} {words.place(each.remote)} is at {each.commit}: {holds}"


def _may_remove(count: int, branch: str) -> bool:
    what = "the branch" if count == 1 else f"the {count} branches"
    return click.confirm(f"Remove {what} whose commits are all in {branch}?", err=True)
