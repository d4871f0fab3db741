"""
The content of a page: everything that the operator on call needs, on one screen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ferry.worker.errors import PushError, RepositoryError
from ferry.worker.failures import Verdict, policy_of
from ferry.worker.git.divergence import survey
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.entry import Entry
from ferry.worker.observe.logs import log
from ferry.worker.observe.printable import many, printable
from ferry.worker.process.running import Finished

_SHOWN = 20
_SAID_CHARACTERS = 8000  # characters; GitHub's longest refusals have about 3000


def dossier(
    repository: Repository, error: PushError, entry: Entry, *, said: str, now: float
) -> dict[str, Any]:
    """
    Return the context of a page.

    A fact that cannot be read is left out, because the page is more important.

    Args:
        repository: The data repository.
        error: The failure that pages.
        entry: What the ledger knows of the remote.
        said: git's output, redacted; "" if git was not run.
        now: Seconds since the epoch.
    """
    since = entry.failing_since if entry.failing_since is not None else now
    return {
        "reason": error.reason,
        **standing(repository, error.remote, entry, now=now),
        **({"rescue_branch": entry.rescue} if entry.rescue else {}),
        **({"rewritten_from": entry.rewritten} if entry.rewritten else {}),
        "attempts": entry.attempt,
        "failing_seconds": round(now - since),
        "what_git_said": as_printed(said) or error.detail,
        "way_out": error.hint,
        "commands": commands(error.reason, repository, error.remote, entry),
    }


def headline(known_as: str, error: PushError, context: Mapping[str, Any]) -> str:
    """
    Return what happened in one line, such as ``town/data: origin diverged, 2 commits here, 1 there by Sam``.

    Args:
        known_as: The repository's name.
        error: What went wrong.
        context: The facts of its page.
    """
    name = "/".join(re.split(r":\d+/|[/:]", known_as)[-2:])
    policy = policy_of(error.reason, rewritten="rewritten_from" in context)
    told = policy.told.format(remote=error.remote) if policy else ""
    return f"{name}: {told or f'{error.remote}: {error.detail}'}{_commits(context)}"


def _commits(context: Mapping[str, Any]) -> str:
    ahead, behind = context.get("ahead", 0), context.get("behind", 0)
    here = f", {many(ahead, 'commit')}"
    if behind:
        return f"{here} here, {behind} there{_by(context.get('foreign_authors', []))}"
    return f"{here} wait{'s' if ahead == 1 else ''}" if ahead else ""


def _by(authors: Sequence[str]) -> str:
    names = [author.partition(" <")[0] for author in authors]
    if len(names) > 2:
        names = [names[0], f"{len(names) - 1} others"]
    return f" by {' and '.join(names)}" if names else ""


def as_printed(said: str) -> str:
    """
    Return the output of git and the remote, as a terminal shows it; a long text lacks its middle.
    """
    # A progress line is overwritten; keep its last state.
    lines = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in said.split("\n"))
    text = printable("\n".join(lines)).strip()
    # Both ends matter: a hook's text comes first, and git's conclusion last.
    half = _SAID_CHARACTERS // 2
    return text if len(text) <= _SAID_CHARACTERS else f"{text[:half]}\n[...]\n{text[-half:]}"


def in_one_line(finished: Finished, verdict: Verdict) -> str:
    """
    Return why a push failed, in one line.
    """
    if finished.exit_status is None:
        return f"ended after {finished.duration_s:.0f} s without an answer"
    return verdict.evidence or f"git push ended with status {finished.exit_status} and printed nothing"


def commands(reason: str, repository: Repository, remote: str, entry: Entry) -> list[str]:
    """
    Return the commands to type after a failure with *reason*; none if another version's reason is unknown.

    Args:
        entry: What the ledger knows of the remote.
    """
    names = {"repository": str(repository.path), "remote": remote, "branch": repository.branch}
    policy = policy_of(reason, rewritten=entry.rewritten is not None)
    return [command.format(**names) for command in policy.commands] if policy else []


def standing(repository: Repository, remote: str, entry: Entry, *, now: float) -> dict[str, Any]:
    """
    Return both tips, as last seen, and the pending commits.
    """
    facts: dict[str, Any] = {}
    try:
        head, seen = repository.head(), repository.remote_head(remote)
        facts |= {"local_head": head, "remote_head": seen}
        if head is None:
            return facts
        pending = repository.commits_between(seen, head)
        facts |= {"ahead": len(pending), "behind": repository.count_between(head, seen) if seen else 0}
        if pending:
            made_at = repository.commit_time(pending[-1])
            since = entry.waiting_since(made_at, repository.known_since(remote))
            facts |= {
                "oldest_pending_commit": pending[-1],
                "oldest_pending_seconds": max(0, round(now - since)),
            }
        if seen and facts["behind"]:
            facts |= _apart(repository, head, seen)
    except RepositoryError as exc:
        log().warning("push.dossier_incomplete", remote=remote, error=str(exc))
    return facts


def _apart(repository: Repository, head: str, seen: str) -> dict[str, Any]:
    apart = survey(repository, head, seen)
    both = apart.touched_by_both
    return {
        "merge_base": apart.base,
        "foreign_authors": apart.theirs.authors[:_SHOWN],
        "foreign_commits": [
            f"{commit.hash[:12]} {commit.subject}" for commit in apart.theirs.commits[:_SHOWN]
        ],
        "touched_by_both": both[:_SHOWN],
        "touched_by_both_count": len(both),
    }
