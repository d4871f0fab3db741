"""
What an operator does about a remote.

``reconcile`` joins a diverged branch, record by record with ``merging``. ``poison`` finds the commit that a
remote refuses, and ``verify`` checks a remote as a backup.
"""
