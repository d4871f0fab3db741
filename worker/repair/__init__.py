"""
What an operator does about a remote.

``reconcile`` joins a diverged branch, ``poison`` finds the commit that a remote refuses, and ``verify``
checks a remote as a backup.
"""
