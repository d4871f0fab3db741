"""
Faults that are planted in Ferry on purpose, to show that the simulation finds such ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from ferry.worker.attempt import Attempt
from ferry.worker.episodes.episodes import Episodes
from ferry.worker.git.remote import Remote
from ferry.worker.ledger import ledger
from ferry.worker.ledger.entry import Entry
from ferry.worker.ledger.ledger import Claim, Ledger
from ferry.worker.push import Pusher
from ferry.worker.repair import look, reconcile
from ferry.worker.repair.reconcile import Reconciler
from ferry.worker.sweep import Sweeper
from ferry.worker.tasks import PushTask
from ferry.worker.turns.handover import Handover
from ferry.worker.turns.turn import Turn
from tests.simulation.hosts import MAIN


def _in_place_of(owner: Any, name: str, make: Callable[[Any], Any]) -> AbstractContextManager[Any]:
    """
    Replace a function by what *make* makes of it.
    """
    return mock.patch.object(owner, name, make(getattr(owner, name)))


def _does_nothing(*_: Any, **__: Any) -> None:
    """
    Do nothing.
    """


@contextmanager
def _looks_once() -> Iterator[None]:
    asked: dict[int, object] = {}
    decide, whole = Pusher._turn, Pusher._push

    def push(self: Pusher, request: Any) -> str:
        asked[id(self)] = request
        return whole(self, request)

    def turn(self: Pusher, request: Any) -> Turn:
        return decide(self, request) if asked.get(id(self)) is request else Turn.DONE

    with mock.patch.object(Pusher, "_push", push), mock.patch.object(Pusher, "_turn", turn):
        yield


def _released_early(claim: Any) -> Any:
    @contextmanager
    def released(self: Ledger, remote: str) -> Iterator[Claim | None]:
        with claim(self, remote) as held:
            pass
        yield held

    return released


def _marked_early(visit: Any) -> Any:
    def visited(self: Remote, url: str, *command: str, refspecs: Any, **options: Any) -> Any:
        commit, _, ref = refspecs[-1].partition(":")
        if command[0] == "push" and ref == MAIN:
            self._repository.track(self.name, commit, url=url)
        return visit(self, url, *command, refspecs=refspecs, **options)

    return visited


def _forced(visit: Any) -> Any:
    def visited(self: Remote, url: str, *command: str, refspecs: Any, **options: Any) -> Any:
        forced = [f"+{refspecs[-1]}"] if command[0] == "push" else refspecs
        return visit(self, url, *command, refspecs=forced, **options)

    return visited


def _paged_each_time(_: Any) -> Any:
    return lambda self, claim, error, context: self._send(error, since=self._clock(), context=context)


def _spent_early(take: Any) -> Any:
    def taken(self: Claim) -> bool:
        found = bool(take(self))
        self.spend_nudge()
        return found

    return taken


def _takes_theirs(_: Any) -> Any:
    def join(self: Any, outcome: Any, how: Any, reviewer: Any) -> Any:
        return self._moved(replace(outcome, state="fast-forwarded", after=outcome.remote_head), how)

    return join


def _constant(value: object) -> Callable[[Any], Any]:
    return lambda _: lambda *__, **___: value


PLANTS: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {
    "the holder of a claim looks at the branch once": _looks_once,
    "the release of a claim queues no push": lambda: _in_place_of(
        Handover, "look_again", lambda _: _does_nothing
    ),
    "a retry's message is not sent": lambda: _in_place_of(PushTask, "retry", _constant(None)),
    "a claim is released before its block": lambda: _in_place_of(Ledger, "claim", _released_early),
    "a task does not wait for the retry": lambda: _in_place_of(Entry, "waits", _constant(False)),
    "a push of a killed worker is not ended": lambda: _in_place_of(Attempt, "_end_orphan", _constant(None)),
    "the tracking ref moves before the push": lambda: _in_place_of(Remote, "_visit", _marked_early),
    "a nudge is spent before the look": lambda: _in_place_of(Claim, "take_nudge", _spent_early),
    "a push is forced": lambda: _in_place_of(Remote, "_visit", _forced),
    "a page is sent at each failure": lambda: _in_place_of(Episodes, "page", _paged_each_time),
    "no page is sent": lambda: _in_place_of(Episodes, "page", _constant(None)),
    "a pause is not flushed to the disk": lambda: _in_place_of(ledger, "_must_last", _constant(False)),
    "a pause is ignored": lambda: _in_place_of(Entry, "is_paused", _constant(False)),
    "the sweep finds nothing": lambda: _in_place_of(Sweeper, "wanting", _constant({})),
    "a promotion of another is not looked for": lambda: _in_place_of(look, "look_for_fence", _constant(None)),
    "a merge passes a promotion of another": lambda: _in_place_of(reconcile, "is_fenced", _constant(False)),
    "a divergence takes the remote's side": lambda: _in_place_of(Reconciler, "_join", _takes_theirs),
}


def plant(name: str) -> AbstractContextManager[Any]:
    """
    Plant a fault for the block; "" for none.
    """
    return PLANTS[name]() if name else contextlib.nullcontext()
