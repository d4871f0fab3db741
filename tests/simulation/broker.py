"""
A simulated broker, and Celery's part of the tasks: sending, retrying, acknowledging.

The tasks are Ferry's own classes of ``worker/tasks.py``; ``_Celery`` stands below them for Celery's class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from celery import Task

from ferry.worker.errors import WorkerError
from ferry.worker.pipeline import Pipeline
from ferry.worker.tasks import FollowTask, PushTask, SweepTask
from tests.simulation.machine import Machine, Process

QUEUE = "push"


class BrokerDown(ConnectionError):
    """
    The broker does not answer.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """
    One message.

    Attributes:
        due: When it may be delivered.
    """

    task: str
    id: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 0
    due: float = 0.0

    def __str__(self) -> str:
        return f"{self.task}{self.args}{dict(self.kwargs)} {self.id} retry {self.retries}"


class Broker:
    """
    Keeps messages in memory.

    Attributes:
        is_down: Whether it answers nobody.
        loses, repeats, delays: How likely it does so with a message.
        troubled: Called when a message is lost, late or repeated.
        sent: Called with each message that is accepted.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.waiting: list[Message] = []
        self.underway: dict[Process, Message] = {}
        self._idle: list[Process] = []
        self._sent = 0
        self.is_down = False
        self.loses = self.repeats = self.delays = 0.0
        self.troubled: Callable[[str], object] = lambda what: None
        self.sent: Callable[[Message], object] = lambda message: None

    def send(self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any], countdown: float = 0) -> str:
        self._sent += 1
        name = f"m{self._sent}"
        due = self._machine.now + countdown
        self.put(Message(task=task, id=name, args=tuple(args), kwargs=dict(kwargs), due=due))
        return name

    def put(self, message: Message) -> None:
        machine, chance = self._machine, self._machine.random.random
        machine.effect(f"sends {message}")
        if self.is_down:
            raise BrokerDown("the broker does not answer")
        self.sent(message)
        if chance() < self.loses:
            self.troubled("message lost")
            return
        if chance() < self.delays:
            self.troubled("message late")
            message = replace(message, due=message.due + machine.random.expovariate(0.2))
        self._queue(message)

    def _queue(self, message: Message) -> None:
        self.waiting.append(message)
        for process in self._idle:
            process.wakes_at = min(process.wakes_at, max(message.due, self._machine.now))

    def take(self) -> Message:
        """
        Wait for a message and take it, in any order among those that are due.
        """
        machine, process = self._machine, self._machine.current
        assert process is not None
        while True:
            due = [each for each in self.waiting if each.due <= machine.now] if not self.is_down else []
            if due:
                message = machine.random.choice(due)
                self.waiting.remove(message)
                self.underway[process] = message
                process.task = message
                machine.effect(f"takes {message}")
                return message
            later = min((each.due for each in self.waiting), default=math.inf)
            self._idle.append(process)
            try:
                machine.wait(machine.now + 1 if self.is_down else later)
            finally:
                self._idle.remove(process)

    def acknowledge(self) -> None:
        process = self._machine.current
        assert process is not None
        self._machine.effect("acknowledges")
        message = self.underway.pop(process, None)
        process.task = None
        if message is not None and self._machine.random.random() < self.repeats:
            self.troubled("message repeated")
            self._queue(replace(message, due=self._machine.now + self._machine.random.expovariate(0.1)))

    def give_back(self, process: Process) -> None:
        """
        Redeliver what a dead worker had not acknowledged, after a while or never.
        """
        message = self.underway.pop(process, None)
        if message is not None and self._machine.random.random() > self.loses:
            self._queue(replace(message, due=self._machine.now + self._machine.random.choice([0.1, 5, 60])))

    def restart_empty(self) -> None:
        self.waiting.clear()
        self.underway.clear()


class _Celery(Task):  # type: ignore[misc]
    """
    What Ferry's tasks use of Celery's.
    """

    app: Any
    request: Any

    def apply_async(
        self, args: Any = (), kwargs: Any = None, *, countdown: float | None = None, **_: Any
    ) -> None:
        self.app.broker.send(self.name, args, kwargs or {}, countdown or 0)

    def retry(self, *, exc: Any = None, kwargs: Any = None, countdown: float = 0, **_: Any) -> None:
        message = self.request.message
        due = self.app.machine.now + countdown
        again = replace(message, kwargs=kwargs or message.kwargs, retries=message.retries + 1, due=due)
        self.app.broker.put(again)


class _Request(SimpleNamespace):
    def get(self, name: str) -> object:
        return getattr(self, name, None)


class App:
    """
    Celery's app in one process.
    """

    def __init__(self, machine: Machine, broker: Broker) -> None:
        self.machine, self.broker = machine, broker
        self.conf = SimpleNamespace(broker_url="redis://simulated")
        self.tasks: dict[str, Any] = {}

    def serve(self, pipeline: Pipeline) -> None:
        """
        Make the tasks of *pipeline*.
        """
        for kind in (PushTask, SweepTask, FollowTask):
            names = {"__module__": __name__, "app": self, "request": None, "pipelines": {QUEUE: pipeline}}
            self.tasks[kind.name] = type(kind.__name__, (kind, _Celery), names)()

    def send_task(self, name: str, args: Any = (), kwargs: Any = None, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(id=self.broker.send(name, args, kwargs or {}))

    def run(self, message: Message) -> None:
        """
        Run the task of *message*, as Celery does it.
        """
        task = self.tasks[message.task]
        task.request = _Request(
            id=message.id,
            retries=message.retries,
            message=message,
            delivery_info={"routing_key": QUEUE},
        )
        try:
            try:
                self.machine.trace.append(f"    {task.run(*message.args, **message.kwargs)}")
            except getattr(task, "autoretry_for", ()) as exc:
                self.machine.trace.append(f"    {exc}")
                task.retry(exc=exc)
        except (WorkerError, BrokerDown) as exc:
            self.machine.trace.append(f"    {type(exc).__name__}: {exc}")
