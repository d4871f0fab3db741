"""
Who acts next for a remote.

``turn`` says whose turn it is: a push's, a retry's, an operator's or a sweep's. ``need`` says whether a
person is needed. ``handover`` queues the next push when a claim is released. Each reads the remote's ledger
entry; what acts on the answer is in ``push``, ``sweep`` and ``watchdog``.
"""
