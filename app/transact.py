"""
One block, one commit, one push queued.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ferry.app.metrics.metering import transacting
from ferry.app.sheets.evaluation import Evaluations
from ferry.app.store.rules import Guard
from ferry.app.store.store import Store
from ferry.app.store.transaction import Transaction
from ferry.worker.enqueue import PushQueue
from ferry.worker.observe.tracing import span


@contextmanager
def transact(
    store: Store,
    push_queue: PushQueue,
    message: str,
    *,
    author: tuple[str, str],
    trailers: Sequence[tuple[str, str]] = (),
    evaluations: Evaluations | None = None,
    guard: Guard | None = None,
) -> Iterator[Transaction]:
    """
    Change records in one durable commit and, once it is on the branch, queue its push.

    An exception in the block discards everything, and a block that changes
    nothing makes no commit; neither queues anything.

    Args:
        message: The commit's message, without trailers.
        author: Name and e-mail address.
        trailers: Key and value of each trailer.
        evaluations: Results of the code that runs apart; see ``ferry.app.sheets.evaluation``.
        guard: The rules of extensions that apply.

    Raises:
        NotEvaluatedError: *evaluations* lacks a result.
        StoreError: The store refuses the change.
    """
    with (
        transacting(),
        span("transact"),
        store.commit(
            message, author=author, trailers=trailers, evaluations=evaluations, guard=guard
        ) as transaction,
    ):
        yield transaction
    if transaction.commit is not None:
        push_queue.enqueue_push(transaction.commit)
