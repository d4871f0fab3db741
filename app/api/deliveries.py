"""
The webhooks of git hosts: a push to branches, or a test of the webhook.

Pure: headers and body in, a value out. Read from what the hosts document:
https://docs.github.com/webhooks/webhook-events-and-payloads#push,
https://docs.gitlab.com/user/project/integrations/webhook_events/#push-events,
https://docs.gitea.com/usage/webhooks, https://forgejo.org/docs/latest/user/webhooks/,
https://support.atlassian.com/bitbucket-cloud/docs/event-payloads/#Push and
https://confluence.atlassian.com/bitbucketserver/event-payload-938025882.html.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qs

from werkzeug.datastructures import Headers

from ferry.worker.git.refs import OBJECT_NAME

# Gitea and Forgejo send GitHub's header as well, so theirs come first.
_HOSTS = (
    ("forgejo", "X-Forgejo-Event"),
    ("gitea", "X-Gitea-Event"),
    ("github", "X-GitHub-Event"),
    ("gitlab", "X-Gitlab-Event"),
    ("bitbucket", "X-Event-Key"),
)
HOSTS = tuple(host for host, _ in _HOSTS)
_PINGS = frozenset({"ping", "diagnostics:ping"})

Kind = Literal["ping", "push", "other"]


@dataclass(frozen=True, slots=True)
class Pushed:
    """
    One branch that was pushed to.

    Attributes:
        branch: Its short name.
        commit: Its tip after the push; None: it was removed, or the host does not say.
        forced: Whether the host says that the push rewrote its history.
    """

    branch: str
    commit: str | None
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """
    The content of one webhook request.

    Attributes:
        host: One of ``HOSTS``.
        kind: ``ping``: the webhook was set up; ``push``: somebody pushed; ``other``: something else.
        pushes: The branches of a push.
    """

    host: str
    kind: Kind
    pushes: tuple[Pushed, ...] = ()


class DeliveryError(ValueError):
    """
    The body is not what the host documents for that event.
    """


def event_of(headers: Headers) -> tuple[str, str] | None:
    """
    Return the host that sent a request with *headers*, and its event; None if the headers name no host.
    """
    named = ((host, headers.get(header, "").strip()) for host, header in _HOSTS)
    return next(((host, event) for host, event in named if event), None)


def read(host: str, event: str, content_type: str, body: bytes) -> Delivery:
    """
    Return what a *host* reports with an *event*.

    Raises:
        DeliveryError: The body does not have the form that the host documents.
    """
    if event in _PINGS:
        return Delivery(host, "ping")
    if event not in _PUSHES:
        return Delivery(host, "other")
    document = _document(content_type, body)
    if event == "System Hook" and document.get("object_kind") != "push":
        return Delivery(host, "other")
    try:
        pushes = tuple(filter(None, _PUSHES[event](document)))
    except (KeyError, TypeError, AttributeError) as exc:
        raise DeliveryError(f"the event {event!r} comes with a body that names no branch") from exc
    return Delivery(host, "push", pushes)


def _document(content_type: str, body: bytes) -> dict[str, Any]:
    try:
        if content_type.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
            [text] = parse_qs(body.decode(), strict_parsing=True, max_num_fields=10)["payload"]
        else:
            text = body.decode()
        document = json.loads(text)
    except (ValueError, KeyError, RecursionError) as exc:
        raise DeliveryError("the body is neither JSON nor a form with a payload of JSON") from exc
    if not isinstance(document, dict):
        raise DeliveryError("the body is not a JSON object")
    return document


def _of_refs(document: dict[str, Any]) -> Iterator[Pushed | None]:
    """
    GitHub, Gitea, Forgejo and GitLab: one ref, and where it stands after the push.
    """
    # GitLab's checkout_sha is null where `after` is all zeros: both say that the branch is gone.
    yield _pushed(document["ref"], document["after"], forced=document.get("forced") is True)


def _of_changes(document: dict[str, Any]) -> Iterator[Pushed | None]:
    """
    Bitbucket Cloud: several changes, each with what was there and what is.
    """
    for change in document["push"]["changes"]:
        new, forced = change["new"], change.get("forced") is True
        there = new or change["old"]
        if there["type"] in ("branch", "named_branch"):
            commit = new["target"]["hash"] if new else None
            yield _pushed(f"refs/heads/{there['name']}", commit, forced=forced)


def _of_refs_changed(document: dict[str, Any]) -> Iterator[Pushed | None]:
    """
    Bitbucket Data Center: several changed refs.
    """
    for change in document["changes"]:
        yield _pushed(change["ref"]["id"], change["toHash"], forced=False)


def _pushed(ref: str, commit: str | None, *, forced: bool) -> Pushed | None:
    branch = ref.removeprefix("refs/heads/")
    if branch == ref:
        return None  # a tag, or a ref of the host's own
    is_there = commit is not None and OBJECT_NAME.fullmatch(commit) and set(commit) != {"0"}
    return Pushed(branch, commit if is_there else None, forced)


_PUSHES: Mapping[str, Callable[[dict[str, Any]], Iterator[Pushed | None]]] = {
    "push": _of_refs,
    "Push Hook": _of_refs,
    "System Hook": _of_refs,
    "repo:push": _of_changes,
    "repo:refs_changed": _of_refs_changed,
}
