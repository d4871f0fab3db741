"""
The ledger: what Ferry records about each remote, in small files in the data repository.

``ledger`` reads and writes the ``entry`` of a remote. ``landings`` holds its last pushes, and ``events`` its
failures and the actions of ``operators``. ``outbox`` holds the pages that Sentry has not accepted yet.
"""
