"""
Child processes, with a time limit. Only this package and ``ferry dev`` start processes.

``running`` runs another program, ``apart`` runs a function in a child process, and ``groups`` ends and
recognises process groups. ``gitpython`` imports GitPython, which runs git when it is imported. git's
environment is in ``git.environment``; Celery's pool processes are handled in ``broker.shutdown``.
"""
