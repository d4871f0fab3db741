"""
All of Ferry on one machine, for development, the demo and the tests. Deployments do not use it.

``stack`` starts the processes of ``ferry dev``: ``nursery`` forks them from one that has imported what
``preloaded`` lists. ``valkey`` finds their server, and ``flower`` guards their Flower. ``demo`` is
``ferry demo``, over ``sample`` and ``sentry_sink``.
"""
