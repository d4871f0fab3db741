"""
Records to git and back. Knows no HTTP.

Begin with ``store``, the only writer, and ``transaction``, what a write does in it; ``group_commit`` shares
one lock and one flush among writers that wait together. ``snapshot`` reads a commit, ``listing`` whole
sheets of it. ``territory`` says which sheet owns a path, ``trees`` makes the tree of a change, and
``idempotency`` keeps the answers of writes.
"""
