"""
The HTTP resources, one module each: parse, authorise, answer.

What they share: ``conditions`` reads ``If-Match`` and ranges, ``cursors`` a list's ``limit`` and ``cursor``,
``parts`` sends a blob piece by piece; ``ferry.app.finding`` reads a list's filters. ``writing`` is what
every write has in common. ``standing`` is what ``push``, the status page and ``ferry push status`` tell of
the whole deployment. ``openapi`` describes all of them.
"""
