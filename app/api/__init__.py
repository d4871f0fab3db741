"""
The HTTP resources, one module each: parse, authorise, answer.

What they share: ``conditions`` reads ``If-Match`` and ranges, ``query`` the filters, order and fields of a
list, ``cursors`` its ``limit`` and ``cursor``, ``parts`` sends a blob piece by piece. ``writing`` is what
every write has in common. ``openapi`` describes all of them.
"""
