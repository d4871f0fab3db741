"""
``ferry promote``: make a replica the primary.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import urllib.request
from typing import Any

import click

from ferry.app.cli.context import REASON, open_pipeline
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.operators import Operator
from ferry.worker.observe.printable import many
from ferry.worker.repair.promote import Promoter
from ferry.worker.settings import ORIGIN

_TIMEOUT_S = 5.0
_MOST = 1000
_POSITIONS = (
    "functions of extensions after commits and pushes begin here; to go on where the old primary's were, "
    "copy ferry/remotes/@*.position from its repository before the start"
)


@click.command()
@click.option("--force", is_flag=True, help="Take over although the old primary answers, or still pushes.")
@REASON
def promote(force: bool, reason: str | None) -> None:
    """
    Make the repository of this replica the primary.

    Takes over all that origin has, and puts a commit on origin that fences the old primary:
    that one cannot push any more, keeps what it had not pushed on a rescue branch, and takes no
    writes. Refuses while it answers at CFP_API_PRIMARY_URL. Then start this one with
    CFP_API_ROLE=primary.
    """
    with open_pipeline() as pipeline:
        settings = pipeline.settings
        if ORIGIN not in settings.remotes:
            sys.exit("ferry: CFP_DATA_REMOTE is not set: there is no origin to take over from")
        url = settings.api_primary_url
        answers = url is not None and _asked(f"{url}/api/health") is not None
        pipeline.follower.follow()  # fetches origin, which _lacking compares with
        lacking = _lacking(f"{url}/api/commits?limit={_MOST}", pipeline.repository) if answers else None
        click.echo(_told(url, lacking))
        for commit in lacking or ():
            click.echo(f"  {commit['hash'][:12]} {commit['message'].partition(chr(10))[0]}")
        if answers and not force:
            sys.exit("ferry: stop the old primary first, or take over all the same with --force")
        promoter = Promoter(settings, pipeline.repository, pipeline.ledger, pipeline.reconciler)
        fence = promoter.promote(force=force, by=Operator.here(os.environ, reason))
    click.echo(f"{settings.data_branch} is at {fence}, here and on {ORIGIN}: this repository is the primary")
    if settings.extensions:
        click.echo(_POSITIONS)
    click.echo("start its API with CFP_API_ROLE=primary, with a worker and beat; the old one as a replica")


def _told(url: str | None, lacking: list[dict[str, Any]] | None) -> str:
    if lacking is None:
        who = f"the old primary at {url} does not answer" if url else "CFP_API_PRIMARY_URL is not set"
        return (
            f"{who}: whether it acknowledged commits that origin lacks is not known here (none, with "
            "CFP_DATA_PUSH_MODE=sync); it puts them on a rescue branch when it comes back"
        )
    if not lacking:
        return f"{url} answers; origin has every commit that it acknowledged"
    return f"{url} answers; origin lacks {many(len(lacking), 'commit')} that it acknowledged:"


def _lacking(url: str, repository: Repository) -> list[dict[str, Any]] | None:
    found, tip = _asked(url), repository.remote_head(ORIGIN)
    if found is None:
        return None
    return [commit for commit in found.get("commits", []) if not repository.contains(commit["hash"], tip)]


def _asked(url: str) -> dict[str, Any] | None:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - the setting is http(s)
            return dict(json.load(answer))
    except (OSError, http.client.HTTPException, ValueError):
        return None
