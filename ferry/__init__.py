"""
Ferry: a REST API over a gitsheets repository that gets every commit to the repository's remote.

The code is in ``app/`` and ``worker/`` of the checkout, and installs as ``ferry.app`` and ``ferry.worker``.
"""
