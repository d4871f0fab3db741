"""
Running the code of declarations in child processes: see ``ferry.worker.process.apart``.

Records of a sheet with a plain template and a cheap schema are rendered in the API process. Records of all
other sheets are rendered in a child process, which may take seconds, so not under the write lock: a write
that lacks a result there releases the lock, obtains the result, and begins again (``Evaluations``). Only what
a rule of an extension has changed is rendered there, within the rules' time, if it differs each time.

A declaration that exceeded its limit is not tried again for a while (``Caution``).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from cachetools import LRUCache

from ferry.app.errors import BusyError
from ferry.worker.errors import RepositoryError
from ferry.worker.process.apart import LIMIT, ApartError, CrowdedError, OverrunError, pool

_T = TypeVar("_T")
_KNOWN = 4096
_LEFT_ALONE_S = 30.0  # after the first overrun; doubles with each further one
_LONGEST_S = 3600.0
_LATELY_S = 60.0
_MOST_LATELY = 5  # overruns, after which no unknown declaration is tried
_PATIENCE_S = 5.0
_FEW_WAIT = 2
_REQUEST_S = 20.0  # for all records of one request


class NotEvaluatedError(Exception):
    """
    A result is missing, and may not be computed under the write lock.
    """


class Evaluations:
    """
    The results of one request's code, from child processes.

    Results are not kept beyond the request: an expression may depend on the time or on a random number.

    Args:
        at_once: Whether to compute a missing result at once; otherwise ``NotEvaluatedError`` is raised.
    """

    def __init__(self, *, at_once: bool = True) -> None:
        self._at_once = at_once
        self._answers: dict[bytes, Any] = {}
        self._spent_s = 0.0

    @contextmanager
    def looked_for(self) -> Iterator[None]:
        """
        Within the block, compute missing results at once.
        """
        before, self._at_once = self._at_once, True
        try:
            yield
        finally:
            self._at_once = before

    def answer(self, question: object, evaluate: Callable[[], _T]) -> _T:
        """
        Return what *evaluate* returned, or raise what it raised, for the same *question*.

        Args:
            question: Identified by its ``repr``.

        Raises:
            NotEvaluatedError: The result is missing.
            OverrunError: The request has used up its time.
        """
        key = hashlib.sha256(repr(question).encode("utf-8", "surrogatepass")).digest()
        if key not in self._answers:
            if not self._at_once:
                raise NotEvaluatedError
            if self._spent_s > _REQUEST_S:
                raise OverrunError(f"the records of the request took longer than {_REQUEST_S:g} s")
            begun = time.monotonic()
            try:
                self._answers[key] = evaluate()
            except (BusyError, RepositoryError):
                raise  # these may pass
            except Exception as exc:  # noqa: BLE001 - an error is a result too; it is raised below
                self._answers[key] = exc
            self._spent_s += time.monotonic() - begun
        found = self._answers[key]
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]


class Caution:
    """
    Keeps declarations that exceeded their limit from being tried again at once.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._first = threading.Lock()  # unknown declarations are tried one at a time
        self._waiting = 0
        self._until: LRUCache[Hashable, tuple[float, float]] = LRUCache(_KNOWN)
        self._proved: LRUCache[Hashable, bool] = LRUCache(_KNOWN)
        self._lately: deque[float] = deque(maxlen=_MOST_LATELY)

    def run(self, key: Hashable, evaluate: Callable[[], _T]) -> _T:
        """
        Return what *evaluate* returns, unless the declaration *key* must not be tried now.

        Raises:
            OverrunError: It must not be tried now, or it exceeded its limit now.
            CrowdedError: Other declarations are being tried.
        """
        with self._mutex:
            is_proved = key in self._proved
        if is_proved:
            return self._run(key, evaluate)
        with self._turn():
            return self._run(key, evaluate)

    def _run(self, key: Hashable, evaluate: Callable[[], _T]) -> _T:
        self._refuse(key)
        try:
            found = evaluate()
        except OverrunError:
            self._note(key)
            raise
        with self._mutex:
            self._proved[key] = True
            self._until.pop(key, None)
        return found

    def _refuse(self, key: Hashable) -> None:
        now = self._clock()
        with self._mutex:
            until, _ = self._until.get(key, (now, 0.0))
            is_late = len(self._lately) == _MOST_LATELY and now - self._lately[0] < _LATELY_S
            is_known = key in self._proved
        if until > now:
            raise OverrunError(f"it exceeded its limit; it is tried again in {until - now:.0f} s")
        if is_late and not is_known:
            raise OverrunError("other declarations exceeded their limit; it is tried again in a minute")

    def _note(self, key: Hashable) -> None:
        now = self._clock()
        with self._mutex:
            _, before_s = self._until.get(key, (0.0, 0.0))
            alone_s = min(max(2 * before_s, _LEFT_ALONE_S), _LONGEST_S)
            self._until[key] = now + alone_s, alone_s
            self._proved.pop(key, None)
            self._lately.append(now)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._mutex:
            is_late = bool(self._lately) and self._clock() - self._lately[-1] < _LATELY_S
            if is_late and self._waiting > _FEW_WAIT:
                raise CrowdedError("other declarations are being tried")
            self._waiting += 1
        try:
            if not self._first.acquire(timeout=_PATIENCE_S):
                raise CrowdedError("other declarations are being tried")
            try:
                yield
            finally:
                self._first.release()
        finally:
            with self._mutex:
                self._waiting -= 1


_caution = Caution()


def run_apart(key: Hashable | None, function: Callable[..., Any], *arguments: Any) -> Any:
    """
    Run *function* in a child process, and return its result.

    Args:
        key: The declaration to blame if this exceeds its limit; None: none is to blame.

    Raises:
        OverrunError: It exceeded its limit, now or before.
        BusyError: No child was free.
        RepositoryError: The child process failed.
        gitsheets.GitsheetsError, OverflowError, TypeError, ValueError: As *function* did.
    """
    try:
        if key is None:
            return pool.call(function, *arguments, limit=LIMIT)
        return _caution.run(key, lambda: pool.call(function, *arguments, limit=LIMIT))
    except CrowdedError as exc:
        raise BusyError(f"Other requests are evaluating expressions of sheets: {exc}.") from exc
    except ApartError as exc:
        raise RepositoryError(str(exc)) from exc
