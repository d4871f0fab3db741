"""
The checks of ``ferry doctor``: everything that a push needs, with a remedy for each fault.

The checks use the same credentials as a push, and report faults with the same messages.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import pwd
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ferry.extension import Extension
from ferry.loading import ExtensionError, load
from ferry.worker import paging
from ferry.worker.broker.celery_app import longest_countdown_s
from ferry.worker.errors import RepositoryError, SigningError
from ferry.worker.failures import POLICIES
from ferry.worker.files.moments import timestamp
from ferry.worker.git import clone, packing
from ferry.worker.git.packs import Packs
from ferry.worker.git.prepare import old_locks
from ferry.worker.git.remote import Remote, ssh_programs
from ferry.worker.git.repository import Repository
from ferry.worker.git.signing import HINT, VARIABLE
from ferry.worker.hosting.sheets import Sheets
from ferry.worker.pipeline import Pipeline
from ferry.worker.repair.fence import HINT as HINT_FENCED
from ferry.worker.repair.fence import fence_of
from ferry.worker.status import RemoteStatus, remote_statuses

_SOON_S = 14 * 24 * 3600.0
_BROKER_TIMEOUT_S = 3.0
_PING_TIMEOUT_S = 2.0
_MANY_NAMES = 5
_INSTALL_SSH = "Install it (apt install openssh-client), or name another command in GIT_SSH_COMMAND."
_OLDEST_GIT = (2, 34)  # Ubuntu 22.04's; `repack --geometric` came with 2.33


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    The result of one check.

    Attributes:
        name: What was checked.
        state: ``ok``, ``warning`` or ``failed``.
        detail: What was found.
        remedy: What to do about it, or "".
    """

    name: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    remedy: str = ""

    def as_json(self) -> dict[str, Any]:
        """
        Return the finding as plain data.
        """
        return asdict(self)


def examine(pipeline: Pipeline, *, is_open: bool = False) -> Iterator[Finding]:
    """
    Run the checks one after the other. Each has a timeout, and none changes anything.

    Args:
        is_open: Whether the API asks for no token, as under ``ferry dev``.
    """
    yield _git(pipeline)
    yield _disk(pipeline)
    yield from _fence(pipeline)
    yield from _repository(pipeline)
    if pipeline.repository.pushes:  # a replica's API needs neither
        yield _broker(pipeline)
        workers = _workers(pipeline)
        yield workers
        yield _sweeps(pipeline, has_worker=workers.state == "ok")
        yield _countdowns(pipeline)
    yield from _files(pipeline)
    yield from _signing(pipeline)
    yield from _extensions(pipeline)
    yield _sentry(pipeline)
    yield from _ssh(pipeline)
    yield from _remotes(pipeline)
    yield from _unset(pipeline, is_open=is_open)


def _ok(name: str, detail: str) -> Finding:
    return Finding(name=name, state="ok", detail=detail)


def _extensions(pipeline: Pipeline) -> Iterator[Finding]:
    if modules := pipeline.settings.extensions:
        name = "CFP_API_EXTENSIONS"
        try:
            found = load(modules)
        except ExtensionError as exc:
            remedy = "Correct the module or the setting; API and worker do not start without it."
            yield Finding(name=name, state="failed", detail=str(exc), remedy=remedy)
            return
        yield _ok(name, f"loaded in this order: {', '.join(f'{each.name} ({each.hooks})' for each in found)}")
        for each in found:
            if unknown := _undeclared(pipeline.repository, each):
                detail = f"{each.name} has a rule for {', '.join(unknown)}, and no such sheet is declared"
                remedy = "Correct the name in before_write: until then the rule is asked about nothing."
                yield Finding(name=name, state="warning", detail=detail, remedy=remedy)


def _undeclared(repository: Repository, extension: Extension) -> list[str]:
    """
    Return the sheets that the rules of *extension* name and the branch does not declare.
    """
    named = {sheet for sheets, _ in extension.hooks.rules for sheet in sheets or ()}
    head = repository.head() if named else None
    return sorted(named - {each.name for each in Sheets(repository, head).usable()}) if head else []


def _git(pipeline: Pipeline) -> Finding:
    version = pipeline.repository.git.version()
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if numbers < _OLDEST_GIT:
        wanted = ".".join(map(str, _OLDEST_GIT))
        return Finding(name="git", state="failed", detail=version, remedy=f"Install git {wanted} or newer.")
    return _ok("git", version)


def _repository(pipeline: Pipeline) -> Iterator[Finding]:
    repository = pipeline.repository
    try:
        warnings = clone.check(pipeline.settings, repository)
        head, size = repository.head(), Packs(repository.git).size()
    except RepositoryError as exc:
        yield Finding(name="repository", state="failed", detail=str(exc), remedy=POLICIES["local"].hint)
        return
    yield _ok(
        "repository",
        f"{repository.path}: {repository.branch} is at {head}; {size['bytes'] >> 20} MiB in "
        f"{size['packs']} packs and {size['loose_objects']} loose objects",
    )
    if pipeline.maintenance.is_late():
        detail = f"{size['loose_objects']} loose objects, and no packing for an hour"
        remedy = "Look in the worker's log for maintenance.done, or for the error of the task maintain."
        yield Finding(name="packing", state="failed", detail=detail, remedy=remedy)
    for warning in warnings:
        detail, _, remedy = warning.partition("; ")
        yield Finding(name="repository", state="warning", detail=detail, remedy=remedy)
    if damaged := pipeline.maintenance.damaged():
        named = ", ".join(f"{name} {why}" for name, why in sorted(damaged.items())[:_MANY_NAMES])
        detail = f"{len(damaged)} loose objects are damaged, and are not packed: {named}"
        yield Finding(name="repository", state="warning", detail=detail, remedy=packing.HINT)


def _disk(pipeline: Pipeline) -> Finding:
    room = pipeline.disk.room()
    states: dict[str, Literal["ok", "warning", "failed"]] = {"ok": "ok", "low": "warning", "full": "failed"}
    remedy = "" if room.state == "ok" else pipeline.disk.hint
    return Finding(name="disk", state=states[room.state], detail=f"{room.state}: {room.told}", remedy=remedy)


def _broker(pipeline: Pipeline) -> Finding:
    try:
        with pipeline.celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=_BROKER_TIMEOUT_S)
    except Exception as exc:  # noqa: BLE001 - every broker's library raises its own errors
        return Finding(
            name="broker",
            state="failed",
            detail=str(exc),
            remedy="Check CFP_REDIS_URL (or CFP_BROKER_URL), and that the server runs and is reachable.",
        )
    return _ok("broker", "answers")


def _workers(pipeline: Pipeline) -> Finding:
    remedy = "Start one with: celery -A ferry.worker worker"
    try:
        answers = pipeline.celery.control.ping(timeout=_PING_TIMEOUT_S)
    except Exception as exc:  # noqa: BLE001 - as above
        detail = f"cannot be asked: {exc}"
        return Finding(name="worker", state="failed", detail=detail, remedy="Correct the broker first.")
    names = sorted(name for answer in answers for name in answer)
    if not names:
        return Finding(name="worker", state="failed", detail="none answers", remedy=remedy)
    return _ok("worker", ", ".join(names))


def _sweeps(pipeline: Pipeline, *, has_worker: bool) -> Finding:
    last = pipeline.sweeper.last_at()
    if pipeline.sweeper.is_late():
        detail = "never" if last is None else f"late; the last one was at {timestamp(last)}"
        remedy = "Start beat with: celery -A ferry.worker beat" if has_worker else "Start a worker first."
        return Finding(name="sweep", state="failed", detail=detail, remedy=remedy)
    return _ok("sweep", "on time")


def _ssh(pipeline: Pipeline) -> Iterator[Finding]:
    """
    Check the ssh program that some remotes need, and the passwd entry without which it does not start.
    """
    needed = ssh_programs(pipeline.repository)
    for program, remotes in needed.items():
        names = ", ".join(remotes)
        if shutil.which(program) is None:
            detail = f"{program} is not on the PATH, and {names} needs it"
            yield Finding(name="ssh", state="failed", detail=detail, remedy=_INSTALL_SSH)
        else:
            yield _ok("ssh", f"{program} is installed, for {names}")
    if needed and not _has_a_name(uid := os.getuid()):
        detail = f"{uid} has no entry in /etc/passwd, and ssh ends with: No user exists for uid {uid}"
        remedy = f"Run as a user that has one, or add one: ferry:x:{uid}:{os.getgid()}::/tmp:/bin/sh"
        yield Finding(name="user", state="failed", detail=detail, remedy=remedy)


def _has_a_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _remotes(pipeline: Pipeline) -> Iterator[Finding]:
    """
    Check each remote's status, and ask the remote as a push would.
    """
    try:
        statuses = remote_statuses(pipeline.settings, pipeline.repository, pipeline.ledger)
    except RepositoryError as exc:
        yield Finding(name="remotes", state="failed", detail=str(exc), remedy=POLICIES["local"].hint)
        return
    for remote, status in statuses.items():
        if status.state != "disabled":
            yield from on_record(remote, status)
            yield _asked(pipeline, remote, is_failing=status.failing_since is not None)


def on_record(remote: str, status: RemoteStatus) -> Iterator[Finding]:
    """
    Report what a dry run does not show: recorded failures, and whether an operator has paused the remote.
    """
    name, entry = f"pushes to {remote}", status.entry
    if status.need:
        detail = f"a person is needed since {timestamp(status.need.since)}: {_failures(status)}"
        yield Finding(name=name, state="failed", detail=detail, remedy=status.need.hint)
    elif status.failing_since is not None and entry.last_failure:
        yield Finding(name=name, state="warning", detail=_failures(status), remedy=entry.last_failure.hint)
    if entry.is_paused(time.time()):
        by, since = entry.paused_by or "an operator", timestamp(entry.paused_at)
        detail = f"paused by {by} since {since}; {len(status.pending)} pending"
        remedy = f"ferry push resume --remote {remote}"
        yield Finding(name=name, state="warning", detail=detail, remedy=remedy)


def _failures(status: RemoteStatus) -> str:
    failure = status.entry.last_failure
    message = f" ({failure.message})" if failure else ""
    return f"failing since {timestamp(status.failing_since)}: {status.attempts}{message}"


def _asked(pipeline: Pipeline, remote: str, *, is_failing: bool) -> Finding:
    """
    Ask the remote by a dry run. It shows everything but a hook's refusal.
    """
    name, repository = f"remote {remote}", pipeline.repository
    try:
        head = repository.head()
        if head is None:
            return Finding(name=name, state="warning", detail="there is no commit to push yet")
        there = Remote(repository, remote, timeout_s=pipeline.settings.push_timeout_s)
        if not repository.pushes:
            return _ok(name, f"answers, and is at {there.ask()}")
        verdict = there.push(head, dry_run=True).verdict
    except RepositoryError as exc:
        return Finding(name=name, state="failed", detail=f"local: {exc}", remedy=POLICIES["local"].hint)
    if verdict.landed and is_failing:
        return _ok(
            name,
            "access is granted; a dry run cannot tell whether its hooks accept a push",
        )
    if verdict.landed:
        return _ok(
            name,
            "access is granted; it has every commit"
            if verdict.reason == "up-to-date"
            else "would accept a push",
        )
    return Finding(
        name=name,
        state="failed",
        detail=f"{verdict.reason}: {verdict.evidence}",
        remedy=verdict.hint,
    )


def _files(pipeline: Pipeline) -> Iterator[Finding]:
    """
    Check the files that a remote's access needs, and lock files left over from dead processes.
    """
    settings = pipeline.settings
    wanted = {
        "CFP_SSH_KEY_PATH": settings.ssh_key_path,
        "CFP_SSH_KNOWN_HOSTS": settings.ssh_known_hosts,
        "CFP_HTTPS_TOKEN_PATH": settings.https_token_path,
    }
    for variable, path in wanted.items():
        if path is None:
            continue
        try:
            content = path.read_bytes()
        except OSError as exc:
            yield Finding(name=variable, state="failed", detail=str(exc), remedy="Create the file.")
            continue
        ends = _expiry(content)
        if not content.strip():
            yield Finding(name=variable, state="failed", detail=f"{path} is empty", remedy="Renew it.")
        elif ends is not None and ends < time.time() + _SOON_S:
            when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ends))
            state: Literal["warning", "failed"] = "failed" if ends < time.time() else "warning"
            yield Finding(name=variable, state=state, detail=f"{path} expires at {when}", remedy="Renew it.")
        else:
            yield _ok(variable, f"{path} is readable")
    for lock in old_locks(settings.data_repo_path):
        yield Finding(
            name="locks",
            state="warning",
            detail=f"{lock} is old",
            remedy=f"If no git process works on the repository: rm {lock}",
        )


def _fence(pipeline: Pipeline) -> Iterator[Finding]:
    """
    Report that another repository is the primary.
    """
    if (fence := fence_of(pipeline.repository.path)) and not pipeline.settings.is_replica:
        yield Finding(name="primary", state="failed", detail=fence.told, remedy=HINT_FENCED)


def _signing(pipeline: Pipeline) -> Iterator[Finding]:
    """
    Check the key that signs commits, and whether a host can attribute it to an account.
    """
    committer = pipeline.repository.objects.committer
    if committer.key_path is None:
        return
    try:
        key = committer.key()
    except SigningError as exc:
        yield Finding(name=VARIABLE, state="failed", detail=f"{committer.key_path}: {exc}", remedy=HINT)
        return
    yield _ok(VARIABLE, f"signs with {key.kind} {key.fingerprint}")
    if committer.identity is None:
        detail = "CFP_DATA_COMMITTER is not set: a host cannot match a signature to an account"
        remedy = "Set it to a name and an address of the account that has the key: Ferry <ferry@town.example>"
        yield Finding(name="settings", state="warning", detail=detail, remedy=remedy)


def _countdowns(pipeline: Pipeline) -> Finding:
    """
    Compare the time that a worker keeps a message with the time after which the broker redelivers it.
    """
    settings, name = pipeline.settings, "countdowns"
    longest_s = settings.push_longest_wait_s
    at_once_s = longest_countdown_s(pipeline.celery)
    if at_once_s < math.inf:
        detail = (
            f"a retry waits {at_once_s:g} s at a time, up to {longest_s:g} s, and a push takes "
            f"{settings.push_timeout_s:g} s at most; RabbitMQ redelivers a message after its consumer_timeout"
        )
        if settings.push_timeout_s > at_once_s:
            remedy = "Set CFP_PUSH_TIMEOUT lower, or consumer_timeout (30 min unless set) well above it."
            return Finding(name=name, state="warning", detail=detail, remedy=remedy)
        return _ok(name, f"{detail} (30 min unless set)")
    timeout_s = pipeline.celery.conf.broker_transport_options["visibility_timeout"]
    if timeout_s <= longest_s:
        detail = f"a retry may wait {longest_s:g} s, and Redis redelivers it after {timeout_s:g} s"
        return Finding(name=name, state="failed", detail=detail, remedy="Set CFP_PUSH_BACKOFF_CAP lower.")
    return _ok(name, f"at most {longest_s:g} s, well under the visibility timeout of {timeout_s:g} s")


def _expiry(content: bytes) -> float | None:
    """
    Return when a credential expires, in seconds since the epoch, if it says so: a JWT does (RFC 7519).

    A deploy key does not expire, and most hosts' tokens do not contain their expiry.
    """
    parts = content.strip().rpartition(b":")[2].split(b".")
    with contextlib.suppress(ValueError, TypeError, KeyError):
        claims = (
            json.loads(base64.urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4)))
            if len(parts) == 3
            else {}
        )
        return float(claims["exp"])
    return None


def _sentry(pipeline: Pipeline) -> Finding:
    if pipeline.settings.sentry_dsn is None:
        return Finding(name="sentry", state="warning", detail="SENTRY_DSN is not set: no page is sent")
    if problem := paging.probe(pipeline.settings):
        detail = f"did not accept a test event: {problem}"
        remedy = "Check SENTRY_DSN, the project's quota, and the network."
        return Finding(name="sentry", state="failed", detail=detail, remedy=remedy)
    return _ok("sentry", "accepted a test event (level info; test a page with: ferry page --test)")


def _unset(pipeline: Pipeline, *, is_open: bool) -> Iterator[Finding]:
    settings = pipeline.settings
    lets_in = settings.api_tokens or settings.api_tokens_path or settings.api_oidc_issuer
    wanting: tuple[tuple[bool, str, str], ...] = (
        (not settings.remotes, "CFP_DATA_REMOTE", "commits stay on this machine"),
        (
            not (lets_in or settings.is_replica or is_open),
            "CFP_API_TOKENS",
            "every write is refused",
        ),
        (
            settings.admin_token is None and not is_open,
            "CFP_ADMIN_TOKEN",
            "the operators' endpoints are closed",
        ),
    )
    for is_unset, variable, consequence in wanting:
        if is_unset:
            yield Finding(name="settings", state="warning", detail=f"{variable} is not set: {consequence}")
    if is_open:
        yield _ok("access", "ferry dev serves this repository, on this machine alone, and asks for no token")
