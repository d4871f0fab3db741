"""
Who acts next for a remote.

``turn`` decides whose turn it is: a push's, a retry's, an operator's or a sweep's. ``need`` decides whether a
person is needed. ``handover`` queues the next push when a claim is released. Each reads the remote's ledger
entry; ``push``, ``sweep`` and ``watchdog`` act on the result.
"""
