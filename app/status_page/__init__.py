"""
Pages for people: the operators' status page.

Read ``status`` first, which has the addresses; ``facts`` is what it shows,
``sessions`` who may see it, ``charts`` and ``words`` how it is said. Each page is
complete as the server sends it; ``static/status.js`` only keeps it fresh.
"""
