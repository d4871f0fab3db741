"""
Running functions in child processes, with limits of time and memory.

A declaration in the data repository may hold code, or cost without bound: a path template that loops for
ever, a schema that expands to a million references. A function that evaluates one runs here. A child that
exceeds its limit is ended and replaced, and the caller gets an error. The caller's process loses neither its
interpreter lock nor memory to it.

A child inherits nothing of the caller's environment. It ends with its parent: when the parent ends, the
socket from which the child reads calls closes, and a timer of the kernel ends a running call.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess  # noqa: TID251 - starts Python itself, and no other program
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import gitsheets

CHILDREN = 2  # children that run at once, for each calling process
_START_S = 60.0  # seconds until a child is ready, on a busy machine
_PATIENCE_S = 2.0  # seconds to wait for a free child
_MOST_WAIT = 64
_FEW_WAIT = 2  # if calls have exceeded their limit lately
_LATELY_S = 60.0
_GRACE_S = 2.0  # seconds beyond the wall-clock limit, which a timer in the child enforces
_NICE = 5  # a high niceness leaves the processor to the processes that answer requests
_LENGTH = struct.Struct("!Q")
_READY = b"!"
# Other processes send these signals to a child without a fault of the call; so the call is repeated once.
_ENDED_BY_OTHERS = (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGKILL)
_RAN_OUT_OF_TIME = (-signal.SIGXCPU, -signal.SIGPROF, -signal.SIGALRM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """
    The limits of one call.

    Attributes:
        cpu_s: Seconds of processor time.
        wall_s: Seconds of wall-clock time.
        memory_bytes: Address space beyond that of a child that has just started.
        answer_bytes: Length of the answer, as JSON.
    """

    cpu_s: float = 1.0
    wall_s: float = 10.0
    memory_bytes: int = 256 << 20
    answer_bytes: int = 32 << 20


LIMIT = Limit()


class OverrunError(Exception):
    """
    The function exceeded a limit; the message says which.
    """


class CrowdedError(Exception):
    """
    All children were busy for too long; a later call may find a free one.
    """


class ApartError(Exception):
    """
    The function raised an unexpected exception, or no child could be started.
    """


class Pool:
    """
    Child processes, started on demand; usable from any thread.

    Args:
        children: The most children.
        nice: Their niceness (nice(1)).
    """

    def __init__(self, children: int = CHILDREN, *, nice: int = _NICE) -> None:
        self._children = children
        self._nice = nice
        self._start_afresh()
        os.register_at_fork(after_in_child=self._start_afresh)

    def _start_afresh(self) -> None:
        """
        Forget all children: after a fork they belong to the parent.
        """
        for child in getattr(self, "_idle", []):
            child.let_go()
        self._mutex = threading.Lock()
        self._idle: list[_Child] = []
        self._free = threading.BoundedSemaphore(self._children)
        self._waiting = 0
        self._overrun_at = -math.inf

    def call(self, function: Callable[..., Any], *arguments: Any, limit: Limit = LIMIT) -> Any:
        """
        Return the result of *function* for *arguments*, converted through JSON.

        Args:
            function: A module-level function; the child imports it by name.
            arguments: Arguments that pickle supports.

        Raises:
            OverrunError: It exceeded *limit*, or crashed the child.
            CrowdedError: No child was free for two seconds.
            ApartError: It raised an exception that is not listed below.
            gitsheets.GitsheetsError, OverflowError, TypeError, ValueError: The function raised it.
        """
        name = f"{function.__module__}:{function.__qualname__}"
        request = pickle.dumps((name, arguments, limit))
        with self._turn():
            try:
                answer = self._ask(request, limit)
            except OverrunError:
                self._overrun_at = time.monotonic()
                raise
        if "raised" in answer:
            raise _raised(answer)
        return answer["returned"]

    def close(self) -> None:
        """
        End the idle children.
        """
        with self._mutex:
            idle, self._idle = self._idle, []
        for child in idle:
            child.end()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._mutex:
            lately = time.monotonic() - self._overrun_at < _LATELY_S
            if self._waiting >= self._children + (_FEW_WAIT if lately else _MOST_WAIT):
                raise CrowdedError("other calls wait for a child process already")
            self._waiting += 1
        try:
            if not self._free.acquire(timeout=_PATIENCE_S):
                raise CrowdedError(f"all child processes were busy for {_PATIENCE_S:g} s")
            try:
                yield
            finally:
                self._free.release()
        finally:
            with self._mutex:
                self._waiting -= 1

    def _ask(self, request: bytes, limit: Limit) -> dict[str, Any]:
        for attempt in range(2):
            with self._mutex:
                child = self._idle.pop() if self._idle else None
            child = child or _Child.start(self._nice)
            try:
                answer = child.ask(request, limit)
            except _EndedError as exc:
                child.end()
                if exc.status is not None and exc.status >= 0:
                    raise ApartError(f"a child process ended with status {exc.status}") from exc
                if attempt or exc.status not in _ENDED_BY_OTHERS:
                    raise OverrunError(_why(exc.status, limit)) from exc
                continue
            except BaseException:
                child.end()  # its late answer must not reach the next caller
                raise
            if answer.pop("is_worn", False):
                child.end()
            else:
                with self._mutex:
                    self._idle.append(child)
            return answer
        raise AssertionError("the second attempt returns or raises")


class _EndedError(Exception):
    """
    A child ended before it answered.
    """

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.status = status


class _Child:
    """
    One child process and the socket to it.
    """

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket) -> None:
        self._process, self._line = process, line

    @classmethod
    def start(cls, nice: int) -> _Child:
        """
        Start a child; returns once it can be called.

        Raises:
            ApartError: It cannot be started.
        """
        ours, theirs = socket.socketpair()
        begin = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _serve"
        command = f"{begin}; _serve({theirs.fileno()}, {nice})"
        try:
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-c", command],
                    env={"LC_ALL": "C.UTF-8"},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # the parent handles Ctrl-C in a terminal
                )
        except OSError as exc:
            ours.close()
            raise ApartError(f"no child process could be started: {exc}") from exc
        child = cls(process, ours)
        try:
            if _receive(ours, 1, time.monotonic() + _START_S) == _READY:
                return child
        except (OSError, _EndedError) as exc:
            child.end()
            raise ApartError(f"no child process has started: {exc!r}") from exc
        except BaseException:
            child.end()
            raise
        raise AssertionError("a child sends something else first")

    def ask(self, request: bytes, limit: Limit) -> dict[str, Any]:
        """
        Let the child run one call; returns its answer.

        Raises:
            _EndedError: The child ended without an answer; with status None if it exceeded its time and was
                ended.
        """
        deadline = time.monotonic() + limit.wall_s + _GRACE_S
        try:
            self._line.settimeout(limit.wall_s)
            self._line.sendall(_LENGTH.pack(len(request)) + request)
            (length,) = _LENGTH.unpack(_receive(self._line, _LENGTH.size, deadline))
            if length > limit.answer_bytes + (1 << 16):
                raise TimeoutError
            return dict(json.loads(_receive(self._line, length, deadline)))
        except TimeoutError:
            raise _EndedError(None) from None
        except (OSError, _EndedError):
            raise _EndedError(self._status()) from None

    def _status(self) -> int | None:
        try:
            return self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """
        End the child, even during a call.
        """
        self._line.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)

    def let_go(self) -> None:
        """
        Close this process's copy of the socket.
        """
        self._line.close()
        self._process.returncode = 0  # it is not this process's child, and there is no status to wait for


def _receive(line: socket.socket, length: int, deadline: float | None) -> bytes:
    received = bytearray()
    while len(received) < length:
        line.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
        piece = line.recv(min(length - len(received), 1 << 20))
        if not piece:
            raise _EndedError(None)
        received += piece
    return bytes(received)


def _why(status: int | None, limit: Limit) -> str:
    if status is None or status in _RAN_OUT_OF_TIME:
        return f"it took longer than {limit.cpu_s:g} s of processor time, or {limit.wall_s:g} s in all"
    if status in (-signal.SIGABRT, -signal.SIGKILL):
        return f"it took more than {limit.memory_bytes >> 20} MiB of memory"
    return "it recursed too deeply, or crashed its process in another way"


def _raised(answer: dict[str, Any]) -> Exception:
    name, message = answer["raised"], answer["message"]
    if name == "OverrunError":
        return OverrunError(message)
    if name in ("OverflowError", "TypeError", "ValueError"):
        return {"OverflowError": OverflowError, "TypeError": TypeError}.get(name, ValueError)(message)
    kind = getattr(gitsheets, name, None)
    if not (isinstance(kind, type) and issubclass(kind, gitsheets.GitsheetsError)):
        return ApartError(f"{name}: {message}")
    error: Exception = kind(message)
    for attribute in ("code", "issues"):
        setattr(error, attribute, answer.get(attribute))
    return error


# --- What follows runs in the child ---


def _serve(descriptor: int, nice: int) -> None:
    """
    Run calls until the parent has ended.
    """
    os.nice(nice)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGALRM, signal.SIGPROF, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)  # the kernel ends the process, whatever code runs
    with socket.socket(fileno=descriptor) as line, contextlib.suppress(_EndedError, OSError):
        line.sendall(_READY)
        size = _address_space_bytes()
        while True:
            (length,) = _LENGTH.unpack(_receive(line, _LENGTH.size, None))
            name, arguments, limit = pickle.loads(_receive(line, length, None))  # noqa: S301 - from the parent
            answer = _answer(name, arguments, limit, size)
            # Memory that a library caches must not count against later calls.
            is_worn = _address_space_bytes() > size + limit.memory_bytes // 2
            content = json.dumps({**answer, "is_worn": is_worn}).encode()
            line.sendall(_LENGTH.pack(len(content)) + content)


def _answer(name: str, arguments: tuple[Any, ...], limit: Limit, size: int) -> dict[str, Any]:
    try:
        module, _, function = name.partition(":")
        found = getattr(import_module(module), function)
        with _limited(limit, size):
            answer = {"returned": found(*arguments)}
            if len(json.dumps(answer)) > limit.answer_bytes:
                raise OverrunError(f"it returned more than {limit.answer_bytes >> 20} MiB")
    except MemoryError:
        return {"raised": "OverrunError", "message": _why(-signal.SIGABRT, limit)}
    except RecursionError:
        return {"raised": "OverrunError", "message": _why(-signal.SIGSEGV, limit)}
    except Exception as exc:  # noqa: BLE001 - the edge of this process: the caller gets every exception
        kind = type(exc)
        known = kind if issubclass(kind, (gitsheets.GitsheetsError, OverrunError)) else _plain(kind)
        said = {"raised": known.__name__, "message": str(exc)[:10_000]}
        return {**said, "code": getattr(exc, "code", None), "issues": getattr(exc, "issues", None)}
    return answer


def _plain(kind: type[Exception]) -> type[Exception]:
    return next((base for base in (OverflowError, TypeError, ValueError) if issubclass(kind, base)), kind)


@contextlib.contextmanager
def _limited(limit: Limit, size: int) -> Iterator[None]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = math.ceil(used.ru_utime + used.ru_stime + limit.cpu_s)  # in case the timer fails
    kept = {which: resource.getrlimit(which) for which in (resource.RLIMIT_CPU, resource.RLIMIT_AS)}
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, kept[resource.RLIMIT_CPU][1]))
    resource.setrlimit(resource.RLIMIT_AS, (size + limit.memory_bytes, kept[resource.RLIMIT_AS][1]))
    timers = {signal.ITIMER_PROF: limit.cpu_s, signal.ITIMER_REAL: limit.wall_s}
    for timer, seconds in timers.items():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for which, before in kept.items():
            resource.setrlimit(which, before)


def _address_space_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


pool = Pool()
