"""
What operators see of a process: logs without secrets, traces, and what may go to Sentry.
"""
