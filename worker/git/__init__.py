"""
The data repository as git has it: reads, refs, objects, and what a remote is told.

Nothing in here decides whether to push.
"""
