"""
Commits and pushes as they happen: server-sent events.

https://html.spec.whatwg.org/multipage/server-sent-events.html. The server stores nothing for it: an event's
id names the tips of the branch and of the remotes, and later events are read from git. So a client that
reconnects with ``Last-Event-ID`` to any process, after any restart, misses nothing.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from flask import Blueprint, Response, request, stream_with_context
from flask.typing import ResponseReturnValue

from ferry.app.api.commits import commit_documents
from ferry.app.api.writing import client_is_gone
from ferry.app.clients.tickets import EVENTS_LASTS_S
from ferry.app.problems import Problem
from ferry.app.server.later import Streaming, leave
from ferry.app.services import Services, services
from ferry.worker.git.history import Commit
from ferry.worker.git.repository import Repository
from ferry.worker.pipeline import Pipeline
from ferry.worker.status import remote_statuses

bp = Blueprint("events", __name__, url_prefix="/api/events")

STREAM = "events.stream"
MAX_STREAMS = 64  # in a server where each stream takes a thread
_HELLO = b"retry: 2000\n\n"
_QUIET = b": nothing new\n\n"
_KEEP_ALIVE_S = 15.0  # proxies close a connection that is silent for a minute
_MOST_MISSED = 1000
_streams = threading.BoundedSemaphore(MAX_STREAMS)
_history = threading.Lock()  # the first stream asks git, and the others find the result in the cache

# The tip of each remote, by name; "" for the branch itself. While the commits of a merge are sent one by one,
# the branch has several tips, joined by "+": the client has been sent what they contain.
Position = dict[str, str | None]


@bp.get("")
def stream() -> Response:
    """
    Stream ``commit``, ``push`` and ``state`` events from now on, or from ``Last-Event-ID`` on.

    Raises:
        Problem: 400 for an invalid id, 503 if the process serves too many streams.
    """
    given = request.headers.get("Last-Event-ID") or request.args.get("last_event_id")
    position = _position(services().pipeline) if given is None else _read_id(given)
    listener = _Listener(services(), position)
    is_left = leave(Streaming(look=listener.news, quiet=_QUIET, quiet_s=_KEEP_ALIVE_S))
    if not is_left and not _streams.acquire(blocking=False):
        raise Problem(
            503, "too-many-streams", "This process serves as many event streams as it can.",
            "Try again later, or ask an operator for more API processes.", headers={"Retry-After": "5"},
        )  # fmt: skip
    begun = _HELLO if is_left else stream_with_context(_events(listener))
    response = Response(begun, content_type="text/event-stream")
    if not is_left:
        response.call_on_close(_streams.release)
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"  # or nginx would buffer it
    return response


@bp.get("/ticket")
def ticket() -> ResponseReturnValue:
    """
    Return a ticket that opens the stream, for browsers: an ``EventSource`` sends no header.
    """
    answer = {"ticket": services().tickets.for_events(), "expires_in_s": EVENTS_LASTS_S}
    return answer, {"Cache-Control": "no-store"}


def _events(listener: _Listener) -> Iterator[bytes]:
    yield _HELLO
    while True:
        if news := listener.news():
            yield news
        arrivals = listener.built.arrivals
        if not arrivals.wait(listener.is_behind, _KEEP_ALIVE_S, is_gone=client_is_gone):
            if client_is_gone() or arrivals.is_closing:
                return
            yield _QUIET


class _Listener:
    """
    One client of the stream, and what it was sent.

    Args:
        built: The services of its process.
        position: The tips that it was sent last.
    """

    def __init__(self, built: Services, position: Position) -> None:
        self.built = built
        self._position = position
        self._states: dict[str, Any] = {}

    def is_behind(self) -> bool:
        """
        Whether there is anything to send.
        """
        return _look(self.built) != (self._position, self._states)

    def news(self) -> bytes:
        """
        Return the events that the client has not been sent yet.
        """
        now, states = _look(self.built)
        if _is_ahead(self.built.pipeline, self._position, now):
            # Another process sent it commits that arrived since this process looked, up to a second ago.
            self.built.arrivals.forget()
            now, states = _look(self.built)
        told, before = self._position, self._states
        self._position, self._states = now, states
        events = [
            *_news(self.built.pipeline, told, now),
            *(
                _event("state", {"remote": remote, **state}, now)
                for remote, state in states.items()
                if before.get(remote) != state
            ),
        ]
        return "".join(events).encode()


def _look(built: Services) -> tuple[Position, dict[str, Any]]:
    """
    Return the current tips and states; one look serves all streams of this process.
    """
    return built.arrivals.see(lambda: (_position(built.pipeline), _states_of(built.pipeline)))


def _is_ahead(pipeline: Pipeline, position: Position, now: Position) -> bool:
    """
    Whether *position* has commits that *now* lacks.
    """
    repository = pipeline.repository
    return any(
        head != now[name] and not all(repository.contains(each, now[name]) for each in head.split("+"))
        for name, head in position.items()
        if head and name in now
    )


def _news(pipeline: Pipeline, before: Position, now: Position) -> Iterator[str]:
    repository = pipeline.repository
    told, new = (before.get("") or "").split("+"), now[""]
    at = dict(before)
    if new is not None and [new] != told:
        if told != [""] and not all(repository.contains(each, new) for each in told):
            # A rebase has rewritten the branch, or the position is too old: nothing lies between.
            yield _event("reset", {"commit": new}, now)
            return
        with _history:
            missed = _commits(repository, tuple(told), new) if told != [""] else []
        if len(missed) > _MOST_MISSED:
            yield _event("reset", {"commit": new}, now)
            return
        documents = commit_documents(pipeline, missed)
        for commit, document in zip(reversed(missed), reversed(documents), strict=True):
            told = [*(each for each in told if each not in commit.parents), commit.hash]
            at[""] = "+".join(told)
            yield _event("commit", document, at)
    at[""] = new
    for remote, head in now.items():
        seen = before.get(remote)
        if remote and head and head != seen:
            at[remote] = head
            with _history:
                commits = _count(repository, seen, head) if seen else None
            yield _event("push", {"remote": remote, "commit": head, "commits": commits}, at)


# The commits between two commits never change, and all streams ask at the same time.
@lru_cache(maxsize=16)
def _commits(repository: Repository, told: tuple[str, ...], new: str) -> list[Commit]:
    return repository.log(new, limit=_MOST_MISSED + 1, without=told, children_first=True)


@lru_cache(maxsize=256)
def _count(repository: Repository, old: str, new: str) -> int:
    return repository.count_between(old, new)


def _states_of(pipeline: Pipeline) -> dict[str, Any]:
    return {
        name: {
            "state": status.state,
            "pending_commits": len(status.pending),
            "needs_person": status.need and status.need.reason,
        }
        for name, status in remote_statuses(pipeline.settings, pipeline.repository, pipeline.ledger).items()
    }


def _position(pipeline: Pipeline) -> Position:
    heads = {remote: pipeline.repository.remote_head(remote) for remote in pipeline.settings.remotes}
    return {"": pipeline.repository.head(), **heads}


def _event(kind: str, data: dict[str, Any], position: Position) -> str:
    name = ",".join(f"{remote}:{head or ''}" for remote, head in position.items())
    return f"id: {name}\nevent: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def _read_id(text: str) -> Position:
    position: Position = {}
    for part in text.split(","):
        remote, _, head = part.partition(":")
        several = "" if remote else r"(\+[0-9a-f]{40}){0,99}"
        if not re.fullmatch(f"[0-9a-f]{{40}}{several}|", head) or ("" in position) != bool(remote):
            raise Problem(
                400,
                "event-id-invalid",
                "Last-Event-ID is invalid.",
                "Connect without one, to get events from now on.",
            )
        position[remote] = head or None
    return position
