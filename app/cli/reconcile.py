"""
``ferry reconcile``: join the branch with a remote's, after a look at both sides.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable

import click

from ferry.app.cli.context import REASON, configured, enqueue, open_pipeline
from ferry.app.status_page import words
from ferry.worker.git.divergence import Divergence
from ferry.worker.ledger.operators import Operator
from ferry.worker.observe.printable import in_line
from ferry.worker.repair.merger import Change, Field, Takes, parse_takes, with_rest
from ferry.worker.repair.merging import SIDES
from ferry.worker.repair.reconcile import Outcome, Strategy
from ferry.worker.settings import ORIGIN

_SHOWN = 10


def _parsed(context: click.Context, parameter: click.Parameter, given: Iterable[str]) -> Takes:
    try:
        return parse_takes(given)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


@click.command()
@click.option("--remote", default=ORIGIN, show_default=True, help="The remote to join the branch with.")
@click.option(
    "--strategy",
    type=click.Choice(["merge", "rebase", "preserve"]),
    default="merge",
    show_default=True,
    help="merge: make one commit that holds both sides. rebase: repeat our commits on top of the remote's. "
    "preserve: rebase; on a conflict take the remote's side and keep ours on a branch.",
)
@click.option(
    "--take",
    "takes",
    multiple=True,
    callback=_parsed,
    metavar="PATH[:FIELD]=ours|theirs",
    help="Decide a conflict of a merge, of one field or of a whole file; repeatable. Everything else of both "
    "sides is kept.",
)
@click.option(
    "--rest", type=click.Choice(SIDES), help="Decide every conflict that --take leaves, by this side."
)
@REASON
@click.option("--dry-run", is_flag=True, help="Show both sides and what would happen; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def reconcile(
    remote: str,
    strategy: Strategy,
    takes: Takes,
    rest: str | None,
    reason: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """
    Join the branch with a remote that has commits which the branch lacks.

    Loses neither side: commits that leave the branch are kept as conflicts/UTC, here and on
    the remote. Exit status: 0 if the remote can take the branch now, 1 on a conflict, if a
    rule of an extension refuses the merge, or if the remote could not be fetched.
    """
    if (takes or rest) and strategy != "merge":
        raise click.UsageError("--take and --rest decide the conflicts of --strategy merge")
    with open_pipeline() as pipeline:
        [name] = configured(pipeline, remote)
        by = Operator.here(os.environ, reason)
        if rest:
            left = pipeline.reconciler.reconcile(name, strategy, dry_run=True, takes=takes).conflicts
            takes = with_rest(takes, left, rest)
        outcome = pipeline.reconciler.reconcile(
            name, strategy, dry_run=dry_run, takes=takes, compares=True, by=by
        )
        if not dry_run and outcome.state != "fetch-failed":
            enqueue(pipeline)
        if as_json:
            click.echo(json.dumps({**outcome.as_json(), "dry_run": dry_run}))
        else:
            _print_outcome(outcome, takes, dry_run=dry_run)
    if not outcome.is_joined:
        sys.exit(1)


def _say(line: str) -> None:
    click.echo(in_line(line))


def _print_outcome(outcome: Outcome, takes: Takes, *, dry_run: bool) -> None:
    _say(f"{outcome.branch} and {outcome.remote}: {words.joined(outcome, is_done=not dry_run)}")
    if dry_run:
        _say("  This is a dry run: nothing was changed.")
    if outcome.divergence:
        _print_divergence(outcome.divergence, outcome.remote)
    for change in outcome.changes[:_SHOWN]:
        _print_change(change, outcome.remote)
    if left_out := len(outcome.changes[_SHOWN:]) + outcome.changes_left_out:
        _say(f"  {words.many(left_out, 'file')} more; show them with --json")
    for conflict in outcome.conflicts:
        _say(f"  conflict: {conflict}")
    if outcome.detail and not outcome.conflicts:
        _say(f"  {outcome.detail}")
    if outcome.before != outcome.after:
        moved = "would move" if dry_run else "moved"
        _say(f"  {outcome.branch} {moved} from {outcome.before} to {outcome.after}")
    elif outcome.refusal:
        _say(f"  {outcome.refusal.hint}")
    elif outcome.state == "conflict":
        _print_way_out(outcome, takes)


def _print_divergence(divergence: Divergence, remote: str) -> None:
    _say(f"  both have {divergence.base or 'no commit in common'}")
    for title, side in (("only here", divergence.ours), (f"only on {remote}", divergence.theirs)):
        _say(f"  {title}: {side.count}, by {', '.join(side.authors)}")
        for commit in side.commits[:_SHOWN]:
            _say(f"    {commit.hash[:12]} {commit.subject}")


def _print_change(change: Change, remote: str) -> None:
    _say(f"  {change.path}: {change.ours} here, {change.theirs} on {remote}; result: {change.result}")
    for field in change.fields:
        _say(f"    {field.name or 'the file'}")
        for side in ("base", "ours", "theirs", "result"):
            for line in f"{side:<7}{_value(field, side)}".split("\n"):
                _say(f"      {line}")


def _value(field: Field, side: str) -> str:
    if side == "result" and field.conflict:
        return "conflict"
    value: str | None = getattr(field, side)
    return "none" if value is None else value.rstrip("\n").replace("\n", f"\n{'':7}")


def _options(takes: Iterable[str]) -> str:
    return "".join(f" --take {shlex.quote(take)}" for take in takes)


def _print_way_out(outcome: Outcome, takes: Takes) -> None:
    command = f"ferry reconcile --remote {outcome.remote}"
    if outcome.conflicts:
        taken = _options(f"{place}={side}" for place, side in takes.items())
        open_ = _options(f"{conflict}=ours" for conflict in outcome.conflicts[:_SHOWN])
        _say("  decide each conflict, by ours or by theirs; everything else of both sides is kept:")
        _say(f"    {command}{taken}{open_}")
        _say("  or all that are left by one side:")
        for side in SIDES:
            _say(f"    {command}{taken} --rest {side}")
    by_hand = "join them by hand: docs/how-to/reconcile-a-diverged-remote.md"
    if outcome.is_unrelated:
        _say(f"  {by_hand}")
        return
    _say("  or take the remote's side, and keep ours on a branch:")
    _say(f"    {command} --strategy preserve")
    _say(f"  or {by_hand}")
