"""
Child processes, with a limit of time. Together with ``ferry dev``, the only code that starts one.

``running`` runs another program, ``apart`` runs a function, and ``groups`` ends and recognises what was
started. ``gitpython`` is GitPython, which runs git when it is imported. What git is told is in
``git.environment``; Celery's own processes are in ``broker.shutdown``.
"""
