"""
Logs, traces, and the data that goes to Sentry, all without secrets.

``redaction`` removes secrets from texts, and ``printable`` removes control characters. ``logs`` and
``streams`` write log lines, ``tracing`` sends spans, ``envelopes`` cleans the data for Sentry, ``sentry``
starts sentry-sdk, and ``flower`` configures Flower.
"""
