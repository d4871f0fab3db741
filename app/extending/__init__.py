"""
Extensions and HTTP: ``routes`` serves their routes, ``transactions`` is what ``Extension.transact`` opens.

Their rules are called in ``ferry.app.store.rules``, and their authenticators in ``ferry.app.access``.
"""
