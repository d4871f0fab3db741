"""
What an operator does about a remote, and what keeps the commits safe meanwhile.

``look`` asks a remote where its branch stands, for all who want to know. ``reconcile`` joins a diverged
branch, record by record with ``merging``; ``unreadable`` finds records it cannot read, and ``received``
tells whose commits came. ``rescue`` pushes our commits of a divergence to a branch of their own. ``promote``
makes a repository the primary, and ``fence`` keeps another from being it. ``poison`` finds the commit that a
remote refuses, and ``verify`` checks a remote as a backup.
"""
