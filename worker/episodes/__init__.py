"""
Episodes: what is recorded and sent from a remote's first failure to the next push that lands.

``outcome`` records what came of an attempt and schedules the retry. ``episodes`` records failures and sends
pages, ``disk`` does so for a data disk without room, and ``resolving`` closes the issues in Sentry. What a
page says is in ``dossier``, and how it reaches Sentry is in ``paging``.
"""
