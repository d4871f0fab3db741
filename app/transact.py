"""
One block, one commit, one push queued.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from app.evaluation import Evaluations
from app.metering import transacting
from app.store import Store, Transaction
from worker.enqueue import PushQueue
from worker.tracing import span


@contextmanager
def transact(
    store: Store,
    push_queue: PushQueue,
    message: str,
    *,
    author: tuple[str, str],
    trailers: Sequence[tuple[str, str]] = (),
    evaluations: Evaluations | None = None,
) -> Iterator[Transaction]:
    """
    Change records in one durable commit and, once it is on the branch, queue its push.

    An exception in the block discards everything, and a block that changes
    nothing makes no commit; neither queues anything.

    Args:
        message: The commit's message, without trailers.
        author: Name and e-mail address.
        trailers: Key and value of each trailer.
        evaluations: What is known of what runs apart; see ``app.evaluation``.

    Raises:
        NotEvaluatedError: It lacks something.
        StoreError: What the store refuses; see ``app.store``.
    """
    with (
        transacting(),
        span("transact"),
        store.commit(message, author=author, trailers=trailers, evaluations=evaluations) as transaction,
    ):
        yield transaction
    if transaction.commit is not None:
        push_queue.enqueue_push(transaction.commit)
