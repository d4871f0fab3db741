"""
What operators see of a process: logs without secrets, traces, and what may go to Sentry.

``redaction`` removes secrets from every text, and ``printable`` what a terminal obeys. ``logs`` and
``streams`` write lines, ``tracing`` sends spans, and ``envelopes`` cleans what goes to Sentry.
"""
