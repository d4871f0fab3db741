"""
Whose turn it is to call the functions of a hook, and what a failure of them leads to.

As with pushes, one process at a time holds the claim of a hook, a failure is in the ledger with its
retry, pages once per episode, and holds up nothing but its own hook.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from ferry.worker.after.calling import Outcome, call, call_again
from ferry.worker.after.hooks import Hook
from ferry.worker.after.outcomes import Outcomes
from ferry.worker.after.positions import Position, Positions
from ferry.worker.after.work import Work
from ferry.worker.errors import LedgerError, PositionError, WorkerError
from ferry.worker.files.locks import FileLock
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.entry import Entry
from ferry.worker.ledger.ledger import Claim, Ledger
from ferry.worker.observe.logs import NOTHING_TO_DO, log
from ferry.worker.observe.printable import many
from ferry.worker.settings import Settings

CLAIMED = "another process calls them; it looks again when it is done"
WAITS = "a retry is scheduled"
STOPPED = "a function has stopped the calls, until: ferry hooks resume"
CROWDED = "as many functions run as may at once: left to the next sweep"
UNREADABLE = "left to the next sweep: the ledger cannot be read"
MOST_AT_ONCE = 4  # hooks, for one worker: each takes a process of its pool
_BUSY_S = 120.0


class After:
    """
    Calls the functions of the extensions of one repository.

    Args:
        settings: How long a function may take, and when a retry and a page are due.
        repository: The data repository.
        ledger: Failures, and who calls them now.
        env: Environment of the repository.
        clock: Seconds since the epoch.
        jitter: Returns a new number in [0, 1) at each call.

    Attributes:
        hooks: What there is to call; see ``serve``.
    """

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        ledger: Ledger,
        env: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._ledger = ledger
        self._env = env
        self._places: Sequence[FileLock] = ()
        self._clock = clock
        self._outcomes = Outcomes(settings, repository, clock, jitter)
        self.hooks: tuple[Hook, ...] = ()
        self.work = Work(repository, ledger)
        self.positions = Positions(repository.path)

    def serve(self, hooks: Sequence[Hook], places: Sequence[FileLock] = ()) -> None:
        """
        Call *hooks* from now on; those that have no position begin where everything stands now.

        Args:
            places: The locks of which a call holds one; those of all repositories of a worker.
        """
        self._places = places
        self.hooks = tuple(hooks) if self._repository.pushes else ()
        for hook in self.hooks:
            try:
                self._begin(hook)
            except (WorkerError, OSError) as exc:
                log().warning("hook.not_begun", extension=hook.extension, on=hook.event, error=str(exc))

    def find(self, extension: str, event: str) -> Hook | None:
        """
        Return the hook of *extension* for *event*; None if there is none.
        """
        return next((hook for hook in self.hooks if (hook.extension, hook.event) == (extension, event)), None)

    def is_running(self, hook: Hook) -> bool:
        """
        Whether a process calls the functions of *hook* now.
        """
        return self._ledger.is_claimed(hook.entry)

    def entry(self, hook: Hook) -> Entry:
        """
        Return what the ledger knows of *hook*.

        Raises:
            LedgerError: It cannot be read.
        """
        return self._ledger.read(hook.entry)

    def is_stopped(self, extension: str) -> bool:
        """
        Whether a function of *extension* has said that none of them is to be called any more.

        Raises:
            LedgerError: An entry cannot be read.
        """
        return any(self.entry(hook).gave_up for hook in self.hooks if hook.extension == extension)

    def due(self, *, asked: bool = False) -> list[Hook]:
        """
        Return the hooks for which something waits, no retry is scheduled for later, and no process calls.

        Args:
            asked: Whether to name those too for which a task was asked for; it may be lost.
        """
        return [
            hook
            for hook in self.hooks
            if (asked or not self.positions.asked(hook).exists()) and self.is_due(hook)
        ]

    def ask(self, hook: Hook) -> None:
        """
        Note that a task is on its way: in a burst of commits, one is enough.
        """
        with suppress(OSError):  # then there are more
            self.positions.asked(hook).touch()

    def is_due(self, hook: Hook) -> bool:
        """
        Whether *hook* is one of those.
        """
        try:
            if self.entry(hook).waits(self._clock()) or self.is_running(hook):
                return False
            if self.is_stopped(hook.extension):
                return False
            return self.work.waits(hook.event, self._begin(hook))
        except PositionError:
            return True  # the call will meet the same error, and tell of it
        except (WorkerError, OSError) as exc:
            log().warning("hook.not_seen", extension=hook.extension, on=hook.event, error=str(exc))
            return False

    def _is_needed(self, hook: Hook) -> bool:
        """
        Whether to start a process for *hook*: something waits, or that process is to tell of an error.
        """
        try:
            return self.work.waits(hook.event, self._begin(hook))
        except (WorkerError, OSError):
            return True

    def call(self, hook: Hook) -> str:
        """
        Call the functions of *hook* for what waits; returns what came of it in a few words.

        Raises:
            HookFailed: One of them failed; ``retry_in_s`` says when they are called again.
        """
        with suppress(OSError):
            self.positions.asked(hook).unlink()  # what comes from now on asks again
        try:
            with self._place() as has_place, self._claim(hook) as claim:
                if claim is None or not has_place:
                    return CROWDED if claim else CLAIMED
                if claim.entry.waits(self._clock()):
                    return WAITS
                if self.is_stopped(hook.extension):
                    return STOPPED
                if not self._is_needed(hook):
                    return NOTHING_TO_DO
                outcome = call(hook, self._settings, self._env)
                error = self._outcomes.record(claim, hook, outcome)
        except LedgerError as exc:
            log().error("ledger.unreadable", remote=hook.entry, error=str(exc))
            return UNREADABLE
        if error is not None:
            raise error
        return (
            f"{many(outcome.done, 'call')} in {outcome.duration_s:.1f} s" if outcome.done else NOTHING_TO_DO
        )

    def skip(self, hook: Hook) -> str | None:
        """
        Leave out the next thing that waits for *hook*; returns its name, or None where nothing waits.

        Raises:
            RemoteBusyError: The functions are being called for too long.
            WorkerError, OSError: Something cannot be read or written.
        """
        with self._ledger.claim_within(hook.entry, _BUSY_S) as claim:
            claim.looks_again = True
            waiting = next(self.work.items(hook.event, self._begin(hook)), None)
            if waiting is None:
                return None
            name, _, done = waiting
            self.positions.write(hook, done)
            self._outcomes.succeed(claim, hook, done=0)
            log().warning("hook.skipped", extension=hook.extension, on=hook.event, commit=name)
            return name

    def resume(self, extension: str) -> list[Hook]:
        """
        Have the functions of *extension* called again that one of them has stopped; returns its hooks.

        Raises:
            RemoteBusyError, LedgerError: As above.
        """
        found = [hook for hook in self.hooks if hook.extension == extension and self.entry(hook).gave_up]
        for hook in found:
            with self._ledger.claim_within(hook.entry, _BUSY_S) as claim:
                claim.looks_again = True
                self._outcomes.resume(claim, hook)
        return found

    def call_again(self, hook: Hook, what: str) -> Outcome:
        """
        Call the functions of *hook* once more for *what*, as ``Work.past`` has it, wherever its position is.

        Raises:
            RemoteBusyError, LedgerError: As above.
        """
        with self._ledger.claim_within(hook.entry, _BUSY_S) as claim:
            claim.looks_again = True
            return call_again(hook, what, self._settings, self._env)

    @contextmanager
    def _place(self) -> Iterator[bool]:
        """
        Hold one of the places for the block; yields whether one was free.
        """
        with ExitStack() as stack:
            yield not self._places or any(stack.enter_context(each.try_hold()) for each in self._places)

    @contextmanager
    def _claim(self, hook: Hook) -> Iterator[Claim | None]:
        with self._ledger.claim(hook.entry) as claim:
            if claim is not None:
                claim.looks_again = True  # no push is handed over
            yield claim

    def _begin(self, hook: Hook) -> Position:
        """
        Return the position of *hook*; the first is where everything stands now.
        """
        position = self.positions.read(hook)
        return self.positions.begin(hook, self.work.now(hook.event)) if position is None else position
