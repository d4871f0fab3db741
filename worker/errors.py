"""
What can go wrong between a commit and its remote.

    WorkerError
    ├── SettingsError        the environment is wrong; refuse to start
    ├── RepositoryError      the data repository is not usable as it is
    │   ├── LedgerError      what is known of a remote cannot be read at the moment
    │   └── SigningError     the key that signs commits cannot; nothing is committed
    ├── RemoteBusyError      a push keeps its remote for too long
    ├── ReconcileError       the branch and a remote were not joined; nothing was changed
    │   └── TakeError        no such side of a conflict can be taken
    ├── PositionError        how far an extension's functions have come cannot be read
    ├── PushDeferred         not now, although nothing failed; tried again in a moment
    └── PushError            an attempt ended without the commit on the remote
        ├── PushFailed       may pass by itself: retried after a delay
        │   └── HookFailed       not of a push: an extension's function failed after a commit or a push
        └── PushRefused      will not pass by itself: not retried
            └── NonFastForward   the remote holds commits that we lack; pages

``failures`` decides which reason an attempt had; these classes decide what
Celery does about it.
"""

from __future__ import annotations


class WorkerError(Exception):
    """
    The base of everything this package raises on purpose.
    """


class SettingsError(WorkerError):
    """
    The environment does not describe a pipeline that can run.

    Its text names every wrong variable at once, so that a deployment is fixed
    in one round trip.
    """


class RepositoryError(WorkerError):
    """
    The data repository is missing, is not bare, or cannot be used for another reason.
    """


class LedgerError(RepositoryError):
    """
    The ledger entry of a remote exists and cannot be read. Ferry decides nothing about the remote without it.
    """


class SigningError(RepositoryError):
    """
    The key at ``CFP_DATA_SIGNING_KEY_PATH`` cannot sign; nothing is committed.
    """


class RemoteBusyError(WorkerError):
    """
    A push holds the claim on its remote for longer than the caller can wait.
    """


class ReconcileError(WorkerError):
    """
    The branch and a remote could not be joined. Nothing was changed.
    """


class TakeError(ReconcileError):
    """
    An operator's choice of sides does not fit the conflicts.
    """


class PositionError(WorkerError):
    """
    How far the functions of an extension have come cannot be read: none of them is called.
    """


class PushDeferred(WorkerError):
    """
    Another push is due, but later: ``CFP_PUSH_MIN_INTERVAL`` is not over, another process
    holds the claim, or the task has run for so long that a retry of it continues.

    Attributes:
        retry_in_s: Seconds until it is due.
    """

    def __init__(self, retry_in_s: float) -> None:
        super().__init__(retry_in_s)
        self.retry_in_s = retry_in_s

    def __str__(self) -> str:
        return f"the next push is due in {self.retry_in_s:.1f} s"


class PushError(WorkerError):
    """
    An attempt ended without the commit on the remote.

    Attributes:
        remote: Name of the remote, as git knows it.
        reason: One of ``failures.POLICIES``; stable, for logs and metrics.
        detail: What git said, redacted.
        hint: What an operator does next.
        needs_person: Whether a person is needed, see ``ferry.worker.turns.need``.
    """

    needs_person: bool = False

    def __init__(self, remote: str, reason: str, detail: str, hint: str) -> None:
        # All arguments go to Exception, because Celery pickles the exceptions of a task.
        super().__init__(remote, reason, detail, hint)
        self.remote, self.reason, self.detail, self.hint = remote, reason, detail, hint

    def __str__(self) -> str:
        return f"{self.remote}: {self.reason}: {self.detail} ({self.hint})"


class PushFailed(PushError):
    """
    The same push may succeed later. Celery retries it.

    Attributes:
        retry_in_s: Seconds until the next attempt, or None where this attempt
            was made before its time and the scheduled retry remains.
    """

    retry_in_s: float | None = None


class HookFailed(PushFailed):
    """
    A function of an extension failed after a commit or a push. It is called again after a while.
    """


class PushRefused(PushError):
    """
    The remote will refuse the same push again until a person acts. Celery does not retry it.
    """


class NonFastForward(PushRefused):
    """
    The remote branch holds commits that the local branch does not.

    It is never retried and never forced: other people's commits would be lost.
    """
