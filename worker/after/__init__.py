"""
The functions of extensions that run after commits, pushes and divergences.

git is their outbox: ``positions`` keeps how far the functions of each extension have come, and ``work`` reads
from git what waits behind that. ``turns`` lets one process at a time call the functions of an extension,
``calling`` starts the process that does, ``child``, and ``outcomes`` remembers failures and tells of them.
``commits`` makes what the functions receive, ``hooks`` names them, and ``status`` shows how they stand.

See ``docs/explanation/after-a-commit.md``.
"""
