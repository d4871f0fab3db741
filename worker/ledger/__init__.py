"""
What Ferry remembers of each remote, in small files in the data repository.

``ledger`` reads and writes the ``entry`` of a remote, ``landings`` its last pushes, ``events`` its failures
and what ``operators`` did, and ``outbox`` the pages that Sentry has not taken yet.
"""
