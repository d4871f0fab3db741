"""
Episodes: recording failures and sending pages, from a remote's first failure to the next push that lands.

``outcome`` records the result of an attempt and schedules the retry. ``episodes`` records failures and sends
pages, ``disk`` does so for a full data disk, and ``resolving`` closes the issues in Sentry. ``dossier``
writes a page, and ``paging`` sends it to Sentry.
"""
