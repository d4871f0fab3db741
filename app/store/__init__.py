"""
Storing records in git, and reading them. This package does not know HTTP.

Begin with ``store``, the only writer, and ``transaction``, which stages what a write changes;
``group_commit`` shares one lock and one flush among concurrent writers. ``snapshot`` reads a commit,
``listing`` whole sheets of it: ``differences`` says which of their files a commit changed, ``parsing`` reads
these, and ``table`` keeps what searches derive. ``territory`` says which sheet owns a path, ``trees`` makes
the tree of a change, and ``idempotency`` keeps the answers of writes.
"""
