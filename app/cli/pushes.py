"""
``ferry push``: look at the pushes, start, pause and resume them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from ferry.app.api.standing import Standing, look
from ferry.app.cli.context import REASON, configured, enqueue, open_pipeline, with_hooks
from ferry.app.cli.explain import explain_push
from ferry.app.replica.level import Level
from ferry.app.status_page import words
from ferry.worker.errors import SettingsError
from ferry.worker.files.moments import timestamp
from ferry.worker.ledger import operators
from ferry.worker.ledger.operators import Operator
from ferry.worker.observe.printable import in_line, many
from ferry.worker.repair import poison
from ferry.worker.settings import ORIGIN
from ferry.worker.status import RemoteStatus
from ferry.worker.turns.need import Need

_NOT_ACCEPTED = "the broker did not accept the push; check Redis (CFP_REDIS_URL)"


def _duration(context: click.Context, parameter: click.Parameter, given: str | None) -> float | None:
    try:
        return None if given is None else words.seconds(given)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


@click.group()
def push() -> None:
    """
    Show the pushes, and act on them.
    """


push.add_command(explain_push)


@push.command("pause")
@click.option("--remote", help="Only this remote. Default: all remotes.")
@click.option("--for", "lasts_s", callback=_duration, metavar="TIME", help="End by itself: 90s, 30m, 2h, 1d.")
@REASON
def pause(remote: str | None, lasts_s: float | None, reason: str | None) -> None:
    """
    Stop pushing until `ferry push resume`, or for a time.

    The API goes on accepting commits, and they wait. A push that is running completes. A pause
    without an end pages after a day.
    """
    with open_pipeline() as pipeline:
        now, by = time.time(), Operator.here(os.environ, reason)
        until = None if lasts_s is None else now + lasts_s
        for name in configured(pipeline, remote):
            timeout_s = pipeline.settings.push_timeout_s
            operators.pause(pipeline.ledger, name, by, now=now, until=until, timeout_s=timeout_s)
            click.echo(f"{name}: paused{f' until {timestamp(until)}' if until else ''}")


@push.command("resume")
@click.option("--remote", help="Only this remote. Default: all remotes.")
@REASON
def resume(remote: str | None, reason: str | None) -> None:
    """
    Resume pushing after `ferry push pause`, and push the commits that wait.
    """
    with open_pipeline() as pipeline:
        remotes, by = configured(pipeline, remote), Operator.here(os.environ, reason)
        for name in remotes:
            timeout_s = pipeline.settings.push_timeout_s
            operators.resume(pipeline.ledger, name, by, now=time.time(), timeout_s=timeout_s)
            click.echo(f"{name}: resumed")
        # A replica that runs looks at origin by itself.
        if pipeline.repository.pushes and not enqueue(pipeline, remotes):
            sys.exit(f"ferry: {_NOT_ACCEPTED}; once it answers, the next sweep pushes what waits")


@push.command("history")
@click.option("--remote", help="Only this remote. Default: all remotes.")
@click.option("--pushes", is_flag=True, help="Also show each successful push.")
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, 2000), help="At most this many."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
def show_history(remote: str | None, pushes: bool, limit: int, as_json: bool) -> None:
    """
    List failures, recoveries and what operators did in the last weeks, oldest first.
    """
    with open_pipeline() as pipeline:
        found = [
            (name, event)
            for name in configured(pipeline, remote)
            for event in pipeline.ledger.happened(name, pushes=pushes)
        ]
    for name, event in sorted(found, key=lambda each: each[1].at)[-limit:]:
        if as_json:
            click.echo(json.dumps({"remote": name, **asdict(event), "at": timestamp(event.at)}))
        else:
            click.echo(f"{timestamp(event.at)} {name} {event.told()}")


@push.command("status")
@click.option("--watch", is_flag=True, help="Refresh every second, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as GET /api/_internal/push returns it.")
def show_status(watch: bool, as_json: bool) -> None:
    """
    Show the state of every remote. Needs neither a worker nor Redis.

    Exit status: 0 if every commit is on every remote or on its way, 1 if a person is needed.
    """
    with open_pipeline() as pipeline:
        try:
            with_hooks(pipeline)
        except SettingsError as exc:
            click.echo(f"ferry: {exc}", err=True)  # where pushes stand counts all the same
        while True:
            standing = look(pipeline)
            if watch and not as_json:
                click.clear()
            _print_standing(standing, as_json=as_json)
            if not watch:
                break
            time.sleep(1)
    if standing.needs_person:
        sys.exit(1)


def _print_standing(standing: Standing, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(standing.as_json()))
        return
    if standing.room.state != "ok":
        click.echo(f"disk: {standing.room.state}: {standing.room.told}")
    if standing.disk:
        _print_need(standing.disk)
        click.echo(f"  {standing.disk.hint}")
    if standing.replica:
        _print_level(standing.replica)
    else:
        for name, status in standing.remotes.items():
            _print_status(name, status)
    for hook in standing.hooks:
        click.echo(f"{hook.hook}: {hook.state}: {hook.sentence}")
        if hook.need:
            _print_need(hook.need)
            click.echo(f"  {hook.need.hint}")
    if standing.sweeps_are_late:
        click.echo("sweeps: late; beat, Redis or every worker is away; see: ferry doctor")
    if standing.packing_is_late:
        click.echo("packing: late; loose objects pile up; see: ferry doctor")


def _print_level(replica: Level) -> None:
    status, facts = replica.status, replica.as_json()
    click.echo(f"replica: {replica.state}")
    click.echo(f"  {replica.sentence}")
    if status.need:
        _print_need(status.need)
        click.echo(f"  {status.need.hint}")
    click.echo(f"  follows {replica.origin}; {status.branch} is at {facts['commit']}")
    click.echo(f"  had all of origin at {facts['followed_at'] or 'no time yet'}")
    if status.pending.behind:
        click.echo(f"  {many(status.pending.behind, 'commit')} there, not read here yet")
    click.echo(f"  origin seen at {timestamp(status.seen_at) or 'no time yet'}")
    if status.entry.paused_at is not None:
        _print_pause(ORIGIN, status.as_json())
    if replica.primary:
        click.echo(f"  the primary is {replica.primary}; its event stream is {facts['primary_stream']}")
    else:
        click.echo("  the primary is not known (CFP_API_PRIMARY_URL): writes are refused")


def _print_lines(title: str, lines: Sequence[str]) -> None:
    if lines:
        click.echo(f"  {title}:")
    for line in lines:
        click.echo(f"    {line}")


def _print_need(need: Need) -> None:
    click.echo(f"  a person is needed since {timestamp(need.since)}: {need.reason}")


def _print_pause(name: str, facts: Mapping[str, Any]) -> None:
    by = f" by {facts['paused_by']}" if facts["paused_by"] else ""
    why = f": {facts['paused_reason']}" if facts["paused_reason"] else ""
    until = f", until {facts['paused_until']}" if facts["paused_until"] else ""
    click.echo(f"  paused since {facts['paused_at']}{by}{why}{until}")
    click.echo(f"  resume with: ferry push resume --remote {name}")


def _print_failure(status: RemoteStatus, error: Mapping[str, Any]) -> None:
    attempt = f"attempt {error['attempt']} at " if error["attempt"] else ""
    click.echo(f"  {attempt}{error['at']}: {error['reason']}: {error['message']}")
    _print_lines("git and the remote said", error["said"].splitlines())
    click.echo(f"  {error['hint']}")
    _print_lines("run", status.commands)
    if status.runbook:
        click.echo(f"  runbook: {status.runbook}")


def _print_sides(facts: Mapping[str, Any]) -> None:
    there = f"at {facts['remote_head']}" if facts["remote_head"] else "not seen yet"
    click.echo(f"  {facts['branch']} is at {facts['local_head']}, on the remote {there}")
    if facts["remote_seen_at"]:
        click.echo(f"  seen there at {facts['remote_seen_at']}")
    if facts["behind_commits"]:
        click.echo(f"  {many(facts['behind_commits'], 'commit')} of others there, not read here yet")
    if facts["pending_commits"]:
        click.echo(f"  {facts['pending_commits']} pending, the oldest since {facts['oldest_pending_at']}")
        click.echo("  they are kept in the data repository until they arrive")


def _print_status(name: str, status: RemoteStatus) -> None:
    facts = status.as_json()
    click.echo(f"{name}: {facts['state']}")
    click.echo(f"  {facts['turn']}")
    if status.need:
        _print_need(status.need)
        if facts["last_error"] is None:
            click.echo(f"  {status.need.hint}")
        if status.retries:
            click.echo(f"  {status.retries}")
    if facts["failing_since"]:
        lasts = words.duration(status.failing_s)
        click.echo(f"  failing for {lasts}, since {facts['failing_since']}: {status.attempts}")
    _print_sides(facts)
    if facts["paused_at"]:
        _print_pause(name, facts)
    if error := facts["last_error"]:
        _print_failure(status, error)
    if facts["commits_per_push"]:
        part = many(facts["commits_per_push"], "commit")
        click.echo(f"  a larger push exceeded its timeout, so the next one sends {part}")
    if facts["next_attempt_at"] and not facts["paused_at"]:
        click.echo(f"  next attempt at {facts['next_attempt_at']}")


@push.command("now")
@click.option("--remote", help="Only this remote. Default: all remotes.")
@REASON
def push_now(remote: str | None, reason: str | None) -> None:
    """
    Queue a push to every remote now, without waiting for a scheduled retry.

    Exit status: 1 if a remote is paused, or the broker did not accept the push.
    """
    with open_pipeline() as pipeline:
        remotes = configured(pipeline, remote)
        if not pipeline.repository.pushes:
            sys.exit("ferry: this is a replica, which pushes nothing; run this on the primary")
        head = pipeline.repository.head()
        if not head or not remotes:
            click.echo("nothing to push" if remotes else "no remote is configured: set CFP_DATA_REMOTE")
            return
        by = Operator.here(os.environ, reason)
        moving = operators.request(pipeline.ledger, remotes, by, now=time.time())
        if moving and not enqueue(pipeline, moving):
            sys.exit(f"ferry: {_NOT_ACCEPTED}")
    if moving:
        click.echo(f"queued a push to {', '.join(moving)}; see: ferry push status")
    paused = [name for name in remotes if name not in moving]
    for name in paused:
        click.echo(f"{name}: paused, so nothing is pushed; resume with: ferry push resume --remote {name}")
    if paused:
        sys.exit(1)


@push.command("find-refused")
@click.option("--remote", default=ORIGIN, show_default=True, help="The remote to ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def find_refused(remote: str, as_json: bool) -> None:
    """
    Find the first pending commit that a remote refuses.

    Pushes to a scratch branch on the remote, and removes that branch afterwards.
    """
    with open_pipeline() as pipeline:
        [name] = configured(pipeline, remote)
        timeout_s = pipeline.settings.push_timeout_s
        with pipeline.ledger.claim_within(name, timeout_s) as claim:
            if claim.entry.is_paused(time.time()):
                sys.exit(f"ferry: {name} is paused: nothing is pushed there; first: ferry push resume")
            found = poison.find(pipeline.repository, claim, timeout_s=timeout_s)
    if as_json:
        click.echo(json.dumps(found and found.as_json()))
    elif found is None:
        click.echo(f"nothing is pending for {name}")
    else:
        _print_found(name, found)


def _print_found(remote: str, found: poison.Found) -> None:
    commit = found.commit
    if commit is None:
        click.echo(f"{remote} refuses none of the {found.pending} pending commits on another branch:")
        click.echo("  its rule is about the branch itself, such as branch protection; see: ferry push status")
        return
    click.echo(f"{commit.hash} is the first commit that {remote} refuses; {found.behind} more wait behind it")
    click.echo(in_line(f"  {commit.author[0]} <{commit.author[1]}>, {commit.authored_at}"))
    click.echo(in_line(f"  {commit.subject}"))
    for path in found.files:
        click.echo(in_line(f"  changes {path}"))
    click.echo(f"  {found.verdict.reason}: {found.verdict.evidence}")
