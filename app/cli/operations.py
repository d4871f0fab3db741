"""
The operator's hands: commands that look at the pushes and act on them.

Each reads the settings from the environment, as every process of Ferry's does.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TextIO, cast

import click

from ferry.app.store.survey import read_all, survey
from ferry.worker import paging
from ferry.worker.bootstrap import build
from ferry.worker.doctor import examine
from ferry.worker.enqueue import PushQueue
from ferry.worker.errors import PushRefused, WorkerError
from ferry.worker.failures import POLICIES, Reason, Verdict, explain
from ferry.worker.files.ownership import refused
from ferry.worker.git import clone
from ferry.worker.git.credentials import Credentials
from ferry.worker.git.divergence import Divergence
from ferry.worker.observe import logs
from ferry.worker.observe.redaction import redact
from ferry.worker.pipeline import Pipeline
from ferry.worker.repair import poison, verify
from ferry.worker.repair.reconcile import Outcome, Strategy
from ferry.worker.settings import ORIGIN, Settings, parse_tokens
from ferry.worker.status import RemoteStatus, remote_statuses

_ENQUEUE_BUDGET_S = 5.0  # nobody's request waits
_SHOWN = 10
_TELL_EVERY_S = 5.0


@contextmanager
def _pipeline() -> Iterator[Pipeline]:
    """
    Build the pipeline for one command; what is wrong ends it with one line and status 1.
    """
    logs.configure()
    with _one_line():
        yield build(os.environ, publisher=True)


@contextmanager
def _one_line() -> Iterator[None]:
    """
    End the process with one line and status 1 where the block meets what an operator can mend.
    """
    try:
        yield
    except WorkerError as exc:
        sys.exit(f"ferry: {exc}")
    except PermissionError as exc:
        sys.exit(f"ferry: {refused(exc, Path(os.environ.get('CFP_DATA_REPO_PATH', '/')))}")


def _enqueue(pipeline: Pipeline, remotes: Sequence[str] | None = None, *, out_of_turn: bool = False) -> bool:
    """
    Queue a push of what the branch holds now, to all remotes or to some; returns whether the broker took it.
    """
    head = pipeline.repository.head()
    names = pipeline.settings.remotes if remotes is None else remotes
    queue = PushQueue(pipeline.celery, list(names), budget_s=_ENQUEUE_BUDGET_S)
    return head is None or queue.enqueue_push(head, out_of_turn=out_of_turn)


@click.group()
def push() -> None:
    """
    Look at the pushes, and act on them.
    """


@push.command("explain")
@click.option("--exit-status", type=int, help="git push's exit status. Default: what the output speaks for.")
@click.option(
    "--stdout", type=click.File(errors="replace"), help="File with what it wrote to standard output."
)
@click.option(
    "--stderr", type=click.File(errors="replace"), help="File with what it wrote to standard error."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain_push(
    exit_status: int | None, stdout: TextIO | None, stderr: TextIO | None, as_json: bool
) -> None:
    """
    Say why a push failed, from git's own output.

    Without --stdout and --stderr, reads all of it from standard input, such as
    `git push 2>&1 | ferry push explain`.
    """
    if stdout or stderr:
        printed, said = (file.read() if file else "" for file in (stdout, stderr))
    else:
        printed, said = _apart(sys.stdin.buffer.read().decode("utf-8", "replace"))
    if exit_status is None:
        exit_status = _likely_status(printed, said)
    answer = _explanation(explain(exit_status, redact(printed), redact(said)))
    if as_json:
        click.echo(json.dumps(answer))
        return
    for name, value in answer.items():
        click.echo(f"{name + ':':<11}{'yes' if value is True else 'no' if value is False else value or '-'}")


@push.command("find-refused")
@click.option("--remote", default=ORIGIN, show_default=True, help="The remote to ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def find_refused(remote: str, as_json: bool) -> None:
    """
    Ask a remote which pending commit it refuses.

    Pushes ever fewer of the pending commits to a scratch branch of the remote, ferry-find/BRANCH,
    and removes that branch at the end.
    """
    with _pipeline() as pipeline:
        timeout_s = pipeline.settings.push_timeout_s
        with pipeline.ledger.claim_within(_known(pipeline, remote), timeout_s) as claim:
            found = poison.find(pipeline.repository, claim, timeout_s=timeout_s)
    if as_json:
        click.echo(json.dumps(found and found.as_json()))
    elif found is None:
        click.echo(f"nothing is pending for {remote}")
    elif found.commit is None:
        click.echo(f"{remote} refuses none of the {found.pending} pending commits on another branch:")
        click.echo(
            "  its rule is about the branch itself, such as a protection; what it said: ferry push status"
        )
    else:
        commit = found.commit
        click.echo(f"{commit.hash} is the first that {remote} refuses; {found.behind} more wait behind it")
        click.echo(f"  {commit.author[0]} <{commit.author[1]}>, {commit.authored_at}")
        click.echo(f"  {commit.message.partition(chr(10))[0]}")
        for path in found.files:
            click.echo(f"  changes {path}")
        click.echo(f"  {found.verdict.reason}: {found.verdict.evidence}")


def _explanation(verdict: Verdict) -> dict[str, Any]:
    policy = None if verdict.landed else POLICIES[cast(Reason, verdict.reason)]
    return {
        "reason": verdict.reason,
        "retried": policy.retried if policy else False,
        "page": policy.page if policy else None,
        "ambiguous": verdict.ambiguous,
        "rule": verdict.rule,
        "evidence": verdict.evidence,
        "hint": policy.hint if policy else "Nothing: the remote has the commit.",
    }


# What `git push --porcelain` writes to standard output; all else goes to standard error.
_PORCELAIN = re.compile(r"[ +*=!-]\t\S*:\S*\t|Done$")


def _apart(text: str) -> tuple[str, str]:
    lines = text.splitlines(keepends=True)
    printed = [line for line in lines if _PORCELAIN.match(line)]
    return "".join(printed), "".join(line for line in lines if not _PORCELAIN.match(line))


def _likely_status(printed: str, said: str) -> int:
    if re.search(r"^!\t|^ ! \[|^error:", printed + said, re.MULTILINE):
        return 1
    if re.search(r"^(?:fatal|ssh|ERROR|remote: ERROR):|Permission denied", said, re.MULTILINE):
        return 128
    return 0 if re.search(r"^[ +*=-]\t|->|^Everything up-to-date", printed + said, re.MULTILINE) else 1


@push.command("pause")
@click.option("--remote", help="Only this remote. Default: all.")
def pause(remote: str | None) -> None:
    """
    Stop pushing until `ferry push resume`. Commits are accepted and wait; a push that runs completes.
    """
    _set_paused(remote, time.time())


@push.command("resume")
@click.option("--remote", help="Only this remote. Default: all.")
def resume(remote: str | None) -> None:
    """
    Push again what was paused, beginning with what waits.
    """
    _set_paused(remote, None)


def _set_paused(remote: str | None, paused_at: float | None) -> None:
    with _pipeline() as pipeline:
        remotes = [_known(pipeline, remote)] if remote else list(pipeline.settings.remotes)
        for name in remotes:
            pipeline.ledger.set_paused(name, paused_at, timeout_s=pipeline.settings.push_timeout_s)
            click.echo(f"{name}: {'resumed' if paused_at is None else 'paused'}")
        if paused_at is None:
            _enqueue(pipeline, remotes, out_of_turn=True)


@push.command("status")
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as GET /api/_internal/push answers.")
def show_status(watch: bool, as_json: bool) -> None:
    """
    Show where every remote stands. Needs no worker and no Redis.

    Status 0 where everything is on every remote or on its way, 1 where a person is needed.
    """
    with _pipeline() as pipeline:
        while True:
            statuses = remote_statuses(pipeline.settings, pipeline.repository, pipeline.ledger)
            if watch and not as_json:
                click.clear()
            _print_statuses(statuses, as_json=as_json)
            if not watch:
                break
            time.sleep(1)
    if any(status.state == "blocked" for status in statuses.values()):
        sys.exit(1)


def _print_statuses(statuses: Mapping[str, RemoteStatus], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"remotes": {name: status.as_json() for name, status in statuses.items()}}))
        return
    for name, status in statuses.items():
        _print_status(name, status)


def _print_status(name: str, status: RemoteStatus) -> None:
    facts = status.as_json()
    click.echo(f"{name}: {facts['state']}")
    click.echo(f"  {facts['branch']} is at {facts['local_head']}, on the remote at {facts['remote_head']}")
    if facts["pending_commits"]:
        click.echo(f"  {facts['pending_commits']} pending, the oldest since {facts['oldest_pending_at']}")
    if facts["paused_at"]:
        click.echo(f"  paused since {facts['paused_at']}; go on with: ferry push resume --remote {name}")
    if error := facts["last_error"]:
        click.echo(f"  attempt {error['attempt']} at {error['at']}: {error['reason']}: {error['message']}")
        click.echo(f"  {error['hint']}")
    if facts["commits_per_push"]:
        click.echo(
            f"  a push of more ran into its timeout, so the next takes {facts['commits_per_push']} commits"
        )
    if facts["next_attempt_at"]:
        click.echo(f"  next attempt at {facts['next_attempt_at']}")


@push.command("now")
@click.option("--remote", help="Only this remote. Default: all.")
def push_now(remote: str | None) -> None:
    """
    Queue a push to every remote, ahead of any retry that is scheduled.
    """
    with _pipeline() as pipeline:
        remotes = [_known(pipeline, remote)] if remote else list(pipeline.settings.remotes)
        head = pipeline.repository.head()
    if not head or not remotes:
        click.echo("nothing to push" if remotes else "no remote is configured: set CFP_DATA_REMOTE")
        return
    if not _enqueue(pipeline, remotes, out_of_turn=True):
        sys.exit("ferry: the broker did not take the push; check Redis (CFP_REDIS_URL)")
    click.echo(f"queued {', '.join(remotes)}; see: ferry push status")


@click.group()
def token() -> None:
    """
    Make tokens for those who write.
    """


@token.command("new")
@click.argument("name")
@click.option(
    "--sheet", "sheets", multiple=True, help="A sheet that it may write; may be repeated. Default: all."
)
def new_token(name: str, sheets: tuple[str, ...]) -> None:
    """
    Make a token for NAME, and print it with what is to be added to CFP_API_TOKENS.

    Only its hash is kept, so it is shown this once.
    """
    made = f"ferry_{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(made.encode()).hexdigest()
    pair = ":".join([name, digest, *(["+".join(sheets)] if sheets else [])])
    try:
        parse_tokens(pair)
    except ValueError:
        sys.exit(
            f"ferry: {name!r} is no name for a token; letters, digits, '.', '_' and '-', at most 63 of them"
        )
    click.echo(f"token:          {made}")
    click.echo(f"CFP_API_TOKENS: {pair}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
def doctor(as_json: bool) -> None:
    """
    Look at everything that a push needs and at every sheet, and say what to do where something is wrong.

    Asks git, the repository, the broker, the workers and every remote (by a dry run); changes
    nothing. Status 1 where something has failed.
    """
    failed = False
    with _pipeline() as pipeline:
        for finding in chain(examine(pipeline), survey(pipeline.repository)):
            failed = failed or finding.state == "failed"
            if as_json:
                click.echo(json.dumps(finding.as_json()))
                continue
            click.echo(f"{finding.state:<8} {finding.name}: {finding.detail}")
            if finding.remedy:
                click.echo(f"{'':<8} {finding.remedy}")
    if failed:
        sys.exit(1)


@click.command()
def init() -> None:
    """
    Prepare the data repository for a start; safe to repeat, and to run in several places at once.

    Where CFP_DATA_REPO_PATH is empty, fetches the branch and its whole history from
    CFP_DATA_REMOTE. Sets the remotes' URLs and fetch refspecs, checks the repository and,
    where CFP_DATA_RECONCILE is boot or auto, joins the branch with origin's.
    """
    logs.configure()
    with _one_line():
        settings = Settings.from_env(os.environ)
        with _progress(settings.data_repo_path):
            made = clone.make(settings, Credentials.from_settings(settings, os.environ))
        pipeline = build(os.environ, publisher=True)
        warnings = clone.check(settings, pipeline.repository)
        pipeline.reconciler.at_start()
    for warning in warnings:
        click.echo(f"ferry: {warning}", err=True)
    path, head = settings.data_repo_path, pipeline.repository.head()
    click.echo(f"{path} was {'made from origin' if made else 'there'}; {settings.data_branch} is at {head}")
    waiting = [remote for remote in settings.remotes if head and not pipeline.repository.is_pushed(remote)]
    if waiting and head:
        _enqueue(pipeline, waiting)
        click.echo(f"commits wait for {', '.join(waiting)}; a worker pushes them at its start")


@contextmanager
def _progress(path: Path) -> Iterator[None]:
    """
    Say every few seconds how much has come, while a clone is made for *path*.
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
@click.option("--pending", is_flag=True, help="Only those that a remote lacks.")
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 10000), help="How many at most."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
def commits(pending: bool, limit: int, as_json: bool) -> None:
    """
    List the branch's commits, newest first, and which remotes have each.
    """
    with _pipeline() as pipeline:
        repository, remotes = pipeline.repository, list(pipeline.settings.remotes)
        head = repository.head()
        if pending:
            lacked = {
                c
                for name in remotes
                if head
                for c in repository.commits_between(repository.remote_head(name), head)
            }
            found = (
                [commit for commit in repository.log(head, limit=10000) if commit.hash in lacked]
                if head
                else []
            )
        else:
            found = repository.log(head, limit=limit) if head else []
        for commit in found[:limit]:
            states = {
                name: "pushed" if repository.is_pushed(name, commit.hash) else "pending" for name in remotes
            }
            subject = commit.message.partition("\n")[0]
            if as_json:
                click.echo(
                    json.dumps(
                        {
                            "hash": commit.hash,
                            "authored_at": commit.authored_at,
                            "subject": subject,
                            "push": states,
                        }
                    )
                )
            else:
                marks = " ".join(f"{name}:{state}" for name, state in states.items())
                click.echo(f"{commit.hash[:12]} {commit.authored_at} {marks} {subject}")
        if len(found) > limit:
            click.echo(f"... and {len(found) - limit} more; see them with --limit", err=True)


@click.command("verify")
@click.option("--remote", help="Only this remote. Default: all.")
@click.option(
    "--clone", "restore", is_flag=True, help="Restore it into a temporary place, and read everything back."
)
def verify_remotes(remote: str | None, restore: bool) -> None:
    """
    Prove that what the remotes hold is ours, and with --clone that it could be had back.

    Fit for a schedule: the time of the last success is shown as last_verified_at. Status 1
    where a remote holds something else, does not answer, or does not come back whole.
    """
    failed = False
    with _pipeline() as pipeline:
        for name in [_known(pipeline, remote)] if remote else list(pipeline.settings.remotes):
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
    "--test", "is_test", is_flag=True, required=True, help="Send a page that says that it is a test."
)
def send_page(is_test: bool) -> None:
    """
    Send a page as a failed push would, to see whom it wakes.
    """
    with _pipeline() as pipeline:
        wanted = paging.Page(
            error=PushRefused(
                "test", "test", "nothing is wrong: `ferry page --test` was typed", "Do nothing."
            ),
            branch=pipeline.repository.branch,
            repository="test",
            path=str(pipeline.repository.path),
            since=time.time(),
            context={"reason": "test"},
        )
        if problem := paging.probe(pipeline.settings, wanted):
            sys.exit(f"ferry: Sentry did not take the page: {problem}")
    click.echo("sent; it is up to Sentry's alert rules whom it wakes")


@click.command()
@click.option("--remote", default=ORIGIN, show_default=True, help="The remote to join the branch with.")
@click.option(
    "--strategy",
    type=click.Choice(["merge", "rebase", "preserve"]),
    default="merge",
    show_default=True,
    help="merge: one commit that holds both sides. rebase: ours anew on top of theirs. "
    "preserve: rebase, and where that conflicts take theirs and set ours aside.",
)
@click.option(
    "--dry-run", is_flag=True, help="Show what each side has and what would happen; change nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def reconcile(remote: str, strategy: Strategy, dry_run: bool, as_json: bool) -> None:
    """
    Join the branch with a remote that holds commits which it lacks.

    No side is lost: what the branch no longer holds is kept as conflicts/UTC, here and on
    the remote. Status 0 where the remote can take the branch now, 1 on a conflict or where
    it could not be fetched.
    """
    with _pipeline() as pipeline:
        outcome = pipeline.reconciler.reconcile(_known(pipeline, remote), strategy, dry_run=dry_run)
        if not dry_run and outcome.state != "fetch-failed":
            _enqueue(pipeline, out_of_turn=True)
        if as_json:
            click.echo(json.dumps({**outcome.as_json(), "dry_run": dry_run}))
        else:
            _print_outcome(outcome, dry_run=dry_run)
    if not outcome.is_joined:
        sys.exit(1)


def _print_outcome(outcome: Outcome, *, dry_run: bool) -> None:
    note = " (a dry run: nothing was changed)" if dry_run else ""
    click.echo(f"{outcome.state}: {outcome.branch} and {outcome.remote}{note}")
    if outcome.divergence:
        _print_divergence(outcome.divergence, outcome.remote)
    for conflict in outcome.conflicts:
        click.echo(f"  conflict: {conflict}")
    if outcome.kept_as:
        click.echo(f"  our commits as they were: {outcome.kept_as}")
    if outcome.detail:
        click.echo(f"  {outcome.detail}")
    if outcome.before != outcome.after:
        click.echo(f"  {outcome.branch}: {outcome.before} -> {outcome.after}")
    elif outcome.state == "conflict":
        click.echo("  join them by hand (docs/how-to/reconcile-a-diverged-remote.md), or take theirs and")
        click.echo(f"  set ours aside: ferry reconcile --remote {outcome.remote} --strategy preserve")


def _print_divergence(apart: Divergence, remote: str) -> None:
    click.echo(f"  both have {apart.base or 'no commit in common'}")
    for title, side in (("only here", apart.ours), (f"only on {remote}", apart.theirs)):
        click.echo(f"  {title}: {side.count}, by {', '.join(side.authors)}")
        for commit in side.commits[:_SHOWN]:
            click.echo(f"    {commit.hash[:12]} {commit.message.partition(chr(10))[0]}")
        for path in sorted(side.files)[:_SHOWN]:
            click.echo(f"    changes {path}")
    for path in apart.touched_by_both:
        click.echo(f"  changed by both: {path}")


def _known(pipeline: Pipeline, remote: str) -> str:
    if remote not in pipeline.settings.remotes:
        known = ", ".join(pipeline.settings.remotes) or "none; set CFP_DATA_REMOTE"
        sys.exit(f"ferry: no remote {remote!r} is configured; there is: {known}")
    return remote
