"""
Ferry's pipeline in one simulated process, and what of Ferry is replaced.

Everything that decides is Ferry's own. ``REPLACED`` lists the functions of other modules that the deciding
ones call to reach the machine, which the simulation stands in for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import structlog

from ferry.worker import attempt, paging, push
from ferry.worker import sweep as sweep_module
from ferry.worker.enqueue import send_follow, send_push
from ferry.worker.episodes import disk as disk_module
from ferry.worker.episodes.disk import ENTRY
from ferry.worker.episodes.disk import Disk as DiskEpisode
from ferry.worker.files import moments
from ferry.worker.files.places import remotes_directory, state_directory
from ferry.worker.follow import Follower
from ferry.worker.git import remote as remote_module
from ferry.worker.ledger import entry as entry_module
from ferry.worker.ledger import ledger as ledger_module
from ferry.worker.ledger import lines, outbox
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.observe.sentry import Answer
from ferry.worker.paging import Page
from ferry.worker.pipeline import Pipeline
from ferry.worker.push import Pusher
from ferry.worker.repair import fence, promote, reconcile
from ferry.worker.repair.reconcile import Reconciler
from ferry.worker.settings import Settings
from ferry.worker.sweep import Sweeper
from ferry.worker.turns.handover import Handover
from ferry.worker.watchdog import Watchdog
from tests.simulation.broker import QUEUE, App, Broker
from tests.simulation.hosts import Network
from tests.simulation.machine import Disk, Lock, Machine, os_of
from tests.simulation.repository import DataRepository, Merger, Store


class Sentry:
    """
    Accepts pages, unless it is down; each page once, by its event id.

    Attributes:
        accepted: The pages by event id, in the order in which they came.
        under_way: The pages that it will accept in a moment.
    """

    def __init__(self, machine: Machine, disk: Disk) -> None:
        self._machine, self._disk = machine, disk
        self.is_down = False
        self.accepted: dict[str, dict[str, Any]] = {}
        self.under_way: list[dict[str, Any]] = []
        self.is_made: Callable[[str, str], int] = lambda remote, reason: 0
        self.came: Callable[[dict[str, Any]], object] = lambda event: None

    def made(self, wanted: Page | None) -> dict[str, Any] | None:
        if wanted is None:
            return None
        error = wanted.error
        episode = self.is_made(error.remote, error.reason)
        return {
            "event_id": wanted.event_id,
            "remote": error.remote,
            "reason": error.reason,
            "title": wanted.title,
            "epoch": episode,
            "sender": self._machine.current.name if self._disk.is_full and self._machine.current else "",
        }

    def carry(self, event: dict[str, Any], answered: Callable[[str, Answer], None]) -> None:
        machine = self._machine
        machine.effect(f"sends the page {event['reason']} of {event['remote']} {event['event_id'][:7]}")
        sender, is_down = machine.current, self.is_down
        sent = {**event, "at": machine.now}
        if not is_down:
            self.under_way.append(sent)

        def answer() -> None:
            if not is_down:
                self.under_way.remove(sent)
                if event["event_id"] not in self.accepted:
                    self.accepted[event["event_id"]] = {**event, "at": machine.now}
                    self.came(event)
            if sender is not None and not sender.is_dead:
                answered(event["event_id"], Answer(is_taken=not is_down, said="simulated"))

        machine.at(machine.now + machine.random.uniform(0.05, 2), answer)


def _unlogged(*_: object, **__: object) -> None:
    """
    Log nothing.
    """


def _promoted(store: Store, _: object, tip: str, *, seconds: int) -> str:
    """
    Stand for ``make_fence``.
    """
    number = store.commits.promote(store.known(tip), author="us", at=seconds)
    store.objects |= 1 << number
    return store.commits.names[number]


class _Silent:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return _unlogged


@contextmanager
def replaced(machine: Machine, disk: Disk, store: Store, network: Network, sentry: Sentry) -> Iterator[None]:
    """
    Let Ferry's modules reach the simulated machine instead of the real one.
    """
    boot = SimpleNamespace(_boot=lambda: "boot", _uptime_s=machine.time_now)
    table: list[tuple[Any, dict[str, Any]]] = [
        (push, {"time": machine.time}),
        (fence, {"time": machine.time, "write_json": disk.write_json}),
        (promote, {"time": machine.time, "make_fence": partial(_promoted, store)}),
        (moments, vars(boot)),
        (sweep_module, {"write_json": lambda *_: machine.effect("notes the sweep")}),
        (disk_module, {"room_at": lambda path: disk.room()}),
        (attempt, {"end_group": network.end_group}),
        (entry_module, {"birth": network.birth, "is_running": network.is_running}),
        (
            ledger_module,
            {
                "time": machine.time,
                "FileLock": partial(Lock, machine),
                "replace_file": disk.replace_file,
                "replace_or_overwrite": disk.replace_or_overwrite,
            },
        ),
        (lines, {"append": _unlogged}),
        (
            outbox,
            {
                "os": os_of(disk),
                "replace_file": disk.replace_file,
                "inherit": _unlogged,
                "flush_directory": _unlogged,
            },
        ),
        (paging, {"_made": sentry.made, "_carrier": lambda: sentry}),
        (remote_module, {"run_git": network.run_git, "read_ref": store.read_ref, "_clear": _unlogged}),
        (reconcile, {"move_ref": store.move_ref}),
    ]
    with ExitStack() as stack:
        for module, names in table:
            for name, stand_in in names.items():
                stack.enter_context(mock.patch.object(module, name, stand_in))
        stack.enter_context(mock.patch.object(structlog.stdlib, "get_logger", return_value=_Silent()))
        yield


class Parts:
    """
    What all processes of one world share.
    """

    def __init__(
        self,
        machine: Machine,
        disk: Disk,
        store: Store,
        broker: Broker,
        settings: Settings,
        urls: dict[str, str],
    ) -> None:
        self.machine, self.disk, self.store = machine, disk, store
        self.broker, self.settings, self.urls = broker, settings, urls
        self.write_lock = Lock(machine, state_directory(disk.root) / "write.lock")

    def assemble(self) -> Pipeline:
        """
        Build the pipeline of one process, as ``ferry.worker.pipeline.assemble`` does.
        """
        machine, settings, clock = self.machine, self.settings, self.machine.time_now
        repository = DataRepository(self.disk, self.store, self.urls)
        app: Any = App(machine, self.broker)
        ledger = Ledger(
            remotes_directory(repository.path),
            released=lambda remote, is_asked: handover.look_again(remote, is_asked),
            nudged=lambda remote: handover.follow_again(remote),
        )
        send = partial(send_push, app, queue=QUEUE)
        look = partial(send_follow, app, "claim", is_noted=True, queue=QUEUE)
        handover = Handover(repository, ledger, send, look, clock=clock)
        for each in (*settings.remotes, ENTRY):
            ledger.make(each)
        lock: Any = self.write_lock
        reconciler = Reconciler(settings, repository, ledger, lock, send=send, clock=clock)
        reconciler._merger = Merger(self.store, clock)  # type: ignore[assignment]
        directory = state_directory(repository.path)
        after: Any = SimpleNamespace(due=lambda **_: [])
        maintenance: Any = SimpleNamespace(is_due=lambda: False)
        monitor: Any = SimpleNamespace(check_in=lambda: None)
        pusher = Pusher(settings, repository, ledger, reconciler, clock=clock, jitter=machine.random.random)
        pipeline = Pipeline(
            settings=settings,
            repository=repository,
            ledger=ledger,
            pusher=pusher,
            sweeper=Sweeper(settings, repository, ledger, directory, clock=clock),
            follower=Follower(settings, repository, ledger, reconciler, clock=clock),
            after=after,
            watchdog=Watchdog(settings, repository, ledger, clock=clock, monotonic=clock),
            disk=DiskEpisode(settings, repository, ledger, clock=clock),
            maintenance=maintenance,
            reconciler=reconciler,
            monitor=monitor,
            celery=app,
            queue=QUEUE,
        )
        app.serve(pipeline)
        return pipeline
