"""
A simulated machine: one clock, processes of which one runs at a time, locks, and a disk that can lose power.

A process of the simulation is a thread. Only one of them runs, and each **effect** (a file that is read or
written, a lock, a ref, a message) is a step, at which the seed decides who goes on: this process, or another,
or this one never again.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import json
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace

from ferry.worker.files.locks import LockTimeoutError
from ferry.worker.files.room import Room

EPOCH = 1_800_000_000.0
_STEP_S = 0.0002
# Linux writes a changed file back after so long at the latest; ext4 commits a rename within 5 s.
_WRITTEN_BACK_S = 30.0
_SWITCHES = 0.15


class Killed(BaseException):
    """
    Ends a simulated process: no handler of Ferry's catches it, and none of its effects happens any more.
    """


class Process:
    """
    One simulated process.

    Attributes:
        name: What it is, for the trace.
        wakes_at: When it goes on; infinity while it waits for another to wake it.
        is_dead: Whether it was killed, or has ended.
        task: The message whose task it runs.
    """

    def __init__(self, machine: Machine, name: str, run: Callable[[], object]) -> None:
        self.name = name
        self.wakes_at = machine.now
        self.is_dead = False
        self.task: object = None
        self._machine, self._run = machine, run
        self.gate = threading.Lock()
        self.gate.acquire()
        self.thread = threading.Thread(target=self._main, name=name, daemon=True)
        self.thread.start()

    def _main(self) -> None:
        self.gate.acquire()
        try:
            if not self.is_dead:
                self._run()
        except Killed:
            pass
        except BaseException as exc:  # noqa: BLE001 - reported by the run, in the thread of the caller
            self._machine.fail(exc)
        self._machine.ended(self)


@dataclass(order=True)
class _Event:
    at: float
    number: int
    happen: Callable[[], object] = field(compare=False)


class Machine:
    """
    The clock and the processes.

    Args:
        random: Decides everything that is not determined.

    Attributes:
        now: Seconds since the epoch.
        steps: How many effects there were.
        on_step: Called after each step with its name.
        on_rest: Called when no process goes on before some time has passed.
        trace: The last steps.
        failure: What ended the run early, or None.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.now = EPOCH
        self.steps = 0
        self.on_step: Callable[[str], object] = lambda name: None
        self.on_rest: Callable[[], object] = lambda: None
        self.trace: deque[str] = deque(maxlen=400)
        self.counts: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self.processes: list[Process] = []
        self.current: Process | None = None
        self.locks: dict[str, tuple[Process | None, int]] = {}
        self._tokens = itertools.count()
        self._events: list[_Event] = []
        self._until = 0.0
        self._limit = 0
        self._idle = threading.Lock()
        self._idle.acquire()
        # What Ferry's modules get in the place of the module `time`.
        self.time = SimpleNamespace(time=self.time_now, monotonic=self.time_now, sleep=self.sleep)

    # --- time and processes ---

    def time_now(self) -> float:
        return self.now

    def start(self, name: str, run: Callable[[], object]) -> Process:
        process = Process(self, name, run)
        self.processes.append(process)
        return process

    def at(self, at: float, happen: Callable[[], object]) -> None:
        """
        Let something happen at a time, whatever the processes do.
        """
        heapq.heappush(self._events, _Event(at, next(self._tokens), happen))

    def run(self, seconds: float, steps: int = 1 << 60) -> None:
        """
        Let the processes run for *seconds* of the simulated time, or until *steps* are done in all.
        """
        self._until, self._limit = self.now + seconds, steps
        self._hand_on()
        self._idle.acquire()
        if self.failure is not None:
            raise self.failure

    def effect(self, name: str) -> None:
        """
        Do one step of the current process; another may run before it, or it may be killed.
        """
        process = self.current
        if process is None:  # an event, such as the answer of Sentry
            return
        if process.is_dead:
            raise Killed
        self.steps += 1
        self.now += _STEP_S
        self.trace.append(f"{self.now - EPOCH:10.3f} {process.name}: {name}")
        self._let_happen()
        self.on_step(name)
        if process.is_dead:
            raise Killed
        is_stopped = self.failure is not None or self.steps >= self._limit or process.wakes_at > self.now
        if is_stopped or self.random.random() < _SWITCHES:
            self._switch(process)

    def sleep(self, seconds: float) -> None:
        """
        Sleep; the system may wake a process later than it asked for.
        """
        process = self.current
        if process is None:
            return
        if process.is_dead:
            raise Killed
        process.wakes_at = self.now + seconds + (self.random.random() * 0.2 if seconds < 1 else 0)
        self._switch(process)

    def wait(self, until: float) -> None:
        """
        Wait until *until*, or until another process changes ``wakes_at``.
        """
        process = self.current
        assert process is not None
        process.wakes_at = until
        self._switch(process)

    def kill(self, process: Process) -> None:
        """
        Kill a process: the kernel frees its locks at once.
        """
        if process.is_dead:
            return
        process.is_dead = True
        process.wakes_at = self.now
        for name in [name for name, (holder, _) in self.locks.items() if holder is process]:
            del self.locks[name]

    def ended(self, process: Process) -> None:
        self.kill(process)
        self.processes.remove(process)
        self._hand_on()

    def fail(self, exc: BaseException) -> None:
        self.failure = self.failure or exc

    def end(self) -> None:
        """
        End all processes; nothing of them happens any more.
        """
        self._events.clear()
        self.on_rest = self.on_step = lambda *_: None
        for process in self.processes:
            self.kill(process)
        self.failure = None
        self.run(float("inf"))

    def _switch(self, process: Process) -> None:
        if (following := self._next()) is process:
            pass
        else:
            self._resume(following)
            process.gate.acquire()
        if process.is_dead:
            raise Killed

    def _hand_on(self) -> None:
        self._resume(self._next())

    def _resume(self, process: Process | None) -> None:
        self.current = process
        (self._idle if process is None else process.gate).release()

    def _next(self) -> Process | None:
        """
        Return the process that goes on; None if the run is over.
        """
        while self.failure is None and self.steps < self._limit:
            ready = [each for each in self.processes if each.wakes_at <= self.now]
            if ready:
                self.current = ready[0] if len(ready) == 1 else self.random.choice(ready)
                return self.current
            self.current = None
            self.on_rest()
            at = min((each.wakes_at for each in self.processes), default=float("inf"))
            if self._events:
                at = min(at, self._events[0].at)
            if at >= self._until or self.failure is not None:
                self.now = max(self.now, min(self._until, at))
                break
            self.now = max(self.now, at)
            self._let_happen()
        self.current = None
        return None

    def _let_happen(self) -> None:
        while self._events and self._events[0].at <= self.now:
            event, current = heapq.heappop(self._events), self.current
            self.current = None
            try:
                event.happen()
            except Exception as exc:  # noqa: BLE001 - reported by the run
                self.fail(exc)
            self.current = current


class Lock:
    """
    An open file description lock: the kernel frees it when its process dies. Stands for ``FileLock``.
    """

    def __init__(self, machine: Machine, path: Path) -> None:
        self._machine = machine
        self.path = path
        self._name = str(path)

    @contextmanager
    def try_hold(self) -> Iterator[bool]:
        token = self._try()
        try:
            yield token is not None
        finally:
            self._free(token)

    @contextmanager
    def hold(self, timeout_s: float) -> Iterator[None]:
        machine = self._machine
        until = machine.now + timeout_s
        while (token := self._try()) is None:
            if machine.now >= until:
                raise LockTimeoutError(f"{self.path} was held by another for {timeout_s:g} s")
            machine.sleep(min(1.0, timeout_s / 10))
        try:
            yield
        finally:
            self._free(token)

    def is_held(self) -> bool:
        self._machine.effect(f"asks whether {self.path.name} is held")
        return self._name in self._machine.locks

    def _try(self) -> int | None:
        machine = self._machine
        machine.effect(f"locks {self.path.name}")
        self.path.disk.make(self._name)
        if self._name in machine.locks:
            return None
        token = next(machine._tokens)
        machine.locks[self._name] = machine.current, token
        return token

    def _free(self, token: int | None) -> None:
        machine = self._machine
        if token is None:
            return
        machine.effect(f"is to free {self.path.name}")
        held = machine.locks.get(self._name)
        if held is not None and held[1] == token:
            del machine.locks[self._name]


@dataclass(slots=True)
class _File:
    content: bytes
    number: int
    changed_at: float
    written_at: float
    flushed: bytes | None = None  # None: a power cut may leave no such file


class Disk:
    """
    Files of a directory. Ferry's functions that write files are replaced by methods of it.

    Attributes:
        is_full: Whether no file can be made or grow.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.files: dict[str, _File] = {}
        self.is_full = False
        self._numbers = itertools.count(1)
        self.root = Path(self, "/data")

    def make(self, name: str) -> None:
        if name not in self.files:
            self._put(name, b"")

    def _put(self, name: str, content: bytes) -> _File:
        now, old = self.machine.now, self.files.get(name)
        flushed = None if old is None else self._survives(old)
        file = _File(content, next(self._numbers), now, now, flushed)
        self.files[name] = file
        return file

    def _survives(self, file: _File) -> bytes | None:
        return file.content if self.machine.now - file.written_at > _WRITTEN_BACK_S else file.flushed

    def replace_file(self, path: Path, content: bytes, *, durably: bool, private: bool = False) -> None:
        self.machine.effect(f"writes {path.name}{' and flushes it' if durably else ''}")
        self.require_room(str(path))
        file = self._put(str(path), content)
        if durably:
            file.flushed = content

    def replace_or_overwrite(self, path: Path, content: bytes, *, durably: bool) -> None:
        try:
            self.replace_file(path, content, durably=durably)
        except OSError:
            old = self.files.get(str(path))
            if old is None or len(content.rstrip()) > len(old.content):
                raise
            old.content = old.flushed = content.rstrip().ljust(len(old.content))
            old.number = next(self._numbers)

    def write_json(self, path: Path, value: dict[str, object]) -> None:
        self.replace_or_overwrite(path, json.dumps(value).encode().ljust(256), durably=False)

    def require_room(self, name: str) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    def room(self) -> Room:
        return Room(free_bytes=0 if self.is_full else 1 << 30, total_bytes=1 << 31)

    def sync(self) -> None:
        """
        Do what ``syncfs`` does.
        """
        for file in self.files.values():
            file.flushed = file.content

    def lose_power(self) -> int:
        """
        Let each file be what a power cut leaves of it; returns how many files lost something.
        """
        random, lost = self.machine.random, 0
        for name, file in list(self.files.items()):
            flushed = self._survives(file)
            if flushed == file.content or name.endswith((".lock", ".next", ".watch")):
                continue
            left = random.choice([file.content, flushed, flushed, b""])
            if left is None:
                del self.files[name]
            else:
                file.content = file.flushed = left
                file.number = next(self._numbers)
            lost += left != file.content or left != flushed
        return lost


class Path:
    """
    As much of ``pathlib.Path`` as Ferry uses of a path of its own files.
    """

    __slots__ = ("_text", "disk", "name")

    def __init__(self, disk: Disk, text: str) -> None:
        self.disk = disk
        self._text = text
        self.name = text.rpartition("/")[2]

    def __truediv__(self, name: str) -> Path:
        return Path(self.disk, f"{self._text}/{name}")

    def __str__(self) -> str:
        return self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        # Caches of paths and files outlive a world, whose disk has the same names as the next one's.
        return isinstance(other, Path) and other.disk is self.disk and other._text == self._text

    @property
    def parent(self) -> Path:
        return Path(self.disk, self._text.rpartition("/")[0])

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0] or self.name

    def _file(self) -> _File:
        file = self.disk.files.get(self._text)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._text)
        return file

    def read_bytes(self) -> bytes:
        self.disk.machine.effect(f"reads {self.name}")
        return self._file().content

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def exists(self) -> bool:
        return self._text in self.disk.files

    def is_dir(self) -> bool:
        return True

    def mkdir(self, *, exist_ok: bool = False) -> None:
        pass

    def glob(self, pattern: str) -> Iterator[Path]:
        start, end = f"{self._text}/", pattern.removeprefix("*")
        return iter(
            [
                Path(self.disk, name)
                for name in self.disk.files
                if name.startswith(start) and name.endswith(end)
            ]
        )

    def stat(self) -> SimpleNamespace:
        file = self._file()
        return SimpleNamespace(
            st_ino=file.number,
            st_mtime=file.changed_at,
            st_mtime_ns=int(file.changed_at * 1e9),
            st_size=len(file.content),
        )

    def touch(self) -> None:
        self.disk.machine.effect(f"makes {self.name}")
        if self._text not in self.disk.files:
            self.disk.require_room(self._text)
        self.disk.make(self._text)

    def unlink(self, *, missing_ok: bool = False) -> None:
        self.disk.machine.effect(f"removes {self.name}")
        if self.disk.files.pop(self._text, None) is None and not missing_ok:
            self._file()

    def replace(self, target: Path) -> None:
        file = self._file()
        self.disk.machine.effect(f"renames {self.name} to {target.name}")
        if self.disk.files.get(self._text) is file:
            self.disk.files[str(target)] = self.disk.files.pop(self._text)

    @contextmanager
    def open(self, mode: str = "r+b", buffering: int = -1) -> Iterator[SimpleNamespace]:
        """
        Open it to write its first bytes.
        """
        file, written = self._file(), 0

        def write(content: bytes) -> None:
            nonlocal written
            written = len(content)
            file.content = content + file.content[written:]

        def truncate() -> None:
            file.content = file.content[:written]

        def flush() -> None:
            file.flushed = file.content  # fsync follows

        yield SimpleNamespace(write=write, truncate=truncate, flush=flush, fileno=lambda: -1)


def os_of(disk: Disk) -> SimpleNamespace:
    """
    Return what the outbox gets in the place of the module ``os``.
    """

    def utime(path: Path, times: tuple[float, float]) -> None:
        path._file().changed_at = times[1]

    return SimpleNamespace(utime=utime, replace=lambda old, new: old.replace(new), fsync=lambda number: None)
